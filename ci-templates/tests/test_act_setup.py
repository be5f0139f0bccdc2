"""The set-up action itself, which other tests replace: an environment of what the locks name."""

from __future__ import annotations

import re
from pathlib import Path

import acting
import pytest
from acting import ROOT
from small import NOXFILE, Runner, caller, commit

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


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
