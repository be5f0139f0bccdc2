"""Two states of a table: which rows came, went and changed, and in which columns; no value comes out."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from dml_platform.lake.diff import ColumnDiff, diff_rows


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def rows(values: str, columns: str = "id, name, amount") -> str:
    return f"(SELECT * FROM (VALUES {values}) AS t({columns}))"


BEFORE = rows("(1, 'a', 10), (2, 'b', 20), (3, 'c', NULL)")


def test_rows_are_told_apart_by_key_and_counted_by_column(connection: duckdb.DuckDBPyConnection) -> None:
    after = rows("(1, 'a', 10), (2, 'B', 21), (3, 'c', 30), (4, 'd', 40)")
    found = diff_rows(connection, BEFORE, after, table="t", key=["id"])
    assert (found.rows_before, found.rows_after) == (3, 4)
    assert (found.added, found.removed, found.changed) == (1, 0, 2)
    assert found.columns == (ColumnDiff("name", "changed", rows=1), ColumnDiff("amount", "changed", rows=2))
    assert not found.is_same
    assert "'B'" not in str(found.as_dict())


def test_the_same_rows_in_another_order_are_the_same(connection: duckdb.DuckDBPyConnection) -> None:
    after = rows("(3, 'c', NULL), (1, 'a', 10), (2, 'b', 20)")
    assert diff_rows(connection, BEFORE, after, table="t", key=["id"]).is_same
    assert diff_rows(connection, BEFORE, after, table="t").is_same


def test_floats_that_only_look_different_and_the_platforms_columns_do_not_count(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    before = "(SELECT 1 AS id, 0.1::DOUBLE + 0.2::DOUBLE AS x, 'r1' AS _run_id)"
    after = "(SELECT 1 AS id, 0.3::DOUBLE AS x, 'r2' AS _run_id)"
    assert diff_rows(connection, before, after, table="t", key=["id"]).is_same


def test_a_float_that_got_another_type_differs_only_where_its_digits_do(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    before = "(SELECT * FROM (VALUES (1, 12345678901.25::DOUBLE), (2, 1.5)) AS t(id, x))"
    for after in (f"(SELECT id, x::DECIMAL(18, 2) AS x FROM {before})", f"(SELECT id, x::VARCHAR AS x FROM {before})"):
        found = diff_rows(connection, before, after, table="t", key=["id"])
        assert (found.changed, [column.what for column in found.columns]) == (0, ["retyped"])
        assert (found.added, found.removed) == (0, 0)
        without = diff_rows(connection, before, after, table="t")
        assert (without.added, without.removed) == (0, 0)
    other = "(SELECT id, x::DECIMAL(18, 2) + id - 1 AS x FROM " + before + ")"
    assert diff_rows(connection, before, other, table="t", key=["id"]).changed == 1


def test_a_key_of_floats_tells_rows_apart_that_look_the_same_in_nine_digits(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    before = "(SELECT * FROM (VALUES (1.0000000001::DOUBLE, 1), (1.0000000002, 2)) AS t(id, v))"
    assert diff_rows(connection, before, before, table="t", key=["id"]).is_same
    after = "(SELECT * FROM (VALUES (1.0000000001::DOUBLE, 1), (1.0000000002, 3)) AS t(id, v))"
    assert diff_rows(connection, before, after, table="t", key=["id"]).changed == 1


def test_a_key_that_is_no_key_in_the_type_that_it_had_is_not_used(connection: duckdb.DuckDBPyConnection) -> None:
    before, after = "(SELECT 1 AS id, 'a' AS v)", "(SELECT unnest(['1', '01']) AS id, 'a' AS v)"
    found = diff_rows(connection, before, after, table="t", key=["id"])
    assert "its key id is not unique in the new rows" in found.note
    assert (found.added, found.removed, found.changed) == (1, 0, 0)


def test_columns_that_come_go_or_change_their_type_are_named(connection: duckdb.DuckDBPyConnection) -> None:
    after = "(SELECT id::VARCHAR AS id, name, 1 AS extra FROM (VALUES (1, 'a'), (2, 'b'), (3, 'c')) AS t(id, name))"
    found = diff_rows(connection, BEFORE, after, table="t", key=["id"])
    assert found.columns == (
        ColumnDiff("amount", "removed", was="INTEGER"),
        ColumnDiff("extra", "added", now="INTEGER"),
        ColumnDiff("id", "retyped", was="INTEGER", now="VARCHAR"),
    )
    assert (found.added, found.removed, found.changed) == (0, 0, 0)


@pytest.mark.parametrize(
    ("key", "note"),
    [
        ([], "no key is known"),
        (["name"], "its key name is not unique in the new rows"),
        (["gone"], "its key gone is not on both sides"),
    ],
)
def test_without_a_key_a_changed_row_is_one_gone_and_one_new_and_the_note_says_why(
    connection: duckdb.DuckDBPyConnection, key: list[str], note: str
) -> None:
    after = rows("(1, 'a', 10), (2, 'a', 20), (3, 'c', NULL)")
    found = diff_rows(connection, BEFORE, after, table="t", key=key)
    assert (found.added, found.removed, found.changed) == (1, 1, 0)
    assert found.key == ()
    assert note in found.note


def test_a_table_that_comes_or_goes(connection: duckdb.DuckDBPyConnection) -> None:
    assert diff_rows(connection, None, BEFORE, table="t").added == 3
    gone = diff_rows(connection, BEFORE, None, table="t")
    assert (gone.removed, gone.note, gone.is_same) == (3, "removed table", False)
