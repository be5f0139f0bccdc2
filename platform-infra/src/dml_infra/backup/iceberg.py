"""Which files an Iceberg table needs, read from its metadata without an Iceberg library.

Source: Iceberg table spec, "Table Metadata Fields", "Manifest Lists" and "Manifests".
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import fastavro

DELETED = 2
# What parsers raise at bytes that are not what they should be.
_DAMAGED = (
    OSError, LookupError, ValueError, EOFError, StopIteration, TypeError, AttributeError, AssertionError, OverflowError,
    MemoryError, struct.error, zlib.error,
)  # fmt: skip

Read = Callable[[str], bytes]


@dataclass(frozen=True)
class TablePointer:
    """A row of the catalogue."""

    namespace: str
    name: str
    metadata_location: str

    @property
    def identifier(self) -> str:
        """The table's name as people write it."""
        return f"{self.namespace}.{self.name}"


@dataclass(frozen=True)
class TableFiles:
    """What one table needs, whatever snapshot is read.

    Args:
        updated_ms: time of the last commit.
        files: addresses of all files, metadata among them; ``size`` where the metadata say it, else -1.
        unreadable: files that should tell of others and cannot be read.
    """

    updated_ms: int
    files: dict[str, int]
    unreadable: dict[str, str]


def table_files(pointer: TablePointer, read: Read, cache: dict[str, dict[str, int]]) -> TableFiles:
    """Every file that a table's current metadata lead to.

    Args:
        pointer: the catalogue's row.
        read: gives a file's content by its address.
        cache: what manifests named, kept over tables and snapshots: they are immutable and shared.
    """
    files: dict[str, int] = {pointer.metadata_location: -1}
    unreadable: dict[str, str] = {}
    metadata = _parse(pointer.metadata_location, read, _metadata, unreadable) or {}
    for entry in metadata.get("statistics", []) + metadata.get("partition-statistics", []):
        files[entry["statistics-path"]] = -1
    for snapshot in metadata.get("snapshots", []):
        for manifest, size in _manifests(snapshot, read, unreadable):
            if manifest in files:
                continue
            files[manifest] = size
            if manifest not in cache:
                named = _parse(manifest, read, lambda data: dict(_live_files(data)), unreadable)
                if named is None:
                    continue
                cache[manifest] = named
            files.update(cache[manifest])
        if "manifest-list" in snapshot:
            files[snapshot["manifest-list"]] = -1
    return TableFiles(int(metadata.get("last-updated-ms", 0)), files, unreadable)


def _metadata(data: bytes) -> dict[str, Any]:
    content = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    if not isinstance(content, dict) or "format-version" not in content:
        raise ValueError("no table metadata")
    return content


def _manifests(snapshot: dict[str, Any], read: Read, unreadable: dict[str, str]) -> Iterable[tuple[str, int]]:
    if "manifest-list" not in snapshot:
        return [(path, -1) for path in snapshot.get("manifests", [])]
    rows = _parse(snapshot["manifest-list"], read, lambda data: list(_rows(data)), unreadable)
    return [(str(row["manifest_path"]), int(row["manifest_length"])) for row in rows or []]


def _live_files(data: bytes) -> Iterator[tuple[str, int]]:
    for row in _rows(data):
        if row["status"] != DELETED:
            yield str(row["data_file"]["file_path"]), int(row["data_file"]["file_size_in_bytes"])


def _rows(data: bytes) -> Iterator[dict[str, Any]]:
    return iter(fastavro.reader(io.BytesIO(data)))  # type: ignore[arg-type]


def _parse(location: str, read: Read, parse: Callable[[bytes], Any], unreadable: dict[str, str]) -> Any:
    try:
        return parse(read(location))
    except _DAMAGED as error:
        unreadable[location] = f"{type(error).__name__}: {error}"
        return None
