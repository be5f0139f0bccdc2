"""``dml maintain``: what a project's tables do not need any more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dml_platform.core.config import MaintenanceConfig, load_project_config
from dml_platform.core.errors import ConfigError, PermanentError
from dml_platform.core.project import get_project
from dml_platform.core.settings import Settings, load_settings
from dml_platform.lake import Lake
from dml_platform.lake.maintain import TableMaintenance, Work, maintain
from dml_platform.lake.reporting import living_runs, recorded, short_run_id

_UNITS = ("B", "kB", "MB", "GB", "TB")


def run(
    console: Console, errors: Console, project_name: str | None, *, dry_run: bool, as_json: bool, **limits: float | None
) -> None:
    """Maintain the tables of a project and show what became of each.

    Args:
        limits: of ``maintenance:`` in config/project.yaml, for this time; None leaves what is there.
    Raises:
        ConfigError: a limit is too small.
        PermanentError: a table's files are not as it says, or the storage refused.
    """
    project = get_project(project_name)
    settings = load_settings(project.root)
    lake = Lake(settings, project.root)
    policy = _policy(load_project_config(project.root).maintenance, limits)
    work = Work(policy, living=_living(settings), now=datetime.now(timezone.utc), dry_run=dry_run)
    with errors.status("looking at the tables") as status:

        def show(text: str) -> None:
            status.update(escape(text))

        if dry_run:
            done = maintain(lake, project.name, work, progress=show)
        else:
            number = f"mt{work.now:%m%d%H%M%S}"
            with recorded(project, lake, run_id=number, step="maintain") as notes:
                done = maintain(lake, project.name, work, progress=show)
                notes.details["maintain"] = [found.as_dict() for found in done if found.is_changed]
    if as_json:
        print(json.dumps({"dry_run": dry_run, "tables": [found.as_dict() for found in done]}, indent=2))
    else:
        _show(console, done, dry_run=dry_run)
    if faults := [f"{found.ref.dotted}: {found.fault}" for found in done if found.fault]:
        raise PermanentError(
            "some files were left alone",
            "; ".join(faults),
            "Bring back the files from a backup, or publish the table anew; then run it again.",
        )


def _policy(config: MaintenanceConfig, limits: Mapping[str, float | None]) -> MaintenanceConfig:
    given = {name: value for name, value in limits.items() if value is not None}
    try:
        return MaintenanceConfig.model_validate({**config.model_dump(), **given})
    except ValidationError as error:
        wrong = [f"--{str(e['loc'][0]).replace('_', '-')}: {e['msg']}" for e in error.errors(include_url=False)]
        raise ConfigError("cannot maintain with these limits", "; ".join(wrong), "Choose others.") from None


def _living(settings: Settings) -> list[str]:
    """The runs that this machine's Dagster knows to be alive; on a server the job of the project asks its own."""
    if not (settings.home / "dagster" / "dagster.yaml").is_file():
        return []
    from dml_platform.cli.dagster_home import open_instance

    with open_instance(settings.home) as instance:
        return [short_run_id(run_id) for run_id in living_runs(instance)]


def _show(console: Console, done: list[TableMaintenance], *, dry_run: bool) -> None:
    table = Table(
        "table",
        "snapshots",
        "files",
        "size",
        "branches",
        "compacted",
        "",
        box=None,
        padding=(0, 2, 0, 0),
        highlight=False,
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for found in done:
        was, now = found.before, found.after
        table.add_row(
            escape(found.ref.dotted),
            _change(f"{was.snapshots:,}", f"{now.snapshots:,}"),
            _change(f"{was.files:,}", f"{now.files:,}"),
            _change(_bytes(was.size_bytes), _bytes(now.size_bytes)),
            f"-{len(found.branches)}" if found.branches else "",
            f"{found.compacted:,} files" if found.compacted else "",
            escape(found.note),
        )
    if not done:
        console.print("The project has no tables yet. 'dml run' fills it.")
        return
    console.print(table)
    files = sum(len(found.deleted) for found in done)
    freed = sum(found.before.size_bytes - found.after.size_bytes for found in done)
    expired = sum(len(found.expired) for found in done)
    verb = "would go" if dry_run else "went"
    console.print(f"{expired:,} snapshots and {files:,} files, {_bytes(freed)}, {verb}", highlight=False)
    if dry_run:
        console.print("nothing was changed: --dry-run")


def _change(was: str, now: str) -> str:
    return was if was == now else f"{was} → {now}"


def _bytes(size: int) -> str:
    place = min(max(len(str(abs(size))) - 1, 0) // 3, len(_UNITS) - 1)
    return f"{size / 1000**place:,.{1 if place else 0}f} {_UNITS[place]}"
