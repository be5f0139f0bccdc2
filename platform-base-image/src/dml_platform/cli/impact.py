"""``dml impact``: what depends on a table, column or file, and what a pull request would touch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dml_platform.ci import changes_since
from dml_platform.ci.check import impacts_of
from dml_platform.ci.markdown import HOW
from dml_platform.ci.markdown import impact as impact_markdown
from dml_platform.core.document import Document
from dml_platform.core.errors import ConfigError
from dml_platform.core.project import find_projects, get_project
from dml_platform.lake import Lake, open_lake
from dml_platform.lineage.changes import Change
from dml_platform.lineage.impact import Graph, Impact, find_impact


def impact(
    console: Console,
    subject: str | None,
    *,
    project: str | None,
    changed: bool,
    base: str,
    as_json: bool,
    markdown: bool,
) -> None:
    """Print what is downstream of a subject, or of what changed since ``base``.

    Raises:
        ConfigError: there is no such table, column, file or commit, or the arguments do not fit.
    """
    if changed == (subject is not None):
        raise ConfigError(
            "cannot show an impact",
            "it needs a table, column or file, or else --changed",
            "Write e.g. 'dml impact fct_purchases.amount_cents', or 'dml impact --changed --base main'.",
        )
    lake = open_lake()
    changes: list[Change] = []
    if changed:
        for each in [get_project(project)] if project else find_projects():
            if each.dbt_dir.is_dir():
                changes += changes_since(each, lake, base)
    graph = Graph.of(_documents(lake, project))
    if subject is not None:
        found = find_impact(graph, *graph.resolve(subject))
        if as_json:
            print(json.dumps(found.as_dict(), ensure_ascii=False, indent=2))
        elif markdown:
            print(impact_markdown([], [found]))
        else:
            _print(console, found)
        return
    impacts = impacts_of(changes, graph)
    if as_json:
        document = {"base": base, "changes": [asdict(c) for c in changes], "impacts": [i.as_dict() for i in impacts]}
        print(json.dumps(document, ensure_ascii=False, indent=2))
    elif markdown:
        print(impact_markdown(changes, impacts, base=base))
    else:
        _print_changes(console, changes, base)
        for found in impacts:
            _print(console, found)


def _documents(lake: Lake, project: str | None) -> list[Document]:
    from dml_platform.catalog import build_document

    # Other projects may read this one's marts, so all that are side by side belong to the answer.
    projects = find_projects()
    if project is not None:
        projects = [get_project(project), *(p for p in projects if p.name != project)]
    return [build_document(each, lake, with_profiles=False) for each in projects]


def _print(console: Console, found: Impact) -> None:
    owner = f" (owner {found.owner})" if found.owner else ""
    console.print(f"[bold]{escape(found.subject)}[/]{escape(owner)}")
    if not found.tables and not found.consumers:
        console.print("  nothing downstream")
    table = Table("table", "through", "columns", "owner", box=None, padding=(0, 2, 0, 0))
    for each in found.tables:
        table.add_row(escape(each.table), HOW[each.how], escape(", ".join(each.columns)), escape(each.owner or ""))
    if found.tables:
        console.print(table)
    for consumer in found.consumers:
        owner = f", owner {consumer['owner']}" if consumer["owner"] else ""
        console.print(f"  {consumer['kind']} {consumer['label'] or consumer['name']}{owner}", markup=False)
    if found.tests:
        console.print(f"  {len(found.tests)} tests look at it: {', '.join(t['name'] for t in found.tests[:6])}")
    if found.pipelines:
        console.print(f"  pipelines: {', '.join(found.pipelines)}", markup=False)


def _print_changes(console: Console, changes: Sequence[Change], base: str) -> None:
    if not changes:
        console.print(f"No column of a model differs from {base}.", markup=False)
    for change in changes:
        name = f"{change.table}.{change.column}" if change.column else change.table
        console.print(f"{change.what} {name}" + (f": {change.why}" if change.why else ""), markup=False)
