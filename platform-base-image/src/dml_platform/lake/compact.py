"""Many small files of a table become few: the same rows, in one commit that says so.

A step that began before may still publish: it started from the same rows, in other files.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
from pyiceberg.io.pyarrow import parquet_files_to_data_files
from pyiceberg.manifest import DataFile, ManifestContent
from pyiceberg.table import Table
from pyiceberg.table.refs import MAIN_BRANCH

from dml_platform.core.errors import PermanentError, PublishConflictError
from dml_platform.core.naming import TableRef
from dml_platform.lake import catalog as catalogs
from dml_platform.lake.client import Lake
from dml_platform.lake.datafiles import storage_errors, write_files
from dml_platform.lake.engine import quote
from dml_platform.lake.read import PinnedTable, pin
from dml_platform.lake.retention import RUN_BRANCH
from dml_platform.lake.snapshots import OnceAppliedTransaction, ReplaceFiles
from dml_platform.lake.state import COMPACTED, SUMMARY_PREFIX, summary_of

# A file is small below this share of the size at which files are closed.
_SMALL = 1 / 8


@dataclass(frozen=True)
class Compaction:
    """Small files, and what they become: ``files_new`` and ``bytes_new`` are estimates until it is done."""

    small: tuple[DataFile, ...]
    files_new: int
    bytes_new: int


def plan_compaction(lake: Lake, ref: TableRef, table: Table, *, at_least: int | None) -> Compaction | None:
    """The small files of what is published, if they are many; None also while a run writes to the table.

    What other engines do stays as it is: partitions, row deletes, files without field ids, changed columns that nothing
    was written with. So do tables that have columns with parts and whose columns changed: parts are matched by name.

    Raises:
        PermanentError: the files cannot be read.
    """
    pinned = pin(ref, table)
    is_plain = all(spec.is_unpartitioned() for spec in table.metadata.partition_specs)
    is_flat = len(table.schemas()) == 1 or all(field.field_type.is_primitive for field in pinned.schema.fields)
    is_current = pinned.schema.schema_id == table.schema().schema_id
    is_written = any(name.startswith(RUN_BRANCH) for name in table.refs())
    if at_least is None or pinned.snapshot_id is None or is_written or not (is_plain and is_flat and is_current):
        return None
    head = table.snapshot_by_id(pinned.snapshot_id)
    if head is None or any(found.content == ManifestContent.DELETES for found in head.manifests(table.io)):
        return None
    tasks = list(table.scan(snapshot_id=pinned.snapshot_id).plan_files())
    whole = lake.settings.lake.file_size_mb * 1_000_000
    small = tuple(task.file for task in tasks if task.file.file_size_in_bytes < whole * _SMALL)
    if len(small) < at_least or not _have_field_ids(lake, ref, [file.file_path for file in small]):
        return None
    size = sum(file.file_size_in_bytes for file in small)
    return Compaction(small, math.ceil(size / whole), size)


def compact(lake: Lake, ref: TableRef, table: Table, plan: Compaction) -> Compaction:
    """Write the rows of the small files anew and commit them in their place.

    Raises:
        PublishConflictError: somebody published meanwhile; nothing was changed.
        PermanentError: the storage refused, or other rows were written than read.
    """
    pinned, what = pin(ref, table), f"cannot compact {ref.dotted!r}"
    with contextlib.closing(lake.connect()) as connection, _read_errors(what), storage_errors(what):
        written = write_files(
            connection,
            pinned.select_files([file.file_path for file in plan.small]),
            pinned.schema,
            location=table.location(),
            settings=lake.settings,
        )
    try:
        if written.rows != (rows := sum(file.record_count for file in plan.small)):
            raise PermanentError(what, f"{rows:,} rows became {written.rows:,}", "Report it: nothing was changed.")
        added = _commit(lake, pinned, plan, written.paths, what)
    except PublishConflictError:  # nothing else: a commit may have gone through though its answer was lost
        for path in written.paths:  # what stays is found as an orphan
            with contextlib.suppress(OSError):
                table.io.delete(path)
        raise
    return Compaction(plan.small, len(added), sum(file.file_size_in_bytes for file in added))


def _have_field_ids(lake: Lake, ref: TableRef, paths: Sequence[str]) -> bool:
    """Whether every column of every file says which of the table's it is; else its rows would become NULL."""
    of_columns = "num_children IS NULL AND coalesce(repetition_type, '') <> 'REPEATED'"
    listed = ", ".join(quote(path) for path in paths)
    with contextlib.closing(lake.connect()) as connection, _read_errors(f"cannot compact {ref.dotted!r}"):
        found = connection.execute(
            f"SELECT 1 FROM parquet_schema([{listed}]) WHERE {of_columns} AND field_id IS NULL LIMIT 1"
        ).fetchone()
    return found is None


@contextlib.contextmanager
def _read_errors(what: str) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise PermanentError(
            what, str(error).splitlines()[0], "Look at the table's files; they are as before."
        ) from error


def _commit(lake: Lake, pinned: PinnedTable, plan: Compaction, paths: tuple[str, ...], what: str) -> list[DataFile]:
    schema, ref = pinned.schema, pinned.ref
    seen_as = pinned.table.metadata.model_copy(update={"schemas": [schema], "current_schema_id": schema.schema_id})
    added = list(parquet_files_to_data_files(pinned.table.io, seen_as, iter(paths)))
    head = pinned.table.snapshot_by_id(pinned.snapshot_id) if pinned.snapshot_id else None
    assert head is not None
    # It is the same state of the same run; what ingests remember is in the snapshots before.
    known = {key: value for key, value in summary_of(head).items() if key in ("run_id", "step", "git_commit")}
    known[COMPACTED] = f"{len(plan.small)} files to {len(added)}"
    properties = {f"{SUMMARY_PREFIX}{key}": value for key, value in known.items()}
    attempted: set[int] = set()

    def commit() -> None:
        table = lake.catalog.load_table(ref.identifier)
        if any(table.snapshot_by_id(snapshot_id) for snapshot_id in attempted):
            return  # that attempt went through and its answer was lost; others may have published since
        main = table.refs().get(MAIN_BRANCH)
        if main is None or main.snapshot_id != head.snapshot_id or table.schema().schema_id != schema.schema_id:
            raise PublishConflictError(what, "somebody published it meanwhile", "Run it again.")
        transaction = OnceAppliedTransaction(table)
        with ReplaceFiles(transaction, branch=MAIN_BRANCH, properties=properties) as snapshot:
            for data_file in plan.small:
                snapshot.delete_data_file(data_file)
            for data_file in added:
                snapshot.append_data_file(data_file)
        attempted.add(snapshot.snapshot_id)
        catalogs.commit_together(lake.catalog, [catalogs.TableCommit(table, transaction._updates)])

    catalogs.with_retries(lake.catalog, [ref], commit, attempts=lake.settings.lake.commit_retries, what=what)
    return added
