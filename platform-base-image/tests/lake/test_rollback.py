"""Rolling back: what readers see, what is refused, and that it can be undone."""

from __future__ import annotations

import json

import pytest
from lake_steps import OTHER, REF, rows, write

from dml_platform.core.errors import ConfigError, PermanentError, PublishConflictError
from dml_platform.core.naming import TableRef
from dml_platform.lake import Lake
from dml_platform.lake.rollback import PROPERTY, Move, move_main, plan_run, plan_table


def go(lake: Lake, moves: list[Move]) -> None:
    move_main(lake, moves, by="tester", why="wrong", roll_back_id="rb1")


def both(lake: Lake, run: str, value: int) -> None:
    """A run that publishes two tables together, each in two commits."""
    step, connection = lake.step(run, "dbt"), lake.connect()
    for ref in (REF, OTHER):
        step.write_query(ref, connection, f"select {value} as id", mode="table")
        step.write_query(ref, connection, f"select {value} + 1 as id")
    step.publish()


def test_table_goes_back_to_what_was_before_the_run_and_forward_again(lake: Lake) -> None:
    write(lake, "select 1 as id", run="good")
    both(lake, "bad", 10)
    moves = plan_table(lake, REF)
    assert [(m.ref, m.run_was, m.run_now, m.rows_was, m.rows_now) for m in moves] == [(REF, "bad", "good", 2, 1)]
    go(lake, moves)
    assert rows(lake) == [(1,)]
    assert rows(lake, OTHER) == [(10,), (11,)]
    note = json.loads(lake.catalog.load_table(REF.identifier).properties[PROPERTY])
    assert (note["by"], note["why"], note["from"]) == ("tester", "wrong", moves[0].snapshot_was)
    go(lake, plan_table(lake, REF, to=str(moves[0].snapshot_was)))
    assert rows(lake) == [(10,), (11,)]
    go(lake, plan_table(lake, REF, to="good"))
    assert rows(lake) == [(1,)]
    with pytest.raises(ConfigError, match="what is published is that state already"):
        plan_table(lake, REF, to="good")


def test_columns_go_back_with_the_rows(lake: Lake) -> None:
    write(lake, "select 1 as id", run="good")
    write(lake, "select 2 as id, 'x' as added", run="bad")
    go(lake, plan_table(lake, REF))
    assert rows(lake) == [(1,)]
    write(lake, "select 3 as id", run="next")
    assert rows(lake) == [(1,), (3,)]


def test_all_tables_of_a_run_go_back_and_forward_together(lake: Lake) -> None:
    both(lake, "good", 1)
    both(lake, "bad", 10)
    moves = plan_run(lake, "sales", "bad")
    assert [m.ref for m in moves] == [OTHER, REF]
    go(lake, moves)
    assert rows(lake) == rows(lake, OTHER) == [(1,), (2,)]
    go(lake, plan_run(lake, "sales", "bad", to="bad"))
    assert rows(lake) == rows(lake, OTHER) == [(10,), (11,)]


def test_what_a_first_run_published_is_unpublished_and_can_come_back_or_be_built_anew(lake: Lake) -> None:
    both(lake, "first", 1)
    (gone,) = [m for m in plan_run(lake, "sales", "first") if m.ref == REF]
    assert gone.snapshot_now is None
    go(lake, plan_run(lake, "sales", "first"))
    assert lake.published(REF) is None
    with pytest.raises(ConfigError, match="it is not published now"):
        plan_table(lake, REF)
    go(lake, plan_table(lake, REF, to="first"))
    assert rows(lake) == [(1,), (2,)]
    write(lake, "select 'other' as name", ref=OTHER, run="second")
    assert rows(lake, OTHER) == [("other",)]


def test_run_is_not_taken_back_over_what_others_published_since(lake: Lake) -> None:
    both(lake, "bad", 1)
    write(lake, "select 9 as id", run="later")
    with pytest.raises(PermanentError, match=r"others published since: sales\.marts\.fct_orders \(run later\)"):
        plan_run(lake, "sales", "bad")
    with pytest.raises(PermanentError, match="others published since"):
        plan_run(lake, "sales", "bad", to="bad")
    assert rows(lake, OTHER) == [(1,), (2,)]


def test_results_of_tests_are_no_part_of_a_runs_roll_back(lake: Lake) -> None:
    results = TableRef("sales", "elementary", "elementary_test_results")
    both(lake, "good", 1)
    both(lake, "bad", 10)
    write(lake, "select 'fail' as status", ref=results, run="bad")
    write(lake, "select 'error' as status", ref=results, run="failed_and_published_nothing_else")
    moves = plan_run(lake, "sales", "bad")
    assert [m.ref for m in moves] == [OTHER, REF]
    go(lake, moves)
    assert rows(lake) == [(1,), (2,)]
    assert len(rows(lake, results)) == 2


def test_nothing_moves_when_one_table_was_published_after_the_plan(lake: Lake) -> None:
    both(lake, "good", 1)
    both(lake, "bad", 10)
    moves = plan_run(lake, "sales", "bad")
    write(lake, "select 12 as id", ref=OTHER, run="rival")
    with pytest.raises(PublishConflictError, match=r"'sales\.marts\.dim_customers': somebody published it after"):
        go(lake, moves)
    assert rows(lake) == [(10,), (11,)]
    assert rows(lake, OTHER) == [(10,), (11,), (12,)]


@pytest.mark.parametrize("is_written", [True, False])
def test_step_that_began_before_a_roll_back_publishes_nothing(lake: Lake, is_written: bool) -> None:
    both(lake, "good", 1)
    both(lake, "bad", 10)
    step, connection = lake.step("slow", "s"), lake.connect()
    step.pin(REF)
    if is_written:
        step.write_query(REF, connection, "select 20 as id")
    go(lake, plan_run(lake, "sales", "bad"))
    with pytest.raises(PublishConflictError, match="it was rolled back while this step ran") as caught:
        step.publish() if is_written else step.write_query(REF, connection, "select 21 as id")
    assert caught.value.allow_retries
    assert rows(lake) == [(1,), (2,)]


def test_step_that_began_before_an_unpublishing_publishes_nothing(lake: Lake) -> None:
    both(lake, "first", 1)
    step = lake.step("slow", "s")
    step.write_query(REF, lake.connect(), "select 20 as id")
    go(lake, plan_run(lake, "sales", "first"))
    with pytest.raises(PublishConflictError, match="it was rolled back while this step ran"):
        step.publish()
    assert lake.published(REF) is None


def test_unpublished_state_and_unknown_names_are_refused(lake: Lake) -> None:
    write(lake, "select 1 as id")
    staged = lake.step("r2", "s").write_query(REF, lake.connect(), "select 2 as id")
    for to in (str(staged.snapshot_id), "r2", "4711"):
        with pytest.raises(ConfigError, match="neither a snapshot that was published and is kept, nor a run"):
            plan_table(lake, REF, to=to)
    with pytest.raises(ConfigError, match="no table of project 'sales' has a state that it published"):
        plan_run(lake, "sales", "r2")
    with pytest.raises(ConfigError, match=r"'sales\.marts\.nothing': it was never published"):
        plan_table(lake, TableRef("sales", "marts", "nothing"))
