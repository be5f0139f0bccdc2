"""What a backup says of itself: its parts with their hashes, written last, so that its presence means whole."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from dml_infra.backup.target import Target
from dml_infra.errors import CheckFailedError, ConfigError

FORMAT = 1
MANIFEST = "manifest.json"
OBJECT_LIST = "objects.jsonl.gz"


@dataclass(frozen=True)
class Part:
    """One stored stream of a backup."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class StoredObject:
    """An object of the object store and where the backup keeps its content."""

    bucket: str
    key: str
    size: int
    etag: str
    sha256: str
    stored: str
    content_type: str = "application/octet-stream"


@dataclass(frozen=True)
class Manifest:
    """A backup.

    Args:
        id: its time, e.g. ``20260131T120000Z``.
        stack: the installation's name.
        versions: of this program, Postgres and the format.
        images: image of each core service.
        started_at: when it began; the state of Dagster's database is from then on.
        catalogue_at: when the lake's catalogue was dumped: later commits are not in it.
        newest_commit_at: of all tables, or ``""``.
        finished_at: when the last object was there.
        parts: all streams besides objects.
        object_count, object_bytes: of the object list.
        copied_count, copied_bytes: what was not there from an earlier backup.
        facts: what a restore has to find again: numbers of runs, states of schedules, tables.
        missing: files that tables need and that were not there, by table.
    """

    id: str
    stack: str
    versions: dict[str, str]
    images: dict[str, str]
    started_at: str
    catalogue_at: str
    newest_commit_at: str
    finished_at: str
    parts: list[Part]
    object_count: int
    object_bytes: int
    copied_count: int
    copied_bytes: int
    facts: dict[str, Any]
    missing: dict[str, list[str]] = field(default_factory=dict)

    def part(self, name: str) -> Part:
        """A part by its name."""
        return next(part for part in self.parts if part.name == name)


def folder(stack: str, backup_id: str) -> str:
    """Prefix of a backup's own parts."""
    return f"{stack}/backups/{backup_id}"


def write_manifest(target: Target, manifest: Manifest) -> None:
    """Store the manifest: from now on the backup counts."""
    content = asdict(manifest)
    whole = {"format": FORMAT, "sha256": _digest(content), "backup": content}
    data = json.dumps(whole, indent=1, sort_keys=True).encode()
    target.put(f"{folder(manifest.stack, manifest.id)}/{MANIFEST}", io.BytesIO(data))


def read_manifest(target: Target, stack: str, backup_id: str) -> Manifest:
    """Read a backup's manifest.

    Raises:
        CheckFailedError: it was changed or is of a format that this version does not know.
    """
    name = f"{folder(stack, backup_id)}/{MANIFEST}"
    what = f"cannot use backup {backup_id!r} of {target.address}"
    fix = "Use another backup."
    with target.open(name) as stream:
        data = stream.read()
    try:
        whole = json.loads(data)
        content = whole["backup"]
        known = whole["format"] == FORMAT
    except (ValueError, LookupError, TypeError) as error:
        raise CheckFailedError(what, f"{name} is damaged ({error})", fix) from error
    if not known:
        raise CheckFailedError(
            what, f"its format is {whole['format']!r}, this version reads {FORMAT}", "Use the version that made it."
        )
    if _digest(content) != whole.get("sha256"):
        raise CheckFailedError(what, f"{name} is not as it was written", fix)
    return Manifest(**{**content, "parts": [Part(**part) for part in content["parts"]]})


def list_backups(target: Target, stack: str) -> list[str]:
    """Identifiers of whole backups, oldest first."""
    ends = f"/{MANIFEST}"
    return sorted(name.split("/")[-2] for name in target.names(f"{stack}/backups/") if name.endswith(ends))


def choose_backup(target: Target, stack: str, backup_id: str | None) -> str:
    """The given backup, or the newest.

    Raises:
        ConfigError: it is not there.
    """
    found = list_backups(target, stack)
    if backup_id is None and found:
        return found[-1]
    if backup_id in found:
        return str(backup_id)
    raise ConfigError(
        f"cannot find a backup of {stack!r} in {target.address}",
        f"there is {'none' if not found else 'no ' + repr(backup_id) + ', only ' + ', '.join(found[-5:])}",
        "Check the address, the stack's name (DML_STACK) and the backup's identifier.",
    )


def encode_objects(objects: Iterable[StoredObject]) -> bytes:
    """The object list as it is stored."""
    lines = "".join(json.dumps(asdict(o), sort_keys=True) + "\n" for o in objects)
    return gzip.compress(lines.encode(), mtime=0)


def read_objects(target: Target, manifest: Manifest) -> list[StoredObject]:
    """The object list of a backup, checked against its manifest."""
    part = manifest.part(OBJECT_LIST)
    with target.open(f"{folder(manifest.stack, manifest.id)}/{part.name}") as stream:
        data = stream.read()
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise CheckFailedError(
            f"cannot use backup {manifest.id!r}", f"{part.name} is not as it was written", "Use another backup."
        )
    return [StoredObject(**json.loads(line)) for line in gzip.decompress(data).splitlines()]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
