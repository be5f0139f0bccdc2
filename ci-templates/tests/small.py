"""Small repositories whose one workflow calls one of ours, and what runs it on this machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import acting
from acting import ROOT, Outcome
from projects import git

PIN = re.search(r"@[0-9a-f]{40} # v[\d.]+", (ROOT / "examples/project/nightly.yml").read_text())
# Sessions that say that they ran; `template` writes files.
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


def commit(root: Path, files: dict[str, str]) -> Path:
    """A repository whose first commit has these files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text.lstrip("\n"))
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "config", "user.name", "Test")
    git(root, "config", "user.email", "test@example.com")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=first")
    git(root, "remote", "add", "origin", f"https://github.com/{acting.REPOSITORY}")
    return root


def caller(workflow: str, rights: str = "{}", **inputs: str | bool) -> str:
    """A workflow of a repository that calls one of ours, as the examples do."""
    assert PIN
    given = "".join(f"\n      {name.replace('_', '-')}: {json.dumps(value)}" for name, value in inputs.items())
    return f"""
name: called
on: {{push: {{}}, pull_request: {{}}, workflow_dispatch: {{}}}}
permissions: {{}}
jobs:
  called:
    permissions: {rights}
    uses: {acting.OWN}/.github/workflows/{workflow}.yml{PIN[0]}
    with:{given or " {}"}
"""


class Runner:
    """Runs the one workflow of a repository, and keeps what it leaves in a folder."""

    def __init__(self, act: Path, own: Path, folder: Path) -> None:
        self.act, self.own, self.folder = act, own, folder / "left"
        (self.folder / "programs").mkdir(parents=True)

    def add_program(self, name: str, script: str) -> None:
        path = self.folder / "programs" / name
        path.write_text(f"#!/usr/bin/env bash\nset -eu\n{script}\n")
        path.chmod(0o755)

    def answer(self, asked: str, text: str) -> None:
        """What the stand-in for gh prints where the first two words of what it is asked are these."""
        (self.folder / "answers").mkdir(exist_ok=True)
        (self.folder / "answers" / asked).write_text(text)

    def run(
        self,
        root: Path,
        event: str = "workflow_dispatch",
        ref: str = "refs/heads/main",
        *,
        payload: dict[str, Any] | None = None,
        variables: dict[str, str] | None = None,
        secrets: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Outcome:
        """Run it; ``payload`` is what GitHub would say of the event besides the repository."""
        repository = {"full_name": acting.REPOSITORY, "default_branch": "main"}
        payload = {"ref": ref, "repository": repository, **(payload or {})}
        # What is pushed to the hosting goes to a repository beside.
        elsewhere = {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{self.folder}/hosting/.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://github.com/",
        }
        return acting.run(
            self.act,
            root,
            event,
            payload,
            workflow="called.yml",
            folder=self.folder,
            own=self.own,
            variables=variables,
            secrets={"GITHUB_TOKEN": "none", **(secrets or {})},
            environment={**elsewhere, **(environment or {})},
        )

    @property
    def hosting(self) -> Path:
        """The repository's other end, made on first use."""
        path = self.folder / "hosting" / acting.REPOSITORY
        if not path.exists():
            path.mkdir(parents=True)
            git(path, "init", "--quiet", "--bare", "--initial-branch=main")
        return path

    def asked(self, name: str) -> str:
        path = self.folder / f"{name}.txt"
        return path.read_text() if path.exists() else ""
