"""What readers see before, while and after a step is published, and when publishing is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lake_steps import OTHER, REF, finish, rows, start_process, write
from pyiceberg.exceptions import CommitFailedException
from sqlalchemy.exc import OperationalError

from dml_platform.core.errors import ConfigError, PermanentError, PublishConflictError, RetryableError
from dml_platform.core.naming import TableRef
from dml_platform.lake import Lake, catalog

REFUSED = "cannot publish 'sales.marts.fct_orders': run 'rival' published it while this step ran"


@pytest.fixture
def before_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Call something once, after the next commit was prepared and before it reaches the catalogue."""
    real = catalog.commit_together
    # What comes between is a writer that does not queue, as Spark's.
    monkeypatch.setattr(catalog, "_MAX_QUEUE_S", 0.0)

    def arm(action: Callable[[], object]) -> None:
        def commit(*arguments: object) -> None:
            monkeypatch.setattr(catalog, "commit_together", real)
            action()
            real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(catalog, "commit_together", commit)

    return arm


def test_first_publish_is_invisible_before_and_complete_after(lake: Lake) -> None:
    step = lake.step("r1", "s")
    step.write_query(REF, lake.connect(), "select 1 as id")
    assert lake.published(REF) is None
    with pytest.raises(ConfigError, match=r"cannot read 'sales\.marts\.fct_orders': the lake has no such published"):
        rows(lake)
    assert len(lake.catalog.load_table(REF.identifier).scan().to_arrow()) == 0
    published = step.publish()
    assert [(s.ref, s.rows_total, s.base_snapshot_id) for s in published] == [(REF, 1, None)]
    assert rows(lake) == [(1,)]


def test_publish_of_nothing_is_nothing(lake: Lake) -> None:
    assert lake.step("r1", "s").publish() == []


def test_failed_first_run_leaves_nothing_readable_and_binds_nobody(lake: Lake) -> None:
    lake.step("crashed", "s").write_query(REF, lake.connect(), "select 1 as id, 'x' as wrong")
    write(lake, "select 'k1' as id, 2 as amount")
    assert rows(lake) == [("k1", 2)]
    assert [f.name for f in lake.catalog.load_table(REF.identifier).schema().fields] == ["id", "amount"]


def test_two_first_writers_of_different_columns_do_not_mix(lake: Lake) -> None:
    one, two, connection = lake.step("one", "s"), lake.step("two", "s"), lake.connect()
    one.write_query(REF, connection, "select 1 as id, 2 as n")
    two.write_query(REF, connection, "select 'a' as x")
    one.write_query(REF, connection, "select 3 as id, 4 as n")
    one.publish()
    with pytest.raises(PublishConflictError, match="run 'one' published it while this step ran"):
        two.publish()
    assert rows(lake) == [(1, 2), (3, 4)]


def test_abandoned_step_leaves_readers_alone_and_can_start_again(lake: Lake) -> None:
    write(lake, "select 1 as id")
    step = lake.step("r2", "s")
    step.write_query(REF, lake.connect(), "select 2 as id, 'n' as added")
    step.abandon()
    assert rows(lake) == [(1,)]
    assert set(lake.catalog.load_table(REF.identifier).refs()) == {"main"}
    write(lake, "select 3 as id", run="rival")
    step.write_query(REF, lake.connect(), "select 4 as id")
    step.publish()
    assert rows(lake) == [(1,), (3,), (4,)]


def test_publish_is_refused_when_main_moved_and_then_nothing_of_the_step_is_published(lake: Lake) -> None:
    write(lake, "select 1 as id")
    step, connection = lake.step("slow", "s"), lake.connect()
    step.write_query(OTHER, connection, "select 2 as id")
    step.write_query(REF, connection, "select 2 as id")
    write(lake, "select 3 as id", run="rival")
    with pytest.raises(PublishConflictError, match=REFUSED) as caught:
        step.publish()
    assert caught.value.allow_retries
    assert lake.published(OTHER) is None
    assert rows(lake) == [(1,), (3,)]


def test_publish_is_refused_when_main_moves_between_check_and_commit(
    lake: Lake, before_commit: Callable[[Callable[[], object]], None]
) -> None:
    write(lake, "select 1 as id")
    step, connection = lake.step("slow", "s"), lake.connect()
    step.write_query(OTHER, connection, "select 2 as id")
    step.write_query(REF, connection, "select 2 as id")
    before_commit(lambda: write(lake, "select 3 as id", run="rival"))
    with pytest.raises(PublishConflictError, match=REFUSED):
        step.publish()
    assert lake.published(OTHER) is None
    assert rows(lake) == [(1,), (3,)]


def test_publish_is_not_refused_because_another_run_has_a_branch(
    lake: Lake, before_commit: Callable[[Callable[[], object]], None]
) -> None:
    write(lake, "select 1 as id")
    step, rival, connection = lake.step("r2", "s"), lake.step("rival", "s"), lake.connect()
    rival.write_query(REF, connection, "select 2 as id")
    step.write_query(REF, connection, "select 3 as id")
    before_commit(lambda: rival.write_query(REF, connection, "select 4 as id, 'c' as added"))
    step.publish()
    assert rows(lake) == [(1,), (3,)]
    with pytest.raises(PublishConflictError, match="run 'r2' published it"):
        rival.publish()


@pytest.mark.parametrize("published", [False, True])
def test_write_meets_another_writer_and_keeps_what_was_there(
    lake: Lake, before_commit: Callable[[Callable[[], object]], None], published: bool
) -> None:
    if published:
        write(lake, "select 1 as id")
    else:
        lake.step("gone", "s").write_query(REF, lake.connect(), "select 0 as id")
    step, connection = lake.step("r2", "s"), lake.connect()
    before_commit(lambda: lake.step("rival", "s").write_query(REF, connection, "select 2 as id"))
    step.write_query(REF, connection, "select 3 as id")
    step.publish()
    assert rows(lake) == ([(1,), (3,)] if published else [(3,)])


def test_write_is_refused_when_main_moved_since_the_step_read_it(lake: Lake) -> None:
    write(lake, "select 1 as id")
    step = lake.step("r2", "s")
    assert step.pin(REF)
    write(lake, "select 2 as id", run="rival")
    with pytest.raises(PublishConflictError, match=REFUSED):
        step.write_query(REF, lake.connect(), "select 3 as id")


def test_publish_does_not_undo_a_rollback(lake: Lake) -> None:
    write(lake, "select 1 as id")
    first = lake.pin(REF).snapshot_id
    write(lake, "select 2 as id")
    step = lake.step("r3", "s")
    step.write_query(REF, lake.connect(), "select 3 as id")
    table = lake.catalog.load_table(REF.identifier)
    table.manage_snapshots().rollback_to_snapshot(first).commit()
    with pytest.raises(PublishConflictError, match="it was rolled back while this step ran"):
        step.publish()
    assert rows(lake) == [(1,)]


def test_two_processes_of_one_run_do_not_share_a_branch(lake: Lake) -> None:
    write(lake, "select 1 as id")
    zombie, again = lake.step("r2", "s"), lake.step("r2", "s")
    zombie.write_query(REF, lake.connect(), "select 2 as id")
    again.write_query(REF, lake.connect(), "select 3 as id")
    with pytest.raises(PublishConflictError, match="another process writes to its branch 'run_r2_s'"):
        zombie.write_query(REF, lake.connect(), "select 4 as id")
    with pytest.raises(PublishConflictError, match="'run_r2_s' is no longer what this step wrote"):
        zombie.publish()
    again.publish()
    assert rows(lake) == [(1,), (3,)]


def test_commit_whose_answer_is_lost_is_not_repeated(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    write(lake, "select 1 as id")
    real = catalog.commit_together
    lost = iter([True, True])

    def commit(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        if next(lost, False):
            raise OperationalError("UPDATE", {}, Exception("database is locked"))

    step = lake.step("r2", "s")
    monkeypatch.setattr(catalog, "commit_together", commit)
    step.write_query(REF, lake.connect(), "select 2 as id")
    assert rows(lake) == [(1,)]
    step.publish()
    assert next(lost, None) is None
    assert rows(lake) == [(1,), (2,)]


def test_dropped_table_is_reported(lake: Lake) -> None:
    step = lake.step("r1", "s")
    step.write_query(REF, lake.connect(), "select 1 as id")
    lake.catalog.drop_table(REF.identifier)
    with pytest.raises(PublishConflictError, match="is no longer what this step wrote"):
        step.publish()


def test_publish_gives_up_after_the_attempts_that_settings_allow(
    local_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beaten() -> None:
        raise CommitFailedException("again")

    monkeypatch.setattr("time.sleep", lambda s: None)
    with pytest.raises(RetryableError, match=r"cannot publish x: other writers were faster 3 times\.\nRun it"):
        catalog.with_retries(local_lake.catalog, [REF], beaten, attempts=2, what="cannot publish x")


def test_catalogue_that_cannot_be_written_is_not_retried(local_lake: Lake) -> None:
    def refuse() -> None:
        raise OperationalError("UPDATE secret", {}, Exception("attempt to write a readonly database"))

    with pytest.raises(PermanentError, match=r"cannot publish x: attempt to write a readonly database\.\nCheck"):
        catalog.with_retries(local_lake.catalog, [REF], refuse, attempts=20, what="cannot publish x")


READER = """
seen = 0
print("ready", flush=True)
while True:
    (found,) = lake.sql("select a.n, b.n, c.n from sales.marts.a, sales.marts.b, sales.marts.c").fetchall()
    assert len(set(found)) == 1, found
    seen += 1
    if found[0] == int(sys.argv[1]):
        break
print(seen)
"""


@pytest.mark.integration
def test_reader_in_another_process_never_sees_some_tables_of_a_step(lake: Lake) -> None:
    names = [f"sales.marts.{letter}" for letter in "abc"]

    def publish(n: int) -> None:
        step, connection = lake.step(f"r{n}", "s"), lake.connect()
        for name in names:
            step.write_query(TableRef.parse(name), connection, f"select {n} as n", mode="table")
        step.publish()

    publish(0)
    reader = start_process(lake.settings, READER, "12")
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    for n in range(1, 13):
        publish(n)
    assert int(finish(reader)) > 1
