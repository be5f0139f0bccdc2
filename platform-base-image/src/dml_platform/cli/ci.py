"""``dml ci``: what a pull request has to pass, and a comment that says what it does. The workflows call these."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dml_platform.ci import CheckedChange, check_change
from dml_platform.ci.base import find_base, prepare_base
from dml_platform.ci.markdown import comment, counts, failed
from dml_platform.ci.told import told_error, told_message
from dml_platform.core.errors import PlatformError
from dml_platform.core.project import Project, get_project
from dml_platform.core.settings import load_settings
from dml_platform.dbt.baseline import find_modified, open_baseline
from dml_platform.dbt.messages import told
from dml_platform.dbt.packages import absence, are_installed
from dml_platform.dbt.postmortem import forget_trials
from dml_platform.elementary.report import report_on_trial
from dml_platform.lake import Lake

COMMENT, RESULT, ELEMENTARY_PAGE = "comment.md", "change.json", "elementary.html"


def changed(project_name: str | None, console: Console, *, base: str, as_json: bool) -> None:
    """Print which of dbt's nodes differ since ``base``, and what is downstream of them."""
    project = get_project(project_name)
    with open_baseline(project, base) as baseline:
        found = find_modified(project, baseline)
    if as_json:
        print(json.dumps({"own": found.own, "all": found.all, "removed": found.removed}, indent=2))
        return
    for unique_id in found.all:
        console.print(f"{'changed' if unique_id in found.own else 'below  '} {unique_id}", markup=False)
    for unique_id in found.removed:
        console.print(f"removed {unique_id}", markup=False)
    if not found.all and not found.removed:
        console.print(f"no model, seed or test differs from {base}", markup=False)


def check(
    project_name: str | None,
    console: Console,
    errors: Console,
    *,
    base: str,
    output: Path | None,
    with_elementary: bool = False,
) -> None:
    """Build, test and compare what differs since ``base``; write the comment and the result where ``output`` says.

    Args:
        with_elementary: also write Elementary's page on what was tried, where its package is installed.
    Raises:
        PlatformError: the change cannot be merged; why.
    """
    project = get_project(project_name)
    try:
        lake, notes = _open_base(project, base)
        with errors.status("reading the base") as status:
            found = check_change(project, lake, base, progress=lambda text: status.update(escape(text)))
            found.notes += notes
            if with_elementary and output is not None:
                status.update("making Elementary's report")
                found.notes += _report_elementary(project, lake, found, output)
    except PlatformError as error:
        _write(output, failed(project.name, error), _unread(project, error))
        raise
    if found.trial is not None:
        forget_trials(lake, project, run_id=found.trial.run_id, has_failed=found.error is not None)
    _write(output, comment(found), found.as_dict())
    _show(found, console)
    if found.error is not None:
        raise found.error if sys.stdout.isatty() else told_error(found.error, found.trial.nodes if found.trial else [])


def _report_elementary(project: Project, lake: Lake, found: CheckedChange, output: Path) -> list[str]:
    """Write the page. Returns: what the comment says of it; a fault in it is said there and fails no change."""
    if not are_installed(project.dbt_dir):
        # Where the project has tests of it, the notes say so already.
        return [] if absence(project.dbt_dir) else ["Elementary is not installed, so there is no report of it."]
    if found.trial is None or not found.trial.nodes:
        return ["Nothing was built, so Elementary has no report."]
    output.mkdir(parents=True, exist_ok=True)
    try:
        report_on_trial(project, lake, found.trial.database, output / ELEMENTARY_PAGE)
    except (PlatformError, OSError) as error:
        return [f"Elementary's report could not be made: {error}"]
    return [f"Elementary's report of this trial is `{ELEMENTARY_PAGE}`, beside the comment: in the artefact `change`."]


def _unread(project: Project, error: PlatformError) -> dict[str, object]:
    return {"project": project.name, "is_good": False, "error": told(str(error))}


def _write(output: Path | None, text: str, result: dict[str, object]) -> None:
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / COMMENT).write_text(text, encoding="utf-8")
        (output / RESULT).write_text(json.dumps(result, indent=2, default=str) + "\n", encoding="utf-8")


def _show(found: CheckedChange, console: Console) -> None:
    console.print(counts(found).replace("`", ""), markup=False, highlight=False)
    for node in [n for n in found.trial.nodes if n.has_failed or n.status == "warn"] if found.trial else []:
        # Rich's own answer follows FORCE_COLOR, which jobs set.
        message = node.message if sys.stdout.isatty() else told_message(node)
        console.print(f"  {node.status} {node.resource_type} {node.name}: {message}", markup=False)
    table = Table("table", "before", "after", "new", "gone", "changed", "columns", box=None, padding=(0, 2, 0, 0))
    for diff in found.trial.diffs if found.trial else []:
        numbers = (diff.rows_before, diff.rows_after, diff.added, diff.removed, diff.changed)
        columns = ", ".join(f"{c.name} ({c.what}{f' in {c.rows:,} rows' if c.rows else ''})" for c in diff.columns)
        table.add_row(diff.table, *("" if n is None else f"{n:,}" for n in numbers), escape(columns or diff.note))
    if table.row_count:
        console.print(table)
    for name, why in (found.trial.refused if found.trial else {}).items():
        console.print(f"{name} needs --full-refresh once merged: {'; '.join(why)}", markup=False)
    for note in found.notes:
        console.print(note, markup=False, style="dim", soft_wrap=True)


def prepare(project_name: str | None, console: Console, *, base: str, output: Path | None = None) -> None:
    """Have a published state to compare with: the server's lake, or one made beside ours from the project as it was.

    Raises:
        PlatformError: the project as it was does not run; the comment then says so.
    """
    project = get_project(project_name)
    try:
        _prepare(project, console, base)
    except PlatformError as error:
        _write(output, failed(project.name, error), _unread(project, error))
        raise


def _prepare(project: Project, console: Console, base: str) -> None:
    settings = load_settings(project.root)
    if settings.is_s3:
        count = sum(ref.layer == "marts" for ref in Lake(settings, project.root).tables(project.name))
        console.print(f"the published state is the server's: {count} marts of {project.name}", markup=False)
        return
    prepare_base(project, settings, base, say=lambda text: console.print(text, markup=False))


def _open_base(project: Project, base: str) -> tuple[Lake, list[str]]:
    """The lake to compare with. Returns: it, and what a reader has to know of it."""
    settings = load_settings(project.root)
    if settings.is_s3:
        return Lake(settings, project.root), []
    if found := find_base(project, settings, base):
        return found, []
    note = f"Compared with what was published here, of whatever commit; with --prepare it is the state of {base}."
    return Lake(settings, project.root), [note]
