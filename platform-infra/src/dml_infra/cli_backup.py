"""The commands backup, backups, verify-backup and restore. The work is ``backup``'s."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from dml_infra.backup import Target
    from dml_infra.installation import Installation

To = Annotated[
    str | None,
    typer.Option("--to", help="Folder, or s3://bucket/prefix; default: DML_BACKUP_TARGET, else STATE/backups."),
]
From = Annotated[str | None, typer.Option("--from", help="Where the backups are; default: as of 'backup'.")]
Endpoint = Annotated[str | None, typer.Option(help="Of the S3 service; default: DML_BACKUP_S3_ENDPOINT.")]
Credentials = Annotated[
    Path | None, typer.Option(help="AWS-style file with the key for it; default: the secret backup_aws_credentials.")
]
Which = Annotated[str | None, typer.Option("--id", help="Of 'dml infra backups'; default: the newest.")]


def add_commands(app: typer.Typer, installation: Callable[[], Installation], console: Console) -> None:
    """Add the commands to a Typer application.

    Args:
        app: of `dml infra`.
        installation: finds the installation that the command line names.
        console: for output.
    """

    @app.command()
    def backup(
        to: To = None,
        recipient: Annotated[
            str | None, typer.Option(help="age public key for the secrets; default: DML_BACKUP_RECIPIENT.")
        ] = None,
        new_identity: Annotated[
            Path | None, typer.Option(help="Make a key pair and write the private key here. Keep it elsewhere.")
        ] = None,
        keep: Annotated[int | None, typer.Option(help="Leave so many backups and remove older ones.", min=1)] = None,
        endpoint: Endpoint = None,
        credentials: Credentials = None,
    ) -> None:
        """Back up databases, objects, registry and secrets while everything runs."""
        from dml_infra import backup as backups
        from dml_infra.errors import ConfigError

        found = installation()
        target = _target(found, to, endpoint, credentials)
        if new_identity:
            recipient = backups.new_identity(new_identity)
            _print(console, f"public key: {recipient} (as DML_BACKUP_RECIPIENT for the next time)")
            _print(
                console,
                f"Without {new_identity} no restore is possible: keep it where this server's loss cannot reach.",
            )
        recipient = recipient or found.env.get("DML_BACKUP_RECIPIENT")
        if not recipient:
            raise ConfigError(
                "cannot back up",
                "there is no key to encrypt the secrets to",
                "Give --recipient age1… or set DML_BACKUP_RECIPIENT; --new-identity FILE makes a key pair.",
            )
        made = backups.backup(found, target, recipient, keep=keep, console=console)
        _print(
            console,
            f"backup {made.id} in {target.address}: {len(made.facts['tables'])} tables, "
            f"{made.facts.get('runs', 0)} runs, {made.object_count} objects ({made.object_bytes / 1e6:.1f} MB), "
            f"of which {made.copied_count} new ({made.copied_bytes / 1e6:.1f} MB)",
        )

    @app.command()
    def backups(source: From = None, endpoint: Endpoint = None, credentials: Credentials = None) -> None:
        """List the backups that are whole."""
        from dml_infra.backup import list_backups
        from dml_infra.backup.manifest import read_manifest

        found = installation()
        target = _target(found, source, endpoint, credentials)
        for backup_id in list_backups(target, found.stack):
            made = read_manifest(target, found.stack, backup_id)
            state = f"{len(made.missing)} tables incomplete" if made.missing else "complete"
            _print(
                console, f"{backup_id}  {made.object_bytes / 1e6:.1f} MB  {len(made.facts['tables'])} tables  {state}"
            )

    @app.command()
    def verify_backup(
        source: From = None,
        which: Which = None,
        full: Annotated[bool, typer.Option(help="Read every object, not only a sample.")] = False,
        endpoint: Endpoint = None,
        credentials: Credentials = None,
    ) -> None:
        """Read a backup and compare it with its hashes."""
        from dml_infra.backup import verify

        found = installation()
        target = _target(found, source, endpoint, credentials)
        made = verify(target, found.stack, which, full=full, console=console)
        _print(console, f"backup {made.id} is as it was written")

    @app.command()
    def restore(
        identity: Annotated[Path, typer.Option(help="File with the age private key.")],
        source: From = None,
        which: Which = None,
        full: Annotated[bool, typer.Option(help="Read every object before anything is changed.")] = False,
        endpoint: Endpoint = None,
        credentials: Credentials = None,
    ) -> None:
        """Bring everything back onto an engine without this installation's data."""
        from dml_infra import backup as backups

        found = installation()
        target = _target(found, source, endpoint, credentials)
        done = backups.restore(found, target, identity, backup_id=which, full=full, console=console)
        _print(
            console,
            f"restored {done.backup_id}: {done.runs} runs, {done.tables} tables, {done.objects} objects "
            f"({done.object_bytes / 1e6:.1f} MB) in {done.seconds:.0f} s, the data after {done.seconds_to_data:.0f} s",
        )
        _print(console, f"Lost: commits after {done.catalogue_at} ({done.lost_s:.0f} s before this restore began).")
        _print(console, f"The newest commit that is there: {done.newest_commit_at or 'none'}.")
        if done.env_differs:
            _print(console, f"The .env that was here was kept; the backup's differs in {', '.join(done.env_differs)}.")
        for table, lost in sorted(done.missing.items()):
            _print(
                console, f"{table}: {len(lost)} files were missing already when the backup was made, first {lost[0]}"
            )


def _target(installation: Installation, address: str | None, endpoint: str | None, credentials: Path | None) -> Target:
    from dml_infra.backup import open_target

    address = address or installation.env.get("DML_BACKUP_TARGET") or str(installation.state / "backups")
    return open_target(
        address,
        endpoint=endpoint or installation.env.get("DML_BACKUP_S3_ENDPOINT"),
        credentials_file=credentials or installation.secrets / "backup_aws_credentials",
    )


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
