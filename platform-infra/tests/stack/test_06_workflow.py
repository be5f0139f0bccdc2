"""The workflows that run on the server, by act, against the server itself: a merge that goes live, one that must not.

TEST_WORKFLOWS names a checkout of ci-templates, which has the workflows and what runs them with act.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stack.clones import LIST, clone, git, make_clone, merge
from stack.engine import inspect
from stack.server import Server

WORKFLOWS = os.environ.get("TEST_WORKFLOWS", "")
COMMIT = "1" * 40  # act is told where that commit of the workflows is

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not WORKFLOWS, reason="TEST_WORKFLOWS names no checkout of ci-templates"),
]


class Hosting:
    """What GitHub is for these tests: the installation's repository, a person's clone of it, and act as the runner."""

    def __init__(self, server: Server, folder: Path) -> None:
        sys.path.insert(0, str(Path(WORKFLOWS) / "tests"))
        self._acting = importlib.import_module("acting")
        self._act = importlib.import_module("programs").program("act")
        self.server, self._folder = server, folder
        self._own = self._acting.templates(folder)
        self.repository = folder / "hosting.git"
        make_clone(server.root, self.repository)
        self.person = clone(self.repository, folder / "person")

    def run(self, name: str, workflow: str, **inputs: str) -> Any:
        """Run a repository's one workflow, which calls one of ours, as the examples do."""
        root, left = self._folder / name, self._folder / f"{name}-left"
        given = "".join(f"\n      {key}: {value}" for key, value in inputs.items())
        (root / ".github" / "workflows").mkdir(parents=True)
        (root / ".github" / "workflows" / "called.yml").write_text(
            f"""
name: called
on: workflow_dispatch
permissions: {{}}
jobs:
  called:
    permissions: {{contents: read}}
    uses: {self._acting.OWN}/.github/workflows/{workflow}.yml@{COMMIT} # v0.1.0
    with:
      installation: {self.server.root}{given}
""",
            encoding="utf-8",
        )
        git(root, "init", "--quiet", "--initial-branch=main")
        git(root, "add", "--all")
        author = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        git(root, *author, "commit", "--quiet", "--message=first")
        git(root, "remote", "add", "origin", f"https://github.com/{self._acting.REPOSITORY}")
        (left / "programs").mkdir(parents=True)
        if shutil.which("dml") is None:
            shim = left / "programs" / "dml"
            shim.write_text(f'#!/bin/sh\nshift\nexec "{sys.executable}" -m dml_infra "$@"\n', encoding="utf-8")
            shim.chmod(0o755)
        payload = {"repository": {"full_name": self._acting.REPOSITORY, "default_branch": "main"}}
        return self._acting.run(
            self._act, root, "workflow_dispatch", payload, workflow="called.yml", folder=left, own=self._own
        )

    def main(self, path: str = LIST) -> str:
        """A file on the main branch."""
        return git(self.repository, "show", f"main:{path}")

    def log(self) -> list[str]:
        """Subjects of main's commits, newest first."""
        return git(self.repository, "log", "--format=%s", "main").splitlines()


@pytest.fixture(scope="module")
def hosting(projects: Server, folder: Path) -> Iterator[Hosting]:
    place = folder / "workflow"
    place.mkdir()
    yield Hosting(projects, place)
    # Later tests take the installation as they know it.
    shutil.rmtree(projects.root / ".git")
    (projects.state / "told.json").unlink(missing_ok=True)


def test_what_the_workflow_deploys_is_live_and_on_main_and_the_server_stays_on_its_release(
    hosting: Hosting, orders: Callable[..., str], figures: dict[str, Any]
) -> None:
    server, image = hosting.server, orders("by-workflow")
    compose = (server.root / "compose.yaml").read_text(encoding="utf-8")
    release = git(server.root, "rev-parse", "HEAD")
    file = hosting.person / "compose.yaml"
    file.write_text(file.read_text(encoding="utf-8") + "# Not released.\n", encoding="utf-8")
    merge(hosting.person, "for the next release")

    started = time.monotonic()
    outcome = hosting.run("good", "deploy", project="orders", image=image)
    figures["deploy by its workflow (act): until the job has ended, s"] = round(time.monotonic() - started, 1)

    assert outcome.failed == set(), outcome.text
    assert outcome.passed == {"deploy"}
    assert server.locations()["orders"]["error"] is None
    assert inspect(server.location("orders"))["Config"]["Image"] == image
    assert f"image: {image}" in hosting.main()
    assert hosting.log()[:2] == [f"deploy(orders): {image.partition('@')[2]}", "for the next release"]
    assert "live" in outcome.summary("deploy")
    assert (server.root / LIST).read_text(encoding="utf-8").strip() == hosting.main()
    assert (server.root / "compose.yaml").read_text(encoding="utf-8") == compose != hosting.main("compose.yaml")
    assert git(server.root, "rev-parse", "HEAD") == release
    assert git(server.root, "branch", "--show-current") == ""


def test_an_image_that_does_not_load_leaves_the_old_one_a_red_job_and_main_as_it_was(
    hosting: Hosting, orders: Callable[..., str]
) -> None:
    server, log = hosting.server, hosting.log()
    before = server.location("orders")
    bad = orders("bad-by-workflow", target="import-error")

    outcome = hosting.run("bad", "deploy", project="orders", image=bad)

    assert outcome.failed == {"deploy"}, outcome.text
    assert "cannot deploy 'orders'" in outcome.said("deploy")
    assert "rolled back" in outcome.summary("deploy")
    assert server.location("orders") == before
    assert server.locations()["orders"]["error"] is None
    assert hosting.log() == log
    assert bad not in (server.root / LIST).read_text(encoding="utf-8")


def test_the_nightly_look_at_the_server_finds_what_main_was_not_told(hosting: Hosting, folder: Path) -> None:
    server = hosting.server
    settings = server.root / ".env"
    known = settings.read_text(encoding="utf-8")
    target = folder / "nightly-backup"
    target.mkdir()
    server.dml("backup", "--to", str(target), "--new-identity", str(folder / "nightly-identity"))
    settings.write_text(f"{known}DML_BACKUP_TARGET={target}\n", encoding="utf-8")
    try:
        well = hosting.run("night", "nightly", project="false", server="true")
        assert well.failed == set(), well.text
        assert well.passed == {"server"}

        server.dml("rollback", "orders")
        told = hosting.run("next-night", "nightly", project="false", server="true")
        assert told.failed == {"server"}, told.text
        assert "main does not have: deploy(orders): sha256:" in told.said("server")
        server.dml("sync", "orders")
        assert hosting.log()[0].startswith("deploy(orders): sha256:")
    finally:
        settings.write_text(known, encoding="utf-8")
