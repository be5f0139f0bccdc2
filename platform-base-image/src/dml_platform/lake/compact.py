"""Many small files of a table become few: the same rows, in one commit that says so.

A step that began before may still publish: it started from the same rows, in other files.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

from pyiceberg.io.pyarrow import parquet_files_to_data_files
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.refs import MAIN_BRANCH

from dml_platform.core.errors import PermanentError, PublishConflictError
from dml_platform.core.naming import TableRef
from dml_platform.lake import catalog as catalogs
from dml_platform.lake.client import Lake
from dml_platform.lake.datafiles import storage_errors, write_files
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

    Tables with partitions or row deletes are other engines' and stay as they are.
    """
    is_plain = all(spec.is_unpartitioned() for spec in table.metadata.partition_specs)
    if at_least is None or not is_plain or any(name.startswith(RUN_BRANCH) for name in table.refs()):
        return None
    pinned = pin(ref, table)
    tasks = list(table.scan(snapshot_id=pinned.snapshot_id).plan_files()) if pinned.snapshot_id else []
    whole = lake.settings.lake.file_size_mb * 1_000_000
    small = tuple(task.file for task in tasks if task.file.file_size_in_bytes < whole * _SMALL)
    if len(small) < at_least or any(task.delete_files for task in tasks):
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
    with contextlib.closing(lake.connect()) as connection, storage_errors(what):
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
    except BaseException:
        for path in written.paths:  # no snapshot names them; what stays is found as an orphan
            with contextlib.suppress(OSError):
                table.io.delete(path)
        raise
    return Compaction(plan.small, len(added), sum(file.file_size_in_bytes for file in added))


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
        main = table.refs().get(MAIN_BRANCH)
        if main is not None and main.snapshot_id in attempted:
            return  # that attempt went through and its answer was lost
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
