"""Faults that are caused for real: many processes, killed processes, full and read-only disks, little memory."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lake_steps import OTHER, REF, finish, rows, start_process, write

from dml_platform.core.errors import PermanentError
from dml_platform.core.settings import Settings
from dml_platform.lake import Lake

pytestmark = pytest.mark.integration

APPEND = """
from dml_platform.core.errors import RetryableError
import time, random
for n in range(10):
    for attempt in range(200):
        step = lake.step(f"{sys.argv[1]}{n}x{attempt}", "append")
        step.write_query(REF, lake.connect(), f"select {sys.argv[1]} as process, {n} as n")
        try:
            step.publish()
            break
        except RetryableError:
            step.abandon()
            time.sleep(random.uniform(0, 0.5))
    else:
        raise SystemExit("never published")
"""


@pytest.mark.timeout(600)
def test_eight_processes_append_ten_times_each_and_all_land(lake: Lake) -> None:
    processes = [start_process(lake.settings, APPEND, str(number)) for number in range(8)]
    for process in processes:
        finish(process, timeout_s=580)
    assert rows(lake) == [(process, n) for process in range(8) for n in range(10)]
    assert set(lake.catalog.load_table(REF.identifier).refs()) == {"main"}


PUBLISH_FOREVER = """
import itertools
for n in itertools.count(int(sys.argv[1])):
    step = lake.step("same", "kill")
    connection = lake.connect()
    for ref in (REF, OTHER):
        step.write_query(ref, connection, f"select {n} as n, range as i from range(20000)", mode="table")
    step.publish()
    print(n, flush=True)
"""


@pytest.mark.timeout(600)
def test_kill_while_writing_or_publishing_leaves_readers_whole_and_the_next_run_healthy(lake: Lake) -> None:
    luck = random.Random(4711)
    last = 0
    for _ in range(6):
        process = start_process(lake.settings, PUBLISH_FOREVER, str(last + 1))
        assert process.stdout is not None
        assert process.stdout.readline()
        time.sleep(luck.uniform(0, 0.6))  # any moment will do: nothing is waited for
        process.send_signal(signal.SIGKILL)
        process.communicate()
        query = "select count(*), min(n), max(n) from {}"
        both = [lake.sql(query.format(ref.dotted)).fetchone() for ref in (REF, OTHER)]
        assert both[0] == both[1]
        assert both[0] is not None
        count, low, high = both[0]
        assert (count, low) == (20000, high)
        assert high > last
        last = high
    write(lake, "select 0::bigint as n, 0::bigint as i", "table")
    assert rows(lake) == [(0, 0)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not allow mounting")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_is_a_sentence_and_publishes_nothing(small_disk: Path) -> None:
    lake = Lake(Settings(home=small_disk / "home"))
    write(lake, "select 1::bigint as id, 'x' as noise")
    with pytest.raises(PermanentError, match=r"cannot write 'sales\.marts\.fct_orders': .*No space left") as caught:
        write(lake, "select range as id, md5(range::varchar) as noise from range(3000000)")
    assert caught.value.fix == "Make space or correct the rights, then run it again."
    assert rows(lake) == [(1, "x")]
    for path in small_disk.rglob("*.parquet"):
        if path.stat().st_size > 1_000_000:
            path.unlink()
    write(lake, "select 2::bigint as id, 'y' as noise")
    assert rows(lake) == [(1, "x"), (2, "y")]
    lake.catalog.close()


def test_read_only_warehouse_is_a_sentence_and_publishes_nothing(small_disk: Path) -> None:
    lake = Lake(Settings(home=small_disk / "home"))
    write(lake, "select 1 as id")
    lake.catalog.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    lake = Lake(lake.settings)
    assert rows(lake) == [(1,)]
    with pytest.raises(PermanentError, match=r"'sales\.marts\.fct_orders': .*(Read-only file system|readonly)"):
        write(lake, "select 2 as id")
    assert rows(lake) == [(1,)]
    lake.catalog.close()


STREAM = """
import resource
import pyarrow as pa

schema = pa.schema([("id", pa.int64()), ("name", pa.string()), ("price", pa.float64()), ("at", pa.timestamp("us"))])

def batches(total, size=100_000):
    for start in range(0, total, size):
        ids = pa.array(range(start, start + size), pa.int64())
        yield pa.record_batch(
            [ids, ids.cast(pa.string()), ids.cast(pa.float64()), ids.cast(pa.timestamp("us"))], schema=schema
        )

step = lake.step("r1", "stream")
step.write_batches(REF, lake.connect(), batches(int(sys.argv[1])), schema=schema)
step.publish()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_rows(local_lake: Lake) -> None:
    small = int(finish(start_process(local_lake.settings, STREAM, "4000000"), timeout_s=300))
    large = int(finish(start_process(local_lake.settings, STREAM, "20000000"), timeout_s=300))
    assert local_lake.pin(REF).rows == 24_000_000
    assert large <= 900, f"{large} MB at 20 million rows, {small} MB at 4 million"
    assert large <= small * 1.35, f"{large} MB at 20 million rows, {small} MB at 4 million"


SPILL = """
import os
connection = lake.connect()
folder = connection.execute("SELECT current_setting('temp_directory')").fetchone()[0]
salt, spilled = sys.argv[1], 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(3):
    connection.execute(
        f"create or replace table t as select range as i, md5('{salt}' || range) as h from range(1200000) order by h"
    )
    spilled += len(os.listdir(folder))
    wrong = connection.execute(f"select count(*) from t where h <> md5('{salt}' || i)").fetchone()[0]
    total = connection.execute("select count(*), sum(i) from t").fetchone()
    assert (wrong, total) == (0, (1200000, 1200000 * 1199999 // 2)), (wrong, total)
assert spilled
connection.close()
assert not os.path.exists(folder)
"""


@pytest.mark.timeout(300)
def test_two_processes_that_spill_at_once_both_get_their_own_rows(local: Settings) -> None:
    little = local.model_copy(update={"duckdb": local.duckdb.model_copy(update={"memory_limit_mb": 80})})
    processes = [start_process(little, SPILL, salt) for salt in ("a", "b")]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        finish(process, timeout_s=280)
    assert list((local.temp_dir / "spill").iterdir()) == []


HOLD = """
connection = lake.connect()
connection.execute("create table t as select range as i, md5('x' || range) as h from range(4000000) order by h")
print("spilled", flush=True)
sys.stdin.readline()
"""


@pytest.mark.timeout(300)
def test_what_a_killed_process_spilled_is_removed_by_the_next(local: Settings) -> None:
    little = local.model_copy(update={"duckdb": local.duckdb.model_copy(update={"memory_limit_mb": 80})})
    process = start_process(little, HOLD)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "spilled\n"
        finish(start_process(little, "lake.connect()"))
        assert list((local.temp_dir / "spill").glob("*/*/duckdb_temp*")), "still in use"
    finally:
        process.kill()
        process.communicate()
    finish(start_process(little, "lake.connect()"))
    assert list((local.temp_dir / "spill").iterdir()) == []
