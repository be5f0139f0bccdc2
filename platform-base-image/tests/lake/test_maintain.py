"""Maintenance: what goes, what must stay, and that readers, runs and a kill in the middle do no harm."""

from __future__ import annotations

import random
import signal
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lake_steps import REF, finish, rows, start_process, write

from dml_platform.core.config import MaintenanceConfig
from dml_platform.core.naming import TableRef
from dml_platform.core.runrecord import RunRecord, write_record
from dml_platform.core.storage import FolderStorage, ObjectStorage, Storage
from dml_platform.lake import Lake, create_view
from dml_platform.lake.maintain import TableMaintenance, Work, maintain
from dml_platform.lake.rollback import move_main, plan_table

FOREIGN = TableRef("hr", "marts", "people")
SHORT = MaintenanceConfig(keep_snapshots=1, keep_runs=0)


def later(days: float) -> datetime:
    return datetime.now(timezone.utc) + timedelta(days=days)


def run(lake: Lake, *, days: float = 40, policy: MaintenanceConfig = SHORT, **options: Any) -> list[TableMaintenance]:
    """Maintain as if some days had passed."""
    return maintain(lake, "sales", Work(policy, now=later(days), **options))


def folder_of(lake: Lake, ref: TableRef = REF) -> Storage:
    place = f"{lake.settings.warehouse}/{ref.path}"
    return ObjectStorage(lake.settings, place) if lake.settings.is_s3 else FolderStorage(Path(place))


def names(lake: Lake, ref: TableRef = REF) -> set[str]:
    return {entry.name for entry in folder_of(lake, ref).list(recursive=True) if not entry.is_folder}


def snapshots(lake: Lake, ref: TableRef = REF) -> list[int]:
    return [snapshot.snapshot_id for snapshot in lake.catalog.load_table(ref.identifier).snapshots()]


def rows_at(lake: Lake, snapshot_id: int, ref: TableRef = REF) -> list[tuple[Any, ...]]:
    connection = lake.connect()
    create_view(connection, lake.pin(ref, snapshot_id=snapshot_id))
    return sorted(connection.sql(f"select * from {ref.sql}").fetchall())


def test_what_nobody_can_read_any_more_goes_and_the_plan_says_so_before(lake: Lake) -> None:
    for value in range(4):
        write(lake, f"select {value} as id", "table", run=f"r{value}")
    before = names(lake)
    (planned,) = run(lake, dry_run=True)
    assert names(lake) == before
    assert len(snapshots(lake)) == 4
    (done,) = run(lake)
    assert (done.before, done.after, done.expired) == (planned.before, planned.after, planned.expired)
    assert (done.before.snapshots, done.after.snapshots) == (4, 1)
    assert set(done.deleted) == set(planned.deleted)
    assert names(lake) < before | {name for name in names(lake) if name.endswith(".metadata.json")}
    assert len([name for name in names(lake) if name.startswith("data/")]) == 1
    assert done.before.files == len(before)
    assert rows(lake) == [(3,)]
    (again,) = run(lake)
    assert (again.expired, again.deleted) == ((), ())
    write(lake, "select 9 as id")
    assert rows(lake) == [(3,), (9,)]


def test_published_within_the_retention_stays_readable_however_old_it_is(lake: Lake) -> None:
    write(lake, "select 1 as id", "table", run="old")
    pinned = lake.pin(REF)
    write(lake, "select 2 as id", "table", run="new")
    # Written 31 days ago and replaced 31 days ago: gone. Replaced a moment ago: kept.
    assert run(lake, days=29, dry_run=True)[0].expired == ()
    run(lake, days=29)
    connection = lake.connect()
    create_view(connection, pinned)
    assert connection.sql(f"select * from {REF.sql}").fetchall() == [(1,)]
    assert run(lake, days=31)[0].expired == (pinned.snapshot_id,)


def test_age_counts_from_when_a_state_stopped_being_published(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyiceberg.table.update as updates

    write(lake, "select 1 as id", "table", run="old")
    real = updates.datetime

    class Later(real):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real.now(tz) + timedelta(days=60)

    first = snapshots(lake)[0]
    step = lake.step("new", "write")
    step.write_query(REF, lake.connect(), "select 2 as id", mode="table")
    monkeypatch.setattr(updates, "datetime", Later)
    step.publish()
    monkeypatch.undo()
    assert run(lake, days=80, dry_run=True)[0].expired == ()
    assert run(lake, days=91, dry_run=True)[0].expired == (first,)


def test_last_states_and_those_of_run_records_stay(lake: Lake) -> None:
    for value in range(6):
        write(lake, f"select {value} as id", "table", run=f"r{value}")
    known = snapshots(lake)
    policy = MaintenanceConfig(keep_snapshots=2, keep_runs=0)
    assert run(lake, policy=policy, dry_run=True)[0].expired == tuple(sorted(known[:4]))
    record = RunRecord("sales", "r3", "dbt", "success", "2026-01-01T00:00:00.000+00:00", 1.0, "abc", image=None)
    write_record(lake.settings, RunRecord(**{**record.__dict__, "outputs": {REF.dotted: known[3]}}))
    policy = MaintenanceConfig(keep_snapshots=1, keep_runs=1)
    # What was there before the run is needed too, to make it again.
    assert run(lake, policy=policy)[0].expired == tuple(sorted(known[:2]))
    assert rows_at(lake, known[2]) == [(2,)]
    assert rows_at(lake, known[3]) == [(3,)]
    assert rows(lake) == [(5,)]


def test_tag_and_branch_keep_what_they_name(lake: Lake) -> None:
    for value in range(4):
        write(lake, f"select {value} as id", "table", run=f"r{value}")
    known = snapshots(lake)
    table = lake.catalog.load_table(REF.identifier)
    table.manage_snapshots().create_tag(known[0], "audit_2026").create_branch(known[1], "mine").commit()
    run(lake)
    assert sorted(snapshots(lake)) == sorted([known[0], known[1], known[3]])
    assert [rows_at(lake, snapshot_id) for snapshot_id in (known[0], known[1])] == [[(0,)], [(1,)]]
    assert set(lake.catalog.load_table(REF.identifier).refs()) == {"main", "audit_2026", "mine"}


def test_branch_of_a_dead_run_goes_and_that_of_a_living_one_stays(lake: Lake) -> None:
    write(lake, "select 1 as id")
    dead, living = lake.step("dead", "s"), lake.step("alive", "s")
    dead.write_query(REF, lake.connect(), "select 2 as id")
    living.write_query(REF, lake.connect(), "select 3 as id")
    assert run(lake, days=6)[0].branches == ()
    assert run(lake, days=8, living=("alive", "dead"))[0].branches == ()
    (done,) = run(lake, days=40, living=("alive",))
    assert done.branches == ("run_dead_s",)
    assert len(done.expired) == 1
    living.publish()
    assert rows(lake) == [(1,), (3,)]


def test_leftovers_of_a_run_that_was_never_published_go_and_the_next_run_is_healthy(lake: Lake) -> None:
    lake.step("dead", "s").write_query(REF, lake.connect(), "select 1 as id")
    (done,) = run(lake)
    assert (done.branches, done.after.snapshots) == (("run_dead_s",), 0)
    assert not [name for name in names(lake) if name.startswith("data/")]
    write(lake, "select 'x' as name")
    assert rows(lake) == [("x",)]


def test_file_that_nothing_names_goes_only_when_it_is_old(lake: Lake) -> None:
    write(lake, "select 1 as id")
    storage = folder_of(lake)
    storage.write("data/half-written.parquet", b"PAR1")
    storage.write("metadata/lost.metadata.json", b"{}")
    storage.write("notes/ours.txt", b"not the platform's")
    assert run(lake, days=2)[0].deleted == ()
    assert run(lake, days=4)[0].deleted == ("data/half-written.parquet", "metadata/lost.metadata.json")
    assert "notes/ours.txt" in names(lake)
    assert rows(lake) == [(1,)]


def test_metadata_that_left_the_log_goes(lake: Lake) -> None:
    write(lake, "select 1 as id")
    table = lake.catalog.load_table(REF.identifier)
    with table.transaction() as transaction:
        transaction.set_properties({"write.metadata.previous-versions-max": "2"})
    for value in range(3):
        write(lake, f"select {value} as id", run=f"r{value}")
    run(lake)
    left = [name for name in names(lake) if name.endswith(".metadata.json")]
    assert len(left) == 3
    assert len(rows(lake)) == 4


def test_files_are_left_alone_where_one_that_is_named_is_missing(lake: Lake) -> None:
    write(lake, "select 1 as id", "table")
    write(lake, "select 2 as id")
    storage = folder_of(lake)
    storage.write("data/orphan.parquet", b"PAR1")
    (live, *_) = [name for name in names(lake) if name.startswith("data/") and "orphan" not in name]
    storage.delete(live)
    (done,) = run(lake)
    assert "1 files that it names are missing" in done.fault
    assert done.deleted == ()
    assert "data/orphan.parquet" in names(lake)


def test_files_of_a_table_that_is_elsewhere_stay(lake: Lake) -> None:
    place = f"{lake.settings.warehouse}/sales/elsewhere"
    lake.catalog.create_namespace_if_not_exists(("sales",))
    lake.catalog.create_namespace_if_not_exists(REF.namespace)
    lake.catalog.create_table(REF.identifier, pa.schema([("id", pa.int64())]), location=place)
    for value in range(3):
        write(lake, f"select {value} as id", "table", run=f"r{value}")
    (done,) = run(lake)
    assert (len(done.expired), done.deleted, done.fault) == (2, (), "")
    assert done.note == f"files stay: they are at {place}, where the platform puts none"
    assert rows(lake) == [(2,)]


def test_others_tables_are_not_touched(lake: Lake) -> None:
    for value in range(3):
        write(lake, f"select {value} as id", "table", run=f"r{value}")
        write(lake, f"select {value} as id", "table", FOREIGN, run=f"r{value}")
    folder_of(lake, FOREIGN).write("data/orphan.parquet", b"PAR1")
    before, known = names(lake, FOREIGN), snapshots(lake, FOREIGN)
    assert [done.ref for done in run(lake)] == [REF]
    assert (names(lake, FOREIGN), snapshots(lake, FOREIGN)) == (before, known)


def test_step_that_runs_meanwhile_publishes_and_a_rolled_back_state_can_come_back(lake: Lake) -> None:
    for value in range(3):
        write(lake, f"select {value} as id", "table", run=f"r{value}")
    (move,) = plan_table(lake, REF)
    move_main(lake, [move], by="t", why="", roll_back_id="rb")
    step = lake.step("slow", "s")
    step.write_query(REF, lake.connect(), "select 7 as id")
    (done,) = run(lake, living=("slow",), policy=MaintenanceConfig(keep_snapshots=2))
    assert len(done.expired) == 1
    step.publish()
    assert rows(lake) == [(1,), (7,)]
    move_main(lake, plan_table(lake, REF, to="r2"), by="t", why="", roll_back_id="rb")
    assert rows(lake) == [(2,)]


def small_files(lake: Lake, count: int) -> None:
    for value in range(count):
        write(lake, f"select {value} as id, 'n{value}' as name", run=f"r{value}")


def live(lake: Lake) -> int:
    return len(lake.pin(REF).files()[0])


def test_many_small_files_become_one_with_the_same_rows_and_run(lake: Lake) -> None:
    small_files(lake, 5)
    before, published = rows(lake), lake.pin(REF)
    policy = MaintenanceConfig(compact_files=5)
    assert run(lake, days=0, policy=MaintenanceConfig(compact_files=6))[0].compacted == 0
    assert run(lake, days=0, policy=policy, dry_run=True)[0].compacted == 5
    assert live(lake) == 5
    (done,) = run(lake, days=0, policy=policy)
    assert (done.compacted, done.note, live(lake)) == (5, "", 1)
    assert rows(lake) == before
    newest = next(lake.history(REF))
    assert (newest.summary["run_id"], newest.summary["compacted"], newest.rows_total) == ("r4", "5 files to 1", 5)
    assert rows_at(lake, published.snapshot_id or 0) == before
    assert run(lake, days=0, policy=policy)[0].compacted == 0
    # What is taken back is the run, not that its files were made one.
    (move,) = plan_table(lake, REF)
    assert (move.run_was, move.run_now, move.rows_now) == ("r4", "r3", 4)


def test_renamed_and_added_columns_survive_it(lake: Lake) -> None:
    small_files(lake, 2)
    with lake.catalog.load_table(REF.identifier).update_schema() as schema:
        schema.rename_column("name", "label")
    write(lake, "select 7 as id, 'x' as label, 1.5 as added")
    before = sorted(rows(lake), key=str)
    assert run(lake, days=0, policy=MaintenanceConfig(compact_files=3))[0].compacted == 3
    assert sorted(rows(lake), key=str) == before
    assert (0, "n0", None) in before


def test_step_that_began_before_it_publishes_what_it_wrote(lake: Lake) -> None:
    small_files(lake, 3)
    step = lake.step("slow", "s")
    step.pin(REF)
    assert run(lake, days=0, policy=MaintenanceConfig(compact_files=3))[0].compacted == 3
    step.write_query(REF, lake.connect(), "select 1 as id, 'merged' as name", mode="merge", key=["id"])
    # A run writes now: its files stay as they are.
    assert run(lake, days=0, policy=MaintenanceConfig(compact_files=2))[0].compacted == 0
    step.publish()
    assert rows(lake) == [(0, "n0"), (1, "merged"), (2, "n2")]


def test_it_gives_way_to_whoever_publishes_meanwhile(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    from dml_platform.lake import compact as compaction

    small_files(lake, 3)
    real = compaction.write_files

    def write_files(*arguments: Any, **options: Any) -> Any:
        written = real(*arguments, **options)
        monkeypatch.setattr(compaction, "write_files", real)
        write(lake, "select 9 as id, 'rival' as name", run="rival")
        return written

    monkeypatch.setattr(compaction, "write_files", write_files)
    before = {name for name in names(lake) if name.startswith("data/")}
    (done,) = run(lake, days=0, policy=MaintenanceConfig(compact_files=3))
    assert (done.compacted, done.note) == (0, "not compacted: somebody published it meanwhile")
    assert len(rows(lake)) == 4
    assert len({name for name in names(lake) if name.startswith("data/")} - before) == 1, "the rival's file only"


KILLED = """
import os, signal
from datetime import datetime, timedelta, timezone
from dml_platform.core.config import MaintenanceConfig
from dml_platform.core.storage import FolderStorage, ObjectStorage
from dml_platform.lake.maintain import Work, maintain

left = int(sys.argv[1])
def dying(real):
    def delete(self, name):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        real(self, name)
    return delete

for kind in (FolderStorage, ObjectStorage):
    kind.delete = dying(kind.delete)
policy = MaintenanceConfig(keep_snapshots=1, keep_runs=0)
maintain(lake, "sales", Work(policy, now=datetime.now(timezone.utc) + timedelta(days=40)))
"""


@pytest.mark.integration
@pytest.mark.parametrize("deleted", [0, 2])
def test_killed_between_the_commit_and_the_deletions_it_is_finished_by_the_next(lake: Lake, deleted: int) -> None:
    for value in range(5):
        write(lake, f"select {value} as id", "table", run=f"r{value}")
    process = start_process(lake.settings, KILLED, str(deleted))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert len(snapshots(lake)) == 1, "the commit went through"
    assert len([name for name in names(lake) if name.startswith("data/")]) > 1, "files are left"
    assert rows(lake) == [(4,)]
    (done,) = run(lake)
    assert done.deleted
    assert len([name for name in names(lake) if name.startswith("data/")]) == 1
    assert rows(lake) == [(4,)]
    assert run(lake)[0].deleted == ()


WRITE = """
for n in range(12):
    write(lake, f"select {n} as id", run=f"w{n}")
"""
READ = """
sys.stdin.readline()
import time
end = time.monotonic() + float(sys.argv[1])
seen = 0
while time.monotonic() < end:
    count, different = lake.sql(f"select count(*), count(distinct id) from {REF.dotted}").fetchone()
    assert count == different and count >= seen, (count, different, seen)
    seen = count
print(seen)
"""


@pytest.mark.integration
@pytest.mark.timeout(280)
def test_writer_and_reader_go_on_while_it_runs_again_and_again(lake: Lake) -> None:
    write(lake, "select 100 as id", run="first")
    writer = start_process(lake.settings, WRITE)
    reader = start_process(lake.settings, READ, "12")
    assert reader.stdin
    reader.stdin.write("go\n")
    reader.stdin.flush()
    # All that is not published now ends at once; a file that is not named yet has twenty seconds.
    hasty = SHORT.model_copy(update={"orphan_days": 40 + 20 / 86400, "branch_days": 50.0})
    expired = 0
    while writer.poll() is None:
        expired += sum(len(done.expired) for done in run(lake, policy=hasty))
    finish(writer)
    assert expired > 0
    assert int(finish(reader)) >= 1
    assert rows(lake) == [(n,) for n in range(12)] + [(100,)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_happened_before_every_state_that_stays_has_its_rows(lake: Lake, seed: int) -> None:
    luck, connection = random.Random(seed), lake.connect()
    write(lake, "select 0 as id, 'x' as name", run="r0")
    for number in range(1, 14):
        what = luck.choice(["table", "append", "append", "merge", "dead", "rollback", "tag", "column", "compact"])
        if what in ("table", "append"):
            write(lake, f"select {number} as id, 'n{number}' as name", what, run=f"r{number}")  # type: ignore[arg-type]
        elif what == "merge":
            write(lake, f"select {luck.randrange(number)} as id, 'm' as name", "merge", run=f"r{number}", key=["id"])
        elif what == "column":
            write(
                lake,
                f"select {number} as id, 'c' as name, 1 as c{number}",
                "table",
                run=f"r{number}",
                full_refresh=True,
            )
            write(lake, f"select {number} as id, 'c' as name", "table", run=f"s{number}", full_refresh=True)
        elif what == "dead":
            lake.step(f"d{number}", "s").write_query(REF, connection, "select 1 as id, 'd' as name", mode="table")
        elif what == "compact":
            before = rows(lake)
            run(lake, days=0, policy=MaintenanceConfig(compact_files=2))
            assert rows(lake) == before
        elif what == "tag":
            head = lake.pin(REF).snapshot_id
            assert head
            lake.catalog.load_table(REF.identifier).manage_snapshots().create_tag(head, f"t{number}").commit()
        elif len(list(lake.history(REF))) > 1:
            move_main(lake, plan_table(lake, REF), by="t", why="", roll_back_id="rb")
    states = {snapshot_id: rows_at(lake, snapshot_id) for snapshot_id in snapshots(lake)}
    published = rows(lake)
    run(lake, policy=MaintenanceConfig(keep_snapshots=luck.randint(1, 4), keep_runs=0))
    assert {snapshot_id: rows_at(lake, snapshot_id) for snapshot_id in snapshots(lake)} == {
        snapshot_id: states[snapshot_id] for snapshot_id in snapshots(lake)
    }
    assert rows(lake) == published
    assert run(lake, policy=MaintenanceConfig(keep_snapshots=1))[0].fault == ""
    assert rows(lake) == published
