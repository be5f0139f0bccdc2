"""Reading natively: a pinned snapshot's Parquet files, given to DuckDB's own reader.

Files are matched by field id when the table's schema ever changed. What DuckDB's reader would read wrongly
goes through pyiceberg instead: files with row deletes, which other engines write; files without field ids whose columns
changed since they were added; a part of a nested column that got another name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection
from pyiceberg.expressions import BooleanExpression
from pyiceberg.schema import Schema
from pyiceberg.table import ALWAYS_TRUE, DataScan, Table
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.types import IcebergType, ListType, MapType, NestedField, StructType

from dml_platform.core.naming import TableRef
from dml_platform.lake.engine import quote, quote_name
from dml_platform.lake.filelists import find_files
from dml_platform.lake.schema import duckdb_type

_PLAIN_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class PinnedTable:
    """A table as of one snapshot. ``snapshot_id`` None means never published: columns but no rows."""

    ref: TableRef
    table: Table
    snapshot_id: int | None

    @cached_property
    def schema(self) -> Schema:
        """The schema that the snapshot was written with."""
        if self.snapshot_id is None:
            return self.table.schema()
        snapshot = self.table.snapshot_by_id(self.snapshot_id)
        if snapshot is None or snapshot.schema_id is None:
            return self.table.schema()
        return self.table.schemas()[snapshot.schema_id]

    @property
    def rows(self) -> int:
        """Rows in the snapshot, from its summary."""
        if self.snapshot_id is None:
            return 0
        snapshot = self.table.snapshot_by_id(self.snapshot_id)
        properties = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
        return int(properties.get("total-records", 0))

    def files(self, where: BooleanExpression | None = None) -> tuple[list[str], bool]:
        """The data files that can hold matching rows, and whether only pyiceberg reads all of them rightly."""
        if self.snapshot_id is None:
            return [], False
        snapshot = self.table.snapshot_by_id(self.snapshot_id)
        if where is None and snapshot is not None:
            paths, has_deletes = find_files(snapshot.manifest_list, self._plan)
        else:
            paths, has_deletes = self._plan(where)
        # The table's columns may change while the snapshot stays, so this is never remembered.
        return paths, has_deletes or self._has_moved_parts or self._lack_field_ids(paths)

    def _plan(self, where: BooleanExpression | None = None) -> tuple[list[str], bool]:
        # The filter's columns are those of the snapshot, which on a branch may be ahead of the table's.
        metadata = self.table.metadata.model_copy(update={"current_schema_id": self.schema.schema_id})
        scan = DataScan(
            table_metadata=metadata, io=self.table.io, row_filter=where or ALWAYS_TRUE, snapshot_id=self.snapshot_id
        )
        tasks = list(scan.plan_files())
        return [task.file.file_path for task in tasks], any(task.delete_files for task in tasks)

    def select(self, where: BooleanExpression | None = None) -> str | None:
        """A SELECT over the snapshot's files (a superset of the matching rows), or None where only pyiceberg can."""
        paths, needs_pyiceberg = self.files(where)
        return None if needs_pyiceberg else self.select_files(paths)

    def select_files(self, paths: Sequence[str], *, filename: str | None = None) -> str:
        """A SELECT over some of the snapshot's files, with each row's file in column ``filename`` if wanted."""
        if not paths:
            columns = ", ".join(
                f"CAST(NULL AS {duckdb_type(f.field_type)}) AS {quote_name(f.name)}" for f in self.schema.fields
            )
            return f"SELECT {columns} WHERE false"
        arguments = ["[" + ", ".join(quote(path) for path in paths) + "]"]
        if self._needs_field_ids:
            by_id = ", ".join(
                f"{f.field_id}: {{name: {quote(f.name)}, type: {quote(duckdb_type(f.field_type))}, "
                "default_value: NULL}"
                for f in self.schema.fields
            )
            arguments.append(f"schema=MAP {{{by_id}}}")
        if filename:
            arguments.append(f"filename={quote(filename)}")
        return f"SELECT * FROM read_parquet({', '.join(arguments)})"

    @property
    def _needs_field_ids(self) -> bool:
        """Whether a file may name its columns otherwise than the schema.

        Also in a table that never changed: pyiceberg and Java write ``a b`` as ``a_x20b``.
        """
        return len(self.table.schemas()) > 1 or not all(_PLAIN_NAME.fullmatch(f.name) for f in self.schema.fields)

    @cached_property
    def _has_moved_parts(self) -> bool:
        """Whether a part of a nested column had another name, or its name was another part's.

        DuckDB 1.5 matches the parts by name: the first is an error, the second the values of a dropped column.
        """
        for field in self.schema.fields:
            now = dict(_parts(field.field_type))
            for schema in self.table.schemas().values():
                then = next((f for f in schema.fields if f.field_id == field.field_id), field)
                before = dict(_parts(then.field_type))
                ways = {field_id: way for way, field_id in before.items()}
                if any(before.get(way, i) != i or ways.get(i, way) != way for way, i in now.items()):
                    return True
        return False

    def _lack_field_ids(self, paths: Sequence[str]) -> bool:
        """Whether a file that has to be matched by field id has none: DuckDB would read its columns as NULL.

        Only a table with a name mapping may have such files (Iceberg table spec, "Column Projection").
        """
        if not self._needs_field_ids or self.table.name_mapping() is None:
            return False
        for path in paths:
            with self.table.io.new_input(path).open() as stream:
                columns = pq.read_schema(stream)
            if any(b"PARQUET:field_id" not in (column.metadata or {}) for column in columns):
                return True
        return False


def _parts(of: IcebergType, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Names and field ids of everything inside a nested type, by the way to it."""
    inside: tuple[NestedField, ...] = ()
    if isinstance(of, StructType):
        inside = of.fields
    elif isinstance(of, ListType):
        inside = (of.element_field,)
    elif isinstance(of, MapType):
        inside = (of.key_field, of.value_field)
    for field in inside:
        way = (*above, field.name)
        yield way, field.field_id
        yield from _parts(field.field_type, way)


def pin(ref: TableRef, table: Table, *, branch: str = MAIN_BRANCH) -> PinnedTable:
    """Fix a table at the snapshot that ``branch`` has now."""
    reference = table.refs().get(branch)
    return PinnedTable(ref, table, reference.snapshot_id if reference else None)


def create_view(connection: DuckDBPyConnection, pinned: PinnedTable) -> None:
    """Make the pinned snapshot readable as ``project.layer.name`` in a DuckDB connection.

    The project is attached as an in-memory database where the connection has none of that name.
    """
    ref = pinned.ref
    connection.execute(f"ATTACH IF NOT EXISTS ':memory:' AS {quote_name(ref.project)}")
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote_name(ref.project)}.{quote_name(ref.layer)}")
    select = pinned.select()
    if select is None:
        # pyiceberg applies the deletes; the rows are kept in DuckDB, which spills what does not fit.
        rows = f"{quote_name(ref.project)}.{quote_name(ref.layer)}.{quote_name(f'_dml_rows_{pinned.snapshot_id}')}"
        name = f"_dml_reader_{pinned.snapshot_id}"
        connection.register(name, pinned.table.scan(snapshot_id=pinned.snapshot_id).to_arrow_batch_reader())
        connection.execute(f"CREATE OR REPLACE TABLE {rows} AS SELECT * FROM {name}")
        connection.unregister(name)
        select = f"SELECT * FROM {rows}"
    connection.execute(f"CREATE OR REPLACE VIEW {ref.sql} AS {select}")
