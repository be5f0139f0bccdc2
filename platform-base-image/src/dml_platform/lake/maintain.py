"""Maintenance of a project's tables: many small files, dead branches, expired snapshots, files that nothing names.

A table at a time: first what makes its small files one, then one commit that ends branches and snapshots. When all
tables were looked at, files are deleted that none of them names. Killed between them it leaves files, never a name
without a file, and the next time finds them. Knows no Dagster and works from a notebook.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta, timezone
from itertools import chain
from typing import Any

from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import update_table_metadata

from dml_platform.core.config import MaintenanceConfig
from dml_platform.core.errors import ConfigError, PermanentError, PublishConflictError
from dml_platform.core.naming import TableRef
from dml_platform.core.runrecord import RunRecord, read_records
from dml_platform.core.storage import Entry, Storage
from dml_platform.lake import catalog as catalogs
from dml_platform.lake import orphans as files
from dml_platform.lake.client import Lake
from dml_platform.lake.compact import Compaction, compact, plan_compaction
from dml_platform.lake.retention import Expiry, plan_expiry


@dataclass(frozen=True)
class Size:
    """A table's snapshots, and what lies in its folder."""

    snapshots: int
    files: int
    size_bytes: int


@dataclass(frozen=True)
class TableMaintenance:
    """What was done to a table, or would be. ``compacted`` counts small files that became few.

    ``note`` says what was left undone; ``fault`` says what is wrong with the table, so that no file of it was deleted.
    """

    ref: TableRef
    before: Size
    after: Size
    branches: tuple[str, ...] = ()
    expired: tuple[int, ...] = ()
    deleted: tuple[str, ...] = ()
    compacted: int = 0
    note: str = ""
    fault: str = ""

    @property
    def is_changed(self) -> bool:
        """Whether there was anything to do."""
        return bool(self.branches or self.expired or self.deleted or self.compacted)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ref": self.ref.dotted}


@dataclass(frozen=True)
class Work:
    """How to maintain.

    Args:
        living: ids of runs that are alive.
        now: the moment from which ages count.
        dry_run: change nothing and tell the same.
    """

    policy: MaintenanceConfig
    living: Collection[str] = ()
    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    dry_run: bool = False


@dataclass(frozen=True)
class _Look:
    """A table whose branches and snapshots are done, before files of it are deleted."""

    result: TableMaintenance
    storage: Storage | None = None
    named: files.NamedFiles = field(default_factory=files.NamedFiles)
    orphans: Sequence[Entry] = ()
    metadata_location: str = ""


def maintain(
    lake: Lake, project: str, work: Work, *, progress: Callable[[str], None] = lambda _text: None
) -> list[TableMaintenance]:
    """Maintain every table of a project, and none of another's.

    Files are deleted at the end: only then is it known which of them another table names.

    Raises:
        RetryableError: the object store or the catalogue does not answer, or others were faster all the time.
        PermanentError: the catalogue or the storage refused.
    """
    pins = _pins(lake, project, work)
    looks: list[_Look] = []
    for ref in lake.tables(project):
        progress(f"maintaining {ref.dotted}")
        try:
            table = catalogs.load_table(lake.catalog, ref)
            if table is not None:  # else it was dropped meanwhile
                looks.append(_look(lake, ref, table, work, pins.get(ref, frozenset())))
        except FileNotFoundError as error:
            fault = f"a file that it names is missing: {' '.join(str(error).split())}"
            looks.append(_Look(TableMaintenance(ref, Size(0, 0, 0), Size(0, 0, 0), fault=fault)))
    known = frozenset(look.result.ref.identifier for look in looks)
    named = [look.named for look in looks] + files.named_by_others(lake.catalog, project, known)
    borrowed = frozenset().union(*(one.content for one in named)) if named else frozenset()
    return [_delete(lake, look, work, borrowed) for look in looks]


def _look(lake: Lake, ref: TableRef, table: Table, work: Work, pins: Collection[int]) -> _Look:
    storage = files.table_storage(lake.settings, ref, table)
    # Listed before the metadata is looked at: what is written meanwhile is not on the list.
    listed = files.list_files(ref, storage) if storage else []
    before = Size(len(table.metadata.snapshots), len(listed), sum(entry.size_bytes or 0 for entry in listed))
    compacted, note, fault = _compact(lake, ref, table, work)
    expiry, metadata, location = _expire(lake, ref, table, work, pins)
    result = TableMaintenance(
        ref,
        before,
        replace(
            before,
            snapshots=len(metadata.snapshots),
            files=before.files + (compacted.files_new if compacted else 0),
            size_bytes=before.size_bytes + (compacted.bytes_new if compacted else 0),
        ),
        compacted=len(compacted.small) if compacted else 0,
        note=note,
        fault=fault,
        branches=expiry.branches,
        expired=tuple(sorted(expiry.snapshots)),
    )
    named = files.named_files(metadata, table.io, location)
    if storage is None:
        elsewhere = f"files stay: they are at {table.location()}, where the platform puts none"
        return _Look(
            replace(result, after=replace(before, snapshots=len(metadata.snapshots)), note=elsewhere), None, named
        )
    # A second look finds what was committed since the first; what is missing then is lost.
    if files.missing_files(named, storage, listed) and (
        lost := files.missing_files(named, storage, files.list_files(ref, storage))
    ):
        fault = f"{len(lost)} files that it names are missing, e.g. {lost[0]}"
        return _Look(replace(result, fault=fault), None, named)
    older_than = timedelta(days=work.policy.orphan_days)
    orphans = files.find_orphans(named, storage, listed, older_than=older_than, now=work.now)
    return _Look(result, storage, named, orphans, location)


def _delete(lake: Lake, look: _Look, work: Work, borrowed: Collection[str]) -> TableMaintenance:
    """Delete what nothing names, neither this table nor another of the project."""
    result, storage, orphans = look.result, look.storage, look.orphans
    if storage is None or result.fault or not orphans:
        return result
    locations = catalogs.metadata_locations(lake.catalog)
    root, own = files.root_of(storage), result.ref.dotted
    if guests := sorted(n for n, place in locations.items() if n != own and files.plain(place).startswith(root)):
        return replace(result, note=f"files stay: those of {', '.join(guests)} are in its folder too")
    orphans = [entry for entry in orphans if storage.address(entry.name) not in borrowed]
    # Somebody may have committed an old file since it was looked for.
    if not work.dry_run and locations.get(own) != look.metadata_location:
        newest = catalogs.load_table(lake.catalog, result.ref)
        if newest is None:  # dropped meanwhile
            return result
        named = files.named_files(newest.metadata, newest.io, newest.metadata_location)
        orphans = [entry for entry in orphans if storage.address(entry.name) not in named.content | named.metadata]
    if not work.dry_run:
        files.delete_files(result.ref, storage, orphans)
    after = replace(
        result.after,
        files=result.after.files - len(orphans),
        size_bytes=result.after.size_bytes - sum(entry.size_bytes or 0 for entry in orphans),
    )
    return replace(result, after=after, deleted=tuple(entry.name for entry in orphans))


def _compact(lake: Lake, ref: TableRef, table: Table, work: Work) -> tuple[Compaction | None, str, str]:
    """What was compacted, else what was left undone, else what is wrong; other tables go on in any case."""
    try:
        plan = plan_compaction(lake, ref, table, at_least=work.policy.compact_files)
        if plan is None or work.dry_run:
            return plan, "", ""
        return compact(lake, ref, table, plan), "", ""
    except PublishConflictError as error:  # the next time will do
        return None, f"not compacted: {error.why}", ""
    except PermanentError as error:
        return None, "", f"it could not be compacted: {error.why}"


def _expire(
    lake: Lake, ref: TableRef, table: Table, work: Work, pins: Collection[int]
) -> tuple[Expiry, TableMetadata, str]:
    """End branches and snapshots; gives the table's metadata after it, newer than the list of its files."""

    def commit() -> tuple[Expiry, TableMetadata, str]:
        newest = lake.catalog.load_table(ref.identifier)
        expiry = plan_expiry(newest.metadata, work.policy, now=work.now, pins=pins, living=work.living)
        if work.dry_run:
            return expiry, update_table_metadata(newest.metadata, expiry.updates), newest.metadata_location
        if expiry.updates:
            catalogs.commit_together(lake.catalog, [catalogs.TableCommit(newest, expiry.updates)])
        return expiry, newest.metadata, newest.metadata_location

    if work.dry_run:
        return commit()
    attempts = lake.settings.lake.commit_retries
    return catalogs.with_retries(lake.catalog, [ref], commit, attempts=attempts, what=f"cannot maintain {ref.dotted!r}")


def _pins(lake: Lake, project: str, work: Work) -> Mapping[TableRef, frozenset[int]]:
    """What the newest runs read and published, which `dml reproduce` needs."""
    since = work.now - timedelta(days=work.policy.keep_days)
    pins: dict[TableRef, set[int]] = defaultdict(set)
    runs: set[str] = set()
    for record in read_records(lake.settings, project):
        if record.outputs:  # a run that published nothing, as this one, takes no other's place
            runs.add(record.run_id)
        if len(runs) > work.policy.keep_runs and _started(record) < since:
            break
        for name, snapshot_id in chain(record.inputs.items(), record.outputs.items()):
            with suppress(ConfigError):  # no table's name
                pins[TableRef.parse(name)].add(snapshot_id)
    return {ref: frozenset(found) for ref, found in pins.items()}


def _started(record: RunRecord) -> datetime:
    """When a run began; what cannot be read counts as now, so that the look goes on."""
    try:
        return datetime.fromisoformat(record.started_at).astimezone(timezone.utc)
    except ValueError:
        return datetime.max.replace(tzinfo=timezone.utc)
