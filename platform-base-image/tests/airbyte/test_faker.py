"""A real connector, installed from the package index; and the fake, checked against the real one's own models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_source import FAKE, with_airbyte

from dml_platform.airbyte import AirbyteSource, ensure_connector, land_streams, open_connector, parse_source
from dml_platform.core.errors import RetryableError, SourceError
from dml_platform.core.settings import AirbyteSettings, Settings
from dml_platform.lake import Lake

pytestmark = pytest.mark.integration

PACKAGE, VERSION = "airbyte-source-faker", "7.2.1"


@pytest.fixture(scope="module")
def program() -> Path:
    """The connector in the user's own cache, where later runs find it."""
    settings = Settings(home=AirbyteSettings().cache_dir.expanduser())
    try:
        return ensure_connector(PACKAGE, VERSION, settings)
    except RetryableError as error:
        pytest.skip(f"the package index is not reachable: {error.why}")


@pytest.fixture
def faker_lake(program: Path, local: Settings) -> Lake:
    return Lake(with_airbyte(local, cache_dir=program.parents[2]))


def faker(count: int, mode: str = "incremental") -> AirbyteSource:
    return parse_source(
        "shop",
        {
            "kind": "airbyte",
            "connector": {"package": PACKAGE, "version": VERSION, "program": "source-faker"},
            "config": {"count": count, "seed": 1, "always_updated": False, "parallelism": 1},
            "streams": {name: {"sync_mode": mode} for name in ("users", "products", "purchases")},
        },
    )


def counts(lake: Lake) -> dict[str, tuple[int, int]]:
    """Rows and distinct ids of each table."""
    found = {}
    for name in ("users", "products", "purchases"):
        row = lake.sql(f"SELECT count(*), count(DISTINCT id) FROM test.raw.shop__{name}").fetchone()
        assert row is not None
        found[name] = row
    return found


def test_incremental_twice_lands_everything_once(faker_lake: Lake) -> None:
    first = land_streams(faker_lake, "test", "shop", faker(1000), run_id="r1")
    assert {landing.stream: landing.rows for landing in first} == {"users": 1000, "products": 100, "purchases": 1000}
    assert counts(faker_lake) == {"users": (1000, 1000), "products": (100, 100), "purchases": (1000, 1000)}

    second = land_streams(faker_lake, "test", "shop", faker(1000), run_id="r2")
    assert [landing.rows for landing in second] == [0, 0, 0]
    assert [landing.snapshot_id for landing in second] == [landing.snapshot_id for landing in first]


def test_full_refresh_twice_gives_the_same_table(faker_lake: Lake) -> None:
    for run_id in ("r1", "r2"):
        land_streams(faker_lake, "test", "shop", faker(500, "full_refresh"), run_id=run_id)
        assert counts(faker_lake) == {"users": (500, 500), "products": (100, 100), "purchases": (500, 500)}
    types = dict(
        faker_lake.sql("SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM test.raw.shop__users)").fetchall()
    )
    assert types["id"] == "BIGINT"
    assert types["created_at"] == "TIMESTAMP WITH TIME ZONE"
    row = faker_lake.sql("SELECT address::JSON ->> '$.country_code' FROM test.raw.shop__users LIMIT 1").fetchone()
    assert row is not None
    assert len(row[0]) == 2


def test_the_connectors_own_reason_is_one_sentence(faker_lake: Lake) -> None:
    wrong = faker(1).model_copy(update={"config": {"count": "many"}})
    with pytest.raises(SourceError, match="the connector says: Config validation error: 'many' is not of type"):
        open_connector("shop", wrong, faker_lake.settings).check()
    connector = open_connector("shop", faker(1), faker_lake.settings)
    connector.check()
    assert "count" in connector.spec()["connectionSpecification"]["properties"]


@pytest.mark.parametrize("state", ["STREAM", "GLOBAL", "LEGACY"])
def test_the_fake_speaks_the_vendors_protocol(program: Path, tmp_path: Path, state: str) -> None:
    stream = {"stream": {"name": "users"}, "sync_mode": "incremental"}
    (tmp_path / "catalog.json").write_text(json.dumps({"streams": [stream]}))
    (tmp_path / "config.json").write_text(json.dumps({"state": state, "behaviour": "config_error", "at": 95}))
    lines = b""
    for action in ("spec", "check", "discover", "read"):
        command = [sys.executable, str(FAKE), action, "--config", str(tmp_path / "config.json")]
        if action == "read":
            command += ["--catalog", str(tmp_path / "catalog.json")]
        lines += subprocess.run(command, capture_output=True, check=False).stdout
    check = (
        "import sys, orjson\n"
        "from airbyte_cdk.models import AirbyteMessageSerializer\n"
        "kinds = {AirbyteMessageSerializer.load(orjson.loads(line)).type.value for line in sys.stdin.buffer}\n"
        "print(' '.join(sorted(kinds)))\n"
    )
    done = subprocess.run([str(program.parent / "python"), "-c", check], input=lines, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == [
        *("CATALOG", "CONNECTION_STATUS", "LOG", "RECORD", "SPEC", "STATE", "TRACE")
    ]
