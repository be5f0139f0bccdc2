"""The exporter on a real Postgres with Dagster's own tables."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psycopg2
import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.storage.dagster_run import DagsterRun as StoredRun
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo
from prometheus_client import CollectorRegistry

from dml_infra import exporter_sources
from dml_infra.exporter import DagsterCollector
from dml_infra.exporter_sources import DagsterWeb, Database

pytestmark = pytest.mark.integration
DIGEST = "sha256:" + "ab" * 32
Sample = Callable[..., float | None]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server of its own on a socket: libpq's variables for it."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("Postgres is not installed")
    folder = tmp_path_factory.mktemp("pg")
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    as_user = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
    if as_user:
        for parent in (folder, *list(folder.parents)[:2]):
            parent.chmod(0o755)
        shutil.chown(folder, user)
    data, log = folder / "data", folder / "log"
    subprocess.run([*as_user, programs[-1] / "initdb", "-A", "trust", "-U", "dagster", "-D", data], check=True)
    options = f"-c listen_addresses='' -k {folder} -c max_connections=50"
    start = [*as_user, programs[-1] / "pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL)
    try:
        yield {"PGHOST": str(folder), "PGUSER": "dagster", "PGDATABASE": "dagster"}
    finally:
        subprocess.run([*as_user, programs[-1] / "pg_ctl", "-D", data, "-m", "immediate", "stop"], check=True)


@pytest.fixture
def instance(postgres: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    """Dagster with fresh tables in that server."""
    admin = psycopg2.connect(host=postgres["PGHOST"], user="dagster", dbname="postgres")
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute("drop database if exists dagster with (force)")
        cursor.execute("create database dagster")
    admin.close()
    for name, value in postgres.items():
        monkeypatch.setenv(name, value)
    url = f"postgresql:///dagster?host={postgres['PGHOST']}"
    (tmp_path / "dagster.yaml").write_text(f"storage: {{postgres: {{postgres_url: '{url}'}}}}\n")
    with DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


@pytest.fixture
def webserver() -> Iterator[str]:
    """Answers as Dagster's API does: `sales` is loaded, `orders` has an error."""

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            loaded = {"__typename": "RepositoryLocation"}
            entries = [
                ("sales", loaded, [{"key": "image", "value": f"registry/sales@{DIGEST}"}]),
                ("orders", {"__typename": "PythonError", "message": "ImportError"}, []),
            ]
            found = [
                {
                    "name": n,
                    "loadStatus": "LOADED",
                    "updatedTimestamp": 5.0,
                    "displayMetadata": m,
                    "locationOrLoadError": r,
                }
                for n, r, m in entries
            ]
            body = json.dumps({"data": {"workspaceOrError": {"__typename": "Workspace", "locationEntries": found}}})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def sample(instance: DagsterInstance, webserver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    """Scrape and look a value up."""
    monkeypatch.setattr(exporter_sources, "_SETTLE_S", 0.0)
    (tmp_path / "locations.json").write_text(json.dumps({"sales": {"image": f"registry/sales@{DIGEST}"}}))
    registry = CollectorRegistry()
    registry.register(DagsterCollector(Database("dbname=dagster"), DagsterWeb(webserver), tmp_path))

    def look_up(metric: str, /, **labels: str) -> float | None:
        return registry.get_sample_value(metric, labels)

    return look_up


def make_run(instance: DagsterInstance, status: DagsterRunStatus) -> StoredRun:
    run = DagsterRun("job", tags={"dagster/code_location": "sales"}, status=DagsterRunStatus.NOT_STARTED)
    instance.run_storage.add_run(run)
    connection = psycopg2.connect("dbname=dagster")
    now = time.time()
    with connection, connection.cursor() as cursor:
        values = (status.value, now - 40, now if status in {DagsterRunStatus.SUCCESS} else None, run.run_id)
        cursor.execute("update runs set status = %s, start_time = %s, end_time = %s where run_id = %s", values)
    connection.close()
    return run


def make_sensor(instance: DagsterInstance) -> InstigatorState:
    code = GrpcServerCodeLocationOrigin("host", 4000, None, location_name="sales")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(code, "__repository__"), "new_files")
    state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData())
    instance.add_instigator_state(state)
    return state


def tick_data(state: InstigatorState, status: TickStatus) -> TickData:
    return TickData(
        state.instigator_origin_id,
        "new_files",
        InstigatorType.SENSOR,
        status,
        time.time(),
        selector_id=state.selector_id,
        error=SerializableErrorInfo("no", [], "Error") if status == TickStatus.FAILURE else None,
    )


def test_runs_are_counted_by_location_and_status_once_each(instance: DagsterInstance, sample: Sample) -> None:
    make_run(instance, DagsterRunStatus.SUCCESS)
    assert sample("dml_runs_finished_total", location="sales", status="SUCCESS") is None  # before the first scrape
    make_run(instance, DagsterRunStatus.SUCCESS)
    make_run(instance, DagsterRunStatus.QUEUED)
    make_run(instance, DagsterRunStatus.STARTED)
    assert sample("dml_runs_finished_total", location="sales", status="SUCCESS") == 1
    assert sample("dml_runs_finished_total", location="sales", status="SUCCESS") == 1
    assert sample("dml_runs_finished_total", location="sales", status="FAILURE") == 0
    assert sample("dml_runs", location="sales", status="STARTED") == 1
    assert sample("dml_run_queue_depth") == 1
    assert sample("dml_run_duration_seconds_bucket", location="sales", le="30.0") == 0
    assert sample("dml_run_duration_seconds_bucket", location="sales", le="60.0") == 1
    assert sample("dml_run_duration_seconds_count", location="sales") == 1


def test_failed_ticks_are_counted_once_also_when_they_ended_late(instance: DagsterInstance, sample: Sample) -> None:
    state = make_sensor(instance)
    labels = {"location": "sales", "name": "new_files", "type": "SENSOR", "status": "FAILURE"}
    assert sample("dml_ticks_total", **labels) == 0
    slow = instance.create_tick(tick_data(state, TickStatus.STARTED))
    instance.create_tick(tick_data(state, TickStatus.FAILURE))
    assert sample("dml_ticks_total", **labels) == 1
    instance.update_tick(slow.with_status(TickStatus.FAILURE, error=SerializableErrorInfo("no", [], "Error")))
    assert sample("dml_ticks_total", **labels) == 2
    assert sample("dml_ticks_total", **labels) == 2


def test_heartbeats_and_connections_are_shown(instance: DagsterInstance, sample: Sample) -> None:
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - 90, "SENSOR", "id", []))
    age_s = sample("dml_daemon_heartbeat_age_seconds", daemon="SENSOR")
    assert age_s is not None
    assert 89 < age_s < 110
    used = sample("dml_postgres_connections", role="dagster")
    assert used is not None
    assert used >= 1
    assert sample("dml_postgres_max_connections") == 50


def test_locations_show_what_is_loaded_and_what_should_be(sample: Sample) -> None:
    assert sample("dml_code_location_loaded", location="sales") == 1
    assert sample("dml_code_location_loaded", location="orders") == 0
    for name in ("dml_code_location_info", "dml_code_location_registered_info"):
        assert sample(name, location="sales", image="registry/sales", digest=DIGEST) == 1


def test_source_that_is_gone_is_a_metric_and_the_other_is_still_shown(tmp_path: Path, webserver: str) -> None:
    registry = CollectorRegistry()
    gone = Database("host=127.0.0.1 port=1 dbname=x user=x")
    registry.register(DagsterCollector(gone, DagsterWeb(webserver), tmp_path))
    assert registry.get_sample_value("dml_exporter_source_up", {"source": "postgres"}) == 0
    assert registry.get_sample_value("dml_exporter_source_up", {"source": "dagster"}) == 1
    assert registry.get_sample_value("dml_code_location_loaded", {"location": "sales"}) == 1
