"""A tag becomes a release, run by act: with a package index of this machine, and a stand-in for GitHub's."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import packages
import pytest
from acting import ROOT, Outcome
from projects import git
from small import Runner, caller, commit

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


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
