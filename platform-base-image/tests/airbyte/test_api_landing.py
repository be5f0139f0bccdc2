"""From a job of Airbyte to rows in the lake: what its S3 destination writes lands once, whatever dies in between."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_destination import FakeDestination, Landing, Layout
from fake_server import FakeAirbyte
from fake_source import FAKE

from dml_platform.airbyte import AirbyteSource, StreamLanding, parse_source
from dml_platform.core.errors import SourceError, TooManyRejectsError
from dml_platform.core.project import Project
from dml_platform.core.settings import Settings
from dml_platform.lake import Lake
from dml_platform.sources import sync_and_land

AIRBYTES_MODES = {"incremental": "incremental_append", "full_refresh": "full_refresh_overwrite"}
Setup = Callable[..., "Source"]


class Source:
    """A source whose connection the fake Airbyte runs, into the landing bucket."""

    def __init__(
        self, airbyte: FakeAirbyte, lake: Lake, landing: Landing, folder: Path, modes: dict[str, str], **options: Any
    ) -> None:
        self.config: dict[str, Any] = {"streams": {name: {"rows": 100} for name in modes}}
        folder.mkdir()
        self.destination = FakeDestination(
            command=[sys.executable, str(FAKE)],
            config=self.config,
            modes=modes,
            store=landing.store,
            bucket="landing",
            prefix=f"{landing.prefix}/test/fake",
            folder=folder,
            **options,
        )
        airbyte.deliver = self.destination.sync
        streams = [{"name": name, "syncMode": AIRBYTES_MODES[mode]} for name, mode in modes.items()]
        airbyte.connection["configurations"] = {"streams": streams}
        self.lake = lake
        self.project = Project("test", folder, "test")
        self.document: dict[str, Any] = {
            "connector": {"command": [sys.executable, str(FAKE)]},
            "connection_id": airbyte.connection["connectionId"],
            "streams": {name: {"sync_mode": mode} for name, mode in modes.items()},
        }
        self.said: list[str] = []
        self._runs = iter(range(1, 100))

    @property
    def source(self) -> AirbyteSource:
        return parse_source("fake", self.document)

    def land(self, **options: Any) -> dict[str, StreamLanding]:
        streams = options.pop("streams", list(self.source.streams))
        landings, self.told = sync_and_land(
            self.lake,
            self.project,
            "fake",
            self.source,
            run_id=f"run{next(self._runs)}",
            streams=streams,
            progress=self.said.append,
            **options,
        )
        return {landing.stream: landing for landing in landings}

    def ids(self, stream: str = "users") -> list[int]:
        return [row[0] for row in self.lake.sql(f"SELECT id FROM test.raw.fake__{stream} ORDER BY id").fetchall()]

    def put(self, *rows: dict[str, Any], stream: str = "users") -> str:
        own = {"_airbyte_raw_id": "x", "_airbyte_extracted_at": 1763856000000, "_airbyte_meta": {"changes": []}}
        lines = "".join(json.dumps({**own, "_airbyte_data": row}) + "\n" for row in rows)
        return self.destination.put(stream, gzip.compress(lines.encode()), "jsonl.gz")


@pytest.fixture
def setup(airbyte: FakeAirbyte, api_lake: Lake, landing: Landing, tmp_path: Path) -> Setup:
    def make(modes: dict[str, str] | None = None, **options: Any) -> Source:
        return Source(airbyte, api_lake, landing, tmp_path / "worker", modes or {"users": "incremental"}, **options)

    return make


@pytest.mark.parametrize("layout", ["jsonl", "jsonl.gz", "flat.jsonl.gz", "parquet"])
def test_objects_land_as_the_connectors_own_rows(setup: Setup, layout: Layout) -> None:
    source = setup(layout=layout, objects_each=3)
    landed = source.land()["users"]
    assert (landed.rows, landed.rejects) == (100, 0)
    assert source.ids() == list(range(1, 101))
    described = source.lake.sql("DESCRIBE FROM test.raw.fake__users").fetchall()
    assert {row[0]: row[1] for row in described} == {
        "id": "BIGINT",
        "name": "VARCHAR",
        "amount": "DOUBLE",
        "updated_at": "TIMESTAMP WITH TIME ZONE",
        "_emitted_at": "TIMESTAMP WITH TIME ZONE",
        "_airbyte_meta": "VARCHAR",
        "_source_file": "VARCHAR",
        "_loaded_at": "TIMESTAMP WITH TIME ZONE",
        "_run_id": "VARCHAR",
    }
    years = source.lake.sql("SELECT DISTINCT year(_emitted_at) > 1970, _airbyte_meta FROM test.raw.fake__users")
    assert len(years.fetchall()) == 1
    assert source.told["ran_as"] == "Airbyte job"
    assert source.told["airbyte_rows"] == 100
    assert source.told["airbyte_bytes"] > 0


def test_an_incremental_stream_grows_by_what_is_new(setup: Setup) -> None:
    source = setup()
    source.land()
    snapshot = source.land()["users"].snapshot_id
    assert len(source.ids()) == 100, "the second job brought nothing"
    source.config["streams"]["users"]["rows"] = 150
    third = source.land()["users"]
    assert third.rows == 50
    assert third.snapshot_id != snapshot
    assert len(set(source.ids())) == len(source.ids()) == 150


def test_a_full_refresh_stream_is_replaced(setup: Setup) -> None:
    source = setup({"users": "full_refresh"})
    source.land()
    source.config["streams"]["users"]["rows"] = 30
    assert source.land()["users"].rows == 30
    assert len(source.ids()) == 30
    source.config["streams"]["users"]["rows"] = 0
    source.land()
    assert source.ids() == []


def test_a_full_refresh_lands_all_objects_again(setup: Setup) -> None:
    source = setup()
    source.land()
    assert source.land(full_refresh=True)["users"].rows == 100
    assert len(source.ids()) == 100


def test_a_new_field_becomes_a_column_and_a_missing_one_is_null(setup: Setup) -> None:
    source = setup()
    source.put({"id": 1, "seen": "2026-01-01T00:00:00Z", "tags": {"a": 1}})
    source.put({"id": 2, "day": "2026-01-02", "none": None})
    source.land()
    source.put({"id": 3, "new": 1.5})
    source.land()
    rows = source.lake.sql(
        "SELECT id, seen, tags, day, none, new FROM test.raw.fake__users WHERE id < 4 AND name IS NULL"
    )
    kinds = dict(zip(rows.columns, map(str, rows.types), strict=True))
    assert kinds == {
        "id": "BIGINT",
        "seen": "TIMESTAMP WITH TIME ZONE",
        "tags": "VARCHAR",
        "day": "DATE",
        "none": "VARCHAR",
        "new": "DOUBLE",
    }
    found = {row[0]: row[2:] for row in rows.fetchall()}
    assert json.loads(found[1][0]) == {"a": 1}
    assert found[3][-1] == 1.5


def test_declared_columns_bind_and_the_rest_is_kept_as_extra(setup: Setup) -> None:
    source = setup()
    source.document["streams"]["users"]["columns"] = {"id": "BIGINT", "amount": "DOUBLE", "missing": "DATE"}
    source.land()
    columns = source.lake.sql("FROM test.raw.fake__users").columns
    assert columns[:4] == ["id", "amount", "missing", "_extra"]
    row = source.lake.sql("SELECT _extra FROM test.raw.fake__users LIMIT 1").fetchone()
    assert row is not None
    assert set(json.loads(row[0])) == {"name", "updated_at"}


def test_a_value_that_does_not_fit_is_rejected_or_fails_the_run(setup: Setup) -> None:
    source = setup()
    source.land()
    key = source.put({"id": 1001}, {"id": 1.5}, {"id": 1003})
    with pytest.raises(TooManyRejectsError, match=r"line 2, column id: could not convert 1.5 to BIGINT"):
        source.land()
    assert len(source.ids()) == 100
    source.document["max_rejects_share"] = 0.5
    landed = source.land()["users"]
    assert (landed.rows, landed.rejects) == (2, 1)
    rejects = source.lake.sql("SELECT _source_file, line_number FROM test.raw.fake__users__rejects").fetchall()
    assert rejects == [(f"s3://landing/{key}", 2)]


def test_what_airbyte_changed_in_a_record_stays_visible(setup: Setup) -> None:
    source = setup()
    change = {"field": "name", "change": "NULLED", "reason": "SOURCE_FIELD_SIZE_LIMITATION"}
    own = {"_airbyte_extracted_at": 1763856000000, "_airbyte_meta": {"sync_id": 1, "changes": [change]}}
    source.destination.put("users", json.dumps({**own, "_airbyte_data": {"id": 999}}).encode(), "jsonl")
    source.land()
    rows = source.lake.sql(
        "SELECT id, _airbyte_meta FROM test.raw.fake__users WHERE _airbyte_meta IS NOT NULL"
    ).fetchall()
    assert [(number, json.loads(meta)["changes"]) for number, meta in rows] == [(999, [change])]


def test_an_object_that_is_written_anew_lands_again_and_an_equal_one_elsewhere_too(setup: Setup) -> None:
    source = setup()
    source.config["streams"]["users"]["rows"] = 0
    key = source.put({"id": 1})
    source.land()
    source.destination.store.put_object(Bucket="landing", Key=key, Body=b'{"_airbyte_extracted_at":1,"id":2}\n')
    with pytest.raises(SourceError):
        source.land()  # named .gz, and is not
    source.destination.store.put_object(
        Bucket="landing", Key=key, Body=gzip.compress(b'{"_airbyte_extracted_at":1,"id":2}\n')
    )
    source.land()
    assert source.ids() == [1, 2]


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        (b"id,name\n1,a\n", "csv", "neither Parquet nor JSON lines"),
        (b'{"id": 1}\n', "jsonl", "Airbyte's S3 destination did not write it"),
        (b"PAR1 cut", "parquet", "not a whole Parquet file"),
    ],
)
def test_what_airbyte_did_not_write_so_is_refused(setup: Setup, content: bytes, suffix: str, message: str) -> None:
    source = setup()
    source.destination.put("users", content, suffix)
    with pytest.raises(SourceError, match=message):
        source.land()


def test_a_destination_that_writes_elsewhere_is_no_empty_source(setup: Setup) -> None:
    source = setup({"users": "full_refresh"})
    source.land()
    source.document["landing"] = "s3://landing/elsewhere"
    with pytest.raises(SourceError, match="says that it synced 100 rows, but nothing is below s3://landing/elsewhere/"):
        source.land()
    assert len(source.ids()) == 100


def test_a_stream_that_was_not_chosen_is_landed_later(setup: Setup) -> None:
    source = setup({"users": "incremental", "orders": "incremental"})
    assert list(source.land(streams=["users"])) == ["users"]
    assert source.land()["orders"].rows == 100
    assert len(source.ids("orders")) == 100


_RUN = """
import json, os, signal, sys
sys.path[:0] = [p for p in sys.argv[2].split(os.pathsep) if p]
from pathlib import Path
from dml_platform.airbyte import parse_source
from dml_platform.core.project import Project
from dml_platform.core.settings import Settings
from dml_platform.lake import Lake
import dml_platform.files.land_objects as objects
import dml_platform.sources as sources

told = json.loads(sys.stdin.read())
objects._WINDOW_OBJECTS = 1
at = told["die"]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if at == "after the job":
    sources.land_files = lambda *a, **k: die()
published = [0]
def progress(text):
    if text.startswith("landed "):
        published[0] += 1
        if at == published[0]:
            die()
lake = Lake(Settings(**told["settings"]))
source = parse_source("fake", told["source"])
project = Project("test", Path(told["folder"]), "test")
sources.sync_and_land(lake, project, "fake", source, run_id="killed", streams=list(source.streams), progress=progress)
"""


@pytest.mark.parametrize("die", ["after the job", 1, 2, 4])
def test_a_run_that_is_killed_is_made_up_for(
    setup: Setup, api_settings: Settings, tmp_path: Path, die: str | int
) -> None:
    source = setup({"users": "incremental", "orders": "incremental"}, objects_each=3)
    settings = api_settings.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    settings["lake"]["s3_secret_access_key"] = "test-secret-key-4711"  # pragma: allowlist secret
    settings["airbyte"]["client_secret"] = "s3cr3t-of-the-client-4711"  # pragma: allowlist secret
    told = {"settings": settings, "source": source.document, "folder": str(tmp_path), "die": die}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, "run", ""],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_PROXY": "127.0.0.1,localhost"},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    source.land()
    for stream in ("users", "orders"):
        assert len(source.ids(stream)) == len(set(source.ids(stream))) == 100
    assert not list((api_settings.home / "tmp").rglob("*.jsonl*"))
