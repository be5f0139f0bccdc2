"""When things run."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from project_sales import jobs
from project_sales.definitions import defs


def test_daily_job_covers_every_asset() -> None:
    repository = defs.get_repository_def()
    job = repository.get_job("daily")
    assert job.asset_layer.executable_asset_keys == repository.asset_graph.materializable_asset_keys
    [schedule] = repository.schedule_defs
    assert (schedule.job_name, schedule.cron_schedule) == ("daily", "0 5 * * *")


def test_sensor_asks_for_one_run_when_files_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jobs, "DROP_FOLDER", tmp_path)
    (tmp_path / "cdnow").mkdir()
    (tmp_path / "cdnow" / "a.csv").write_text("x\n")

    def look(cursor: str | None) -> object:
        return jobs.new_files(dg.build_sensor_context(cursor=cursor))

    first = look(None)
    assert isinstance(first, dg.SensorResult)
    assert first.run_requests is not None
    assert len(first.run_requests) == 1
    assert isinstance(look(first.cursor), dg.SkipReason)

    (tmp_path / "cdnow" / "b.csv").write_text("y\n")
    assert isinstance(look(first.cursor), dg.SensorResult)
