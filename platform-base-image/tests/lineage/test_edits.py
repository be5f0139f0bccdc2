"""Which columns a change of SQL touches: named where they can be, all where rows may be others, none for comments."""

from __future__ import annotations

import pytest

from dml_platform.lineage.edits import touched_columns


@pytest.mark.parametrize(
    ("before", "after", "touched"),
    [
        ("select id, x / 100 as y from t", "select id, x / 1000 as y, note from t", {"y"}),
        ("select id from t", "SELECT id /* why */\nFROM t -- it is so", set()),
        ("select id, state from t", "select id from t", set()),
        (
            "with s as (select id, x / 100 as y, a from t), f as (select * from s) select * from f",
            "with s as (select id, x / 1000 as y, b from t), f as (select * from s) select * from f",
            {"y"},
        ),
        (
            "with s as (select id, x + 1 as y from t) select id, y * 2 as z, id * 2 as w from s",
            "with s as (select id, x + 2 as y from t) select id, y * 2 as z, id * 2 as w from s",
            {"y", "z"},
        ),
        ("select x + 1 as y, y * 2 as z from t", "select x + 2 as y, y * 2 as z from t", {"y", "z"}),
        (
            "select k, sum(x) as s from t group by all",
            "select k, sum(x) / 2 as s, count(*) as n from t group by all",
            {"s"},
        ),
        ("select k, sum(x) as s from t group by 1", "select k, sum(y) as s from t group by 1", {"s"}),
        (
            "with a as (select 1 as x) select x from a union all select 2 as x",
            "with a as (select 1 as x, 2 as y) select x from a union all select 2 as x",
            set(),
        ),
        ("select * from t", "select * replace (x * 2 as x) from t", {"x"}),
        ("select t.* replace (x * 2 as x), id from t", "select t.* replace (x * 3 as x), id from t", {"x"}),
        (
            "with a as (select id, x + 1 as x from t) select * replace (x * 2 as x) from a",
            "with a as (select id, x + 2 as x from t) select * replace (x * 2 as x) from a",
            {"x"},
        ),
        ("select ((", "select  ((", set()),
    ],
)
def test_columns_that_are_computed_otherwise_are_named(before: str, after: str, touched: set[str]) -> None:
    assert touched_columns(before, after) == touched


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("select id from t", "select id from t where id > 1"),
        ("select id from t", "select id from t limit 1"),
        ("select * from t", "select * exclude (x) from t"),
        ("select * from t", "select * exclude (y) replace (x * 2 as x) from t"),
        ("select distinct id from t", "select distinct id, x from t"),
        ("select k, sum(x) as s from t group by all", "select k, l, sum(x) as s from t group by all"),
        ("select k, l, sum(x) as s from t group by 1", "select l, k, sum(x) as s from t group by 1"),
        ("select max(id) as id from t", "select id from t"),
        ("select id, unnest(a) as x from t", "select id, unnest(b) as x from t"),
        ("select id from t union all select id from u", "select id from t union select id from u"),
        ("with a(x, y) as (from t) select x from a", "with a(y, x) as (from t) select x from a"),
        ("select id from t", "with a as (select 1) select id from t"),
        ("select ((", "select ("),
    ],
)
def test_other_rows_touch_every_column(before: str, after: str) -> None:
    assert touched_columns(before, after) is None


@pytest.mark.parametrize(
    "rest",
    [
        "select id from a where x > 1",
        "select distinct * from a",
        "select * from a union all select * from b",
        "select id, hash(a) as h from a",
        "select id from b where id in (select * from a)",
        "select i from a as t(i, j)",
        "pivot a on k using sum(v)",
    ],
)
def test_a_touched_column_that_can_reach_any_touches_every_column(rest: str) -> None:
    def version(number: int) -> str:
        return f"with a as (select id, x + {number} as x from t), b as (select 1 as id, 2 as x) {rest}"

    assert touched_columns(version(1), version(2)) is None
