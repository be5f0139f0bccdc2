"""Bringing an installation back from a backup onto an engine without its data."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console

from dml_infra.backup import files, objects, postgres
from dml_infra.backup.create import bar, step, verify
from dml_infra.backup.manifest import Manifest, choose_backup, folder, read_manifest, read_objects
from dml_infra.backup.server import DockerServer, Server
from dml_infra.backup.target import Target
from dml_infra.errors import CheckFailedError
from dml_infra.installation import Installation, find_installation


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    Args:
        backup_id: which backup.
        seconds: from the first check until everything was up and checked.
        seconds_to_data: until the databases and objects were back.
        runs: runs in the history.
        tables: tables whose files are all there.
        objects: objects that were put back; each content compared with its hash.
        object_bytes: their size.
        catalogue_at: commits after this are lost.
        newest_commit_at: the newest that is there.
        lost_s: how long before the restore the state is from.
        env_differs: names in the installation's own `.env`, which was kept, that the backup has otherwise.
        missing: files that tables need and that the backup did not have either.
    """

    backup_id: str
    seconds: float
    seconds_to_data: float
    runs: int
    tables: int
    objects: int
    object_bytes: int
    catalogue_at: str
    newest_commit_at: str
    lost_s: float
    env_differs: list[str]
    missing: dict[str, list[str]]


def restore(
    installation: Installation,
    source: Target,
    identity_file: Path,
    *,
    backup_id: str | None = None,
    full: bool = False,
    console: Console | None = None,
    server: Server | None = None,
    make_server: Callable[[Installation], Server] = DockerServer,
) -> Restored:
    """Restore a backup and start everything.

    All is checked before anything is changed: the backup's parts by hash, the key, and that nothing is there that would
    be overwritten.

    Args:
        installation: a folder of this release whose volumes and secrets are gone. Its `.env` is made where it has none.
        source: where the backup is.
        identity_file: the age private key of the backup's recipient.
        backup_id: default: the newest.
        full: read every object before the start; otherwise contents are compared while they are put back.
        console: where the steps are shown.
        server: how Postgres and the object store are reached; default: the stack on this host.
        make_server: makes it for the installation as it is after its `.env` was restored.

    Raises:
        InfraError: it cannot be restored; before the first step of it nothing was changed.
    """
    begin = time.monotonic()
    began_at = datetime.now(timezone.utc)
    console = console or Console(quiet=True)
    identity = files.read_identity(identity_file)
    manifest = read_manifest(source, installation.stack, choose_backup(source, installation.stack, backup_id))
    verify(source, installation.stack, manifest.id, full=full, console=console)
    secrets = files.decrypt(_part(source, manifest, files.SECRETS), identity, files.SECRETS)
    roles = files.decrypt(_part(source, manifest, postgres.GLOBALS), identity, postgres.GLOBALS)
    stored = read_objects(source, manifest)
    files.require_no_secrets(installation)
    (server or make_server(installation)).require_empty()

    with step(console, "settings, registry, secrets"):
        env_differs = files.unpack_installation(installation, _part(source, manifest, files.INSTALLATION))
        if server is None:
            installation = find_installation(installation.root)
        files.unpack_state(installation, _part(source, manifest, files.STATE))
        files.unpack_secrets(installation, secrets)
    server = server or make_server(installation)
    with step(console, "Postgres and object store"):
        server.start_data(console)
    with step(console, "roles"):
        postgres.load_globals(server, roles)
    for database in manifest.facts["databases"]:
        name = f"{folder(manifest.stack, manifest.id)}/{postgres.dump_name(database)}"
        with step(console, f"database {database}"), source.open(name) as stream:
            postgres.load_database(server, database, stream)
    with bar(console, "objects") as tick:
        objects.write_objects(server.store(), source, stored, tick)
    with step(console, "history, schedules, tables"):
        missing = check_data(server, manifest)
    to_data = time.monotonic() - begin
    server.start_all(console)
    return Restored(
        backup_id=manifest.id,
        seconds=time.monotonic() - begin,
        seconds_to_data=to_data,
        runs=manifest.facts.get("runs", 0),
        tables=len(manifest.facts["tables"]) - len(missing),
        objects=len(stored),
        object_bytes=manifest.object_bytes,
        catalogue_at=manifest.catalogue_at,
        newest_commit_at=manifest.newest_commit_at,
        lost_s=(began_at - datetime.fromisoformat(manifest.catalogue_at)).total_seconds(),
        env_differs=env_differs,
        missing=missing,
    )


def check_data(server: Server, manifest: Manifest) -> dict[str, list[str]]:
    """Compare a server that does not work yet with what its backup says.

    Returns: files that tables need and that were missing when the backup was made.

    Raises:
        CheckFailedError: something else is missing.
    """
    what, fix = f"backup {manifest.id} was loaded, but is not whole", "Use another backup."
    if postgres.DAGSTER in manifest.facts["databases"]:
        live = postgres.live_facts(server)
        for fact, words in (
            ("runs", "runs in the history"),
            ("instigators", "schedules and sensors with their states"),
        ):
            if live[fact] != manifest.facts[fact]:
                raise CheckFailedError(what, f"{words}: {live[fact]!r} instead of {manifest.facts[fact]!r}", fix)
    if postgres.LAKE not in manifest.facts["databases"]:
        return {}
    pointers = postgres.live_pointers(server)
    tables = {pointer.identifier: pointer.metadata_location for pointer in pointers}
    if tables != manifest.facts["tables"]:
        differ = sorted(
            name
            for name in tables.keys() | manifest.facts["tables"].keys()
            if tables.get(name) != manifest.facts["tables"].get(name)
        )
        raise CheckFailedError(what, f"the catalogue has other tables: {', '.join(differ[:5])}", fix)
    store = server.store()
    sizes = {(o.bucket_name, str(o.object_name)): int(o.size or 0) for o in objects.list_store(store)}
    missing, _ = objects.missing_files(pointers, sizes, lambda bucket, key: objects.read_object(store, bucket, key))
    new = {table: lost for table, lost in missing.items() if table not in manifest.missing}
    if new:
        table, lost = next(iter(sorted(new.items())))
        raise CheckFailedError(what, f"{len(new)} tables lack files, such as {table}: {lost[0]}", fix)
    return missing


def _part(source: Target, manifest: Manifest, name: str) -> bytes:
    part = manifest.part(name)
    with source.open(f"{folder(manifest.stack, manifest.id)}/{name}") as stream:
        data = stream.read()
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise CheckFailedError(
            f"cannot use backup {manifest.id!r}", f"{name} is not as it was written", "Use another backup."
        )
    return data
