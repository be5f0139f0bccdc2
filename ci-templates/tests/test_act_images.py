"""The image workflow, run by act on a repository with a tiny image; pushed to a registry of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import registry
from acting import ROOT, Outcome
from projects import git
from small import Runner, caller, commit

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.mark.parametrize("event", ["pull_request", "push"])
def test_without_a_base_image_nothing_is_pushed_and_it_is_told_what_to_set(
    runner: Runner, tmp_path: Path, event: str
) -> None:
    """No Docker engine: nothing comes so far as to ask one."""
    files = {".github/workflows/called.yml": (ROOT / "examples/project/image.yml").read_text()}
    root = commit(tmp_path / "project", files)
    runner.add_program("docker", f"echo \"$@\" >>'{runner.folder}/docker.txt'")

    outcome = runner.run(root, event, variables={"DML_PROJECT": "sales"})

    assert "BASE_IMAGE to the platform's image by" in outcome.said("result" if event == "pull_request" else "push")
    if event == "pull_request":
        # A new team's first pull request is not red for what a platform's engineer has to set.
        assert outcome.failed == set(), outcome.text
        assert "result" in outcome.passed
        assert "The image was NOT tried" in outcome.summary("result")
    else:
        assert outcome.failed == {"push", "result"}, outcome.text
        assert "on a laptop: nox -s image image_check vulnerabilities" in outcome.said("result")
    assert runner.asked("docker") == ""


TINY = {
    "pyproject.toml": '[project]\nname = "thing"\nversion = "1.2.0"\n',
    "Dockerfile": """
FROM scratch
COPY README.md /
ARG VERSION
LABEL org.opencontainers.image.version="${VERSION}"
""",
    "README.md": "an image of one file\n",
    "noxfile.py": """
from pathlib import Path

import nox

VERSION = nox.project.load_toml("pyproject.toml")["project"]["version"]


@nox.session(venv_backend="none")
def environment(session):
    pass


@nox.session(venv_backend="none")
def image(session):
    tag, *options = session.posargs
    session.run("docker", "build", *options, f"--build-arg=VERSION={VERSION}", "--tag", tag, ".", external=True)
    Path("dist").mkdir()
    Path("dist/thing.cdx.json").write_text("{}")


@nox.session(venv_backend="none")
def image_check(session):
    session.run("docker", "image", "inspect", session.posargs[0], external=True)


@nox.session(venv_backend="none")
def vulnerabilities(session):
    assert Path("dist/thing.cdx.json").exists()
""",
}


@pytest.fixture
def images(tmp_path: Path) -> Iterator[registry.Registry]:
    """An empty registry; what the engine has of it is forgotten afterwards."""
    with registry.serve(tmp_path / "registry") as served:
        yield served


def make_image(
    runner: Runner, tmp_path: Path, images: registry.Registry, ref: str, *, push: bool = True
) -> tuple[Outcome, str]:
    """Run image.yml on a small repository; what it did, and the commit."""
    rights = "{contents: read, packages: write, id-token: write, attestations: write}"
    # Capitals, as a repository's name on GitHub may have them.
    text = caller("image", rights, image=f"{images.address}/acme/Thing", push=push)
    text += """
  told:
    needs: [called]
    permissions: {}
    runs-on: ubuntu-24.04
    steps:
      - run: echo "told $IMAGE"
        env:
          IMAGE: ${{ needs.called.outputs.image }}
"""
    root = commit(tmp_path / "thing", {".github/workflows/called.yml": text, **TINY})
    git(root, "tag", ref.rpartition("/")[2])
    # What is signed in there stays out of the settings of whoever runs the tests.
    outcome = runner.run(root, "push", ref, environment={"DOCKER_CONFIG": str(tmp_path / "docker")})
    return outcome, git(root, "rev-parse", "HEAD")


@pytest.mark.images
def test_a_pushed_image_comes_out_by_the_digest_that_the_registry_has(
    runner: Runner, tmp_path: Path, images: registry.Registry
) -> None:
    outcome, revision = make_image(runner, tmp_path, images, "refs/heads/main")

    assert outcome.failed == set(), outcome.text
    assert {"push", "result"} <= outcome.passed
    pushed = f"{images.address}/acme/thing@{images.digest('acme/thing', revision)}"
    assert f"told {pushed}" in outcome.said("told")
    assert pushed in outcome.summary("push")
    assert images.tags("acme/thing") == [revision]
    signed = (runner.folder / "artifacts/cosign.txt").read_text().splitlines()
    assert signed == [
        f"sign --yes {pushed}",
        f"attest --yes --type cyclonedx --predicate dist/thing.cdx.json {pushed}",
    ]
    assert (runner.folder / "artifacts/attested.txt").read_text() == f"{pushed}\n"


@pytest.mark.images
def test_an_image_that_is_not_for_pushing_is_tried_and_stays_here(
    runner: Runner, tmp_path: Path, images: registry.Registry
) -> None:
    outcome, _ = make_image(runner, tmp_path, images, "refs/heads/change", push=False)

    assert outcome.failed == set(), outcome.text
    assert {"try", "result"} <= outcome.passed
    assert "push" not in outcome.passed
    assert images.tags("acme/thing") == []
    assert not (runner.folder / "artifacts/cosign.txt").exists()


@pytest.mark.images
def test_an_image_of_a_release_is_named_by_its_version_too(
    runner: Runner, tmp_path: Path, images: registry.Registry
) -> None:
    outcome, revision = make_image(runner, tmp_path, images, "refs/tags/v1.2.0")

    assert outcome.failed == set(), outcome.text
    assert images.tags("acme/thing") == sorted(["1.2.0", revision])
    assert images.digest("acme/thing", "1.2.0") == images.digest("acme/thing", revision)
    assert f"@{images.digest('acme/thing', revision)}" in outcome.said("told")


@pytest.mark.images
def test_an_image_whose_version_is_not_that_of_the_tag_is_not_pushed(
    runner: Runner, tmp_path: Path, images: registry.Registry
) -> None:
    outcome, _ = make_image(runner, tmp_path, images, "refs/tags/v1.3.0")

    assert outcome.failed == {"push", "result"}, outcome.text
    assert "The tag is v1.3.0, the image calls itself '1.2.0'" in outcome.said("push")
    assert images.tags("acme/thing") == []
