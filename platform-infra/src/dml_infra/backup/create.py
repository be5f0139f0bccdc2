"""Taking a backup while runs go on, checking one, and removing old ones.

Nothing is stopped. The order makes the parts fit together: Dagster's history first, then the catalogue, then objects.
A table's files are written before the catalogue points to them and never changed, so all that a dumped pointer leads
to is there when the objects are copied, unless maintenance removes it in between: that is found out, and then the
catalogue is dumped again.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from dml_infra import __version__
from dml_infra.backup import files, objects, postgres
from dml_infra.backup.manifest import (
    OBJECT_LIST,
    Manifest,
    Part,
    StoredObject,
    choose_backup,
    encode_objects,
    folder,
    list_backups,
    read_manifest,
    read_objects,
    write_manifest,
)
from dml_infra.backup.server import DockerServer, Server
from dml_infra.backup.target import CHUNK, HashingReader, Target
from dml_infra.errors import CheckFailedError, ConfigError, RetryableError
from dml_infra.installation import Installation

ATTEMPTS = 3
SAMPLE = 200


def backup(
    installation: Installation,
    target: Target,
    recipient: str,
    *,
    keep: int | None = None,
    console: Console | None = None,
    server: Server | None = None,
) -> Manifest:
    """Back up an installation that runs.

    Args:
        installation: what to back up.
        target: where to; see ``open_target``.
        recipient: age public key that the secrets are encrypted to. Its private key must be kept elsewhere.
        keep: afterwards leave so many backups there and remove older ones.
        console: where the steps are shown.
        server: how Postgres and the object store are reached; default: the stack on this host.

    Returns: what was stored.

    Raises:
        CheckFailedError: files that tables need are missing. The backup was stored all the same.
        InfraError: it could not be made; what was stored of it does not count as a backup.
    """
    key = files.parse_recipient(recipient)
    if keep is not None and keep < 1:
        raise ConfigError("cannot back up", f"--keep {keep} would keep none", "Keep at least 1.")
    console = console or Console(quiet=True)
    server = server or DockerServer(installation)
    with _only_one(installation):
        manifest = _backup(installation, target, key, console, server)
        if keep is not None:
            removed = prune(target, installation.stack, keep)
            console.print(f"removed {len(removed)} older backups", highlight=False)
    if manifest.missing:
        tables = ", ".join(f"{table} ({len(lost)} files)" for table, lost in sorted(manifest.missing.items()))
        raise CheckFailedError(
            f"backup {manifest.id} is stored, but not all that tables need was there",
            f"{tables}; first: {next(iter(manifest.missing.values()))[0]}",
            "Check these tables: they are damaged on the server already. All others are complete.",
        )
    return manifest


def _backup(installation: Installation, target: Target, key: Any, console: Console, server: Server) -> Manifest:
    started = datetime.now(timezone.utc)
    backup_id = started.strftime("%Y%m%dT%H%M%SZ")
    prefix = folder(installation.stack, backup_id)
    if backup_id in list_backups(target, installation.stack):
        raise RetryableError("cannot back up", f"there is a backup {backup_id} already", "Run this again.")
    known = _known_objects(target, installation.stack)
    parts: dict[str, Part] = {}

    def put(name: str, stream: Any) -> None:
        reader = HashingReader(stream)
        target.put(f"{prefix}/{name}", reader)
        parts[name] = Part(name, reader.size, reader.sha256)

    def dump(database: str) -> None:
        with step(console, f"database {database}"), postgres.dump_database(server, database) as stream:
            put(postgres.dump_name(database), stream)

    with step(console, "settings, registry, secrets"):
        put(files.INSTALLATION, io.BytesIO(files.pack_installation(installation)))
        put(files.STATE, io.BytesIO(files.pack_state(installation)))
        put(files.SECRETS, io.BytesIO(files.pack_secrets(installation, key)))
    with step(console, "roles"):
        put(postgres.GLOBALS, io.BytesIO(postgres.dump_globals(server, key)))
    databases = postgres.databases(server)
    for database in databases:
        if database != postgres.LAKE:
            dump(database)
    copied = copied_bytes = 0
    for attempt in range(1, ATTEMPTS + 1):
        catalogue_at = datetime.now(timezone.utc)
        if postgres.LAKE in databases:
            dump(postgres.LAKE)
        with bar(console, "objects") as tick:
            stored, count, size = objects.copy_objects(server.store(), target, installation.stack, known, tick)
        copied, copied_bytes = copied + count, copied_bytes + size
        pointers = postgres.catalogue_pointers(server, target, prefix) if postgres.LAKE in databases else []
        with step(console, f"files of {len(pointers)} tables"):
            missing, newest = _check_tables(target, stored, pointers)
        if not missing:
            break
        if attempt < ATTEMPTS:
            console.print("some files went meanwhile: the catalogue is read again", highlight=False)
    put(OBJECT_LIST, io.BytesIO(encode_objects(stored)))
    facts = postgres.facts_of(server, target, prefix) if postgres.DAGSTER in databases else {}
    facts["tables"] = {pointer.identifier: pointer.metadata_location for pointer in pointers}
    facts["databases"] = databases
    manifest = Manifest(
        id=backup_id,
        stack=installation.stack,
        versions={"dml-infra": __version__, "postgres": postgres.server_version(server)},
        images=server.images(),
        started_at=started.isoformat(),
        catalogue_at=catalogue_at.isoformat(),
        newest_commit_at=datetime.fromtimestamp(newest / 1000, timezone.utc).isoformat() if newest else "",
        finished_at=datetime.now(timezone.utc).isoformat(),
        parts=list(parts.values()),
        object_count=len(stored),
        object_bytes=sum(o.size for o in stored),
        copied_count=copied,
        copied_bytes=copied_bytes,
        facts=facts,
        missing=missing,
    )
    write_manifest(target, manifest)
    return manifest


def verify(
    target: Target, stack: str, backup_id: str | None = None, *, full: bool = False, console: Console | None = None
) -> Manifest:
    """Check that a backup can be read back as it was written.

    Args:
        target: where it is.
        stack: the installation's name.
        backup_id: default: the newest.
        full: read every object; otherwise all sizes, and the contents of a sample.
        console: where progress is shown.

    Raises:
        CheckFailedError: something is missing or changed; all of it is counted, the first named.
    """
    console = console or Console(quiet=True)
    manifest = read_manifest(target, stack, choose_backup(target, stack, backup_id))
    prefix = folder(stack, manifest.id)
    wrong: list[str] = []
    with step(console, f"{len(manifest.parts)} parts"):
        there = target.names(prefix)
        for part in manifest.parts:
            name = f"{prefix}/{part.name}"
            if there.get(name) != part.size:
                wrong.append(f"{part.name} has {there.get(name, 'no')} bytes instead of {part.size}")
            elif _hash(target, name) != part.sha256:
                wrong.append(f"{part.name} is not as it was written")
    if not wrong:
        stored = read_objects(target, manifest)
        there = target.names(f"{stack}/objects/")
        wrong += [
            f"object {o.bucket}/{o.key} has {there.get(o.stored, 'no')} bytes instead of {o.size}"
            for o in stored
            if there.get(o.stored) != o.size
        ]
        chosen = stored if full else random.Random(manifest.id).sample(stored, min(SAMPLE, len(stored)))
        with bar(console, "contents") as tick:
            for number, found in enumerate(chosen, start=1):
                if there.get(found.stored) == found.size and _hash(target, found.stored) != found.sha256:
                    wrong.append(f"object {found.bucket}/{found.key} is not as it was written")
                tick(number, len(chosen), found.size)
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise CheckFailedError(
            f"backup {manifest.id} of {target.address} is damaged",
            wrong[0] + more,
            "Make a new backup; restore from another one.",
        )
    return manifest


def prune(target: Target, stack: str, keep: int) -> list[str]:
    """Remove all but the newest backups and every object that none of those needs. Returns: what was removed."""
    kept = list_backups(target, stack)[-keep:]
    if not kept:
        return []
    needed = {o.stored for backup_id in kept for o in read_objects(target, read_manifest(target, stack, backup_id))}
    removed = set()
    # A manifest goes first: a backup that is half removed does not count.
    for name in sorted(target.names(f"{stack}/backups/"), key=lambda name: not name.endswith("/manifest.json")):
        backup_id = name.split("/")[2]
        if backup_id < kept[0]:
            target.delete(name)
            removed.add(backup_id)
    for name in target.names(f"{stack}/objects/"):
        if name not in needed:
            target.delete(name)
    return sorted(removed)


def _check_tables(target: Target, stored: list[StoredObject], pointers: Any) -> tuple[dict[str, list[str]], int]:
    """Follow the dumped catalogue through what the target has."""
    by_address = {(o.bucket, o.key): o for o in stored}

    def read(bucket: str, key: str) -> bytes:
        with target.open(by_address[bucket, key].stored) as stream:
            return stream.read()

    return objects.missing_files(pointers, {address: o.size for address, o in by_address.items()}, read)


def _known_objects(target: Target, stack: str) -> dict[str, StoredObject]:
    """Objects that the newest backup has, where their content is really there."""
    backups = list_backups(target, stack)
    if not backups:
        return {}
    there = target.names(f"{stack}/objects/")
    last = read_objects(target, read_manifest(target, stack, backups[-1]))
    return {o.stored: o for o in last if there.get(o.stored) == o.size}


def _hash(target: Target, name: str) -> str:
    digest = hashlib.sha256()
    with target.open(name) as stream:
        while data := stream.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()


@contextmanager
def _only_one(installation: Installation) -> Iterator[None]:
    path = installation.state / "locks"
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / "backup.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RetryableError("cannot back up", "another backup is under way", "Wait for it.") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def step(console: Console, what: str) -> Iterator[None]:
    """Show a step while it goes on, and that it is done."""
    with console.status(what):
        yield
    console.print(f"done: {what}", markup=False, highlight=False)


@contextmanager
def bar(console: Console, what: str) -> Iterator[objects.Tick]:
    """Show how many of how many, and how many bytes."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TextColumn("{task.fields[size]}"), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task(what, total=None, size="")
        total_bytes = 0

        def tick(done: int, total: int, size: int) -> None:
            nonlocal total_bytes
            total_bytes += size
            progress.update(task, completed=done, total=total, size=f"{total_bytes / 1e6:.1f} MB")

        yield tick
