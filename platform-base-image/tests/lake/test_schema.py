"""How a table's columns may change, and which values survive the trip through Iceberg."""

from __future__ import annotations

from datetime import date, datetime, time, timezone
from decimal import Decimal

import pytest
from lake_steps import REF, rows, write

from dml_platform.core.errors import SchemaMismatchError
from dml_platform.lake import Lake


def columns(lake: Lake) -> dict[str, str]:
    relation = lake.sql(f"select * from {REF.dotted}")
    return dict(zip(relation.columns, map(str, relation.types), strict=True))


def current(lake: Lake) -> list[str]:
    """The columns that a reader without our library sees."""
    return [f.name for f in lake.catalog.load_table(REF.identifier).schema().fields]


def test_added_column_is_null_in_old_rows(lake: Lake) -> None:
    write(lake, "select 1 as id")
    write(lake, "select 'x' as name, 2 as id")
    assert rows(lake) == [(1, None), (2, "x")]


@pytest.mark.parametrize(
    ("narrow", "wide", "stored"),
    [
        ("integer", "bigint", "BIGINT"),
        ("float", "double", "DOUBLE"),
        ("decimal(9,2)", "decimal(20,2)", "DECIMAL(20,2)"),
    ],
)
def test_column_widens_and_then_takes_narrow_rows_too(local_lake: Lake, narrow: str, wide: str, stored: str) -> None:
    write(local_lake, f"select 1::{narrow} as n")
    write(local_lake, f"select 2::{wide} as n")
    write(local_lake, f"select 3::{narrow} as n")
    assert columns(local_lake) == {"n": stored}
    assert [float(n) for (n,) in rows(local_lake)] == [1.0, 2.0, 3.0]


def test_other_changes_are_refused_with_the_list_of_differences(lake: Lake) -> None:
    write(lake, "select 1 as id, 'x' as name, 1.5::decimal(4,2) as price, {'a': 1, 'b': 2} as deep, [1] as list")
    with pytest.raises(SchemaMismatchError) as caught:
        write(
            lake,
            "select 'k' as id, 1.5::decimal(4,1) as price, {'a': 'text'} as deep, [true] as list, 1 as fine",
        )
    assert str(caught.value) == (
        "cannot write 'sales.marts.fct_orders': its columns differ: "
        "id: INTEGER in the table, VARCHAR in the rows; "
        "name: VARCHAR in the table, missing in the rows; "
        "price: DECIMAL(4,2) in the table, DECIMAL(4,1) in the rows; "
        "deep.a: INTEGER in the table, VARCHAR in the rows; "
        "deep.b: INTEGER in the table, missing in the rows; "
        "list[]: INTEGER in the table, BOOLEAN in the rows.\n"
        "Restore the columns at the source, or replace the table: "
        "dml run --full-refresh --select key:sales/marts/fct_orders"
    )
    assert current(lake) == ["id", "name", "price", "deep", "list"]
    assert len(rows(lake)) == 1


def test_column_is_not_there_for_anybody_before_it_is_published(lake: Lake) -> None:
    write(lake, "select 1 as id")
    step = lake.step("r2", "s")
    step.write_query(REF, lake.connect(), "select 2 as id, 'x' as name")
    assert current(lake) == ["id"]
    assert columns(lake) == {"id": "INTEGER"}
    step.publish()
    assert current(lake) == ["id", "name"]


def test_failed_step_that_added_a_column_binds_nobody(lake: Lake) -> None:
    write(lake, "select 1 as id")
    lake.step("crashed", "s").write_query(REF, lake.connect(), "select 2 as id, 'x' as name")
    write(lake, "select 3 as id, 4.5::double as name")
    assert columns(lake) == {"id": "INTEGER", "name": "DOUBLE"}
    assert rows(lake) == [(1, None), (3, 4.5)]


def test_full_refresh_replaces_rows_and_columns_at_once(lake: Lake) -> None:
    write(lake, "select 1 as id, 'x' as name, 2 as kept")
    old = lake.pin(REF)
    step = lake.step("r2", "s")
    step.write_query(REF, lake.connect(), "select 'k' as id, 3 as kept, now() as at", full_refresh=True)
    assert current(lake) == ["id", "name", "kept"]
    assert rows(lake) == [(1, "x", 2)]
    step.publish()
    assert columns(lake) == {"kept": "INTEGER", "id": "VARCHAR", "at": "TIMESTAMP WITH TIME ZONE"}
    assert lake.connect().sql(str(old.select())).fetchall() == [(1, "x", 2)]
    assert old.schema.find_field("kept").field_id == lake.pin(REF).schema.find_field("kept").field_id
    assert old.schema.find_field("id").field_id != lake.pin(REF).schema.find_field("id").field_id


def test_full_refresh_wins_over_the_mode(lake: Lake) -> None:
    write(lake, "select 1 as id")
    write(lake, "select 2 as nr", "merge", key=["nr"], full_refresh=True)
    assert rows(lake) == [(2,)]


def test_nested_columns_grow(lake: Lake) -> None:
    write(lake, "select 1 as id, {'a': 1} as s, [{'q': 1}] as l, map {'k': {'v': 1::integer}} as m")
    write(
        lake,
        "select 2 as id, {'b': 'new', 'a': 5000000000} as s, [{'q': 2, 'r': {'deep': true}}] as l,"
        " map {'k': {'v': 6000000000, 'w': 'x'}} as m",
    )
    assert rows(lake) == [
        (1, {"a": 1, "b": None}, [{"q": 1, "r": None}], {"k": {"v": 1, "w": None}}),
        (2, {"a": 5000000000, "b": "new"}, [{"q": 2, "r": {"deep": True}}], {"k": {"v": 6000000000, "w": "x"}}),
    ]
    plain = lake.catalog.load_table(REF.identifier).scan().to_arrow().sort_by("id").to_pylist()
    assert plain[0]["s"] == {"a": 1, "b": None}
    assert plain[1]["l"] == [{"q": 2, "r": {"deep": True}}]


def test_values_of_every_type_come_back(lake: Lake) -> None:
    write(
        lake,
        """select true as b, 1::utinyint as t, 18446744073709551615::ubigint as u, 1.5::float as f,
        -12345678901234567890.12345::decimal(38,5) as d, date '0001-01-01' as day, time '23:59:59.999999' as tm,
        timestamp '1969-12-31 23:59:59.000001' as ts, timestamptz '2026-03-29 02:30:00+02' as tz,
        'Grüße 🦆'::varchar as s, '{"a": 1}'::json as j, 'b'::enum('a', 'b') as e, '\\x00\\xFF'::blob as raw,
        uuid '00000000-0000-0000-0000-000000000001' as id, [1, null]::smallint[] as l, map {1: 'x'} as m""",
    )
    assert rows(lake) == [
        (
            True,
            1,
            Decimal(18446744073709551615),
            1.5,
            Decimal("-12345678901234567890.12345"),
            date(1, 1, 1),
            time(23, 59, 59, 999999),
            datetime(1969, 12, 31, 23, 59, 59, 1),  # noqa: DTZ001 - TIMESTAMP has no zone
            datetime(2026, 3, 29, 0, 30, tzinfo=timezone.utc),
            "Grüße 🦆",
            '{"a": 1}',
            "b",
            b"\x00\xff",
            "00000000-0000-0000-0000-000000000001",
            [1, None],
            {1: "x"},
        )
    ]
    assert lake.catalog.load_table(REF.identifier).scan().to_arrow().num_rows == 1


def test_odd_column_names(lake: Lake) -> None:
    names = ["a b", 'say "hi"', "it's", "SELECT", "Größe", "1st", "x.y", "filename", "Umsatz (€)", "-"]
    select = "select " + ", ".join(f'{i} as "{name.replace(chr(34), chr(34) * 2)}"' for i, name in enumerate(names))
    write(lake, select)
    write(lake, f'{select}, 99 as "new \' one"')
    assert list(columns(lake)) == [*names, "new ' one"]
    found = lake.sql(f"select * from {REF.dotted} order by 11").fetchall()
    assert found == [(*range(len(names)), 99), (*range(len(names)), None)]
    plain = lake.catalog.load_table(REF.identifier).scan().to_arrow()
    assert plain.column_names == [*names, "new ' one"]
    assert plain.num_rows == 2


def test_columns_that_differ_only_in_case_are_a_difference(local_lake: Lake) -> None:
    write(local_lake, 'select 1 as "Id"')
    with pytest.raises(SchemaMismatchError, match="Id: INTEGER in the table, missing in the rows"):
        write(local_lake, "select 1 as id")


def test_second_write_of_a_first_step_is_held_to_the_columns_of_the_first(local_lake: Lake) -> None:
    step, connection = local_lake.step("r1", "s"), local_lake.connect()
    step.write_query(REF, connection, "select 1 as id, 'x' as name")
    with pytest.raises(SchemaMismatchError, match="name: VARCHAR in the table, missing in the rows"):
        step.write_query(REF, connection, "select 2 as id")
