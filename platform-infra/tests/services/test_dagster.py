"""Dagster's own storage as a run of a project uses it, and what a run has no right to."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg2.errors import InsufficientPrivilege
from services.servers import Servers

dagster = pytest.importorskip("dagster", reason="Dagster is in the server's environment only")
pytest.importorskip("dagster_postgres", reason="Dagster is in the server's environment only")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def instance(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An instance whose tables the role `dagster` made, opened as the role of a project, as in its containers."""
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text(
        textwrap.dedent(
            f"""
            storage:
              postgres:
                postgres_url: postgresql://127.0.0.1:{servers.port}/dagster
                should_autocreate_tables: true
            telemetry: {{enabled: false}}
            """
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGUSER", "dagster")
        patch.setenv("PGPASSFILE", str(servers.installation.secrets / "dagster_pgpass"))
        with dagster.DagsterInstance.from_config(str(home)) as owner:
            owner.run_storage.get_run_storage_id()
            owner.event_log_storage.set_concurrency_slots("shared", 1)
            owner.add_dynamic_partitions("days", ["b"])
        servers.provision()  # as `up` does once the tables are there
        config = home / "dagster.yaml"
        config.write_text(config.read_text().replace("tables: true", "tables: false"))
        patch.setenv("PGUSER", "sales")
        patch.setenv("PGPASSFILE", str(servers.installation.secrets / "projects/sales/pgpass"))
        with dagster.DagsterInstance.from_config(str(home)) as project:
            yield project


@pytest.fixture
def run(servers: Servers, instance: Any, tmp_path: Path) -> Any:
    """A run that the daemon made."""
    made = dagster._core.storage.dagster_run.DagsterRun(job_name="j", run_id=dagster._core.utils.make_new_run_id())
    with (
        pytest.MonkeyPatch.context() as patch,
        dagster.DagsterInstance.from_ref(instance.get_ref()) as owner,
    ):
        patch.setenv("PGUSER", "dagster")
        patch.setenv("PGPASSFILE", str(servers.installation.secrets / "dagster_pgpass"))
        owner.run_storage.add_run(made)
    return made


def test_run_reports_its_events_status_tags_assets_and_checks(instance: Any, run: Any) -> None:
    from dagster import AssetCheckEvaluation, AssetMaterialization

    instance.report_engine_event("from the run", run)
    instance.report_run_failed(run, "because")
    instance.add_run_tags(run.run_id, {"a": "1"})
    instance.add_run_tags(run.run_id, {"a": "2"})
    instance.report_runless_asset_event(AssetMaterialization("sales", partition="p", tags={"k": "v"}))
    instance.report_runless_asset_event(AssetMaterialization("sales", partition="p"))
    instance.report_runless_asset_event(
        AssetCheckEvaluation(asset_key=dagster.AssetKey("sales"), check_name="c", passed=True)
    )
    instance.add_dynamic_partitions("days", ["a"])
    instance.delete_dynamic_partition("days", "a")
    instance.run_storage.set_cursor_values({"sales": "1"})
    assert instance.get_run_by_id(run.run_id).tags["a"] == "2"
    assert instance.get_run_by_id(run.run_id).status == dagster.DagsterRunStatus.FAILURE
    assert instance.get_latest_materialization_event(dagster.AssetKey("sales")) is not None
    assert len(instance.all_logs(run.run_id)) >= 2


def test_run_takes_and_gives_back_concurrency_slots(instance: Any, run: Any) -> None:
    storage = instance.event_log_storage
    assert storage.claim_concurrency_slot("shared", run.run_id, "step").is_claimed
    assert not storage.claim_concurrency_slot("shared", run.run_id, "other step").is_claimed
    storage.free_concurrency_slot_for_step(run.run_id, "step")
    assert storage.claim_concurrency_slot("shared", run.run_id, "other step").is_claimed
    storage.free_concurrency_slots_for_run(run.run_id)


def test_whole_job_runs_as_a_project(instance: Any, servers: Servers) -> None:
    """In-process, with a run that was made beforehand, as `dagster api execute_run` does."""
    from dagster._core.execution.api import execute_run

    @dagster.op
    def work() -> None:
        dagster.get_dagster_logger().info("working")

    @dagster.job(executor_def=dagster.in_process_executor)
    def works() -> None:
        work()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGUSER", "dagster")
        patch.setenv("PGPASSFILE", str(servers.installation.secrets / "dagster_pgpass"))
        with dagster.DagsterInstance.from_ref(instance.get_ref()) as owner:
            made = owner.create_run_for_job(works)
    result = execute_run(dagster._core.definitions.job_base.InMemoryJob(works), made, instance)
    assert result.success


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM runs",
        "DELETE FROM event_logs",
        "UPDATE event_logs SET event = '{}'",
        "TRUNCATE runs CASCADE",
        "DROP TABLE runs CASCADE",
        "ALTER TABLE runs ADD COLUMN mine int",
        "INSERT INTO runs (run_id, status) VALUES ('x', 'QUEUED')",
        "UPDATE instigators SET status = 'STOPPED'",
        "UPDATE jobs SET status = 'STOPPED'",
        "DELETE FROM job_ticks",
        "INSERT INTO bulk_actions (key, status, timestamp) VALUES ('x', 'REQUESTED', now())",
        "UPDATE daemon_heartbeats SET daemon_id = 'x'",
        "UPDATE snapshots SET snapshot_body = ''",
        "DELETE FROM asset_keys",
        "UPDATE alembic_version SET version_num = 'x'",
    ],
)
@pytest.mark.usefixtures("instance")
def test_project_is_refused(servers: Servers, statement: str) -> None:
    with (
        servers.connect("sales", "dagster") as cursor,
        pytest.raises(InsufficientPrivilege, match=r"permission denied|must be owner"),
    ):
        cursor.execute(statement)
