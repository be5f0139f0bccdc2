"""The same source in both profiles, as Dagster runs it: through a (fake or real) Airbyte, and as a program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from fake_destination import ACCESS_KEY, SECRET_KEY, FakeDestination, Landing
from fake_server import CLIENT_ID, CLIENT_SECRET, FakeAirbyte, Fault
from fake_source import FAKE

from dml_platform.airbyte import ensure_connector
from dml_platform.core.errors import RetryableError
from dml_platform.core.project import get_project
from dml_platform.core.settings import AirbyteSettings, Settings, load_settings
from dml_platform.lake import Lake
from dml_platform.lake.resource import LakeResource
from dml_platform.sources import build_source_assets, load_sources

FAKER = {"package": "airbyte-source-faker", "version": "7.2.1", "program": "source-faker"}
# What a real Airbyte is reached by; its connection reads one stream, incrementally, into an S3 destination.
REAL = ("URL", "CLIENT_ID", "CLIENT_SECRET", "CONNECTION_ID", "STREAM", "LANDING", "S3_ENDPOINT", "S3_KEY", "S3_SECRET")


def make_project(root: Path, document: dict[str, Any]) -> Path:
    (root / "config").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[tool.dml]\nproject = "test"\n')
    (root / "config" / "sources.yaml").write_text(json.dumps({"sources": {"shop": {"kind": "airbyte", **document}}}))
    return root


def land(root: Path) -> dg.ExecuteInProcessResult:
    project = get_project(start=root)
    definitions = dg.Definitions(
        build_source_assets(project, load_sources(project)),
        jobs=[dg.define_asset_job("land")],
        resources={"lake": LakeResource(project_root=str(root))},
    )
    with dg.DagsterInstance.ephemeral() as instance:
        return definitions.resolve_job_def("land").execute_in_process(instance=instance, raise_on_error=False)


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """What is told of each stream's table."""
    return {
        event.asset_key.path[-1]: {name: value.value for name, value in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }


def set_server(monkeypatch: pytest.MonkeyPatch, home: Path, **named: str) -> None:
    values = {
        "PROFILE": "server",
        "HOME": str(home),
        "LAKE__CATALOG_URI": f"sqlite:///{home}/catalog.db",
        "LAKE__WAREHOUSE": str(home / "warehouse"),
        "AIRBYTE__POLL_S": "0.05",
        **named,
    }
    home.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        monkeypatch.setenv(f"DML_{name}", value)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, airbyte: FakeAirbyte, landing: Landing, tmp_path: Path) -> Path:
    """Profile server with the fake Airbyte; gives its home."""
    home = tmp_path / "server"
    set_server(
        monkeypatch,
        home,
        LAKE__S3_ENDPOINT=landing.endpoint,
        LAKE__S3_ACCESS_KEY_ID=ACCESS_KEY,
        LAKE__S3_SECRET_ACCESS_KEY=SECRET_KEY,
        AIRBYTE__SERVER_URL=airbyte.url,
        AIRBYTE__CLIENT_ID=CLIENT_ID,
        AIRBYTE__CLIENT_SECRET=CLIENT_SECRET,
        AIRBYTE__LANDING=f"s3://landing/{landing.prefix}",
    )
    return home


def connect(
    airbyte: FakeAirbyte, landing: Landing, folder: Path, modes: dict[str, str], command: list[str], **options: Any
) -> dict[str, Any]:
    """Let the fake Airbyte run a connector; gives the entry of ``sources.yaml`` that does so in both profiles."""
    folder.mkdir()
    config = options.pop("config")
    airbyte.deliver = FakeDestination(
        command, config, modes, landing.store, "landing", f"{landing.prefix}/test/shop", folder, **options
    ).sync
    names = {"incremental": "incremental_append", "full_refresh": "full_refresh_overwrite"}
    streams = [{"name": name, "syncMode": names[mode]} for name, mode in modes.items()]
    airbyte.connection["configurations"] = {"streams": streams}
    return {
        "connection_id": airbyte.connection["connectionId"],
        "config": config,
        "streams": {name: {"sync_mode": mode} for name, mode in modes.items()},
    }


def test_assets_run_through_airbyte_on_the_server_and_as_a_program_on_a_laptop(
    server: Path, airbyte: FakeAirbyte, landing: Landing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = {"users": "incremental", "orders": "full_refresh"}
    command = [sys.executable, str(FAKE)]
    entry = connect(airbyte, landing, tmp_path / "worker", modes, command, config={"streams": {n: {} for n in modes}})
    root = make_project(tmp_path / "project", {**entry, "connector": {"command": command}})
    result = land(root)
    assert result.success
    told = metadata_of(result)
    assert {name: values["rows_landed"] for name, values in told.items()} == {"shop__users": 100, "shop__orders": 100}
    assert told["shop__users"]["ran_as"] == "Airbyte job"
    assert told["shop__users"]["airbyte_job_id"] == 100
    assert told["shop__users"]["airbyte_rows"] == 200
    assert told["shop__users"]["airbyte_bytes"] > 0
    assert told["shop__users"]["airbyte_attempts_seen"] == 1
    assert metadata_of(land(root))["shop__users"]["rows_landed"] == 0

    monkeypatch.setenv("DML_PROFILE", "local")
    monkeypatch.setenv("DML_HOME", str(tmp_path / "laptop"))
    monkeypatch.delenv("DML_LAKE__CATALOG_URI")
    monkeypatch.delenv("DML_LAKE__WAREHOUSE")
    result = land(root)
    assert metadata_of(result)["shop__users"]["ran_as"] == "connector program"
    assert len(airbyte.jobs) == 2, "a laptop asks no Airbyte"


WORKSPACE = """
from pathlib import Path
import dagster as dg
from dml_platform.core.project import get_project
from dml_platform.lake.resource import LakeResource
from dml_platform.sources import build_source_assets, load_sources

root = Path(__file__).parent
project = get_project(start=root)
defs = dg.Definitions(
    build_source_assets(project, load_sources(project)),
    jobs=[dg.define_asset_job("land", executor_def=dg.in_process_executor)],
    resources={"lake": LakeResource(project_root=str(root))},
)
"""


@pytest.mark.parametrize(
    ("end", "status"), [(signal.SIGTERM, dg.DagsterRunStatus.CANCELED), (signal.SIGINT, dg.DagsterRunStatus.FAILURE)]
)
def test_a_run_that_is_ended_shows_its_progress_cancels_the_job_and_begins_no_other(
    server: Path,
    airbyte: FakeAirbyte,
    landing: Landing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: int,
    status: object,
) -> None:
    """A person terminates a run: Dagster notes it, its container gets SIGTERM. Or something else ends the process."""
    command = [sys.executable, str(FAKE)]
    entry = connect(airbyte, landing, tmp_path / "w", {"users": "incremental"}, command, config={"streams": {}})
    root = make_project(tmp_path / "project", {**entry, "connector": {"command": command}})
    (root / "workspace.py").write_text(WORKSPACE)
    (tmp_path / "dagster").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    airbyte.script = ["running"]
    run = subprocess.Popen(
        [sys.executable, "-m", "dagster", "job", "execute", "-f", str(root / "workspace.py"), "-j", "land"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 90
        # Not at once after the start of the job: the run has to be in its wait for the end of it.
        while airbyte.count("get", "/jobs/") < 3:
            assert run.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if status == dg.DagsterRunStatus.CANCELED:
            with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
                instance.report_run_canceling(instance.get_runs()[0])
        run.send_signal(end)
        run.wait(timeout=60)
    finally:
        run.kill()
        run.wait()
    assert [job.status for job in airbyte.jobs] == ["cancelled"]
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        (found,) = instance.get_runs()
        said = [entry.message for entry in instance.all_logs(found.run_id)]
    assert found.status == status
    assert "Airbyte job 100 began" in said
    assert any(text.startswith("Airbyte job 100 is running") for text in said)
    assert "the run was cancelled; Airbyte job 100 is cancelled" in said


def test_without_a_connection_the_server_runs_the_program(server: Path, airbyte: FakeAirbyte, tmp_path: Path) -> None:
    document = {
        "connector": {"command": [sys.executable, str(FAKE)]},
        "connection_id": None,
        "config": {"streams": {"users": {}}},
        "streams": {"users": {"sync_mode": "incremental"}},
    }
    result = land(make_project(tmp_path / "project", document))
    assert metadata_of(result)["shop__users"]["ran_as"] == "connector program"
    assert airbyte.requests == []


def test_a_refusal_fails_the_step_in_words_and_is_not_retried(
    server: Path, airbyte: FakeAirbyte, landing: Landing, tmp_path: Path
) -> None:
    command = [sys.executable, str(FAKE)]
    entry = connect(airbyte, landing, tmp_path / "w", {"users": "incremental"}, command, config={"streams": {}})
    airbyte.faults.append(Fault("get", "/connections", 404, times=99))
    result = land(make_project(tmp_path / "project", {**entry, "connector": {"command": command}}))
    (event,) = result.get_step_failure_events()
    failure = event.step_failure_data.user_failure_data
    assert failure is not None
    assert "Airbyte has no connection" in str(failure.description)
    assert CLIENT_SECRET not in str(event)


@pytest.mark.integration
@pytest.mark.parametrize("layout", ["jsonl.gz", "parquet"])
def test_a_real_connectors_tables_are_the_same_in_both_profiles(
    server: Path,
    airbyte: FakeAirbyte,
    landing: Landing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
) -> None:
    settings = Settings(home=AirbyteSettings().cache_dir.expanduser())
    try:
        program = ensure_connector(FAKER["package"], FAKER["version"], settings, FAKER["program"])
    except RetryableError as error:
        pytest.skip(f"the package index is not reachable: {error.why}")
    monkeypatch.setenv("DML_AIRBYTE__CACHE_DIR", str(program.parents[2]))
    modes = dict.fromkeys(("users", "products", "purchases"), "incremental")
    config = {"count": 300, "seed": 1, "always_updated": False, "parallelism": 1}
    entry = connect(
        airbyte, landing, tmp_path / "worker", modes, [str(program)], config=config, layout=layout, objects_each=2
    )
    # Airbyte's JSON lines have no types: 4995 and 4995.5 are told apart by the declaration only.
    entry["streams"]["products"]["columns"] = {
        **dict.fromkeys(("id", "year"), "BIGINT"),
        **dict.fromkeys(("make", "model"), "VARCHAR"),
        "price": "DOUBLE",
        **dict.fromkeys(("created_at", "updated_at"), "TIMESTAMPTZ"),
    }
    root = make_project(tmp_path / "project", {**entry, "connector": FAKER})
    result = land(root)
    assert result.success
    landed = {name: values["rows_landed"] for name, values in metadata_of(result).items()}
    assert landed == {"shop__users": 300, "shop__products": 100, "shop__purchases": 300}
    through_airbyte = Lake(load_settings(root))

    for name in ("DML_LAKE__CATALOG_URI", "DML_LAKE__WAREHOUSE"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("DML_PROFILE", "local")
    monkeypatch.setenv("DML_HOME", str(tmp_path / "laptop"))
    assert land(root).success
    as_program = Lake(load_settings(root))
    own = {"_airbyte_meta", "_source_file", "_extra"}
    for table in ("users", "products", "purchases"):
        kinds = []
        for lake in (through_airbyte, as_program):
            described = lake.sql(f"DESCRIBE FROM test.raw.shop__{table}").fetchall()
            kinds.append({row[0]: row[1] for row in described if row[0] not in own})
        # A field that no record has yet is text until it is declared.
        assert {n: k for n, k in kinds[0].items() if k != "VARCHAR" or kinds[1][n] == "VARCHAR"}.items() <= kinds[
            1
        ].items()
        assert kinds[0].keys() == kinds[1].keys()
    staged = (
        "SELECT cast(id AS bigint), cast(age AS bigint), cast(gender AS varchar), "
        "cast(cast(address AS json) ->> '$.country_code' AS varchar) FROM test.raw.shop__users "
        "QUALIFY row_number() OVER (PARTITION BY id ORDER BY _emitted_at DESC, _loaded_at DESC) = 1 ORDER BY 1"
    )
    rows = [lake.sql(staged).fetchall() for lake in (through_airbyte, as_program)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 300
    for lake in (through_airbyte, as_program):
        lake.catalog.close()


@dataclass(frozen=True)
class Place:
    """Where a sync really runs."""

    root: Path
    stream: str
    project_prefix: str


@pytest.fixture(params=["fake", "real"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """One stream, incrementally: of the fake, and of a real Airbyte where variables name one."""
    connector = {"command": [sys.executable, str(FAKE)]}
    if request.param == "fake":
        request.getfixturevalue("server")
        airbyte, landing = request.getfixturevalue("airbyte"), request.getfixturevalue("landing")
        command = connector["command"]
        entry = connect(
            airbyte, landing, tmp_path / "w", {"users": "incremental"}, command, config={"streams": {"users": {}}}
        )
        yield Place(make_project(tmp_path / "project", {**entry, "connector": connector}), "users", landing.prefix)
        return
    real = {name: os.environ.get(f"AIRBYTE_TEST_{name}", "") for name in REAL}
    if missing := [f"AIRBYTE_TEST_{name}" for name, value in real.items() if not value]:
        pytest.skip(f"no real Airbyte here: {', '.join(missing)} not set")
    set_server(
        monkeypatch,
        tmp_path / "server",
        LAKE__S3_ENDPOINT=real["S3_ENDPOINT"],
        LAKE__S3_ACCESS_KEY_ID=real["S3_KEY"],
        LAKE__S3_SECRET_ACCESS_KEY=real["S3_SECRET"],
        AIRBYTE__SERVER_URL=real["URL"],
        AIRBYTE__CLIENT_ID=real["CLIENT_ID"],
        AIRBYTE__CLIENT_SECRET=real["CLIENT_SECRET"],
        AIRBYTE__POLL_S="2",
    )
    entry = {
        "connection_id": real["CONNECTION_ID"],
        "landing": real["LANDING"].rstrip("/"),
        "streams": {real["STREAM"]: {"sync_mode": "incremental"}},
    }
    yield Place(make_project(tmp_path / "project", {**entry, "connector": connector}), real["STREAM"], "")


def test_two_syncs_land_every_object_once(place: Place) -> None:
    first = land(place.root)
    assert first.success, [e.step_failure_data for e in first.get_step_failure_events()]
    second = land(place.root)
    assert second.success
    (before,), (after,) = metadata_of(first).values(), metadata_of(second).values()
    assert before["ran_as"] == "Airbyte job"
    assert after["dagster/row_count"] == before["dagster/row_count"] + after["rows_landed"]
    lake = Lake(load_settings(place.root))
    (table,) = lake.tables()
    counted = lake.sql(
        f"SELECT count(*), count(_emitted_at), count(DISTINCT _source_file) FROM {table.dotted}"
    ).fetchone()
    lake.catalog.close()
    assert counted is not None
    assert counted[0] == counted[1] == after["dagster/row_count"]
