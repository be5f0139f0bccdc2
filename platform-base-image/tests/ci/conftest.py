"""The small dbt project, in git with a first commit and with a first build published."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dml_platform.core.project import Project
from dml_platform.dbt.runner import build
from dml_platform.lake import Lake

sys.path.insert(0, str(Path(__file__).parent.parent / "dbt"))
from dbt_shop import project, shop_lake

__all__ = ["project", "shop_lake"]

Git = Callable[..., str]


@pytest.fixture
def git(project: Project, monkeypatch: pytest.MonkeyPatch) -> Git:
    """Call git in the project's repository, which has one commit."""
    monkeypatch.chdir(project.root)

    def call(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=project.root, check=True, capture_output=True, text=True).stdout.strip()

    call("init", "--quiet", "--initial-branch=main")
    call("add", "--all")
    call("commit", "--quiet", "--message=first")
    return call


@pytest.fixture
def published(project: Project, shop_lake: Lake, git: Git) -> Lake:
    """The lake after a run of the first commit."""
    assert build(project, shop_lake, run_id="r1").error is None
    git("switch", "--quiet", "--create", "change")
    return shop_lake
