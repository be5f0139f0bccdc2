"""``dml catalog show`` and ``write``: the catalogue document, in short and anew."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dml_platform.catalog.builder import build_document
from dml_platform.catalog.store import document_place, read_document, write_document
from dml_platform.cli.run import load_project_definitions
from dml_platform.core.document import Document, Test
from dml_platform.core.errors import ConfigError
from dml_platform.core.project import get_project
from dml_platform.core.settings import load_settings
from dml_platform.lake import Lake


def show(console: Console, project_name: str | None, *, as_json: bool) -> None:
    """Print the newest document.

    Raises:
        ConfigError: there is none yet.
    """
    project = get_project(project_name)
    settings = load_settings(project.root)
    document = read_document(settings, project.name)
    if document is None:
        raise ConfigError(
            f"cannot show the catalogue of project {project.name!r}",
            "no run has written its document yet",
            "Write it with: dml catalog write",
        )
    if as_json:
        typer.echo(document.model_dump_json(exclude_defaults=True, indent=2))
        return
    storage, name = document_place(settings, project.name)
    _print(console, document, storage.address(name))


def write(console: Console, project_name: str | None) -> None:
    """Build and write the document of now."""
    project = get_project(project_name)
    settings = load_settings(project.root)
    with console.status(f"gathering what is known of project {escape(project.name)!r}"):
        document = build_document(project, Lake(settings, project.root), defs=load_project_definitions(project))
        place = write_document(settings, document)
    _print(console, document, place)


def _print(console: Console, document: Document, place: str) -> None:
    resolved = sum(edge.via != "unknown" for edge in document.column_edges)
    facts = {
        "project": f"{document.project}, commit {document.git_commit[:12]}",
        "written": document.generated_at[:19].replace("T", " "),
        "tables": f"{len(document.tables)}, {sum(t.snapshot_id is not None for t in document.tables)} published",
        "tests": _tests(document.tests),
        "lineage": f"{len(document.table_edges)} edges between tables, {resolved} between columns, "
        f"{len(document.column_edges) - resolved} unknown",
        "runs": f"{len(document.runs)}, last {document.runs[0].run_id} {document.runs[0].status}"
        if document.runs
        else "none",
        "figures": str(len(document.figures)),
    }
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in facts.items():
        table.add_row(name, escape(value))
    console.print(table)
    for notice in document.notices:
        console.print(f"[yellow]![/] {escape(notice)}", highlight=False, soft_wrap=True)
    console.print(escape(place), soft_wrap=True, style="dim")


def _tests(tests: tuple[Test, ...]) -> str:
    newest = [test.results[0].status if test.results else "never run" for test in tests]
    counts = {status: newest.count(status) for status in dict.fromkeys(newest)}
    return f"{len(tests)}: " + ", ".join(f"{count} {status}" for status, count in counts.items())
