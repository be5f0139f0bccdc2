"""``dml impact``: what depends on a table, column or file, and what a pull request would touch."""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dml_platform.core.document import Document
from dml_platform.core.errors import ConfigError
from dml_platform.core.project import Project, find_projects, get_project
from dml_platform.lake import Lake, open_lake
from dml_platform.lineage import Lineage, relation_name, trace_project
from dml_platform.lineage.changes import Change, compare
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
            print(to_markdown([], [found]))
        else:
            _print(console, found)
        return
    impacts = [find_impact(graph, c.table, c.column) for c in changes if c.what != "added" and c.table in graph.columns]
    if as_json:
        document = {"base": base, "changes": [asdict(c) for c in changes], "impacts": [i.as_dict() for i in impacts]}
        print(json.dumps(document, ensure_ascii=False, indent=2))
    elif markdown:
        print(to_markdown(changes, impacts, base=base))
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
    return [build_document(each, lake) for each in projects]


def changes_since(project: Project, lake: Lake, base: str) -> list[Change]:
    """How the columns of a project's models differ from those at a commit.

    Raises:
        ConfigError: git does not know the commit, or dbt cannot read the project as it was.
    """
    with tempfile.TemporaryDirectory(prefix="base-") as folder:
        root = _check_out(project, base, Path(folder))
        if root is None:
            return []
        before, sql_before = _traced(replace(project, root=root), lake)
    after, sql_after = _traced(project, lake)
    return compare(before, after, sql_before=sql_before, sql_after=sql_after)


def _traced(project: Project, lake: Lake) -> tuple[Lineage, dict[str, str]]:
    from dml_platform.dbt.compiled import compile_models
    from dml_platform.dbt.runner import ensure_manifest
    from dml_platform.lake.schema import duckdb_type

    manifest = json.loads(ensure_manifest(project).read_text(encoding="utf-8"))
    # Both versions compiled in the same way, so that only what a person changed differs.
    compiled = compile_models(project, lake)
    raw: dict[str, dict[str, str | None]] = {}
    for ref in lake.tables():
        if (pinned := lake.published(ref)) is not None:
            raw[ref.dotted] = {field.name: duckdb_type(field.field_type) for field in pinned.schema.fields}
    names = {key: relation_name(node) for key, node in manifest["nodes"].items()}
    models = {name for key, name in names.items() if key in compiled}
    known = {name: columns for name, columns in raw.items() if name not in models}
    sql = {names[key]: " ".join(text.split()) for key, text in compiled.items() if key in names}
    return trace_project(manifest, known, compiled=compiled), sql


def _check_out(project: Project, base: str, folder: Path) -> Path | None:
    """The project's folder as it was at a commit; None if it was not there."""
    what = f"cannot compare with {base!r}"
    prefix = _git(project.root, "rev-parse", "--show-prefix", what=what).decode().strip()
    top = Path(_git(project.root, "rev-parse", "--show-toplevel", what=what).decode().strip())
    _git(top, "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}", what=what)
    if not _git(top, "ls-tree", "--full-tree", base, f"{prefix}dbt/dbt_project.yml", what=what).strip():
        return None
    packed = _git(top, "archive", "--format=tar", f"{base}:{prefix}", what=what)
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    packages = project.dbt_dir / "dbt_packages"
    if packages.is_dir() and not (folder / "dbt" / "dbt_packages").exists():
        (folder / "dbt" / "dbt_packages").symlink_to(packages)
    return folder


def _git(folder: Path, *arguments: str, what: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except OSError as error:
        raise ConfigError(what, f"git cannot be started ({error})", "Install git.") from error
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip() or "git knows no such commit"
        raise ConfigError(what, reason, "Fetch it, or give a branch, tag or commit with --base.")
    return done.stdout


def _print(console: Console, found: Impact) -> None:
    owner = f" (owner {found.owner})" if found.owner else ""
    console.print(f"[bold]{escape(found.subject)}[/]{escape(owner)}")
    if not found.tables and not found.consumers:
        console.print("  nothing downstream")
    table = Table("table", "through", "columns", "owner", box=None, padding=(0, 2, 0, 0))
    for each in found.tables:
        table.add_row(escape(each.table), _HOW[each.how], escape(", ".join(each.columns)), escape(each.owner or ""))
    if found.tables:
        console.print(table)
    for consumer in found.consumers:
        owner = f", owner {consumer['owner']}" if consumer["owner"] else ""
        console.print(f"  {consumer['kind']} {consumer['label'] or consumer['name']}{owner}", markup=False)
    if found.tests:
        console.print(f"  {len(found.tests)} tests look at it: {', '.join(t['name'] for t in found.tests[:6])}")
    if found.pipelines:
        console.print(f"  pipelines: {', '.join(found.pipelines)}", markup=False)


_HOW = {
    "column": "columns",
    "filter": "its rows",
    "unknown": "unknown columns",
    "table": "the table",
}


def _print_changes(console: Console, changes: Sequence[Change], base: str) -> None:
    if not changes:
        console.print(f"No column of a model differs from {base}.", markup=False)
    for change in changes:
        name = f"{change.table}.{change.column}" if change.column else change.table
        console.print(f"{change.what} {name}" + (f": {change.why}" if change.why else ""), markup=False)


def to_markdown(changes: Sequence[Change], impacts: Sequence[Impact], *, base: str = "") -> str:
    """For a comment on a pull request."""
    lines = [f"### What this changes since `{base}`" if base else "### Impact", ""]
    if base and not changes:
        lines += ["No column of a model differs.", ""]
    for change in changes:
        name = f"{change.table}.{change.column}" if change.column else change.table
        lines.append(f"- **{change.what}** `{name}`" + (f": {change.why}" if change.why else ""))
    if changes:
        lines.append("")
    rows = {}
    for found in impacts:
        for each in found.tables:
            rows[(found.subject, each.table)] = each
    if rows:
        lines += ["| change of | reaches | through | columns | owner |", "|---|---|---|---|---|"]
        for (subject, table), each in rows.items():
            columns = ", ".join(f"`{c}`" for c in each.columns)
            lines.append(f"| `{subject}` | `{table}` | {_HOW[each.how]} | {columns} | {each.owner or ''} |")
        lines.append("")
    consumers = {c["name"]: c for found in impacts for c in found.consumers}
    if consumers:
        listed = ", ".join(
            f"{c['label'] or c['name']} ({c['kind']}{', ' + c['owner'] if c['owner'] else ''})"
            for c in consumers.values()
        )
        lines += [f"Used by: {listed}.", ""]
    tests = {(t["table"], t["name"]) for found in impacts for t in found.tests}
    owners = sorted({owner for found in impacts for owner in (*found.owners, found.owner) if owner})
    if tests:
        lines.append(f"{len(tests)} tests look at these columns.")
    if owners:
        lines.append(f"Owners: {', '.join(owners)}.")
    if base and not rows and not consumers:
        lines.append("Nothing downstream of it.")
    return "\n".join(lines).rstrip()
