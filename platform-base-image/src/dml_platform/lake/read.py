"""Reading natively: a pinned snapshot's Parquet files, given to DuckDB's own reader.

Files are matched by field id when the table's schema ever changed; where a file carries row deletes
(other engines write them) the rows go through pyiceberg instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from duckdb import DuckDBPyConnection
from pyiceberg.expressions import BooleanExpression
from pyiceberg.schema import Schema
from pyiceberg.table import ALWAYS_TRUE, DataScan, Table
from pyiceberg.table.refs import MAIN_BRANCH

from dml_platform.core.naming import TableRef
from dml_platform.lake.engine import quote, quote_name
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
        """The data files that can hold matching rows, and whether any carries row deletes."""
        if self.snapshot_id is None:
            return [], False
        # The filter's columns are those of the snapshot, which on a branch may be ahead of the table's.
        metadata = self.table.metadata.model_copy(update={"current_schema_id": self.schema.schema_id})
        scan = DataScan(
            table_metadata=metadata, io=self.table.io, row_filter=where or ALWAYS_TRUE, snapshot_id=self.snapshot_id
        )
        tasks = list(scan.plan_files())
        return [task.file.file_path for task in tasks], any(task.delete_files for task in tasks)

    def select(self, where: BooleanExpression | None = None) -> str | None:
        """A SELECT over the snapshot's files (a superset of the matching rows), or None when it has row deletes."""
        paths, has_deletes = self.files(where)
        return None if has_deletes else self.select_files(paths)

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
