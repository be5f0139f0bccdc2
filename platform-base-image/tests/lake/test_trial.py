"""A trial of a change makes what a run would publish, and refuses what a run would refuse."""

from __future__ import annotations

from typing import Any

import pytest
from lake_steps import REF, rows, write

from dml_platform.core.errors import SchemaMismatchError
from dml_platform.lake import Lake
from dml_platform.lake.diff import diff_rows
from dml_platform.lake.replay import replayed_name
from dml_platform.lake.trial import TrialStep, trial_step


def tried(lake: Lake, sql: str, **options: Any) -> TrialStep:
    """A trial in which one table was written."""
    step = trial_step(lake, run_id="ci", readable=lake.tables())
    step.write_query(REF, lake.connect(), sql, **options)
    return step


@pytest.mark.parametrize("is_published", [True, False])
@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("select unnest([1, 2, NULL]) as id, 'x' as name", "1 rows have no value in its key (id)"),
        ("select unnest([1, 2, 2]) as id, 'x' as name", "1 values occur more than once in its key (id)"),
    ],
)
def test_a_merge_that_a_run_refuses_is_refused_in_the_same_words(
    local_lake: Lake, sql: str, why: str, is_published: bool
) -> None:
    if is_published:
        write(local_lake, "select 1 as id, 'a' as name")
    refused = []
    for attempt in (write, tried):
        with pytest.raises(SchemaMismatchError) as caught:
            attempt(local_lake, sql, mode="merge", key=["id"])
        refused.append((caught.value.what, caught.value.why, caught.value.fix))
    assert refused[0] == refused[1]
    assert why in refused[1][1]


def test_a_full_refresh_of_a_merged_table_asks_for_no_unique_key_as_in_a_run(local_lake: Lake) -> None:
    write(local_lake, "select 1 as id, 'a' as name")
    sql = "select unnest([2, 2]) as id, 'x' as name"
    step = tried(local_lake, sql, mode="merge", key=["id"], full_refresh=True)
    assert [staged.rows_total for staged in step.staged.values()] == [2]
    write(local_lake, sql, mode="merge", key=["id"], full_refresh=True)  # type: ignore[arg-type]
    assert rows(local_lake) == [(2, "x"), (2, "x")]


def test_what_is_made_has_the_types_that_would_be_stored(local_lake: Lake) -> None:
    sql = """
        select 1 as id, sum(1::bigint) as total, '{"a": 1}'::json as doc, 1::utinyint as small, 'b'::enum('b') as kind
    """
    write(local_lake, sql)
    connection = local_lake.connect()
    local_lake.create_views(connection)
    stored = connection.sql(f"describe {REF.dotted}").fetchall()
    for mode, options in (("table", {}), ("append", {}), ("merge", {"key": ["id"]})):
        step = trial_step(local_lake, run_id="ci", readable=local_lake.tables())
        other = local_lake.connect()
        for _ in range(2):  # the second on what the first made
            step.write_query(REF, other, sql, mode=mode, **options)
        assert other.sql(f"describe {replayed_name(REF)}").fetchall() == stored, mode
        before = f"(SELECT * FROM ({step.pinned[REF].select()}))"
        diff = diff_rows(other, before, replayed_name(REF), table="t", key=["id"] if mode != "append" else [])
        assert diff.is_same == (mode != "append"), mode
        assert diff.columns == ()


def test_a_new_table_has_the_types_that_would_be_stored_and_none_that_cannot_be(local_lake: Lake) -> None:
    connection = local_lake.connect()
    step = trial_step(local_lake, run_id="ci", readable=[])
    step.write_query(REF, connection, "select sum(1::bigint) as total")
    assert connection.sql(f"select typeof(total) from {replayed_name(REF)}").fetchall() == [("DECIMAL(38,0)",)]
    with pytest.raises(SchemaMismatchError, match="INTERVAL, a type that Iceberg does not have"):
        step.write_query(REF, connection, "select interval 1 day as wait", mode="table")


def test_a_wider_type_and_a_new_column_are_as_a_run_would_store_them(local_lake: Lake) -> None:
    write(local_lake, "select 1 as id, 1.5::decimal(10, 2) as x, 'a' as name")
    sql = "select 2::bigint as id, 2.5::decimal(12, 2) as x, 'b' as name, true as is_new"
    connection = local_lake.connect()
    step = trial_step(local_lake, run_id="ci", readable=local_lake.tables())
    step.write_query(REF, connection, sql)
    made = connection.sql(f"select * from {replayed_name(REF)} order by id").fetchall()
    types = [row[1] for row in connection.sql(f"describe {replayed_name(REF)}").fetchall()]
    write(local_lake, sql)
    assert made == rows(local_lake)
    stored = local_lake.connect()
    local_lake.create_views(stored)
    assert types == [row[1] for row in stored.sql(f"describe {REF.dotted}").fetchall()]
