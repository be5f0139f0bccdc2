"""`dml maintain` as a person types it, and the job that a server runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest

from dml_platform.cli.dagster_home import open_instance, run_tags
from dml_platform.core.config import MaintenanceConfig, load_project_config
from dml_platform.core.errors import ConfigError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project, read_project
from dml_platform.core.runrecord import read_records
from dml_platform.core.settings import load_settings
from dml_platform.definitions import build_definitions
from dml_platform.lake import open_lake
from dml_platform.lake.maintain_job import build_maintenance

ORDERS = TableRef("shop", "raw", "web__orders")
Dml = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project-shop"
    (tmp_path / ".dml").mkdir()
    (root / "config").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[tool.dml]\nproject = "shop"\n')
    monkeypatch.chdir(root)
    return root


def folder() -> Path:
    return Path(load_settings().warehouse) / ORDERS.path


def publish_with_orphan() -> Path:
    """A table with a file of four days that nothing names."""
    lake = open_lake()
    step = lake.step("r1", "land")
    step.write_query(ORDERS, lake.connect(), "select 1 as order_id")
    step.publish()
    orphan = folder() / "data" / "orphan.parquet"
    orphan.write_bytes(b"x" * 2_000_000)
    old = time.time() - 4 * 86400
    os.utime(orphan, (old, old))
    return orphan


def project() -> Project:
    found = read_project(Path.cwd())
    assert found
    return found


def test_dry_run_prints_what_the_real_one_then_does(dml: Dml) -> None:
    assert dml("maintain") == (0, "The project has no tables yet. 'dml run' fills it.\n", "")
    orphan = publish_with_orphan()
    code, planned, _ = dml("maintain", "--dry-run")
    assert code == 0
    assert "0 snapshots and 1 files, 2.0 MB, would go" in planned
    assert planned.endswith("nothing was changed: --dry-run\n")
    assert orphan.exists()
    assert not [r for r in read_records(load_settings(), "shop") if r.details.get("maintain")]
    code, done, _ = dml("maintain")
    assert code == 0
    assert done.splitlines()[1].split() == planned.splitlines()[1].split()
    assert "0 snapshots and 1 files, 2.0 MB, went" in done
    assert not orphan.exists()
    newest = next(read_records(load_settings(), "shop"))
    assert (newest.step, newest.details["maintain"][0]["deleted"]) == ("maintain", ["data/orphan.parquet"])


def test_limits_are_of_the_project_and_of_the_command(dml: Dml, root: Path) -> None:
    orphan = publish_with_orphan()
    (root / "config" / "project.yaml").write_text("maintenance: {orphan_days: 5}\n")
    assert json.loads(dml("maintain", "--json")[1])["tables"][0]["deleted"] == []
    assert json.loads(dml("maintain", "--json", "--orphan-age", "3")[1])["tables"][0]["deleted"] == [
        "data/orphan.parquet"
    ]
    assert not orphan.exists()
    code, _, errors = dml("maintain", "--keep-days", "0", "--orphan-days", "0.2")
    assert code == 2
    assert "cannot maintain with these limits" in errors
    assert "--keep-days: Input should be greater than or equal to 1" in errors
    code, _, errors = dml("maintain", "--keep-days", "1000000")
    assert code == 2
    assert "--keep-days: Input should be less than or equal to 36500" in errors
    (root / "config" / "project.yaml").write_text("maintenance: {keep_day: 5}\n")
    with pytest.raises(ConfigError, match=r"maintenance\.keep_day: Extra inputs are not permitted"):
        load_project_config(root)


def test_damaged_table_is_said_and_its_files_stay(dml: Dml) -> None:
    orphan = publish_with_orphan()
    next(path for path in (folder() / "data").iterdir() if path != orphan).unlink()
    code, _, errors = dml("maintain")
    assert code == 1
    assert "some files were left alone: shop.raw.web__orders: 1 files that it names are missing" in errors
    assert orphan.exists()


def test_run_that_dagster_knows_to_be_alive_keeps_its_branch(dml: Dml, monkeypatch: pytest.MonkeyPatch) -> None:
    from dml_platform.lake import retention

    publish_with_orphan()
    monkeypatch.setattr(retention, "_ms", lambda moment: int(moment.timestamp() * 1000) + 30 * 86_400_000)
    lake = open_lake()
    with open_instance(load_settings().home) as instance:
        run = instance.create_run_for_job(
            dg.Definitions(jobs=[_nothing()]).resolve_job_def("nothing"), tags=run_tags("shop")
        )
        started = dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_START.value, job_name="nothing")
        instance.report_dagster_event(started, run.run_id)
    lake.step(run.run_id.split("-")[0], "s").write_query(ORDERS, lake.connect(), "select 2 as order_id")
    lake.step("killed", "s").write_query(ORDERS, lake.connect(), "select 3 as order_id")
    found = json.loads(dml("maintain", "--dry-run", "--json")[1])["tables"][0]
    assert found["branches"] == ["run_killed_s"]


def _nothing() -> dg.JobDefinition:
    @dg.op
    def idle() -> None: ...

    @dg.job
    def nothing() -> None:
        idle()

    return nothing


def test_job_and_schedule_are_a_servers_and_absent_elsewhere(root: Path) -> None:
    (root / "config" / "project.yaml").write_text("owner: team:shop\n")
    assert "maintain" not in {job.name for job in build_definitions(root).jobs or ()}
    assert build_maintenance(project(), MaintenanceConfig(), profile="local") == []
    assert build_maintenance(project(), MaintenanceConfig(schedule=None), profile="server") == []
    (made,) = build_maintenance(project(), MaintenanceConfig(), profile="server")
    assert (made.schedule.cron_schedule, made.schedule.execution_timezone) == ("30 3 * * 0", "UTC")
    assert made.schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    # As a code server loads it, which looks at more than a run in this process does.
    loaded = dg.Definitions(jobs=[made.job], schedules=[made.schedule], resources={"lake": SimpleNamespace()})
    loaded.get_repository_def().load_all_definitions()


def test_alerts_watch_whether_it_runs_when_it_is_due(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dml_platform import definitions

    made = build_maintenance(project(), MaintenanceConfig(), profile="server")
    watched: list[dg.ScheduleDefinition] = []

    def build_alert_sensor(*_arguments: object, schedules: list[dg.ScheduleDefinition], limits: object) -> list[object]:
        watched.extend(schedules)
        return []

    monkeypatch.setattr(definitions, "build_maintenance", lambda *_arguments, profile: made)
    monkeypatch.setattr(definitions, "build_alert_sensor", build_alert_sensor)
    found = build_definitions(root)
    assert [schedule.name for schedule in watched] == ["maintain_schedule"]
    assert list(found.schedules or ()) == watched


def test_job_does_the_work_and_keeps_a_record() -> None:
    orphan = publish_with_orphan()
    (made,) = build_maintenance(project(), MaintenanceConfig(), profile="server")
    with dg.DagsterInstance.ephemeral() as instance:
        result = made.job.execute_in_process(instance=instance, resources={"lake": SimpleNamespace(lake=open_lake())})
    assert result.success
    assert not orphan.exists()
    record = next(read_records(load_settings(), "shop"))
    assert (record.step, record.status, len(record.details["maintain"])) == ("maintain", "success", 1)
