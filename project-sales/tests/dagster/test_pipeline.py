"""The whole pipeline, by the real command: what it leaves, a second run, two at once, and days when it fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import DML, PROJECT, Dml, clean_environment
from pyiceberg.catalog.sql import SqlCatalog

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

MARTS = {
    "customer_cohorts",
    "customer_forecast",
    "customer_rfm",
    "dim_customers",
    "dim_products",
    "dim_shop_users",
    "fct_daily_revenue",
    "fct_purchases",
    "fct_shop_purchases",
}
QUERY = "select count(*) as n from sales.raw.cdnow__purchases"


def catalog(home: Path) -> SqlCatalog:
    return SqlCatalog("dml", uri=f"sqlite:///{home}/lake/catalog.db", warehouse=f"{home}/lake/warehouse")


def heads(home: Path) -> dict[str, int | None]:
    """The published snapshot of each table, read with plain pyiceberg."""
    with catalog(home) as found:
        tables = [name for layer in ("raw", "marts") for name in found.list_tables(("sales", layer))]
        loaded = {".".join(name): found.load_table(name).refs().get("main") for name in tables}
    return {name: reference.snapshot_id if reference else None for name, reference in loaded.items()}


def count(dml: Dml, home: Path) -> int:
    done = dml(home, "sql", "--format", "json", QUERY)
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)["n"])


def test_run_publishes_all_marts(published_lake: Path) -> None:
    assert {name.split(".")[-1] for name in heads(published_lake) if ".marts." in name} == MARTS
    assert None not in heads(published_lake).values()


def test_tables_open_in_plain_duckdb(published_lake: Path) -> None:
    import duckdb
    import duckdb_extension_avro
    import duckdb_extension_iceberg

    with catalog(published_lake) as found:
        location = found.load_table("sales.marts.fct_purchases").metadata_location
    with duckdb.connect(config={"extension_directory": str(published_lake.parent / "extensions")}) as connection:
        for module, name in ((duckdb_extension_avro, "avro"), (duckdb_extension_iceberg, "iceberg")):
            file = Path(module.__path__[0]) / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
            connection.execute(f"INSTALL '{file}'")
            connection.execute(f"LOAD {name}")
        row = connection.execute(f"select count(*) from iceberg_scan('{location}')").fetchone()
    assert row == (69_659,)


def test_second_run_lands_nothing_twice_and_leaves_the_marts_alone(dml: Dml, published_lake: Path) -> None:
    before = heads(published_lake)

    done = dml(published_lake, "run")

    assert done.returncode == 0, done.stderr
    assert "3 steps found nothing new" in done.stdout
    after = heads(published_lake)
    assert {name for name in after if after[name] != before[name]} == {"sales.marts.customer_forecast"}
    assert count(dml, published_lake) == 69_659


def test_forced_run_builds_the_same_again(dml: Dml, published_lake: Path) -> None:
    before = heads(published_lake)

    done = dml(published_lake, "run", "--force")

    assert done.returncode == 0, done.stderr
    after = heads(published_lake)
    assert {name for name in after if after[name] != before[name]} == {f"sales.marts.{mart}" for mart in MARTS}
    assert count(dml, published_lake) == 69_659


def test_failing_check_publishes_nothing_and_names_the_failing_rows_query(
    dml: Dml, published_lake: Path, planted_test: Path
) -> None:
    before = heads(published_lake)

    done = dml(published_lake, "run", "--select", "key:sales/marts/fct_daily_revenue+")

    assert done.returncode == 3
    assert "cannot publish project 'sales': 1 blocking check failed: assert_planted" in done.stderr
    assert heads(published_lake) == before
    [command] = [line for line in done.stderr.splitlines() if "dml sql --run" in line]
    run_id = command.split("--run ")[1].split()[0]
    rows = dml(published_lake, "sql", "--run", run_id, "--format", "csv", "from sales.marts.fct_daily_revenue limit 1")
    assert rows.stdout.startswith("revenue_date,")


@pytest.fixture
def planted_test() -> Iterator[Path]:
    """A dbt test that always fails, in the project for as long as a test runs."""
    path = PROJECT / "dbt" / "tests" / "assert_planted.sql"
    path.write_text("select * from {{ ref('fct_daily_revenue') }} limit 3\n")
    yield path
    path.unlink()


def test_two_runs_at_once_land_each_row_once_and_at_most_one_is_told_to_try_again(dml: Dml, tmp_path: Path) -> None:
    home = tmp_path / ".dml"
    environment = clean_environment(home)
    both = [
        subprocess.Popen([*DML, "run"], cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=400)[0].decode() for process in both]
    # One may lose the race to publish the marts. It tries again by itself; at most it ends with "try again".
    assert {process.returncode for process in both} <= {0, 75}, "\n".join(printed)
    assert 0 in {process.returncode for process in both}, "\n".join(printed)
    assert count(dml, home) == 69_659
    assert None not in heads(home).values()


@pytest.mark.parametrize("moment", ["ingesting", "building", "writing marts"])
def test_killed_run_leaves_readers_whole_and_the_next_run_healthy(dml: Dml, published_lake: Path, moment: str) -> None:
    before, signs_before = heads(published_lake), signs_of(moment, published_lake)
    environment = clean_environment(published_lake)
    process = subprocess.Popen([*DML, "run", "--force"], cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while signs_of(moment, published_lake) <= signs_before:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.communicate()

    marts = {name: head for name, head in heads(published_lake).items() if ".marts." in name}
    moved = {name for name, head in marts.items() if head != before[name]} - {"sales.marts.customer_forecast"}
    assert len(moved) in (0, len(MARTS) - 1), "some of the marts of one step were published"
    assert dml(published_lake, "run").returncode == 0
    assert count(dml, published_lake) == 69_659


def signs_of(moment: str, home: Path) -> set[str]:
    """What is there only while, or since, a run is in the middle of what should be interrupted."""
    if moment == "ingesting":
        processes = Path("/proc").glob("[0-9]*/cmdline")
        return {str(path) for path in processes if b"source-faker" in read(path)}
    if moment == "building":
        return {str(path) for path in (home / "runs" / "sales").glob("*/dbt.duckdb")}
    with catalog(home) as found:
        return set(found.load_table("sales.marts.fct_daily_revenue").refs())


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not allow mounts")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_is_told_in_a_sentence_and_mends(dml: Dml, small_disk: Path, tmp_path: Path) -> None:
    home = tmp_path / ".dml"
    full = dml(home, "run", DML_LAKE__WAREHOUSE=str(small_disk))
    assert full.returncode != 0
    assert "No space left" in full.stderr or "full" in full.stderr
    assert "Traceback" not in full.stderr
    assert all(head is None for name, head in heads(home).items() if ".marts." in name)

    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    assert dml(home, "run", DML_LAKE__WAREHOUSE=str(small_disk)).returncode == 0


def test_read_only_warehouse_is_told_in_a_sentence_and_mends(dml: Dml, small_disk: Path, tmp_path: Path) -> None:
    home = tmp_path / ".dml"
    subprocess.run(["mount", "-o", "remount,ro,size=400m", str(small_disk)], check=True)
    refused = dml(home, "run", DML_LAKE__WAREHOUSE=str(small_disk))
    assert refused.returncode != 0
    assert "Read-only file system" in refused.stderr or "read-only" in refused.stderr
    assert "Traceback" not in refused.stderr

    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert dml(home, "run", DML_LAKE__WAREHOUSE=str(small_disk)).returncode == 0


def test_connector_without_network_is_told_and_files_still_land(dml: Dml, tmp_path: Path) -> None:
    home = tmp_path / ".dml"
    unreachable = "http://127.0.0.1:9/simple"
    done = dml(
        home,
        "run",
        DML_AIRBYTE__CACHE_DIR=str(tmp_path / "connectors"),
        UV_DEFAULT_INDEX=unreachable,
        UV_INDEX_URL=unreachable,
        UV_CACHE_DIR=str(tmp_path / "uv"),
        UV_HTTP_TIMEOUT="2",
        UV_FIND_LINKS="",
    )
    assert done.returncode == 75, done.stderr
    assert "cannot install connector airbyte-source-faker" in done.stderr.replace("'", "")
    assert "Traceback" not in done.stderr
    assert count(dml, home) == 69_659


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        (
            "DML_LAKE__WAREHUOSE",
            "x",
            "'DML_LAKE__WAREHUOSE' (did you mean DML_LAKE__WAREHOUSE?)",
        ),
        ("DML_DUCKDB__THREADS", "many", "DML_DUCKDB__THREADS"),
        ("DML_PROFILE", "server", "DML_LAKE__CATALOG_URI, DML_LAKE__WAREHOUSE are not set"),
    ],
)
def test_wrong_setting_is_named(dml: Dml, tmp_path: Path, variable: str, value: str, expected: str) -> None:
    done = dml(tmp_path / ".dml", "run", **{variable: value})
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
