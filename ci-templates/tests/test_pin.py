"""How an organisation takes the workflows over: what the README says is typed, between real repositories."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from acting import OWN, ROOT
from projects import git

STEPS = [
    block
    for block in re.findall(r"```sh[^\n]*\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    if "--owner=acme" in block
]
CALLED = re.compile(r"uses: ([\w-]+)/ci-templates/([\w./-]+)@([0-9a-f]{40})")
# What calls the workflows, and where the repository has these files.
CALLERS = {
    "sales": (".github/workflows", "project"),
    "template": ("template/.github/workflows", "project"),
    "library": (".github/workflows", "library"),
    "server": (".github/workflows", "library"),
}


def start(root: Path, hosting: Path) -> None:
    """Make a first commit, and push it to where the repository is published."""
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "config", "user.name", "Test")
    git(root, "config", "user.email", "test@example.com")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=first")
    git(hosting.parent, "init", "--quiet", "--bare", str(hosting))
    git(root, "remote", "add", "origin", str(hosting))
    git(root, "push", "--quiet", "--set-upstream", "origin", "main")


@pytest.fixture
def clones(tmp_path: Path) -> Path:
    """A folder with this repository and its callers, each pushed to one of its own; all of them name somebody."""
    hosting, clones = tmp_path / "hosting", tmp_path / "clones"
    hosting.mkdir()
    own = clones / "ci-templates"
    for name in (".github", "examples"):
        shutil.copytree(ROOT / name, own / name)
    for name in (".gitignore", "noxfile.py", "README.md"):
        shutil.copy(ROOT / name, own / name)
    for name, (place, example) in CALLERS.items():
        shutil.copytree(ROOT / "examples" / example, clones / name / place)
    for path in [*files(clones), own / "README.md"]:
        path.write_text(path.read_text().replace(f"uses: {OWN}/", "uses: somebody/ci-templates/"))
    for root in clones.iterdir():
        start(root, hosting / root.name)
    return clones


def type_in(folder: Path, commands: str) -> subprocess.CompletedProcess[str]:
    """Type commands as the README shows them; the first that fails is the last."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-euc", commands],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def owners(hosting: Path, text: str) -> set[str]:
    """Whose workflows and actions run where a file is run, down to the last: as it was pushed."""
    found = set()
    for owner, path, commit in CALLED.findall(text):
        found.add(owner)
        name = path if path.endswith(".yml") else f"{path}/action.yml"
        found |= owners(hosting, git(hosting, "show", f"{commit}:{name}"))
    return found


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*.yml") if ".git" not in path.parts]


def test_two_steps_of_the_readme_leave_nothing_of_another_owner(clones: Path) -> None:
    assert len(STEPS) == 2
    for step in STEPS:
        done = type_in(clones / "ci-templates", step)
        assert done.returncode == 0, done.stdout + done.stderr

    hosting = clones.parent / "hosting/ci-templates"
    for name in CALLERS:
        for path in files(clones / name):
            assert owners(hosting, path.read_text()) == {"acme"}, path
    own = clones / "ci-templates"
    for path in [*files(own / "examples"), *files(own / ".github"), own / "README.md"]:
        assert owners(hosting, path.read_text()) <= {"acme"}, path
    assert owners(hosting, (own / "README.md").read_text()) == {"acme"}
    assert git(own, "status", "--porcelain") == ""
    assert git(hosting, "rev-parse", "main") == git(own, "rev-parse", "HEAD")


def test_a_commit_whose_workflows_call_another_owner_is_refused_with_what_to_do_first(clones: Path) -> None:
    own = clones / "ci-templates"
    commit = git(own, "rev-parse", "HEAD")

    done = type_in(own, STEPS[1])

    assert done.returncode
    said = done.stdout + done.stderr
    assert f"the workflows of {commit[:12]} call somebody/ci-templates, which is not of acme" in said
    assert f"nox -s pin -- {commit} v0.1.0 --owner=acme .github. Commit and push that" in said
    for name in ("ci-templates", *CALLERS):
        assert git(clones / name, "status", "--porcelain") == "", f"{name} was written to"


def test_a_commit_that_is_not_here_is_refused(clones: Path) -> None:
    done = type_in(clones / "ci-templates", f"nox -s pin -- {'1' * 40} v0.1.0 --owner=acme ../sales")

    assert done.returncode
    assert f"{'1' * 40} is no commit of this repository" in done.stdout + done.stderr
    assert git(clones / "sales", "status", "--porcelain") == ""


def test_a_folder_that_is_not_there_is_said_before_anything_is_written(clones: Path) -> None:
    done = type_in(clones / "ci-templates", f"nox -s pin -- {'1' * 40} v0.1.0 ../sales ../sails")

    assert done.returncode
    assert "there is no folder ../sails: nothing was pinned" in done.stdout + done.stderr
    assert git(clones / "sales", "status", "--porcelain") == ""


def test_a_later_commit_is_pinned_without_saying_the_owner_again(clones: Path) -> None:
    own = clones / "ci-templates"
    for step in STEPS:
        assert type_in(own, step).returncode == 0
    commit = git(own, "rev-parse", "HEAD")

    done = type_in(own, f"nox -s pin -- {commit} v0.2.0 ../sales")

    assert done.returncode == 0, done.stdout + done.stderr
    text = (clones / "sales/.github/workflows/ci.yml").read_text()
    assert f"uses: acme/ci-templates/.github/workflows/project-ci.yml@{commit} # v0.2.0" in text
