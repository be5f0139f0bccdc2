"""Files below a table's folder that nothing names any more, and deleting them. Commits nothing.

A file is deleted only if no snapshot of any branch or tag names it, the metadata log and the project's other tables do
not, and it is old: what a run writes is named only at its commit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.io import FileIO
from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata

from dml_platform.core.errors import PermanentError, RetryableError
from dml_platform.core.naming import TableRef
from dml_platform.core.settings import Settings
from dml_platform.core.storage import Entry, FolderStorage, ObjectStorage, Storage
from dml_platform.lake import catalog as catalogs

_FOLDERS = ("data/", "metadata/")
_WORKERS = 8


@dataclass(frozen=True)
class NamedFiles:
    """What a table's metadata names, by address: files of rows and lists of them, and the metadata itself."""

    content: frozenset[str] = frozenset()
    metadata: frozenset[str] = frozenset()


def table_storage(settings: Settings, ref: TableRef, table: Table) -> Storage | None:
    """The table's folder, or None where it is not where the platform puts it: then its files are left alone."""
    place = f"{settings.warehouse}/{ref.path}"
    if plain(table.location()).rstrip("/") != place:
        return None
    return ObjectStorage(settings, place) if settings.is_s3 else FolderStorage(Path(place))


def root_of(storage: Storage) -> str:
    """The folder as the beginning of the addresses in it, and of none beside it."""
    return storage.address("").rstrip("/") + "/"


def list_files(ref: TableRef, storage: Storage) -> list[Entry]:
    """Every file of the table's folder.

    Raises:
        RetryableError: the object store does not answer.
    """
    try:
        return [entry for entry in storage.list(recursive=True) if not entry.is_folder]
    except OSError as error:
        raise RetryableError(
            f"cannot list the files of {ref.dotted!r}", " ".join(str(error).split()), "Run it again."
        ) from error


def named_files(metadata: TableMetadata, io: FileIO, metadata_location: str) -> NamedFiles:
    """Everything that the snapshots of a table name, whatever branch or tag they are of."""
    content = {file.statistics_path for file in metadata.statistics}
    content |= {file.statistics_path for file in metadata.partition_statistics}
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="dml-manifests") as pool:
        manifests: dict[str, ManifestFile] = {}
        for found in pool.map(lambda snapshot: snapshot.manifests(io), metadata.snapshots):
            manifests |= {manifest.manifest_path: manifest for manifest in found}
        content |= {snapshot.manifest_list for snapshot in metadata.snapshots}
        content |= manifests.keys()
        for paths in pool.map(lambda manifest: _files_of(manifest, io), manifests.values()):
            content |= paths
    log = {entry.metadata_file for entry in metadata.metadata_log}
    return NamedFiles(frozenset(map(plain, content)), frozenset(map(plain, {*log, metadata_location})))


def named_by_others(catalog: SqlCatalog, project: str, known: Collection[tuple[str, ...]]) -> list[NamedFiles]:
    """What a project's tables name that other engines made, under names that the platform gives none."""
    found = []
    for name in catalogs.metadata_locations(catalog):
        identifier = tuple(name.split("."))
        if identifier[0] == project and identifier not in known:
            with suppress(FileNotFoundError, NoSuchTableError):  # it is broken, or was dropped meanwhile
                table = catalog.load_table(identifier)
                found.append(named_files(table.metadata, table.io, table.metadata_location))
    return found


def missing_files(named: NamedFiles, storage: Storage, listed: Iterable[Entry]) -> list[str]:
    """Files of rows, or lists of them, that the table names below its folder and that are not there."""
    root = root_of(storage)
    there = {storage.address(entry.name) for entry in listed}
    return sorted(path for path in named.content if path.startswith(root) and path not in there)


def find_orphans(
    named: NamedFiles, storage: Storage, listed: Iterable[Entry], *, older_than: timedelta, now: datetime
) -> list[Entry]:
    """What may be deleted. A name that is live elsewhere protects a file too: names are unique."""
    paths = named.content | named.metadata
    names = {path.rpartition("/")[2] for path in paths}
    limit = (now - older_than).timestamp()
    return [
        entry
        for entry in listed
        if entry.name.startswith(_FOLDERS)
        and entry.modified_at is not None
        and entry.modified_at < limit
        and storage.address(entry.name) not in paths
        and entry.name.rpartition("/")[2] not in names
    ]


def delete_files(ref: TableRef, storage: Storage, orphans: Sequence[Entry]) -> None:
    """Delete files; one that is gone already is no error.

    Raises:
        PermanentError: the storage refused; what was deleted until then stays so, and the rest is found again.
    """
    try:
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="dml-delete") as pool:
            for _ in pool.map(lambda entry: storage.delete(entry.name), orphans):
                pass
    except OSError as error:
        raise PermanentError(
            f"cannot delete files of {ref.dotted!r}",
            f"{' '.join(str(error).split())}; no live file was touched",
            "Correct the rights of the folder or key, then run it again: it goes on where it stopped.",
        ) from error


def _files_of(manifest: ManifestFile, io: FileIO) -> set[str]:
    return {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(io, discard_deleted=True)}


def plain(path: str) -> str:
    """An address as the platform writes it; other engines write other schemes for the same place."""
    for scheme, plain in (("file://", ""), ("file:", ""), ("s3a://", "s3://"), ("s3n://", "s3://")):
        if path.startswith(scheme):
            return plain + path[len(scheme) :]
    return path
