"""Runs that really fail in Dagster, sources that really are late, schedules that Dagster was to tick."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._utils.error import SerializableErrorInfo
from receivers import Webhook, webhook

from dml_platform.alerts.config import load_alerts
from dml_platform.alerts.sensor import build_alert_sensor
from dml_platform.alerts.watch import Freshness, Schedule, find_missed
from dml_platform.core.config import load_project_config
from dml_platform.core.errors import ConfigError, PermanentError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project, read_project
from dml_platform.core.settings import load_settings
from dml_platform.definitions import build_definitions
from dml_platform.lake import Lake
from dml_platform.lake.reporting import failures

CONFIG = """
owner: shop@example.com
alerts:
  channels:
    chat: {kind: webhook, url: "${SHOP_HOOK}"}
"""


class Faults:
    """What goes wrong in the next run."""

    land: str | None = None
    check_passes = True


@dg.asset
def orders() -> None:
    with failures():
        if Faults.land:
            raise PermanentError("cannot land 'shop.raw.orders'", Faults.land, "Correct it.")


@dg.asset_check(asset=orders, blocking=True)
def orders_have_keys() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=Faults.check_passes, metadata={"failing_rows": 7})


@dg.asset(deps=[orders])
def mart() -> None:
    return


daily = dg.define_asset_job("daily", selection="*")
definitions = dg.Definitions(assets=[orders, mart], asset_checks=[orders_have_keys], jobs=[daily])


@pytest.fixture(autouse=True)
def _no_faults() -> None:
    Faults.land, Faults.check_passes = None, True


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project-shop"
    (root / "config").mkdir(parents=True)
    (tmp_path / ".dml").mkdir()
    (root / "pyproject.toml").write_text('[project]\nname = "project-shop"\n[tool.dml]\nproject = "shop"\n')
    (root / "config" / "project.yaml").write_text(CONFIG)
    found = read_project(root)
    assert found
    return found


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with webhook() as found:
        monkeypatch.setenv("SHOP_HOOK", found.url())
        yield found


class Watcher:
    """Ticks the sensor as Dagster's daemon does, keeping its cursor."""

    def __init__(self, project: Project, limits: list[Freshness] | None = None) -> None:
        self.instance = dg.DagsterInstance.ephemeral(tempdir=str(project.root))
        alerts = load_alerts(load_project_config(project.root))
        [self.sensor] = build_alert_sensor(project, alerts, limits=lambda: limits or [])
        self.cursor: str | None = None

    def tick(self) -> str:
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor, definitions=definitions) as context:
            found = self.sensor.evaluate_tick(context)
        self.cursor = found.cursor
        return str(found.skip_message)

    def run(self, **options: Any) -> dg.ExecuteInProcessResult:
        job = definitions.resolve_job_def("daily")
        return job.execute_in_process(instance=self.instance, raise_on_error=False, **options)

    def look_anew(self) -> None:
        self.cursor = json.dumps(json.loads(self.cursor or "{}") | {"looked_at": None})


def test_without_the_section_nothing_is_registered(project: Project) -> None:
    (project.config_dir / "project.yaml").write_text("owner: shop@example.com\n")
    assert not list(build_definitions(project.root).sensors or [])


def test_with_it_the_sensor_is_registered_and_runs_by_itself(project: Project, hook: Webhook) -> None:
    [sensor] = build_definitions(project.root).sensors or []
    assert isinstance(sensor, dg.SensorDefinition)
    assert (sensor.name, sensor.default_status) == ("shop_alerts", dg.DefaultSensorStatus.RUNNING)


def test_a_server_without_a_channels_secret_does_not_load(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DML_PROFILE", "server")
    monkeypatch.setenv("DML_LAKE__CATALOG_URI", "sqlite://")
    monkeypatch.setenv("DML_LAKE__WAREHOUSE", str(project.root))
    with pytest.raises(ConfigError, match="SHOP_HOOK is not set"):
        build_definitions(project.root)


def test_a_fault_is_told_once_and_its_end_too(project: Project, hook: Webhook) -> None:
    watcher = Watcher(project)
    watcher.tick()
    Faults.land = "the file of run 17 has no header"
    watcher.run()
    watcher.tick()
    [told] = hook.got
    assert told["title"] == "shop: job daily failed"
    assert "Step orders failed: cannot land 'shop.raw.orders': the file of run 17 has no header" in told["text"]
    assert (told["owner"], told["status"], told["topic"]) == ("shop@example.com", "problem", "failed_runs")
    Faults.land = "the file of run 18 has no header"
    watcher.run()
    watcher.run()
    watcher.tick()
    watcher.tick()
    assert len(hook.got) == 1, "the same cause"
    Faults.land = None
    watcher.run()
    watcher.run()
    watcher.tick()
    watcher.tick()
    assert len(hook.got) == 2
    assert hook.got[1]["status"] == "recovered"
    assert hook.got[1]["title"] == "shop: well again: step orders"
    assert "seen 3 times" in hook.got[1]["text"]


def test_a_failed_blocking_check_is_the_cause_and_not_the_steps_after_it(project: Project, hook: Webhook) -> None:
    watcher = Watcher(project)
    watcher.tick()
    Faults.check_passes = False
    watcher.run()
    watcher.tick()
    [told] = hook.got
    assert told["title"] == "shop: job daily failed on 1 check"
    assert told["text"] == "Check failed: orders: orders_have_keys (7 rows)"
    Faults.check_passes = True
    watcher.run()
    watcher.tick()
    assert [got["status"] for got in hook.got] == ["problem", "recovered"]


def test_what_goes_on_is_told_again_after_the_set_time(project: Project, hook: Webhook) -> None:
    (project.config_dir / "project.yaml").write_text(CONFIG + "  repeat_after_hours: 0.0000001\n")
    watcher = Watcher(project)
    watcher.tick()
    Faults.land = "no"
    for _ in range(2):
        watcher.run()
        watcher.tick()
    assert "It goes on: seen 2 times" in hook.got[1]["text"]


def test_runs_of_a_terminal_are_not_told(project: Project, hook: Webhook) -> None:
    watcher = Watcher(project)
    watcher.tick()
    Faults.land = "no"
    watcher.run(tags={"dml/command": "run"})
    assert watcher.tick() == "quiet"
    assert hook.got == []


def test_a_run_that_a_person_cancelled_is_no_fault_and_ends_none(project: Project, hook: Webhook) -> None:
    watcher = Watcher(project)
    watcher.tick()
    Faults.land = "no"
    watcher.run()
    watcher.tick()
    assert len(hook.got) == 1
    run = watcher.instance.create_run_for_job(definitions.resolve_job_def("daily"))
    watcher.instance.report_run_canceled(run)
    assert watcher.instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.CANCELED  # type: ignore[union-attr]
    watcher.tick()
    assert len(hook.got) == 1, "neither told as a failure nor taken for the end of one"


def test_a_dead_channel_does_not_fail_the_tick_and_the_message_waits(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_HOOK", "http://127.0.0.1:9/very-secret-token")
    watcher = Watcher(project)
    watcher.tick()
    Faults.land = "no"
    watcher.run()
    said = watcher.tick()
    assert "chat: 0 sent, 1 wait" in said
    assert "very-secret" not in said


def test_a_fault_of_the_store_delays_the_alert_and_loses_none(
    project: Project, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher(project)
    watcher.tick()
    Faults.land = "no"
    watcher.run()
    with monkeypatch.context() as broken:
        broken.setattr("dml_platform.core.storage.FolderStorage.write", _refuse)
        assert "cannot look at finished runs: OSError" in watcher.tick()
    assert hook.got == []
    watcher.tick()
    assert len(hook.got) == 1


def _refuse(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_late_sources_are_told_in_one_message_and_so_is_their_arrival(project: Project, hook: Webhook) -> None:
    lake = Lake(load_settings(project.root), project.root)
    refs = [TableRef("shop", "raw", f"web__{name}") for name in ("orders", "users", "never_landed")]
    now = datetime.now(timezone.utc)

    def land(run_id: str, at: datetime) -> None:
        step = lake.step(run_id, "land")
        for ref in refs[:2]:
            step.write_query(ref, lake.connect(), f"SELECT 1 AS id, TIMESTAMPTZ '{at.isoformat()}' AS _loaded_at")
        step.publish()

    land("one", now - timedelta(hours=30))
    watcher = Watcher(project, [Freshness(ref, "_loaded_at", 24) for ref in refs])
    watcher.tick()
    [told] = hook.got
    assert told["title"] == "shop: 2 sources are late"
    assert "shop.raw.web__orders: its newest row is 30 hours old, more than 24 hours." in told["text"]
    watcher.look_anew()
    watcher.tick()
    assert len(hook.got) == 1
    land("two", now)
    watcher.look_anew()
    watcher.tick()
    assert hook.got[1]["title"] == "shop: well again: source shop.raw.web__orders, source shop.raw.web__users"


DUE = datetime(2026, 11, 23, 5, tzinfo=timezone.utc)
NIGHTLY = Schedule("nightly", ("0 5 * * *",), "UTC")


def schedule_state(instance: dg.DagsterInstance, status: InstigatorStatus) -> InstigatorState:
    target = LoadableTargetOrigin(module_name="shop")
    location = InProcessCodeLocationOrigin(target, location_name="shop")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), "nightly")
    data = ScheduleInstigatorData("0 5 * * *", (DUE - timedelta(days=3)).timestamp())
    return instance.add_instigator_state(InstigatorState(origin, InstigatorType.SCHEDULE, status, data))


def add_tick(instance: dg.DagsterInstance, state: InstigatorState, status: TickStatus, run_ids: list[str]) -> None:
    instance.create_tick(
        TickData(
            state.instigator_origin_id,
            "nightly",
            InstigatorType.SCHEDULE,
            status,
            DUE.timestamp(),
            run_ids=run_ids,
            selector_id=state.selector_id,
            error=SerializableErrorInfo("no such file", [], "OSError") if status == TickStatus.FAILURE else None,
        )
    )


def missed(instance: dg.DagsterInstance, now: datetime, location: str = "shop") -> list[str]:
    faults, _ = find_missed(instance, [NIGHTLY], now, grace=timedelta(minutes=15), location=location)
    return [fault.text for fault in faults]


def test_a_schedule_without_a_tick_is_missed_after_its_grace(tmp_path: Path) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        state = schedule_state(instance, InstigatorStatus.RUNNING)
        add_tick(instance, state, TickStatus.SKIPPED, [])
        assert missed(instance, DUE + timedelta(hours=2)) == []
        tomorrow = DUE + timedelta(days=1)
        assert missed(instance, tomorrow + timedelta(minutes=14)) == []
        [text] = missed(instance, tomorrow + timedelta(minutes=16))
        assert text.startswith("Schedule nightly was due at 2026-11-24 05:00 UTC: nothing came of it")
        assert missed(instance, tomorrow + timedelta(hours=1), location="another") == []


def test_a_schedule_whose_evaluation_failed_or_whose_run_waits_is_missed(tmp_path: Path) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        state = schedule_state(instance, InstigatorStatus.RUNNING)
        add_tick(instance, state, TickStatus.FAILURE, [])
        [text] = missed(instance, DUE + timedelta(hours=1))
        assert "its evaluation failed (no such file)" in text
        run = instance.create_run_for_job(definitions.resolve_job_def("daily"), status=dg.DagsterRunStatus.NOT_STARTED)
        add_tick(instance, state, TickStatus.SUCCESS, [run.run_id])
        [text] = missed(instance, DUE + timedelta(hours=1))
        assert text.endswith("still waits to begin.")
        instance.report_run_canceled(run)
        assert missed(instance, DUE + timedelta(hours=1)) == []


def test_a_schedule_that_is_switched_off_or_new_is_not_missed(tmp_path: Path) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        schedule_state(instance, InstigatorStatus.STOPPED)
        assert missed(instance, DUE + timedelta(hours=1)) == []
    other = tmp_path / "other"
    other.mkdir()
    with dg.instance_for_test(temp_dir=str(other)) as instance:
        schedule_state(instance, InstigatorStatus.RUNNING)
        assert missed(instance, DUE - timedelta(days=3) + timedelta(hours=1)) == []
