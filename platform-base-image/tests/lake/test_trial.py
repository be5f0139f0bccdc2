"""A trial of a change makes what a run would publish, and refuses what a run would refuse."""

from __future__ import annotations

from typing import Any

import pytest
from lake_steps import REF, rows, write

from dml_platform.core.errors import SchemaMismatchError
from dml_platform.lake import Lake
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
