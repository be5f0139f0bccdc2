"""project-ci on small repositories whose sessions do what the test says: what the jobs make of it, run by act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import acting
import pytest
from small import Runner, caller, commit

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

RIGHTS = "{contents: read, pull-requests: write}"
# Every session of a project; only `change` does more than end well.
NOXFILE = """
import os
import shutil
from pathlib import Path

import nox


@nox.session
def change(session):
    out = Path("dist/change")
    shutil.rmtree(out, ignore_errors=True)
    {change}


def empty(name):
    nox.session(lambda session: print("ran", name), name=name)


for name in ("lint", "secrets", "tests"):
    empty(name)


@nox.session
def files(session):
    names = ("DML_DVC__REMOTE_URL", "DML_DVC__S3_ENDPOINT", "DML_LAKE__S3_REGION")
    print("files with", *(os.environ.get(name) or "-" for name in names))
"""
WRITES = 'out.mkdir(parents=True); (out / "comment.md").write_text("## small: good\\n")'


def pull_request(*, of: str = acting.REPOSITORY) -> dict[str, Any]:
    """What GitHub says of one, whose branch is in that repository."""
    head = {"sha": "1" * 40, "ref": "change", "repo": {"full_name": of}}
    return {"number": 7, "pull_request": {"number": 7, "base": {"sha": "2" * 40, "ref": "main"}, "head": head}}


def project(folder: Path, *, change: str, **inputs: str) -> Path:
    files = {
        ".github/workflows/called.yml": caller("project-ci", RIGHTS, **inputs),
        ".gitignore": "dist/\n.venv\n.nox/\n__pycache__/\n",
        "dvc.yaml": "stages: {}\n",
        "noxfile.py": NOXFILE.format(change=change),
    }
    return commit(folder / "project", files)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (WRITES, "## small: good"),
        (f'{WRITES}; session.error("planted")', "## small: good"),
        ('session.error("planted")', "The check of this change ended before it had a result: [its log]"),
        ("os.kill(os.getpid(), 9)", "The check of this change ended before it had a result: [its log]"),
    ],
    ids=["good", "failed with a result", "failed before it", "killed"],
)
def test_the_last_comment_never_stands_for_a_check_that_died(
    runner: Runner, tmp_path: Path, change: str, told: str
) -> None:
    root = project(tmp_path, change=change)
    runner.answer("api --paginate", "41\n")

    outcome = runner.run(root, "pull_request", payload=pull_request())

    assert "comment" in outcome.passed, outcome.text
    assert outcome.failed == (set() if change == WRITES else {"change", "result"})
    asked = runner.asked("gh")
    assert "api --silent --method PATCH repos/acme/project/issues/comments/41 --field body=@comment.md" in asked
    assert f"<!-- project-ci: change -->\n{told}" in asked
    assert ("good" in asked) == ("good" in told)
    assert told.partition(":")[0] in outcome.summary("change")


@pytest.mark.parametrize(("of", "runs"), [(acting.REPOSITORY, False), ("stranger/project", True)], ids=["ours", "fork"])
def test_only_a_branch_of_the_repository_gets_the_runner_in_the_servers_network(
    runner: Runner, tmp_path: Path, of: str, *, runs: bool
) -> None:
    """act leaves a job out whose runner it has not got, and it has not got this one."""
    root = project(tmp_path, change=WRITES, lake_runner="in-the-network")

    outcome = runner.run(root, "pull_request", payload=pull_request(of=of))

    assert {"lint", "files"} <= outcome.passed, outcome.text
    assert ("change" in outcome.passed) == runs


@pytest.mark.parametrize("event", ["pull_request", "push"])
@pytest.mark.parametrize(
    ("inputs", "read"),
    [
        ({"dvc_endpoint": "https://s3.example.com", "dvc_region": "eu-west-3"}, "https://s3.example.com eu-west-3"),
        ({}, "- us-east-1"),
    ],
    ids=["elsewhere", "nothing said"],
)
def test_dvcs_storage_may_be_in_any_object_store(
    runner: Runner, tmp_path: Path, event: str, inputs: dict[str, str], read: str
) -> None:
    root = project(tmp_path, change=WRITES, dvc_remote_url="s3://dvc/small", **inputs)

    outcome = runner.run(root, event, payload=pull_request() if event == "pull_request" else None)

    assert outcome.failed == set(), outcome.text
    assert f"files with s3://dvc/small {read}" in outcome.said("files")


def test_a_result_of_an_earlier_attempt_is_not_taken_for_this_ones(runner: Runner, tmp_path: Path) -> None:
    """What an attempt kept is there for the next one, under the same name."""
    root = project(tmp_path, change='session.error("planted")')
    earlier = runner.folder / "artifacts/change"
    earlier.mkdir(parents=True)
    (earlier / "comment.md").write_text("## small: good\n")

    outcome = runner.run(root, "pull_request", payload=pull_request())

    assert "comment" in outcome.passed, outcome.text
    assert "ended before it had a result" in runner.asked("gh")
    assert "good" not in runner.asked("gh")
