"""Write, audit, publish: a step stages tables on a branch, then all of them become visible at once.

Rows are written by DuckDB as Parquet files with Iceberg's field ids, in bounded memory; pyiceberg
commits the files to the step's branch. ``main`` only moves in :meth:`Step.publish`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from duckdb import DuckDBPyConnection
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import parquet_files_to_data_files
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.snapshots import ancestors_of
from pyiceberg.table.update import AssertRefSnapshotId, RemoveSnapshotRefUpdate, SetSnapshotRefUpdate
from pyiceberg.table.update.snapshot import ManageSnapshots

from dml_platform.core.errors import ConfigError, PublishConflictError, SchemaMismatchError
from dml_platform.core.naming import TableRef
from dml_platform.core.settings import Settings
from dml_platform.lake import catalog as catalogs
from dml_platform.lake.engine import quote, quote_name
from dml_platform.lake.read import PinnedTable, pin
from dml_platform.lake.schema import (
    Column,
    compare,
    describe_query,
    duckdb_type,
    field_ids,
    new_schema,
)

Mode = Literal["table", "append", "merge"]
SUMMARY_PREFIX = "dml."


@dataclass(frozen=True)
class StagedTable:
    """What a step wrote to one table's branch.

    ``rows_written`` counts the rows of the last write, ``rows_total`` those of the branch; ``base_snapshot_id`` is
    what ``main`` was when the branch was made.
    """

    ref: TableRef
    snapshot_id: int
    base_snapshot_id: int | None
    rows_written: int
    rows_total: int


@dataclass
class Step:
    """One unit of write-audit-publish.

    Args:
        run_id: the run that the step belongs to.
        name: the step's name within the run; the branch is named after both.
        summary: properties for each snapshot, e.g. the git commit; ``dml.`` is put before the keys.
    """

    catalog: SqlCatalog
    settings: Settings
    run_id: str
    name: str
    summary: Mapping[str, str] = field(default_factory=dict)
    staged: dict[TableRef, StagedTable] = field(default_factory=dict)
    _bases: dict[TableRef, int | None] = field(default_factory=dict)

    @property
    def branch(self) -> str:
        """The Iceberg branch that this step writes to, the same in every table."""
        return f"run_{self.run_id}_{self.name}"

    def pin(self, ref: TableRef) -> PinnedTable | None:
        """Read a table as the step sees it: its own branch when it wrote one, else ``main``.

        The first call fixes ``main``: a later write to this table is refused if ``main`` moved since.
        """
        table = catalogs.load_table(self.catalog, ref)
        if table is None:
            self._bases.setdefault(ref, None)
            return None
        if ref in self.staged:
            return pin(ref, table, branch=self.branch)
        current = pin(ref, table)
        base = self._bases.setdefault(ref, current.snapshot_id)
        return PinnedTable(ref, table, base)

    def write_query(
        self,
        ref: TableRef,
        connection: DuckDBPyConnection,
        sql: str,
        *,
        mode: Mode = "append",
        key: Sequence[str] = (),
        summary: Mapping[str, str] | None = None,
        full_refresh: bool = False,
    ) -> StagedTable:
        """Write the rows of a DuckDB query to the step's branch of a table, in one commit.

        Args:
            sql: a SELECT in DuckDB's dialect.
            mode: ``table`` replaces all rows, ``append`` adds, ``merge`` replaces the rows with the same ``key``.
            key: columns that identify a row; for ``merge`` only, unique within the query.
            summary: properties for this snapshot, e.g. the position that an ingest reached.
            full_refresh: replace rows and columns, whatever they were.
        Raises:
            SchemaMismatchError: the columns differ in a way that a table cannot take; nothing was written.
            PublishConflictError: ``main`` moved since the step pinned the table.
        """
        if full_refresh:
            mode = "table"
        if mode == "merge" and not key:
            raise ConfigError(
                f"cannot merge into {ref.dotted!r}", "no key is given", "Name the key's columns (dbt: unique_key)."
            )
        columns = describe_query(connection, sql, ref=ref)
        table = self._ensure_table(ref, columns, full_refresh=full_refresh)
        self._ensure_branch_base(ref, table)
        head = pin(ref, table, branch=self.branch if ref in self.staged else MAIN_BRANCH)
        select = _cast(sql, columns, table)
        replaced: list[DataFile] = []
        if mode == "merge":
            _require_columns(ref, key, columns)
            with _temporary_table(connection, select) as incoming:
                select, replaced = _merge(connection, head, incoming, key=key)
                files, _ = _copy(connection, select, table, settings=self.settings)
                rows = connection.table(incoming).shape[0]
        else:
            if mode == "table":
                replaced = _data_files(head)
            files, rows = _copy(connection, select, table, settings=self.settings)
        properties = {
            f"{SUMMARY_PREFIX}{k}": v
            for k, v in {
                "run_id": self.run_id,
                "step": self.name,
                "rows": str(rows),
                **self.summary,
                **(summary or {}),
            }.items()
        }
        snapshot_id = self._commit(ref, table, head, files, replaced, properties)
        table = self.catalog.load_table(ref.identifier)
        self.staged[ref] = StagedTable(
            ref=ref,
            snapshot_id=snapshot_id,
            base_snapshot_id=self._bases[ref],
            rows_written=rows,
            rows_total=pin(ref, table, branch=self.branch).rows,
        )
        return self.staged[ref]

    def write_batches(
        self,
        ref: TableRef,
        connection: DuckDBPyConnection,
        batches: pa.RecordBatchReader | pa.Table | Iterable[pa.RecordBatch],
        *,
        schema: pa.Schema | None = None,
        **options: Any,
    ) -> StagedTable:
        """Stream Arrow batches to the step's branch in bounded memory; options as in :meth:`write_query`.

        Args:
            schema: needed only for a bare iterable of batches.
        """
        if not isinstance(batches, (pa.RecordBatchReader, pa.Table)):
            if schema is None:
                raise ConfigError(
                    f"cannot write {ref.dotted!r}", "the batches have no schema", "Pass schema=…, an Arrow schema."
                )
            batches = pa.RecordBatchReader.from_batches(schema, batches)
        name = f"_dml_batches_{uuid.uuid4().hex}"
        connection.register(name, batches)
        try:
            return self.write_query(ref, connection, f"SELECT * FROM {quote_name(name)}", **options)
        finally:
            connection.unregister(name)

    def publish(self) -> list[StagedTable]:
        """Move ``main`` of every staged table to the step's branch, in one catalogue transaction.

        Returns: what became visible, sorted by name.
        Raises:
            PublishConflictError: ``main`` of a table has commits that the branch does not have; nothing was published.
        """
        staged = [self.staged[ref] for ref in sorted(self.staged)]
        if staged:
            catalogs.with_retries(
                lambda: catalogs.commit_together(self.catalog, [self._swing(s) for s in staged]),
                attempts=self.settings.lake.commit_retries,
                what=f"cannot publish {', '.join(s.ref.dotted for s in staged)}",
            )
        self.staged.clear()
        self._bases.clear()
        return staged

    def abandon(self) -> None:
        """Drop the step's branches; what was written stays unpublished."""
        for ref in list(self.staged):
            drop_branch(self.catalog, ref, self.branch, settings=self.settings)
            del self.staged[ref]

    def _swing(self, staged: StagedTable) -> catalogs.TableCommit:
        table = self.catalog.load_table(staged.ref.identifier)
        main, head = (table.refs().get(name) for name in (MAIN_BRANCH, self.branch))
        if head is None or head.snapshot_id != staged.snapshot_id:
            raise PublishConflictError(
                f"cannot publish {staged.ref.dotted!r}",
                f"its branch {self.branch!r} is no longer what this step wrote",
                "Run the step again.",
            )
        if main is not None:
            snapshot = table.snapshot_by_id(head.snapshot_id)
            behind = {s.snapshot_id for s in ancestors_of(snapshot, table.metadata)}
            if main.snapshot_id not in behind:
                raise _conflict(staged.ref, table, main.snapshot_id)
        return catalogs.TableCommit(
            table=table,
            updates=(
                SetSnapshotRefUpdate(
                    ref_name=MAIN_BRANCH, type=SnapshotRefType.BRANCH, snapshot_id=head.snapshot_id
                ),
                RemoveSnapshotRefUpdate(ref_name=self.branch),
            ),
            requirements=(
                AssertRefSnapshotId(ref=MAIN_BRANCH, snapshot_id=main.snapshot_id if main else None),
                AssertRefSnapshotId(ref=self.branch, snapshot_id=head.snapshot_id),
            ),
        )

    def _ensure_table(self, ref: TableRef, columns: Sequence[Column], *, full_refresh: bool) -> Table:
        table = catalogs.load_table(self.catalog, ref)
        if table is not None:
            change = compare(table.schema(), columns)
            if change.refused and MAIN_BRANCH not in table.refs():
                # Never published, so nobody reads it: the left-over of a run that failed. A run that is
                # writing to it right now is refused when it publishes.
                self.catalog.drop_table(ref.identifier)
                table = None
            elif change.refused and not full_refresh:
                raise SchemaMismatchError(
                    f"cannot write {ref.dotted!r}",
                    "its columns differ: " + "; ".join(change.refused),
                    "Restore the columns at the source, or replace the table with a full refresh.",
                )
            elif change or change.refused:
                return self._evolve(ref, columns)
        if table is None:
            location = f"{self.settings.warehouse}/{ref.path}"
            return catalogs.create_table(self.catalog, ref, new_schema(columns), location=location)
        return table

    def _evolve(self, ref: TableRef, columns: Sequence[Column]) -> Table:
        def commit() -> Table:
            table = self.catalog.load_table(ref.identifier)
            change = compare(table.schema(), columns)
            refused = {line.split(":", 1)[0] for line in change.refused}
            with table.update_schema(allow_incompatible_changes=bool(refused)) as schema:
                for name in refused:
                    schema.delete_column(name)
                for column in change.widened:
                    schema.update_column(column.name, field_type=column.type)  # type: ignore[arg-type]
                for column in change.added:
                    schema.add_column(column.name, column.type)
            if returning := [c for c in columns if c.name in refused]:
                with table.update_schema() as schema:
                    for column in returning:
                        schema.add_column(column.name, column.type)
            return self.catalog.load_table(ref.identifier)

        return catalogs.with_retries(
            commit, attempts=self.settings.lake.commit_retries, what=f"cannot change the columns of {ref.dotted!r}"
        )

    def _ensure_branch_base(self, ref: TableRef, table: Table) -> None:
        if ref in self.staged:
            return
        drop_branch(self.catalog, ref, self.branch, settings=self.settings)
        current = pin(ref, table).snapshot_id
        base = self._bases.setdefault(ref, current)
        if current != base:
            raise _conflict(ref, table, current)

    def _commit(
        self,
        ref: TableRef,
        table: Table,
        head: PinnedTable,
        files: Sequence[str],
        replaced: Sequence[DataFile],
        properties: dict[str, str],
    ) -> int:
        added = list(parquet_files_to_data_files(table.io, table.metadata, iter(files)))

        def commit() -> int:
            fresh = self.catalog.load_table(ref.identifier)
            is_first = not fresh.refs()  # a table without refs takes a snapshot, but no branch named otherwise than main
            with fresh.transaction() as transaction:
                if head.snapshot_id is not None and self.branch not in fresh.refs():
                    branching = ManageSnapshots(transaction)
                    branching.create_branch(head.snapshot_id, self.branch).commit()
                snapshots = transaction.update_snapshot(
                    snapshot_properties=properties, branch=None if is_first else self.branch
                )
                with snapshots.overwrite() if replaced else snapshots.fast_append() as snapshot:
                    for data_file in replaced:
                        snapshot.delete_data_file(data_file)
                    for data_file in added:
                        snapshot.append_data_file(data_file)
                if is_first:
                    reference = SetSnapshotRefUpdate(
                        ref_name=self.branch, type=SnapshotRefType.BRANCH, snapshot_id=snapshot.snapshot_id
                    )
                    transaction._apply((reference,), (AssertRefSnapshotId(ref=MAIN_BRANCH, snapshot_id=None),))
            return fresh.refs()[self.branch].snapshot_id

        return catalogs.with_retries(
            commit, attempts=self.settings.lake.commit_retries, what=f"cannot commit to {ref.dotted!r}"
        )


def drop_branch(catalog: SqlCatalog, ref: TableRef, branch: str, *, settings: Settings) -> None:
    """Remove a branch where it is; its snapshots expire later."""

    def commit() -> None:
        table = catalogs.load_table(catalog, ref)
        if table is not None and branch in table.refs():
            table.manage_snapshots().remove_branch(branch).commit()

    catalogs.with_retries(commit, attempts=settings.lake.commit_retries, what=f"cannot drop {branch!r} of {ref}")


def _conflict(ref: TableRef, table: Table, snapshot_id: int | None) -> PublishConflictError:
    snapshot = table.snapshot_by_id(snapshot_id) if snapshot_id is not None else None
    summary = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
    writer = summary.get("dml.run_id", "somebody else")
    return PublishConflictError(
        f"cannot publish {ref.dotted!r}",
        f"run {writer} published it while this step ran, and publishing would drop its rows",
        "Run the step again: it will start from what is published now.",
    )


def _data_files(head: PinnedTable) -> list[DataFile]:
    if head.snapshot_id is None:
        return []
    return [task.file for task in head.table.scan(snapshot_id=head.snapshot_id).plan_files()]


@contextmanager
def _temporary_table(connection: DuckDBPyConnection, select: str) -> Iterator[str]:
    name = f"_dml_merge_{uuid.uuid4().hex}"
    connection.execute(f"CREATE TEMP TABLE {name} AS {select}")
    try:
        yield name
    finally:
        connection.execute(f"DROP TABLE {name}")


def _require_columns(ref: TableRef, key: Sequence[str], columns: Sequence[Column]) -> None:
    names = {c.name for c in columns}
    if missing := sorted(set(key) - names):
        raise ConfigError(
            f"cannot merge into {ref.dotted!r}",
            f"the key's columns {missing} are not in the rows",
            f"Use columns of {sorted(names)}.",
        )


def _cast(sql: str, columns: Sequence[Column], table: Table) -> str:
    """Bring the query's columns into the table's order and types."""
    offered = {c.name: c for c in columns}
    parts = []
    for f in table.schema().fields:
        if f.name in offered:
            name = quote_name(f.name)
            parts.append(f"CAST({name} AS {duckdb_type(f.field_type)}) AS {name}")
    return f"SELECT {', '.join(parts)} FROM ({sql})"


def _merge(
    connection: DuckDBPyConnection, head: PinnedTable, incoming: str, *, key: Sequence[str]
) -> tuple[str, list[DataFile]]:
    """Copy on write: the rows to write and the files that they replace, which are those holding a replaced row."""
    keys = ", ".join(quote_name(k) for k in key)
    row = connection.execute(
        f"SELECT count(*) FROM (SELECT {keys} FROM {incoming} GROUP BY ALL HAVING count(*) > 1)"
    ).fetchone()
    if row and row[0]:
        raise SchemaMismatchError(
            f"cannot merge into {head.ref.dotted!r}",
            f"{row[0]} values of its key ({', '.join(key)}) occur more than once in the rows",
            "Make the query return one row a key.",
        )
    if head.files()[1]:
        raise SchemaMismatchError(
            f"cannot merge into {head.ref.dotted!r}",
            "another engine left row deletes in it",
            "Rewrite the table with that engine (compaction), or use a full refresh.",
        )
    by_path = {data_file.file_path: data_file for data_file in _data_files(head)}
    named = head.select_files(list(by_path), filename=True)
    touched = [
        path
        for (path,) in connection.execute(
            f"SELECT DISTINCT filename FROM ({named}) SEMI JOIN {incoming} USING ({keys})"
        ).fetchall()
    ] if by_path else []
    kept = f"SELECT * FROM ({head.select_files(touched)}) ANTI JOIN {incoming} USING ({keys})"
    return f"SELECT * FROM {incoming} UNION ALL BY NAME {kept}", [by_path[path] for path in touched]


def _copy(
    connection: DuckDBPyConnection, select: str, table: Table, *, settings: Settings
) -> tuple[list[str], int]:
    """Write a query's rows as Parquet files below the table's ``data`` folder.

    Returns: the files that hold rows, and the number of rows.
    """
    folder = f"{table.location()}/data"
    if not settings.is_s3:
        Path(folder).mkdir(parents=True, exist_ok=True)
    options = ", ".join(
        (
            "FORMAT parquet",
            f"FIELD_IDS {field_ids(table.schema())}",
            f"FILE_SIZE_BYTES '{settings.lake.file_size_mb}MB'",
            "FILENAME_PATTERN '{uuid}'",
            "APPEND true",
            "RETURN_STATS true",
        )
    )
    written = connection.execute(f"COPY ({select}) TO {quote(folder)} ({options})").fetchall()
    files = [(row[0], row[1]) for row in written if row[1] > 0]
    return [name for name, _ in files], sum(rows for _, rows in files)
