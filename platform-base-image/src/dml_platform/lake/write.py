"""Write, audit, publish: a step stages tables on a branch, then all of them become visible at once.

Rows are written by DuckDB as Parquet files with Iceberg's field ids, in bounded memory; pyiceberg
commits the files to the step's branch. ``main``, and the columns that readers see, only move in
:meth:`Step.publish`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import pyarrow as pa
from duckdb import DuckDBPyConnection
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import parquet_files_to_data_files
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.snapshots import ancestors_of
from pyiceberg.table.update import (
    AddSchemaUpdate,
    SetCurrentSchemaUpdate,
    SetSnapshotRefUpdate,
    TableUpdate,
)
from pyiceberg.table.update.snapshot import _FastAppendFiles

from dml_platform.core.errors import ConfigError, PublishConflictError, SchemaMismatchError
from dml_platform.core.naming import TableRef
from dml_platform.core.settings import Settings
from dml_platform.lake import catalog as catalogs
from dml_platform.lake.datafiles import Written, live_files, storage_errors, write_files, write_merged
from dml_platform.lake.engine import quote_name
from dml_platform.lake.read import PinnedTable, pin
from dml_platform.lake.schema import Column, describe_query, evolve, new_schema
from dml_platform.lake.snapshots import OnceAppliedTransaction, ReplaceFiles
from dml_platform.lake.state import COMPACTED, SUMMARY_PREFIX, summary_of

Mode = Literal["table", "append", "merge"]
_T = TypeVar("_T")
Summarize = Callable[[Sequence[str]], Mapping[str, str]]


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
    _base_schemas: dict[TableRef, int] = field(default_factory=dict)

    @property
    def branch(self) -> str:
        """The Iceberg branch that this step writes to, the same in every table."""
        return f"run_{self.run_id}_{self.name}"

    def pin(self, ref: TableRef) -> PinnedTable | None:
        """Read a table as the step sees it: its own branch when it wrote one, else ``main``.

        The first call fixes ``main``: a later write to this table is refused if ``main`` moved since.
        """
        return self.pin_all([ref])[ref]

    def pin_all(self, refs: Iterable[TableRef]) -> dict[TableRef, PinnedTable | None]:
        """Like :meth:`pin` for several tables as of one moment: never some of what another step published."""
        return {ref: self._pin(ref, table) for ref, table in catalogs.load_tables(self.catalog, refs).items()}

    def _pin(self, ref: TableRef, table: Table | None) -> PinnedTable | None:
        if table is None:
            self._bases.setdefault(ref, None)
            return None
        if ref in self.staged:
            return PinnedTable(ref, table, self.staged[ref].snapshot_id)
        return PinnedTable(ref, table, self._bases.setdefault(ref, pin(ref, table).snapshot_id))

    def write_query(
        self,
        ref: TableRef,
        connection: DuckDBPyConnection,
        sql: str,
        *,
        mode: Mode = "append",
        key: Sequence[str] = (),
        summary: Mapping[str, str] | Summarize | None = None,
        full_refresh: bool = False,
    ) -> StagedTable:
        """Write the rows of a DuckDB query to the step's branch of a table, in one commit.

        Args:
            sql: a SELECT in DuckDB's dialect.
            mode: ``table`` replaces all rows, ``append`` adds, ``merge`` replaces the rows with the same ``key``.
            key: columns that identify a row; for ``merge`` only, unique within the query.
            summary: properties for this snapshot, e.g. the position that an ingest reached; or a function that gives
                them from the Parquet files just written. What it raises ends the write before anything is committed.
            full_refresh: replace rows and columns, whatever they were.
        Raises:
            SchemaMismatchError: the columns differ in a way that a table cannot take; nothing was written.
            PublishConflictError: ``main`` moved since the step pinned the table.
            PermanentError: the storage refused the files.
        """
        columns = describe_query(connection, sql, ref=ref)
        if mode == "merge":
            _require_key(ref, key, columns)
        with storage_errors(f"cannot write {ref.dotted!r}"):
            table, schema, head = self._prepare(ref, columns, full_refresh=full_refresh)
            place: dict[str, Any] = {"location": table.location(), "settings": self.settings}
            if mode == "merge" and not full_refresh:
                written = write_merged(connection, sql, schema, head, key=key, **place)
            else:
                replaced = live_files(head) if mode != "append" or full_refresh else []
                enums = [column.name for column in columns if column.is_enum]
                files = write_files(connection, sql, schema, enums=enums, **place)
                written = Written(files.paths, files.rows, tuple(replaced))
            named = {"run_id": self.run_id, "step": self.name, "rows": str(written.rows)}
            named |= {**self.summary, **_summarize(summary, written, table)}
            properties = {f"{SUMMARY_PREFIX}{key}": value for key, value in named.items()}
            table = self._commit(head, schema, written, properties)
        branch = pin(ref, table, branch=self.branch)
        assert branch.snapshot_id is not None
        self.staged[ref] = StagedTable(
            ref=ref,
            snapshot_id=branch.snapshot_id,
            base_snapshot_id=self._bases[ref],
            rows_written=written.rows,
            rows_total=branch.rows,
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
            PublishConflictError: ``main`` of a table is not what the step started from; nothing was published.
        """
        staged = [self.staged[ref] for ref in sorted(self.staged)]

        def commit() -> None:
            tables = catalogs.load_tables(self.catalog, self.staged)
            if all(_main_of(tables[s.ref]) == s.snapshot_id for s in staged):
                return  # an attempt went through and its answer was lost
            catalogs.commit_together(self.catalog, [self._swing(s, tables[s.ref]) for s in staged])

        names = ", ".join(s.ref.dotted for s in staged)
        if staged:
            with storage_errors(f"cannot publish {names}"):
                self._retry(list(self.staged), commit, what=f"cannot publish {names}")
        self._forget()
        return staged

    def abandon(self) -> None:
        """Drop the step's branches; what was written stays unpublished."""
        for ref in list(self.staged):
            catalogs.drop_branch(self.catalog, ref, self.branch, attempts=self.settings.lake.commit_retries)
            del self.staged[ref]
        self._forget()

    def _forget(self) -> None:
        self.staged.clear()
        self._bases.clear()
        self._base_schemas.clear()

    def _swing(self, staged: StagedTable, table: Table | None) -> catalogs.TableCommit:
        ref = staged.ref
        head = table.refs().get(self.branch) if table is not None else None
        if table is None or head is None or head.snapshot_id != staged.snapshot_id:
            raise PublishConflictError(
                f"cannot publish {ref.dotted!r}",
                f"its branch {self.branch!r} is no longer what this step wrote",
                "Run the step again.",
            )
        # Equal, not only an ancestor: a roll-back of main while the step ran must not be undone either.
        if not _is_at(table, staged.base_snapshot_id):
            raise _conflict(ref, table, staged.base_snapshot_id)
        updates: list[TableUpdate] = []
        snapshot = table.snapshot_by_id(staged.snapshot_id)
        schema_id = snapshot.schema_id if snapshot else None
        if schema_id is not None and schema_id != self._base_schemas[ref]:
            if table.schema().schema_id != self._base_schemas[ref]:
                raise PublishConflictError(
                    f"cannot publish {ref.dotted!r}",
                    "its columns were changed while this step ran",
                    "Run the step again.",
                )
            updates.append(_set_schema(schema_id))
        updates.append(_set_branch(MAIN_BRANCH, staged.snapshot_id))
        updates.append(catalogs.drop_ref(self.branch))
        return catalogs.TableCommit(table, tuple(updates))

    def _prepare(
        self, ref: TableRef, columns: Sequence[Column], *, full_refresh: bool
    ) -> tuple[Table, Schema, PinnedTable]:
        """Find the table, the schema to write with and what the step's rows come after; readers see no change."""

        def commit() -> tuple[Table, Schema, PinnedTable]:
            table = catalogs.load_table(self.catalog, ref)
            if table is None:
                place = f"{self.settings.warehouse}/{ref.path}"
                table = catalogs.create_table(self.catalog, ref, new_schema(columns), location=place)
            if ref not in self.staged and self.branch in table.refs():  # of a run that was killed
                dropped = (catalogs.drop_ref(self.branch),)
                catalogs.commit_together(self.catalog, [catalogs.TableCommit(table, dropped)])
            head = self._pin(ref, table)
            assert head is not None
            if ref not in self.staged and not _is_at(table, head.snapshot_id):
                raise _conflict(ref, table, head.snapshot_id)
            base = head.schema if ref in self.staged else table.schema()
            self._base_schemas.setdefault(ref, base.schema_id)
            # The columns of a table that was never published are a failed run's: they bind nobody.
            is_left_over = ref not in self.staged and _main_of(table) is None
            evolution = evolve(
                base,
                columns,
                last_column_id=table.metadata.last_column_id,
                replace=full_refresh or is_left_over,
            )
            if evolution.refused:
                raise SchemaMismatchError(
                    f"cannot write {ref.dotted!r}",
                    "its columns differ: " + "; ".join(evolution.refused),
                    "Restore the columns at the source, or replace the table: "
                    f"dml run --full-refresh --select key:{'/'.join(ref.asset_key)}",
                )
            if not evolution.changed:
                return table, base, head
            schema_id = max(s.schema_id for s in table.metadata.schemas) + 1
            schema = evolution.schema.model_copy(update={"schema_id": schema_id})
            # Added, not made current: this only reserves the ids that go into the files.
            catalogs.commit_together(self.catalog, [catalogs.TableCommit(table, (AddSchemaUpdate(schema=schema),))])
            return table, schema, head

        return self._retry([ref], commit, what=f"cannot prepare {ref.dotted!r}")

    def _commit(self, head: PinnedTable, schema: Schema, written: Written, properties: dict[str, str]) -> Table:
        """Commit files to the step's branch, in the schema they were written with; gives the new table."""
        ref = head.ref
        current = _set_schema(schema.schema_id)
        seen_as = head.table.metadata.model_copy(update={"schemas": [schema], "current_schema_id": schema.schema_id})
        added = list(parquet_files_to_data_files(head.table.io, seen_as, iter(written.paths)))
        expected = head.snapshot_id if ref in self.staged else None
        attempted: set[int] = set()

        def commit() -> Table:
            table = self.catalog.load_table(ref.identifier)
            branch = table.refs().get(self.branch)
            if branch is not None and branch.snapshot_id in attempted:
                return table  # that attempt went through and its answer was lost
            found = branch.snapshot_id if branch else None
            if found != expected or table.metadata.table_uuid != seen_as.table_uuid:
                raise PublishConflictError(
                    f"cannot write {ref.dotted!r}",
                    f"another process writes to its branch {self.branch!r}",
                    "End the other run of the same name, then run the step again.",
                )
            transaction = OnceAppliedTransaction(table)
            transaction._apply((current,))
            if branch is None and head.snapshot_id is not None:
                transaction._apply((_set_branch(self.branch, head.snapshot_id),))
            # A table without refs takes a snapshot, but no branch that is named otherwise than main.
            producer: ReplaceFiles | _FastAppendFiles
            if written.replaced:
                producer = ReplaceFiles(transaction, branch=self.branch, properties=properties)
            else:
                branch_name = self.branch if transaction.table_metadata.refs else None
                producer = transaction.update_snapshot(properties, branch=branch_name).fast_append()
            with producer as snapshot:
                for data_file in written.replaced:
                    snapshot.delete_data_file(data_file)
                for data_file in added:
                    snapshot.append_data_file(data_file)
            transaction._apply((_set_branch(self.branch, snapshot.snapshot_id),))
            transaction._apply((_set_schema(table.schema().schema_id),))
            attempted.add(snapshot.snapshot_id)
            catalogs.commit_together(self.catalog, [catalogs.TableCommit(table, transaction._updates)])
            return table

        return self._retry([ref], commit, what=f"cannot commit to {ref.dotted!r}")

    def _retry(self, refs: Sequence[TableRef], commit: Callable[[], _T], *, what: str) -> _T:
        attempts = self.settings.lake.commit_retries
        return catalogs.with_retries(self.catalog, refs, commit, attempts=attempts, what=what)


# pyiceberg's models take Python's names; type checkers see only the aliases, e.g. ``ref-name``.
def _set_branch(name: str, snapshot_id: int) -> SetSnapshotRefUpdate:
    return SetSnapshotRefUpdate(  # type: ignore[call-arg]
        ref_name=name, type=SnapshotRefType.BRANCH, snapshot_id=snapshot_id
    )


def _set_schema(schema_id: int) -> SetCurrentSchemaUpdate:
    return SetCurrentSchemaUpdate(schema_id=schema_id)  # type: ignore[call-arg]


def _main_of(table: Table | None) -> int | None:
    reference = table.refs().get(MAIN_BRANCH) if table is not None else None
    return reference.snapshot_id if reference else None


def _is_at(table: Table, base: int | None) -> bool:
    """Whether ``main`` is what a step started from, or has its very rows in other files."""
    found = _main_of(table)
    while found is not None and found != base:
        snapshot = table.snapshot_by_id(found)
        found = snapshot.parent_snapshot_id if snapshot and COMPACTED in summary_of(snapshot) else None
        if found is None:
            return False
    return found == base


def _conflict(ref: TableRef, table: Table, base: int | None) -> PublishConflictError:
    what, fix = f"cannot publish {ref.dotted!r}", "Run the step again: it will start from what is published now."
    snapshot = table.current_snapshot()
    history = ancestors_of(snapshot, table.metadata) if snapshot else ()
    if base is not None and base not in {s.snapshot_id for s in history} and table.snapshot_by_id(base) is not None:
        return PublishConflictError(
            what, "it was rolled back while this step ran, and publishing would bring back what was taken out", fix
        )
    writer = summary_of(snapshot).get("run_id") if snapshot else None
    return PublishConflictError(
        what,
        f"{f'run {writer!r}' if writer else 'somebody else'} published it while this step ran, "
        "and publishing would drop its rows",
        fix,
    )


def _summarize(summary: Mapping[str, str] | Summarize | None, written: Written, table: Table) -> Mapping[str, str]:
    if not callable(summary):
        return summary or {}
    try:
        return summary(written.paths)
    except BaseException:
        for path in written.paths:  # no snapshot will ever name them
            table.io.delete(path)
        raise


def _require_key(ref: TableRef, key: Sequence[str], columns: Sequence[Column]) -> None:
    what = f"cannot merge into {ref.dotted!r}"
    if not key:
        raise ConfigError(what, "no key is given", "Name the key's columns (dbt: unique_key).")
    names = {c.name for c in columns}
    if missing := sorted(set(key) - names):
        raise ConfigError(what, f"the key's columns {missing} are not in the rows", f"Use columns of {sorted(names)}.")
