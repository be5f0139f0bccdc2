"""The workflows that need no project, run by act: deploy, release, image, template-update, nightly.

The repositories are small ones of their own; where a workflow calls `dml infra`, a stand-in notes what it was asked and
does what the test says, because a server is what platform-infra's tests are about.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import acting
import packages
import pytest
import registry
from acting import ROOT, Outcome
from projects import git
from small import Runner, caller, commit

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

DIGEST = "ghcr.io/acme/project@sha256:" + "1" * 64
CONFLICT = "<<<<<<< yours\nmine\n=======\nbetter\n>>>>>>> template\n"
NOXFILE = """
import nox
from pathlib import Path


@nox.session
def template(session):
    for name, text in {written}.items():
        Path(name).write_text(text)


def empty(name):
    nox.session(lambda session: print("ran", name), name=name)


for name in ("lint", "secrets", "tests", "integration", "build", "maintenance"):
    empty(name)
"""


def installation(runner: Runner, tmp_path: Path, *, fails: str = "") -> Path:
    """The server's folder, and a `dml` that does what it is asked; but one command may fail."""
    root = tmp_path / "infra"
    root.mkdir()
    runner.add_program(
        "dml",
        f"""printf '%s|' "$@" >>'{runner.folder}/dml.txt'; echo "in $DML_INFRA__ROOT" >>'{runner.folder}/dml.txt'
case $2 in
    '{fails}') echo "cannot {fails}: planted" >&2; exit 3 ;;
    deploys) echo "2026-11-01 12:00 sales old -> new 31 s" ;;
    status) echo "sales live" ;;
esac""",
    )
    return root


@pytest.mark.parametrize("image", ["ghcr.io/acme/project:latest", "$(touch planted)@sha256:" + "1" * 64])
def test_what_is_no_digest_is_not_deployed(runner: Runner, tmp_path: Path, image: str) -> None:
    infra = installation(runner, tmp_path)
    text = caller("deploy", project="sales", image=image, installation=str(infra))
    root = commit(tmp_path / "project", {".github/workflows/called.yml": text})

    outcome = runner.run(root)

    assert outcome.failed == {"deploy"}, outcome.text
    assert "is no image by digest: give what image.yml put out" in outcome.said("deploy")
    assert "infra|deploy|" not in runner.asked("dml")


def test_after_a_deploy_main_is_told(runner: Runner, tmp_path: Path) -> None:
    infra = installation(runner, tmp_path)
    text = caller("deploy", project="sales", image=DIGEST, installation=str(infra))
    root = commit(tmp_path / "project", {".github/workflows/called.yml": text})

    outcome = runner.run(root)

    assert outcome.failed == set(), outcome.text
    deployed, synced, told = runner.asked("dml").splitlines()
    assert deployed.startswith(f"infra|deploy|sales|--image|{DIGEST}|--who|")
    assert f"({acting.REPOSITORY})|" in deployed
    assert synced == f"infra|sync|sales|in {infra}"
    assert told == f"infra|deploys|sales|--lines|3|in {infra}"
    assert "sales old -> new 31 s" in outcome.summary("deploy")


def test_a_deploy_that_went_back_fails_and_main_is_not_told(runner: Runner, tmp_path: Path) -> None:
    infra = installation(runner, tmp_path, fails="deploy")
    text = caller("deploy", project="sales", image=DIGEST, installation=str(infra))
    root = commit(tmp_path / "project", {".github/workflows/called.yml": text})

    outcome = runner.run(root)

    assert outcome.failed == {"deploy"}, outcome.text
    assert "cannot deploy: planted" in outcome.said("deploy")
    assert "infra|sync|" not in runner.asked("dml")
    assert "infra|deploys|sales|--lines|3|" in runner.asked("dml")


def test_a_deploy_that_main_does_not_take_is_told(runner: Runner, tmp_path: Path) -> None:
    infra = installation(runner, tmp_path, fails="sync")
    text = caller("deploy", project="sales", image=DIGEST, installation=str(infra))
    root = commit(tmp_path / "project", {".github/workflows/called.yml": text})

    outcome = runner.run(root)

    assert outcome.failed == {"deploy"}, outcome.text
    assert "cannot sync: planted" in outcome.said("deploy")
    assert "sales is live, but the list on platform-infra's main branch does not say so" in outcome.said("deploy")
    assert f"in {infra} on the server: dml infra sync sales" in outcome.said("deploy")


@pytest.mark.parametrize(
    ("tag", "said"),
    [("v1.2.0", ""), ("v1.3.0", "cannot release 'v1.3.0': pyproject.toml has version '1.2.0'")],
)
def test_a_release_needs_tag_and_version_to_agree(runner: Runner, tmp_path: Path, tag: str, said: str) -> None:
    rights = "{contents: write, id-token: write, attestations: write}"
    files = {
        ".github/workflows/called.yml": caller("release", rights),
        "pyproject.toml": '[project]\nname = "thing"\nversion = "1.2.0"\n',
        "CHANGELOG.md": "# Changes\n\n## Unreleased\n\n## 1.2.0 (2026-11-01)\n\n- It is faster.\n",
    }
    root = commit(tmp_path / "library", files)
    git(root, "tag", tag)

    outcome = runner.run(root, "push", f"refs/tags/{tag}")

    if said:
        assert outcome.failed == {"build"}, outcome.text
        assert said in outcome.said("build")
        assert runner.asked("gh") == ""
    else:
        assert outcome.failed == set(), outcome.text
        assert f"release create {tag} " in runner.asked("gh")
        assert "- It is faster." in runner.asked("gh")


WHEEL = "thing-1.2.0-py3-none-any.whl"
BUILDS_A_WHEEL = """
import sys
import zipfile
from pathlib import Path

import nox

TEXTS = {
    "thing.py": "",
    "thing-1.2.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: thing\\nVersion: 1.2.0\\n",
    "thing-1.2.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "thing-1.2.0.dist-info/RECORD": "",
}


@nox.session(venv_backend="none")
def build(session):
    out = Path(session.posargs[0])
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out / "thing-1.2.0-py3-none-any.whl", "w") as wheel:
        for name, text in TEXTS.items():
            wheel.writestr(zipfile.ZipInfo(name), text)
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A repository with a wheel and a tag, which calls the workflow as the example does."""
    files = {
        ".github/workflows/called.yml": (ROOT / "examples/library/release.yml").read_text(),
        "pyproject.toml": '[project]\nname = "thing"\nversion = "1.2.0"\n',
        "CHANGELOG.md": "# Changes\n\n## Unreleased\n\n## 1.2.0 (2026-11-01)\n\n- It is faster.\n",
        "noxfile.py": BUILDS_A_WHEEL,
        "requirements/dev.txt": (ROOT / "requirements/dev.txt").read_text(),
    }
    root = commit(tmp_path / "library", files)
    git(root, "tag", "v1.2.0")
    return root


def release(runner: Runner, library: Path, index: packages.Index, password: str) -> Outcome:
    variables = {"PUBLISH_URL": index.upload, "DML_INDEX_URL": index.simple}
    secrets = {"PUBLISH_USERNAME": index.user, "PUBLISH_PASSWORD": password}
    return runner.run(library, "push", "refs/tags/v1.2.0", variables=variables, secrets=secrets)


def test_a_wheel_that_the_index_refuses_has_no_release_until_it_is_sent_again(runner: Runner, library: Path) -> None:
    with packages.serve("bot", "right") as index:
        refused = release(runner, library, index, "wrong")
        asked = runner.asked("gh")
        taken = release(runner, library, index, "right")

    assert refused.failed == {"publish"}, refused.text
    assert "set the secrets PUBLISH_USERNAME and PUBLISH_PASSWORD" in refused.said("publish")
    assert asked == "", "there is a release of what nobody can install"
    assert taken.failed == set(), taken.text
    assert list(index.files) == [WHEEL]
    # The same file everywhere: attested, in the index, at the release.
    digest = hashlib.sha256(index.files[WHEEL]).hexdigest()
    assert f"{digest}  release/dist/{WHEEL}" in (runner.folder / "artifacts/attested.txt").read_text()
    assert f"release create v1.2.0 release/dist/{WHEEL} " in runner.asked("gh")
    assert "- It is faster." in runner.asked("gh")


def test_a_release_that_runs_again_leaves_what_is_there(runner: Runner, library: Path) -> None:
    with packages.serve("bot", "right") as index:
        first = release(runner, library, index, "right")
        asked = runner.asked("gh")
        again = release(runner, library, index, "right")

    assert first.failed == set(), first.text
    assert again.failed == set(), again.text
    assert index.answers == [200], "the wheel was sent twice"
    assert runner.asked("gh") == asked
    assert "The release v1.2.0 is there already" in again.said("publish")


def test_a_release_that_lacks_the_wheel_gets_it(runner: Runner, library: Path) -> None:
    """As after somebody made the release by hand, which made the tag."""
    (runner.folder / "gh.txt").write_text("release create v1.2.0 --title mine\n")
    with packages.serve("bot", "right") as index:
        outcome = release(runner, library, index, "right")

    assert outcome.failed == set(), outcome.text
    assert f"release upload v1.2.0 release/dist/{WHEEL}" in runner.asked("gh")
    assert runner.asked("gh").count("release create") == 1


def test_this_repositorys_own_tag_makes_its_release(runner: Runner, tmp_path: Path) -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    files = {
        ".github/workflows/called.yml": (ROOT / ".github/workflows/release-here.yml").read_text(),
        "pyproject.toml": (ROOT / "pyproject.toml").read_text(),
        "CHANGELOG.md": f"# Change log\n\n## Unreleased\n\n## {version[1]} (2026-12-01)\n\n- A word for callers.\n",
    }
    root = commit(tmp_path / "ci-templates", files)
    git(root, "tag", f"v{version[1]}")

    outcome = runner.run(root, "push", f"refs/tags/v{version[1]}")

    assert outcome.failed == set(), outcome.text
    assert f"release create v{version[1]} --title" in runner.asked("gh")
    assert "- A word for callers." in runner.asked("gh")


def templated(runner: Runner, tmp_path: Path, written: dict[str, str]) -> Path:
    """A project whose template writes these files."""
    files = {
        ".github/workflows/called.yml": caller("template-update", "{contents: write, pull-requests: write}"),
        ".gitignore": "dist/\n.venv\n.nox/\n__pycache__/\n",
        "README.md": "mine\n",
        "noxfile.py": NOXFILE.format(written=written).replace("@nox.session\n", '@nox.session(venv_backend="none")\n'),
    }
    root = commit(tmp_path / "project", files)
    git(root, "push", "--quiet", str(runner.hosting), "main")
    return root


@pytest.mark.parametrize(
    ("written", "opened"),
    [
        ({}, None),
        ({"README.md": "better\n"}, "--title Update from the template"),
        ({"README.md": CONFLICT}, "--draft"),
    ],
    ids=["nothing new", "an improvement", "a conflict"],
)
def test_what_the_template_changed_becomes_a_pull_request(
    runner: Runner, tmp_path: Path, written: dict[str, str], opened: str | None
) -> None:
    root = templated(runner, tmp_path, written)

    outcome = runner.run(root)

    assert outcome.failed == set(), outcome.text
    if opened is None:
        assert runner.asked("gh") == ""
        return
    assert "pr create --repo acme/project --head template-update" in runner.asked("gh")
    assert opened in runner.asked("gh")
    assert "On a laptop: nox -s template" in runner.asked("gh")
    assert git(runner.hosting, "show", "template-update:README.md") == written["README.md"].strip()
    if opened == "--draft":
        assert "You and the template changed the same lines" in runner.asked("gh")
        assert "- README.md" in runner.asked("gh")


def test_workflows_of_the_template_need_a_token_that_may_push_them(runner: Runner, tmp_path: Path) -> None:
    root = templated(runner, tmp_path, {".github/workflows/new.yml": "name: new\n"})

    outcome = runner.run(root)

    assert outcome.failed == {"propose"}, outcome.text
    assert "the secret TEMPLATE_UPDATE_TOKEN (contents, pull requests and workflows: write)" in outcome.said("propose")
    assert "template-update" not in git(runner.hosting, "branch", "--list")


def test_an_open_pull_request_that_has_all_of_it_is_left_alone(runner: Runner, tmp_path: Path) -> None:
    """A week later: a push would run its checks again and take back what was approved."""
    root = templated(runner, tmp_path, {"README.md": "better\n"})
    assert runner.run(root).failed == set()
    runner.answer("pr list", "7\n")
    branch = git(runner.hosting, "rev-parse", "template-update")
    before = runner.asked("gh")
    # Its own commit would have another time, so another id.
    git(root, "commit", "--quiet", "--amend", "--no-edit", "--date=2026-01-01T00:00:00Z")

    outcome = runner.run(root)

    assert outcome.failed == set(), outcome.text
    assert "Pull request 7 has all of it already." in outcome.said("propose")
    assert git(runner.hosting, "rev-parse", "template-update") == branch
    assert "pr edit" not in runner.asked("gh").removeprefix(before)
    assert "pr create" not in runner.asked("gh").removeprefix(before)


@pytest.mark.parametrize(
    ("written", "said", "undone"),
    [
        ("better still\n", "What the template changed", False),
        (CONFLICT, "You and the template changed the same lines", True),
    ],
    ids=["an improvement", "a conflict"],
)
def test_an_open_pull_request_says_what_is_in_it_now(
    runner: Runner, tmp_path: Path, written: str, said: str, *, undone: bool
) -> None:
    root = templated(runner, tmp_path, {"README.md": "better\n"})
    assert runner.run(root).failed == set()
    assert "You and the template" not in runner.asked("gh")
    runner.answer("pr list", "7\n")
    before = runner.asked("gh")
    noxfile = root / "noxfile.py"
    noxfile.write_text(noxfile.read_text().replace(repr("better\n"), repr(written)))
    git(root, "commit", "--quiet", "--all", "--message=the template moved on")

    outcome = runner.run(root)

    assert outcome.failed == set(), outcome.text
    asked = runner.asked("gh").removeprefix(before)
    assert "pr edit 7 --repo acme/project --body-file dist/template/text.md\n" in asked
    assert said in asked
    assert ("pr ready 7 --repo acme/project --undo\n" in asked) == undone
    assert "pr create" not in asked
    assert git(runner.hosting, "show", "template-update:README.md") == written.strip()


def test_a_branch_whose_pull_request_is_gone_gets_another(runner: Runner, tmp_path: Path) -> None:
    root = templated(runner, tmp_path, {"README.md": CONFLICT})
    assert runner.run(root).failed == set()
    branch, before = git(runner.hosting, "rev-parse", "template-update"), runner.asked("gh")

    outcome = runner.run(root)

    assert outcome.failed == set(), outcome.text
    assert git(runner.hosting, "rev-parse", "template-update") == branch
    asked = runner.asked("gh").removeprefix(before)
    assert "pr create --repo acme/project --head template-update" in asked
    assert "--draft" in asked


def test_a_branch_on_which_somebody_works_stays_as_it_is(runner: Runner, tmp_path: Path) -> None:
    root = templated(runner, tmp_path, {"README.md": "better\n"})
    git(root, "commit", "--quiet", "--allow-empty", "--message=mended by hand")
    git(root, "push", "--quiet", str(runner.hosting), "HEAD:template-update")
    git(root, "reset", "--quiet", "--hard", "HEAD~")

    outcome = runner.run(root)

    assert outcome.failed == set(), outcome.text
    assert "Somebody works on the branch template-update" in outcome.said("propose")
    assert git(runner.hosting, "log", "-1", "--format=%s", "template-update") == "mended by hand"
    assert "pr create" not in runner.asked("gh")


def test_the_set_up_action_makes_an_environment_of_what_the_locks_name(act: Path, tmp_path: Path) -> None:
    """The action itself, not its stand-in: uv and nox come from the package index, held to the lock's hashes."""
    runner = Runner(act, acting.templates(tmp_path, real_setup=True), tmp_path)
    noxfile = """
import sys
from importlib.metadata import version
from pathlib import Path

import nox


@nox.session(venv_backend="none")
def environment(session):
    here = Path(sys.prefix)
    assert here == Path.cwd() / ".venv" and not here.is_symlink(), here
    print("environment made in", here.name)


def told(name):
    nox.session(lambda session: print(name, "with zizmor", version("zizmor")), name=name, venv_backend="none")


for name in ("lint", "secrets", "tests", "integration", "build", "maintenance"):
    told(name)
"""
    lock = (ROOT / "requirements/dev.txt").read_text()
    text = caller("nightly", "{contents: read}", python_versions='["3.11"]')
    files = {".github/workflows/called.yml": text, "noxfile.py": noxfile, "requirements/dev.txt": lock}
    root = commit(tmp_path / "project", files)

    outcome = runner.run(root)

    assert outcome.failed == set(), outcome.text
    said = outcome.said("full")
    assert "environment made in .venv" in said, "the session for more was not run, or not there"
    for session in ("lint", "secrets", "tests", "integration", "build"):
        assert f"{session} with zizmor" in said
    assert "maintenance with zizmor" in outcome.said("maintenance")


def test_a_lock_whose_hash_is_not_that_of_the_file_stops_the_set_up(act: Path, tmp_path: Path) -> None:
    runner = Runner(act, acting.templates(tmp_path, real_setup=True), tmp_path)
    lock = (ROOT / "requirements/dev.txt").read_text()
    begin = lock.index("uv==")
    lock = lock[:begin] + re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, lock[begin:])
    text = caller("nightly", "{contents: read}", python_versions='["3.11"]')
    files = {".github/workflows/called.yml": text, "noxfile.py": NOXFILE, "requirements/dev.txt": lock}
    root = commit(tmp_path / "project", files)

    outcome = runner.run(root)

    assert outcome.failed == {"full", "maintenance"}, outcome.text
    for job in ("full", "maintenance"):
        assert "DO NOT MATCH THE HASHES" in outcome.said(job)
    assert not (root / ".venv").exists()


def test_each_night_everything_runs_and_a_registry_that_is_not_in_git_is_told(runner: Runner, tmp_path: Path) -> None:
    infra = installation(runner, tmp_path, fails="sync")
    text = caller("nightly", "{contents: read}", python_versions='["3.11"]', installation=str(infra))
    text = text.rstrip() + "\n      server: true\n"
    noxfile = NOXFILE.format(written={}).replace("name=name", 'name=name, venv_backend="none"')
    root = commit(tmp_path / "project", {".github/workflows/called.yml": text, "noxfile.py": noxfile})

    outcome = runner.run(root)

    assert outcome.failed == {"server"}, outcome.text
    for session in ("lint", "secrets", "tests", "integration", "build"):
        assert f"ran {session}" in outcome.said("full")
    assert "ran maintenance" in outcome.said("maintenance")
    assert f"in {infra} on the server: dml infra sync." in outcome.said("server")
    for asked in ("preflight|", "status|", "sync|--check|", "verify-backup|--full|"):
        assert f"infra|{asked}in {infra}" in runner.asked("dml")


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
