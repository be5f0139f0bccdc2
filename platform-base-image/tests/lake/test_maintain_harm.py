"""Attempts to make maintenance lose a row or a file: faults at the worst moment, and what other engines may do."""

from __future__ import annotations

import contextlib
import signal
from datetime import datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lake_steps import OTHER, REF, rows, start_process, write
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io.pyarrow import parquet_files_to_data_files
from pyiceberg.types import StringType

from dml_platform.core.config import MaintenanceConfig
from dml_platform.core.naming import TableRef
from dml_platform.core.runrecord import RunRecord, write_record
from dml_platform.core.settings import Settings
from dml_platform.core.storage import open_storage
from dml_platform.lake import Lake
from dml_platform.lake import catalog as catalogs
from dml_platform.lake.maintain import TableMaintenance, Work, maintain
from dml_platform.lake.orphans import table_storage
from dml_platform.lake.rollback import move_main, plan_run, plan_table

SHORT = MaintenanceConfig(keep_snapshots=1, keep_runs=0)
COMPACT = MaintenanceConfig(compact_files=3)


def run(lake: Lake, *, days: float = 40, policy: MaintenanceConfig = SHORT, **options: Any) -> list[TableMaintenance]:
    """Maintain as if some days had passed."""
    return maintain(lake, "sales", Work(policy, now=datetime.now(timezone.utc) + timedelta(days=days), **options))


def small_files(lake: Lake, count: int = 3) -> list[tuple[Any, ...]]:
    for value in range(count):
        write(lake, f"select {value} as id, 'n{value}' as name", run=f"r{value}")
    return rows(lake)


def live(lake: Lake) -> int:
    return len(lake.pin(REF).files()[0])


def delete_files(lake: Lake, ref: TableRef, ending: str) -> None:
    storage = table_storage(lake.settings, ref, lake.catalog.load_table(ref.identifier))
    assert storage
    for entry in storage.list(recursive=True):
        if entry.name.endswith(ending):
            storage.delete(entry.name)


def test_compaction_that_is_interrupted_after_its_commit_keeps_its_files(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = small_files(lake), catalogs.commit_together

    def commit(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogs, "commit_together", commit)
    with pytest.raises(KeyboardInterrupt):
        run(lake, days=0, policy=COMPACT)
    assert live(lake) == 1, "the commit went through"
    assert rows(lake) == before


def test_compaction_whose_answer_was_lost_keeps_its_files_when_others_published_since(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_files(lake)
    real = catalogs.commit_together
    is_lost: list[bool] = []

    def commit(*arguments: Any) -> None:
        real(*arguments)
        if not is_lost:
            is_lost.append(True)
            raise CommitFailedException("the answer was lost")

    def pause(_seconds: float) -> None:
        write(lake, "select 9 as id, 'rival' as name", run="rival")

    monkeypatch.setattr(catalogs, "commit_together", commit)
    monkeypatch.setattr(catalogs.time, "sleep", pause)
    (done,) = run(lake, days=0, policy=COMPACT)
    assert (done.compacted, done.fault) == (3, "")
    assert [name for _, name in rows(lake)] == ["n0", "n1", "n2", "rival"]


def test_files_without_field_ids_are_not_compacted_to_nothing(lake: Lake) -> None:
    place = f"{lake.settings.warehouse}/{REF.path}"
    lake.catalog.create_namespace_if_not_exists(("sales",))
    lake.catalog.create_namespace_if_not_exists(REF.namespace)
    columns = pa.schema([("id", pa.int64()), ("name", pa.string())])
    table = lake.catalog.create_table(REF.identifier, columns, location=place)
    paths = [f"{place}/data/in{number}.parquet" for number in range(3)]
    for number, path in enumerate(paths):
        with table.io.new_output(path).create() as stream:
            pq.write_table(pa.table({"id": [number], "name": [f"n{number}"]}), stream)
    table.add_files(paths)
    with table.update_schema() as schema:
        schema.rename_column("name", "label")
    lake.catalog.load_table(REF.identifier).append(pa.table({"id": [9], "label": ["nine"]}))

    def read() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = lake.catalog.load_table(REF.identifier).scan().to_arrow().to_pylist()
        return sorted(found, key=lambda row: str(row["id"]))

    before = read()
    (done,) = run(lake, days=0, policy=COMPACT)
    assert (done.compacted, done.fault) == (0, "")
    assert [row["label"] for row in before] == ["n0", "n1", "n2", "nine"]
    assert read() == before


def test_nested_columns_that_were_renamed_are_left_as_they_are(lake: Lake) -> None:
    for number in range(2):
        write(lake, f"select {number} as id, {{'a': {number}, 'b': 'x'}} as s", run=f"r{number}")
    with lake.catalog.load_table(REF.identifier).update_schema() as schema:
        schema.rename_column(("s", "a"), "count").add_column(("s", "c"), StringType())
    table = lake.catalog.load_table(REF.identifier)
    row = {"id": 2, "s": {"count": 2, "b": "x", "c": "new"}}
    table.append(pa.Table.from_pylist([row], schema=table.schema().as_arrow()))
    (done,) = run(lake, days=0, policy=COMPACT)
    assert (done.compacted, done.fault) == (0, "")
    found = lake.catalog.load_table(REF.identifier).scan().to_arrow().to_pylist()
    assert sorted(row["s"]["count"] for row in found) == [0, 1, 2]


def test_retyped_columns_keep_their_values(lake: Lake) -> None:
    from pyiceberg.types import DecimalType, DoubleType, LongType

    write(lake, "select 1::INTEGER as id, 1.5::FLOAT as share, 1.25::DECIMAL(6, 2) as price")
    write(lake, "select null::INTEGER as id, null::FLOAT as share, null::DECIMAL(6, 2) as price", run="r2")
    with lake.catalog.load_table(REF.identifier).update_schema() as schema:
        schema.update_column("id", LongType()).update_column("share", DoubleType())
        schema.update_column("price", DecimalType(12, 2))
    write(lake, "select 3000000000 as id, 0.1::DOUBLE as share, 99999999.99::DECIMAL(12, 2) as price", run="r3")
    before = sorted(map(str, lake.sql(f"select * from {REF.dotted}").fetchall()))
    assert run(lake, days=0, policy=COMPACT)[0].compacted == 3
    assert sorted(map(str, lake.sql(f"select * from {REF.dotted}").fetchall())) == before
    assert "(3000000000, 0.1, Decimal('99999999.99'))" in before


def test_columns_that_changed_without_a_write_leave_the_files_as_they_are(lake: Lake) -> None:
    before = small_files(lake)
    with lake.catalog.load_table(REF.identifier).update_schema() as schema:
        schema.rename_column("name", "label")
    assert run(lake, days=0, policy=COMPACT)[0].note == ""
    assert (rows(lake), live(lake)) == (before, 3)


def test_folder_that_a_renamed_table_left_to_a_new_one_keeps_the_files_of_both(lake: Lake) -> None:
    write(lake, "select 1 as id")
    write(lake, "select 2 as id", run="r2")
    renamed = TableRef("hr", "marts", "orders_of_before")
    lake.catalog.create_namespace_if_not_exists(("hr",))
    lake.catalog.create_namespace_if_not_exists(renamed.namespace)
    lake.catalog.rename_table(REF.identifier, renamed.identifier)
    write(lake, "select 9 as id", "table", run="r3")
    write(lake, "select 8 as id", "table", run="r4")
    (done,) = run(lake)
    assert done.deleted == ()
    assert done.note == "files stay: those of hr.marts.orders_of_before are in its folder too"
    assert rows(lake, renamed) == [(1,), (2,)]
    assert rows(lake) == [(8,)]


def test_table_that_lies_below_anothers_folder_keeps_its_files(lake: Lake) -> None:
    write(lake, "select 1 as id")
    place = f"{lake.settings.warehouse}/{REF.path}/data/inner"
    lake.catalog.create_table(OTHER.identifier, pa.schema([("id", pa.int64())]), location=place)
    write(lake, "select 5 as id", ref=OTHER)
    run(lake)
    assert rows(lake, OTHER) == [(5,)]


@pytest.mark.parametrize("name", [OTHER.identifier, ("sales", "lab", "Copy-1")], ids=["ours", "another tool's"])
def test_file_that_another_table_names_stays(lake: Lake, name: tuple[str, ...]) -> None:
    write(lake, "select 1 as id", "table")
    (path,) = lake.pin(REF).files()[0]
    for depth in (1, 2):
        lake.catalog.create_namespace_if_not_exists(name[:depth])
    place = f"{lake.settings.warehouse}/{'/'.join(name)}"
    copy = lake.catalog.create_table(name, lake.pin(REF).schema, location=place)
    with copy.transaction() as transaction, transaction.update_snapshot().fast_append() as snapshot:
        for data_file in parquet_files_to_data_files(copy.io, copy.metadata, iter([path])):
            snapshot.append_data_file(data_file)
    write(lake, "select 2 as id", "table", run="r2")
    done = {found.ref: found for found in run(lake)}[REF]
    assert len(done.expired) == 1
    assert not [entry for entry in done.deleted if entry.endswith(".parquet")]
    assert lake.catalog.load_table(name).scan().to_arrow().to_pylist() == [{"id": 1}]


def test_table_beside_it_whose_name_begins_the_same_is_no_part_of_it(lake: Lake) -> None:
    longer = TableRef(REF.project, REF.layer, f"{REF.name}_archive")
    other_project = TableRef(f"{REF.project}_eu", REF.layer, REF.name)
    for ref in (REF, longer, other_project):
        for value in range(3):
            write(lake, f"select {value} as id", "table", ref, run=f"r{value}")
    assert [(done.ref, len(done.expired), bool(done.deleted), done.note) for done in run(lake)] == [
        (REF, 2, True, ""),
        (longer, 2, True, ""),
    ]
    assert [rows(lake, ref) for ref in (REF, longer, other_project)] == [[(2,)]] * 3
    assert len(lake.catalog.load_table(other_project.identifier).snapshots()) == 3


@pytest.mark.parametrize("ending", ["-m0.avro", ".metadata.json"])
def test_damaged_table_is_told_and_the_others_are_maintained(lake: Lake, ending: str) -> None:
    for ref in (OTHER, REF):
        for value in range(2):
            write(lake, f"select {value} as id", "table", ref, run=f"r{value}")
    delete_files(lake, OTHER, ending)
    damaged, healthy = run(lake)
    assert (damaged.ref, damaged.deleted) == (OTHER, ())
    assert damaged.fault.startswith("a file that it names is missing: ")
    assert (healthy.fault, len(healthy.expired), bool(healthy.deleted)) == ("", 1, True)


def test_branch_that_is_only_named_like_a_runs_stays(lake: Lake) -> None:
    write(lake, "select 1 as id", "table")
    write(lake, "select 2 as id", "table", run="r2")
    table = lake.catalog.load_table(REF.identifier)
    table.manage_snapshots().create_branch(table.snapshots()[0].snapshot_id, "run_of_the_audit").commit()
    (done,) = run(lake)
    assert (done.branches, done.expired) == ((), ())
    assert "run_of_the_audit" in lake.catalog.load_table(REF.identifier).refs()


def test_roll_back_of_a_run_can_be_undone_though_files_were_made_one_since(lake: Lake) -> None:
    before = small_files(lake, 5)
    move_main(lake, plan_run(lake, "sales", "r4"), by="t", why="", roll_back_id="rb1")
    assert run(lake, days=0, policy=COMPACT)[0].compacted == 4
    move_main(lake, plan_run(lake, "sales", "r4", to="r4"), by="t", why="", roll_back_id="rb2")
    assert rows(lake) == before


def test_making_files_one_takes_no_place_of_a_published_state(lake: Lake) -> None:
    small_files(lake, 4)
    policy = MaintenanceConfig(keep_snapshots=2, keep_runs=0, compact_files=2)
    assert run(lake, policy=policy)[0].compacted == 4
    (move,) = plan_table(lake, REF)
    assert (move.run_was, move.run_now, move.rows_now) == ("r3", "r2", 3)


KILLED = """
import os, signal
from datetime import datetime, timedelta, timezone
from dml_platform.core.config import MaintenanceConfig
from dml_platform.lake import compact, maintain

def die(*_arguments):
    os.kill(os.getpid(), signal.SIGKILL)

setattr({"compact": compact, "maintain": maintain}[sys.argv[1]], sys.argv[2], die)
policy = MaintenanceConfig(keep_snapshots=1, keep_runs=0, compact_files=3)
maintain.maintain(lake, "sales", maintain.Work(policy, now=datetime.now(timezone.utc) + timedelta(days=40)))
"""


@pytest.mark.integration
@pytest.mark.parametrize(
    "before", [("compact", "_commit"), ("maintain", "_expire"), ("maintain", "_delete")], ids=lambda found: found[1]
)
def test_killed_before_a_commit_or_the_deletions_it_loses_nothing(lake: Lake, before: tuple[str, str]) -> None:
    published = small_files(lake, 4)
    process = start_process(lake.settings, KILLED, *before)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert rows(lake) == published
    policy = MaintenanceConfig(keep_snapshots=1, keep_runs=0, compact_files=3)
    for _ in range(2):
        run(lake, policy=policy)
    assert (rows(lake), live(lake)) == (published, 1)
    storage = table_storage(lake.settings, REF, lake.catalog.load_table(REF.identifier))
    assert storage
    assert len([entry for entry in storage.list("data") if not entry.is_folder]) == 1, "nothing is left over"


def record(run_id: str, started_at: str, **fields: Any) -> RunRecord:
    return RunRecord("sales", run_id, "step", "success", started_at, 1.0, "abc", image=None, **fields)


def test_runs_that_published_nothing_take_no_place_of_those_that_did(lake: Lake) -> None:
    for value in range(4):
        write(lake, f"select {value} as id", "table", run=f"r{value}")
    known = [snapshot.snapshot_id for snapshot in lake.catalog.load_table(REF.identifier).snapshots()]
    write_record(lake.settings, record("r1", "2026-01-01T00:00:00.000+00:00", outputs={REF.dotted: known[1]}))
    for day in (2, 3, 4):
        write_record(lake.settings, record(f"mt{day}", f"2026-01-0{day}T00:00:00.000+00:00"))
    (done,) = run(lake, policy=MaintenanceConfig(keep_snapshots=1, keep_runs=1), dry_run=True)
    assert done.expired == (), "what the run published and found, and what is between it and now"


@pytest.mark.parametrize(
    "damage", [{"started_at": "yesterday"}, {"started_at": "2026-01-01T00:00:00"}, {"outputs": {"no table": 1}}]
)
def test_record_that_is_damaged_stops_nothing(local: Settings, damage: dict[str, Any]) -> None:
    lake = Lake(local)
    with contextlib.closing(lake.catalog):
        write(lake, "select 1 as id", "table")
        write(lake, "select 2 as id", "table", run="r2")
        good = record("x", "2026-01-01T00:00:00.000+00:00")
        write_record(local, RunRecord(**{**good.__dict__, **damage}))
        assert len(open_storage(local, "sales", "runs").list(recursive=True)) == 2
        assert len(run(lake)[0].expired) == 1
