"""``dml rollback``: a bad table, or all of a bad run, taken back for its readers."""

from __future__ import annotations

import getpass
import json
import sys
import time
import uuid

import typer
from rich.console import Console
from rich.table import Table

from dml_platform import __version__
from dml_platform.core.errors import ConfigError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import find_projects, get_project
from dml_platform.core.runrecord import RunRecord, git_commit, utc_now, write_record
from dml_platform.core.settings import load_settings
from dml_platform.lake import Lake
from dml_platform.lake.rollback import Move, move_main, plan_run, plan_table

STEP = "rollback"
_EXAMPLES = 3


def rollback(
    console: Console,
    subject: str,
    *,
    project: str | None,
    to: str | None,
    why: str,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Show what would change, ask, move ``main`` and say how to undo it.

    Raises:
        ConfigError: there is no such table, run or state; or nobody is there to be asked.
        PublishConflictError: somebody published meanwhile.
    """
    ref = TableRef.parse(subject) if "." in subject else None
    name, lake = _project(ref, project)
    moves = plan_table(lake, ref, to=to) if ref else plan_run(lake, name, subject, to=to)
    if as_json and dry_run:
        print(json.dumps({"done": False, "moves": [move.as_dict() for move in moves]}, indent=2))
        return
    if not as_json:
        _show(console, moves)
    if dry_run:
        console.print("nothing was changed: --dry-run")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(f"cannot roll back {subject!r}", "nobody is there to say yes", "Add --yes or --dry-run.")
        typer.confirm("Go on?", abort=True)
    started, clock, number = utc_now(), time.monotonic(), f"rb{uuid.uuid4().hex[:6]}"
    who = {"by": _who(), "why": why}
    move_main(lake, moves, **who, roll_back_id=number)
    undo = _undo(subject, ref, moves)
    details = {**who, "subject": subject, "to": to, "moves": [move.as_dict() for move in moves], "undo": undo}
    write_record(
        lake.settings,
        RunRecord(
            project=name,
            run_id=number,
            step=STEP,
            status="success",
            started_at=started,
            duration_s=round(time.monotonic() - clock, 3),
            git_commit=git_commit(lake.root),
            image=lake.settings.image,
            rows={move.ref.dotted: move.rows_now for move in moves},
            details={STEP: details},
            platform=__version__,
        ),
    )
    if as_json:
        print(json.dumps({"done": True, "id": number, **details}, indent=2))
        return
    console.print(f"done: {len(moves)} table(s) in one transaction, recorded as {number}", markup=False)
    if undo:
        console.print("undo it with:")
    for line in undo:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _project(ref: TableRef | None, project: str | None) -> tuple[str, Lake]:
    """Whose tables they are, and the lake as that project's settings have it, if it is here."""
    if ref is None:
        found = get_project(project)
        return found.name, Lake(load_settings(found.root), found.root)
    root = next((p.root for p in find_projects() if p.name == ref.project), None)
    return ref.project, Lake(load_settings(root), root)


def _show(console: Console, moves: list[Move]) -> None:
    table = Table("table", "rows", "→", "published by", "→", "snapshot", box=None, padding=(0, 2, 0, 0))
    for move in moves:
        table.add_row(
            move.ref.dotted,
            f"{move.rows_was:,}" if move.snapshot_was else "-",
            f"{move.rows_now:,}" if move.snapshot_now else "not published",
            move.run_was or "-",
            move.run_now or "-",
            str(move.snapshot_now or "-"),
        )
    console.print(table)
    for move in moves[:_EXAMPLES]:
        if move.snapshot_was and move.snapshot_now:
            line = f"dml diff {move.ref.dotted} --from {move.snapshot_was} --to {move.snapshot_now}"
            console.print(f"which rows: {line}", markup=False, highlight=False, soft_wrap=True)
    if any(move.ref.layer == "raw" for move in moves):
        console.print(
            "A raw table's position in its source goes with its rows: the next ingest fetches again what is left out "
            "here. Where a connector keeps one state for all of its streams, move them together, by their run.",
            soft_wrap=True,
        )
    console.print(
        "Tables built from these stay as they are; the next run builds from what is published then, so correct the "
        "cause first.",
        soft_wrap=True,
    )


def _undo(subject: str, ref: TableRef | None, moves: list[Move]) -> list[str]:
    if ref is None and {move.run_was for move in moves} == {subject}:
        return [f"dml rollback {subject} --to {subject}"]
    # The rejects of a landing move along with its table.
    names = {move.ref for move in moves}
    chosen = [m for m in moves if not any(m.ref == other.rejects for other in names)]
    return [f"dml rollback {m.ref.dotted} --to {m.snapshot_was}" for m in chosen if m.snapshot_was is not None]


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        return "unknown"
