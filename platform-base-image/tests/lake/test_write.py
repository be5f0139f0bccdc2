"""What a table holds after writes of each mode, on both backends."""

from __future__ import annotations

import pyarrow as pa
import pytest
from lake_steps import REF, rows, write

from dml_platform.core.errors import ConfigError, SchemaMismatchError
from dml_platform.lake import Lake, Mode
from dml_platform.lake.engine import constant


def test_append_adds_rows(lake: Lake) -> None:
    write(lake, "select 1 as id, 'a' as name")
    write(lake, "select 2 as id, 'b' as name")
    assert rows(lake) == [(1, "a"), (2, "b")]


def test_table_replaces_all_rows(lake: Lake) -> None:
    write(lake, "select unnest([1, 2, 3]) as id", "table")
    write(lake, "select 9 as id", "table")
    assert rows(lake) == [(9,)]


def test_table_mode_with_no_rows_empties_the_table(lake: Lake) -> None:
    write(lake, "select 1 as id, 'a' as name")
    write(lake, "select 1 as id, 'a' as name where false", "table")
    assert rows(lake) == []
    assert lake.sql(f"select * from {REF.dotted}").columns == ["id", "name"]


@pytest.mark.parametrize("mode", ["table", "append", "merge"])
def test_first_write_with_no_rows_publishes_the_columns(lake: Lake, mode: Mode) -> None:
    write(lake, "select 1 as id, 'a' as name where false", mode, key=["id"])
    assert rows(lake) == []
    assert lake.sql(f"select * from {REF.dotted}").columns == ["id", "name"]


def test_merge_replaces_rows_with_the_same_key_and_keeps_the_others(lake: Lake) -> None:
    write(lake, "select * from (values (1, 'a'), (2, 'b'), (3, 'c')) t(id, name)")
    write(lake, "select * from (values (2, 'B'), (4, 'D')) t(id, name)", "merge", key=["id"])
    assert rows(lake) == [(1, "a"), (2, "B"), (3, "c"), (4, "D")]


def test_merge_twice_gives_the_same_table(lake: Lake) -> None:
    for _ in range(2):
        write(lake, "select range as id, range * 2 as n from range(100)", "merge", key=["id"])
    assert rows(lake) == [(i, 2 * i) for i in range(100)]


def test_an_enum_is_stored_as_text_and_takes_other_texts_later(lake: Lake) -> None:
    name = constant("it's")
    select = f"select 1 as id, {name} as name"
    write(lake, select)
    write(lake, "select 2 as id, 'b' as name")
    write(lake, select.replace("1 as id", "3 as id"), "merge", key=["id"])
    assert rows(lake) == [(1, "it's"), (2, "b"), (3, "it's")]
    assert str(lake.pin(REF).schema.find_type("name")) == "string"


def test_merge_leaves_files_without_a_replaced_row_alone(lake: Lake) -> None:
    write(lake, "select 1 as id")
    write(lake, "select 2 as id")
    before = set(lake.pin(REF).files()[0])
    write(lake, "select 2 as id", "merge", key=["id"])
    after = set(lake.pin(REF).files()[0])
    assert len(before & after) == 1
    assert len(after) == 2


def test_merge_by_several_odd_columns_beside_one_named_filename(lake: Lake) -> None:
    columns = 'select {} as "Order Id", {!r} as "say ""hi""", {!r} as filename'
    write(lake, columns.format(1, "x", "f1"))
    write(lake, columns.format(1, "y", "f2"))
    write(lake, columns.format(1, "y", "f3"), "merge", key=["Order Id", 'say "hi"'])
    assert rows(lake) == [(1, "x", "f1"), (1, "y", "f3")]


def test_merge_refuses_a_key_that_occurs_twice(lake: Lake) -> None:
    with pytest.raises(SchemaMismatchError, match=r"1 values occur more than once in its key \(id\)"):
        write(lake, "select 1 as id from range(2)", "merge", key=["id"])


def test_merge_refuses_a_key_that_is_null(lake: Lake) -> None:
    with pytest.raises(SchemaMismatchError, match=r"2 rows have no value in its key \(id\)"):
        write(lake, "select * from (values (1), (null), (null)) t(id)", "merge", key=["id"])


def test_merge_needs_a_key_that_the_rows_have(lake: Lake) -> None:
    with pytest.raises(ConfigError, match=r"no key is given.\nName the key's columns \(dbt: unique_key\)"):
        write(lake, "select 1 as id", "merge")
    with pytest.raises(ConfigError, match=r"the key's columns \['nr'\] are not in the rows"):
        write(lake, "select 1 as id", "merge", key=["nr"])
    assert lake.tables() == []


def test_merge_into_new_columns_and_wider_types(lake: Lake) -> None:
    write(lake, "select 1::integer as id, 'a' as name")
    write(lake, "select 3000000000 as id, 'b' as name, true as is_new", "merge", key=["id"])
    assert rows(lake) == [(1, "a", None), (3000000000, "b", True)]


def test_several_writes_in_a_step_stack_and_publish_once(lake: Lake) -> None:
    write(lake, "select 0 as id")
    step, connection = lake.step("r2", "stack"), lake.connect()
    step.write_query(REF, connection, "select 1 as id")
    step.write_query(REF, connection, "select 2 as id, 'n' as name")
    staged = step.write_query(REF, connection, "select 1 as id, 'one' as name", mode="merge", key=["id"])
    assert (staged.rows_written, staged.rows_total) == (1, 3)
    assert rows(lake) == [(0,)]
    step.publish()
    assert rows(lake) == [(0, None), (1, "one"), (2, "n")]


def test_step_reads_what_it_wrote_and_others_read_main(lake: Lake) -> None:
    write(lake, "select 1 as id")
    step, connection = lake.step("r2", "s"), lake.connect()
    step.write_query(REF, connection, "select 2 as id")
    mine = step.pin(REF)
    assert mine is not None
    assert sorted(connection.sql(str(mine.select())).fetchall()) == [(1,), (2,)]
    assert rows(lake) == [(1,)]


def test_write_batches_takes_a_reader_a_table_and_batches(lake: Lake) -> None:
    table = pa.table({"id": [1, 2]})
    step, connection = lake.step("r1", "batches"), lake.connect()
    step.write_batches(REF, connection, table)
    step.write_batches(REF, connection, table.to_reader())
    staged = step.write_batches(REF, connection, iter(table.to_batches()), schema=table.schema)
    assert staged.rows_total == 6
    with pytest.raises(ConfigError, match="the batches have no schema"):
        step.write_batches(REF, connection, iter(table.to_batches()))


def test_summary_says_who_wrote_what_from_which_commit(lake: Lake) -> None:
    write(lake, "select unnest([1, 2, 3]) as id", summary={"state": '{"cursor": "ü"}'})
    (info,) = lake.history(REF)
    assert info.rows_total == 3
    assert info.operation == "append"
    assert info.summary["run_id"] == "r1"
    assert info.summary["step"] == "write"
    assert info.summary["rows"] == "3"
    assert info.summary["state"] == '{"cursor": "ü"}'
    assert info.summary["git_commit"]


def test_a_failing_query_writes_nothing(lake: Lake) -> None:
    write(lake, "select 1 as id")
    with pytest.raises(Exception, match="Could not convert string"):
        write(lake, "select case when range > 90000 then 'x' else '1' end::integer as id from range(100000)")
    assert rows(lake) == [(1,)]
    write(lake, "select 2 as id")
    assert rows(lake) == [(1,), (2,)]


def test_two_columns_of_one_name_are_refused(lake: Lake) -> None:
    with pytest.raises(SchemaMismatchError, match=r"columns \['a'\] occur twice"):
        write(lake, 'select 1 as a, 2 as "A"')


def test_type_that_iceberg_does_not_have_is_refused(lake: Lake) -> None:
    with pytest.raises(SchemaMismatchError, match="column 'd' is INTERVAL, a type that Iceberg does not have"):
        write(lake, "select interval 1 day as d")


def test_replacing_a_table_again_and_again_keeps_as_many_manifests(lake: Lake) -> None:
    def count_manifests() -> int:
        table = lake.catalog.load_table(REF.identifier)
        snapshot = table.current_snapshot()
        assert snapshot is not None
        return len(snapshot.manifests(table.io))

    counts = []
    for number in range(5):
        step = lake.step(f"r{number}", "replace")
        step.write_query(REF, lake.connect(), f"select {number} as n", mode="table")
        step.publish()
        counts.append(count_manifests())
    assert counts == [1, 2, 2, 2, 2]
    assert rows(lake) == [(4,)]
