"""Reading: pinned, by field id, with row deletes of other engines, and without this library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lake_steps import OTHER, REF, rows, write
from pyiceberg.expressions import GreaterThan
from pyiceberg.io import InputFile
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
)
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _FastAppendFiles
from pyiceberg.types import StringType

from dml_platform.core.errors import ConfigError, SchemaMismatchError
from dml_platform.core.naming import TableRef
from dml_platform.lake import Lake, create_view, engine
from dml_platform.lake.trial import trial_step


def test_pinned_read_stays_while_main_moves(lake: Lake) -> None:
    write(lake, "select 1 as id")
    connection = lake.connect()
    lake.create_views(connection)
    first = lake.pin(REF)
    write(lake, "select 2 as id, 'x' as name", "table")
    assert connection.sql(f"select * from {REF.dotted}").fetchall() == [(1,)]
    assert rows(lake) == [(2, "x")]
    again = lake.pin(REF, snapshot_id=first.snapshot_id)
    assert connection.sql(str(again.select())).fetchall() == [(1,)]
    assert (again.rows, [f.name for f in again.schema.fields]) == (1, ["id"])


def test_step_pins_what_it_reads(lake: Lake) -> None:
    write(lake, "select 1 as id")
    step = lake.step("r2", "s")
    first = step.pin(REF)
    write(lake, "select 2 as id")
    again = step.pin(REF)
    assert first is not None
    assert again is not None
    assert again.snapshot_id == first.snapshot_id
    assert step.pin(OTHER) is None


def test_readers_read_a_metadata_file_once_and_see_what_is_published_next(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(lake, "select 1 as id")
    (first,) = lake.pin_all([REF])
    real, read = FromInputFile.table_metadata, []

    def count(file: InputFile) -> TableMetadata:
        read.append(file.location)
        return real(file)

    monkeypatch.setattr(FromInputFile, "table_metadata", staticmethod(count))
    assert [pinned.snapshot_id for pinned in lake.pin_all([REF])] == [first.snapshot_id]
    assert read == []
    assert lake.pin(REF).snapshot_id == first.snapshot_id
    assert len(read) == 1  # who may change it reads the file
    write(lake, "select 2 as id", "table", run="r2")
    (second,) = lake.pin_all([REF])
    assert second.snapshot_id != first.snapshot_id
    assert rows(lake) == [(2,)]


def test_unknown_table_and_snapshot_are_named(lake: Lake) -> None:
    with pytest.raises(ConfigError, match=r"cannot read 'sales\.marts\.fct_orders': the lake has no such table"):
        lake.pin(REF)
    write(lake, "select 1 as id")
    with pytest.raises(ConfigError, match=r"it has no snapshot 7\.\n'dml history sales\.marts\.fct_orders' lists"):
        lake.pin(REF, snapshot_id=7)
    with pytest.raises(ConfigError, match=r"cannot read 'sales\.marts\.nope': the lake has no such published table"):
        lake.sql("select * from sales.marts.nope")


def test_sql_joins_and_reads_reserved_names(lake: Lake) -> None:
    order = TableRef("sales", "marts", "order")
    write(lake, "select 1 as id, 'x' as name")
    write(lake, "select 1 as id, 2 as n", ref=order)
    query = f'with t as (select * from {REF.dotted}) select name, n from t join sales.marts."order" using (id)'
    assert lake.sql(query).fetchall() == [("x", 2)]
    assert lake.df(REF).to_dict("list") == {"id": [1], "name": ["x"]}
    assert lake.sql("select 42").fetchall() == [(42,)]


def test_history_is_newest_first(lake: Lake) -> None:
    write(lake, "select 1 as id", run="a")
    write(lake, "select 2 as id", run="b")
    assert [(i.summary["run_id"], i.rows_total) for i in lake.history(REF)] == [("b", 2), ("a", 1)]


def test_tables_are_listed_and_others_names_passed_over(lake: Lake) -> None:
    assert lake.tables() == []
    write(lake, "select 1 as id")
    lake.catalog.create_namespace_if_not_exists(("Other",))
    lake.catalog.create_table(("Other", "Tool"), pa.schema([("a", pa.int64())]))
    assert lake.tables() == [REF]
    assert lake.tables("sales") == [REF]
    assert lake.tables("else") == []


def test_filter_prunes_files(lake: Lake) -> None:
    write(lake, "select range as id from range(10)")
    write(lake, "select range + 1000 as id from range(10)")
    assert len(lake.pin(REF).files(GreaterThan("id", 500))[0]) == 1  # type: ignore[call-arg]


def test_column_renamed_by_another_engine_is_read_by_its_id(lake: Lake) -> None:
    write(lake, "select 1 as id, 'x' as name")
    with lake.catalog.load_table(REF.identifier).update_schema() as change:
        change.rename_column("name", "label")
    lake.catalog.load_table(REF.identifier).append(
        pa.table({"id": pa.array([2], pa.int32()), "label": pa.array(["y"])})
    )
    assert rows(lake) == [(1, "x"), (2, "y")]
    assert lake.sql(f"select label from {REF.dotted}").columns == ["label"]


def test_odd_names_written_by_another_engine(lake: Lake) -> None:
    write(lake, 'select 1::bigint as "a b", 2::bigint as "größe"')
    lake.catalog.load_table(REF.identifier).append(pa.table({"a b": [3], "größe": [4]}))
    assert lake.sql(f"select * from {REF.dotted}").columns == ["a b", "größe"]
    assert rows(lake) == [(1, 2), (3, 4)]


def delete_rows(table: Table, file_path: str, positions: list[int]) -> None:
    """Delete rows as Spark does, merge-on-read; pyiceberg itself only writes copy-on-write."""
    path = f"{table.location()}/data/{uuid.uuid4()}-deletes.parquet"
    fields = [
        pa.field("file_path", pa.string(), False, {"PARQUET:field_id": "2147483546"}),
        pa.field("pos", pa.int64(), False, {"PARQUET:field_id": "2147483545"}),
    ]
    content = pa.table([[file_path] * len(positions), positions], schema=pa.schema(fields))
    with table.io.new_output(path).create() as stream:
        pq.write_table(content, stream)
    delete_file = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=next(iter(table.scan().plan_files())).file.partition,
        record_count=len(positions),
        file_size_in_bytes=len(table.io.new_input(path)),
        spec_id=0,
    )
    with (
        table.transaction() as transaction,
        _AddDeletes(Operation.OVERWRITE, transaction, table.io, branch="main") as snapshot,
    ):
        snapshot.delete_file = delete_file


class _AddDeletes(_FastAppendFiles):
    delete_file: DataFile

    def _manifests(self) -> list[ManifestFile]:
        with self.new_manifest_writer(self._transaction.table_metadata.spec()) as writer:
            writer.content = lambda: ManifestContent.DELETES  # type: ignore[method-assign]
            writer.add(ManifestEntry.from_args(status=ManifestEntryStatus.ADDED, data_file=self.delete_file))
        return [*super()._manifests(), writer.to_manifest_file()]


def test_row_deletes_of_another_engine_are_applied(lake: Lake) -> None:
    write(lake, "select range as id, 'n' || range as name from range(5)")
    pinned = lake.pin(REF)
    delete_rows(pinned.table, pinned.files()[0][0], [1, 3])
    assert lake.pin(REF).select() is None
    assert [row[0] for row in rows(lake)] == [0, 2, 4]
    connection = lake.connect()
    create_view(connection, pinned)
    create_view(connection, lake.pin(REF))
    create_view(connection, pinned)
    assert len(connection.sql(f"from {REF.dotted}").fetchall()) == 5
    with pytest.raises(SchemaMismatchError, match=r"another engine left row deletes in it, .*\nRewrite"):
        write(lake, "select 2 as id, 'x' as name", "merge", key=["id"])
    trial = trial_step(lake, run_id="ci", readable=[REF])
    with pytest.raises(SchemaMismatchError, match=r"another engine left row deletes in it, .*\nRewrite"):
        trial.write_query(REF, connection, "select 2 as id, 'x' as name", mode="merge", key=["id"])
    write(lake, "select 9 as id, 'x' as name")
    assert [row[0] for row in rows(lake)] == [0, 2, 4, 9]
    write(lake, "select 7 as id, 'x' as name", "table")
    assert rows(lake) == [(7, "x")]


def test_files_added_without_field_ids_are_read_when_a_column_changed(lake: Lake) -> None:
    write(lake, "select 1::bigint as id, 'ours' as name")
    table = lake.catalog.load_table(REF.identifier)
    path = f"{table.location()}/data/theirs.parquet"
    with table.io.new_output(path).create() as stream:
        pq.write_table(pa.table({"id": [2], "name": ["theirs"]}), stream)
    table.add_files([path])
    assert lake.pin(REF).select() is not None
    assert rows(lake) == [(1, "ours"), (2, "theirs")]
    with table.update_schema() as change:
        change.rename_column("name", "label")
    write(lake, "select 3::bigint as id, 'new' as label", "append")
    assert lake.pin(REF).select() is None
    assert rows(lake) == [(1, "ours"), (2, "theirs"), (3, "new")]
    with pytest.raises(SchemaMismatchError, match="files without field ids"):
        write(lake, "select 2::bigint as id, 'x' as label", "merge", key=["id"])


def test_renamed_and_dropped_parts_of_a_nested_column_keep_their_values(lake: Lake) -> None:
    write(lake, "select 1 as id, {'a': 1, 'b': 'x'} as s")
    with lake.catalog.load_table(REF.identifier).update_schema() as change:
        change.rename_column(("s", "a"), "count")
    write(lake, "select 2 as id, {'count': 2, 'b': 'y'} as s", "append")
    assert rows(lake) == [(1, {"count": 1, "b": "x"}), (2, {"count": 2, "b": "y"})]
    with lake.catalog.load_table(REF.identifier).update_schema(allow_incompatible_changes=True) as change:
        change.delete_column(("s", "b"))
    with lake.catalog.load_table(REF.identifier).update_schema() as change:
        change.add_column(("s", "b"), StringType())
    write(lake, "select 3 as id, {'count': 3, 'b': 'z'} as s", "append")
    assert [row[1]["b"] for row in rows(lake)] == [None, None, "z"]


PLAIN = """
import json, sys
import duckdb
from pyiceberg.catalog.sql import SqlCatalog
from pathlib import Path
assert not any(name.startswith("dml_platform") for name in sys.modules)
table = SqlCatalog("dml", uri=sys.argv[1], warehouse=sys.argv[2]).load_table("sales.marts.fct_orders")
connection = duckdb.connect(config={"extension_directory": sys.argv[3]})
for name in ("avro", "iceberg"):
    package = __import__(f"duckdb_extension_{name}")
    file = Path(package.__path__[0], "extensions", f"v{duckdb.__version__}", f"{name}.duckdb_extension")
    connection.execute(f"INSTALL '{file}'")
    connection.execute(f"LOAD {name}")
print(json.dumps({
    "pyiceberg": sorted(table.scan().to_arrow().to_pylist(), key=lambda row: row["id"]),
    "iceberg_scan": connection.sql(
        f"select * from iceberg_scan('{table.metadata_location}') order by id").fetchall(),
}, default=str))
"""


def test_plain_pyiceberg_and_plain_duckdb_read_our_tables(local_lake: Lake, tmp_path: Path) -> None:
    write(local_lake, "select 1 as id, 'a' as \"my name\", {'x': 1} as s")
    write(local_lake, "select 5000000000 as id, 'b' as \"my name\", {'x': 2, 'y': 3} as s, 1.5::decimal(9,2) as d")
    write(
        local_lake,
        "select 1 as id, 'A' as \"my name\", {'x': 1, 'y': 1} as s, 2::decimal(9,2) as d",
        "merge",
        key=["id"],
    )
    local_lake.step("unpublished", "s").write_query(REF, local_lake.connect(), "select 9 as id", full_refresh=True)
    settings = local_lake.settings
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, settings.catalog_uri, settings.warehouse, str(tmp_path / "extensions")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONNOUSERSITE": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["my name"] for row in found["pyiceberg"]] == ["A", "b"]
    assert [row[1] for row in found["iceberg_scan"]] == ["A", "b"]
    assert found["iceberg_scan"][1][2] == {"x": 2, "y": 3}


def test_every_cursor_counts_in_utc_wherever_the_machine_is(local_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    with duckdb.connect() as connection:
        engine.configure(connection, local_lake.settings)
        for seen in (connection, connection.cursor(), connection.cursor().cursor()):
            assert seen.execute("select current_setting('TimeZone')").fetchall() == [("UTC",)]
