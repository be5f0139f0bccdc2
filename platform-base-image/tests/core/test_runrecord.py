from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dml_platform.core.runrecord import RunRecord, git_commit, read_records, utc_now, write_record


def record(project: str = "sales", run_id: str = "r1", step: str = "land", **values: object) -> RunRecord:
    base = {"status": "success", "started_at": utc_now(), "duration_s": 1.5, "git_commit": "abc"}
    return RunRecord(project=project, run_id=run_id, step=step, **(base | values))  # type: ignore[arg-type]


def test_record_comes_back_as_it_was(tmp_path: Path) -> None:
    kept = record(outputs={"sales.marts.x": 2**62}, rows={"sales.marts.x": 3}, details={"größe": [1, None]})
    path = write_record(tmp_path, kept)
    assert path == tmp_path / "runs/sales/r1/land.json"
    assert list(read_records(tmp_path)) == [kept]
    assert list(path.parent.iterdir()) == [path]


def test_records_are_newest_first_and_a_repeated_step_replaces_its_own(tmp_path: Path) -> None:
    write_record(tmp_path, record(run_id="old", started_at="2026-01-01T00:00:00.000+00:00"))
    write_record(tmp_path, record(run_id="new", started_at="2026-01-02T00:00:00.000+00:00", status="failed"))
    write_record(tmp_path, record(run_id="new", started_at="2026-01-03T00:00:00.000+00:00"))
    write_record(tmp_path, record(project="stock", started_at="2026-01-04T00:00:00.000+00:00"))
    assert [(r.run_id, r.status) for r in read_records(tmp_path, "sales")] == [("new", "success"), ("old", "success")]
    assert len(list(read_records(tmp_path))) == 3
    assert list(read_records(tmp_path / "empty")) == []


def test_git_commit_of_a_checkout_an_image_and_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git_commit.cache_clear()
    assert git_commit(tmp_path) == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "f").write_text("1")
    subprocess.run([*git, "add", "f"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    git_commit.cache_clear()
    clean = git_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "f").write_text("2")
    git_commit.cache_clear()
    assert git_commit(tmp_path) == f"{clean}-dirty"
    monkeypatch.setenv("DML_GIT_COMMIT", "f" * 40)
    git_commit.cache_clear()
    assert git_commit(tmp_path) == "f" * 40
    git_commit.cache_clear()


def test_what_is_no_record_is_passed_over_and_one_run_can_be_asked_for(tmp_path: Path) -> None:
    kept = record(run_id="r1")
    folder = write_record(tmp_path, kept).parent
    write_record(tmp_path, record(run_id="r2"))
    for name, content in {"other": b'{"a": 1}', "list": b"[1]", "damaged": b"\xff{"}.items():
        (folder / f"{name}.json").write_bytes(content)
    assert list(read_records(tmp_path, "sales", "r1")) == [kept]
    assert len(list(read_records(tmp_path))) == 2
