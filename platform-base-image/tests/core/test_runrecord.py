from __future__ import annotations

import subprocess
from datetime import datetime, timedelta, timezone
from itertools import islice
from pathlib import Path

import pytest

from dml_platform.core.errors import ConfigError, PermanentError, RetryableError
from dml_platform.core.runrecord import RunRecord, git_commit, read_records, utc_now, write_record
from dml_platform.core.settings import Settings
from dml_platform.core.storage import ObjectStorage, open_storage


def record(project: str = "sales", run_id: str = "r1", step: str = "land", **values: object) -> RunRecord:
    base = {"status": "success", "started_at": utc_now(), "duration_s": 1.5, "git_commit": "abc"}
    return RunRecord(project=project, run_id=run_id, step=step, **(base | values))  # type: ignore[arg-type]


def test_record_comes_back_as_it_was(settings: Settings) -> None:
    kept = record(outputs={"sales.marts.x": 2**62}, rows={"sales.marts.x": 3}, details={"größe": [1, None]})
    write_record(settings, kept)
    assert list(read_records(settings, "sales")) == [kept]


def test_records_are_newest_first_and_a_repeated_step_replaces_its_own(settings: Settings) -> None:
    write_record(settings, record(run_id="old", started_at="2026-01-01T00:00:00.000+00:00"))
    write_record(settings, record(run_id="new", started_at="2026-01-02T00:00:00.000+00:00", status="failed"))
    write_record(settings, record(run_id="new", started_at="2026-01-03T00:00:00.000+00:00"))
    write_record(settings, record(project="stock", started_at="2026-01-04T00:00:00.000+00:00"))
    assert [(r.run_id, r.status) for r in read_records(settings, "sales")] == [("new", "success"), ("old", "success")]
    assert [r.project for r in read_records(settings, "stock")] == ["stock"]
    assert list(read_records(settings, "other")) == []


def test_what_is_no_record_is_passed_over_and_one_run_can_be_asked_for(settings: Settings) -> None:
    kept = record(run_id="r1")
    place = write_record(settings, kept).removeprefix(f"{settings.warehouse}/sales/_runs/")
    write_record(settings, record(run_id="r2"))
    folder = Path(place).parent.name
    for name, content in {"other": b'{"a": 1}', "list": b"[1]", "damaged": b"\xff{"}.items():
        open_storage(settings, "sales", "runs").write(f"{folder}/120000000-r1-{name}.json", content)
    assert list(read_records(settings, "sales", "r1")) == [kept]
    assert len(list(read_records(settings, "sales"))) == 2


def test_records_of_a_laptop_are_files_of_the_run(local: Settings) -> None:
    path = Path(write_record(local, record()))
    assert path == local.home / "runs/sales/r1/land.json"
    assert list(path.parent.iterdir()) == [path]
    write_record(local, record(project="stock"))
    assert sorted(r.project for r in read_records(local)) == ["sales", "stock"]
    assert list(read_records(local.model_copy(update={"home": local.home / "empty"}))) == []


@pytest.mark.parametrize("settings", ["server"], indirect=True)
def test_records_outlive_the_state_folder_and_few_are_read_to_find_the_newest(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = datetime(2026, 3, 1, 23, 50, tzinfo=timezone.utc)
    for number in range(60):
        moment = (begun + timedelta(minutes=number)).isoformat(timespec="milliseconds")
        write_record(settings, record(run_id=f"r{number // 2}", step=f"s{number % 2}", started_at=moment))
    assert list(settings.home.iterdir()) == []

    fetched = []
    read = ObjectStorage.read
    monkeypatch.setattr(ObjectStorage, "read", lambda self, name: [fetched.append(name), read(self, name)][1])
    elsewhere = settings.model_copy(update={"home": tmp_path / "another machine"})
    assert [(r.run_id, r.step) for r in islice(read_records(elsewhere, "sales"), 3)] == [
        ("r29", "s1"),
        ("r29", "s0"),
        ("r28", "s1"),
    ]
    assert len(fetched) <= 8
    fetched.clear()
    # Over midnight.
    write_record(settings, record(run_id="r9", step="s9", started_at="2026-03-01T23:59:59.999+00:00"))
    assert [r.step for r in read_records(elsewhere, "sales", "r9")] == ["s1", "s0", "s9"]
    assert len(fetched) == 3
    with pytest.raises(ConfigError, match="cannot list the runs of all projects"):
        list(read_records(elsewhere))


@pytest.mark.parametrize("settings", ["server"], indirect=True)
def test_record_that_the_object_store_refuses_is_said(settings: Settings) -> None:
    gone = settings.model_copy(update={"lake": settings.lake.model_copy(update={"warehouse": "s3://nowhere/x"})})
    with pytest.raises(PermanentError, match=r"cannot keep the run record of step 'land'.*stays published"):
        write_record(gone, record())


@pytest.mark.parametrize("settings", ["server"], indirect=True)
def test_object_store_that_restarts_loses_no_record(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dml_platform.core.storage.time.sleep", lambda _: None)
    left, opened = [2], ObjectStorage._open

    def open_or_fail(self: ObjectStorage) -> object:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError("curlCode: 7, Couldn't connect to server")
        return opened(self)

    monkeypatch.setattr(ObjectStorage, "_open", open_or_fail)
    write_record(settings, record())
    assert len(list(read_records(settings, "sales"))) == 1
    left[0] = 100
    with pytest.raises(RetryableError, match="cannot read the run records: curlCode: 7"):
        list(read_records(settings, "sales"))


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
