"""``dml catalog push`` and ``install``: OpenMetadata gets what the document says."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dml_platform.catalog.store import read_document
from dml_platform.core.errors import ConfigError, PermanentError
from dml_platform.core.project import get_project
from dml_platform.core.settings import load_settings
from dml_platform.openmetadata import Outcome
from dml_platform.openmetadata import push as push_document
from dml_platform.openmetadata.program import ensure_publisher
from dml_platform.openmetadata.push import describe

_COLOURS = {"create": "green", "restore": "green", "change": "yellow", "delete": "red", "send": "dim"}
_SHOWN_REFUSALS = 5


def push(console: Console, errors: Console, project_name: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Send the newest document and what waits, or say what that would change.

    Raises:
        ConfigError: there is no document yet, or a setting is missing.
        RetryableError: OpenMetadata cannot be reached.
        PermanentError: it refused the token, or some things.
    """
    project = get_project(project_name)
    settings = load_settings(project.root)
    document = read_document(settings, project.name)
    if document is None:
        raise ConfigError(
            f"cannot push the catalogue of project {project.name!r}",
            "no run has written its document yet",
            "Write it with: dml catalog write",
        )
    with errors.status("looking for the publisher") as status:
        outcome = push_document(settings, document, dry_run=dry_run, progress=lambda text: status.update(escape(text)))
    if as_json:
        import json

        typer.echo(json.dumps({"dry_run": dry_run, **asdict(outcome)}, indent=2))
    else:
        _print(console, outcome, is_dry=dry_run)
    if outcome.refused:
        shown = "; ".join(outcome.refused[:_SHOWN_REFUSALS])
        more = f"; and {len(outcome.refused) - _SHOWN_REFUSALS} more" if len(outcome.refused) > _SHOWN_REFUSALS else ""
        raise PermanentError(
            "cannot push all to OpenMetadata", f"it refused {shown}{more}", "Correct these; all else is there."
        )


def install(errors: Console) -> None:
    """Install the publisher, unless it is there."""
    settings = load_settings()
    with errors.status("looking for the publisher") as status:
        ensure_publisher(settings, lambda text: status.update(escape(text)))
    errors.print("the publisher to OpenMetadata is installed", markup=False)


def _print(console: Console, outcome: Outcome, *, is_dry: bool) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for change in outcome.changes:
        action = change["action"]
        if is_dry or action != "send":
            words = (change["kind"], change["name"], change.get("detail", ""))
            table.add_row(f"[{_COLOURS[action]}]{action}[/]", *map(escape, words))
    if table.row_count:
        console.print(table)
    for kept in outcome.kept:
        console.print(f"[cyan]kept[/]  {escape(kept)} (written in OpenMetadata)", highlight=False, soft_wrap=True)
    for notice in outcome.notices:
        console.print(f"[yellow]![/] {escape(notice)}", highlight=False, soft_wrap=True)
    if outcome.sent and not is_dry:
        console.print(f"{outcome.sent} documents that had waited are sent", highlight=False)
    done = describe(outcome.changes)
    console.print(
        f"would do: {done}" if is_dry and outcome.changes else done, highlight=False, soft_wrap=True, markup=False
    )
