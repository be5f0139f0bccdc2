"""``dml sql``, ``tables`` and ``history``: looking at what was published."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from datetime import datetime, timezone
from pathlib import Path

import duckdb
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dml_platform.core.errors import ConfigError, PlatformError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import BASES, find_projects, get_project
from dml_platform.core.runrecord import read_records, run_files
from dml_platform.dbt.postmortem import QUERIES
from dml_platform.lake import Lake, engine, open_lake

_LIST_TABLES = """
SELECT database_name || '.' || schema_name || '.' || view_name AS table_name
FROM duckdb_views() WHERE NOT internal ORDER BY 1;"""


def sql(
    console: Console,
    query: str | None,
    *,
    run_id: str | None,
    output: str,
    max_rows: int,
    test: str | None = None,
) -> None:
    """Run one query, or open a prompt.

    Args:
        test: run the query of this test of the run instead.
    Raises:
        ConfigError: the query is wrong, or there is no such run, or no such test in it.
    """
    if test is not None and (query is not None or run_id is None):
        raise ConfigError(
            f"cannot show what test {test!r} found",
            "it is the test of a run, and a query of its own",
            "Write: dml sql --run RUN --test NAME",
        )
    if output not in ("table", "csv", "json"):
        raise ConfigError(f"cannot print as {output!r}", "there is no such format", "Use table, csv or json.")
    lake = open_lake()
    connection = _open_run(lake, run_id) if run_id else lake.connect()
    if test is not None:
        query = _query_of(connection, test)
    elif query is None and not sys.stdin.isatty():
        query = sys.stdin.read()
    if query is not None:
        if not run_id:
            _view_tables_of(lake, connection, query)
        _print(console, _run(connection, query), output=output, max_rows=max_rows)
        return
    if not run_id:
        lake.create_views(connection)
    _prompt(console, connection, output=output, max_rows=max_rows)


def tables(console: Console, project: str | None) -> None:
    """Print all tables that may be read; how many others there are."""
    lake = open_lake()
    listed, readable = lake.tables(project), set(lake.readable_tables())
    table = Table("table", "rows", "published", "by run", box=None, padding=(0, 2, 0, 0))
    for ref in (ref for ref in listed if ref in readable):
        newest = next(lake.history(ref), None)
        if newest is None:
            table.add_row(ref.dotted, "-", "never", "-")
        else:
            rows = f"{newest.rows_total:,}" if newest.rows_total is not None else "?"
            table.add_row(ref.dotted, rows, _age(newest.committed_at), escape(newest.summary.get("run_id", "-")))
    if not listed:
        _require_known(lake, project)
        of = f" of project {project!r}" if project else ""
        console.print(f"The lake has no tables{escape(of)} yet. 'dml run' fills it.")
        return
    if table.row_count:
        console.print(table)
    if hidden := len(listed) - table.row_count:
        console.print(f"{hidden} more are other projects' own: only marts are read by all.", highlight=False)


def _require_known(lake: Lake, project: str | None) -> None:
    known = {p.name for p in find_projects()} | {ref.project for ref in lake.tables()}
    if project is not None and project not in known:
        raise ConfigError(
            f"cannot list the tables of project {project!r}",
            "there is no such project here or in the lake",
            f"There are: {', '.join(sorted(known))}." if known else "Change into the tree or a project's folder.",
        )


def history(console: Console, name: str | None, *, limit: int) -> None:
    """Print a table's snapshots, or the runs."""
    lake = open_lake()
    if name is None:
        _print_runs(console, lake, limit=limit)
        return
    table = Table("snapshot", "published", "operation", "rows", "run", "commit", box=None, padding=(0, 2, 0, 0))
    for column in table.columns:
        column.no_wrap = True
    for count, info in enumerate(lake.history(TableRef.parse(name))):
        if count == limit:
            break
        table.add_row(
            str(info.snapshot_id),
            info.committed_at.strftime("%Y-%m-%d %H:%M:%S"),
            info.operation,
            f"{info.rows_total:,}" if info.rows_total is not None else "?",
            escape(info.summary.get("run_id", "-")),
            escape(info.summary.get("git_commit", "-")[:12]),
        )
    console.print(table if table.row_count else f"{name} was never published.")


def _print_runs(console: Console, lake: Lake, *, limit: int) -> None:
    table = Table("run", "step", "status", "started", "seconds", "tables", box=None, padding=(0, 2, 0, 0))
    for count, record in enumerate(read_records(lake.settings, _project_here(lake))):
        if count == limit:
            break
        colour = "green" if record.status == "success" else "red"
        table.add_row(
            escape(record.run_id),
            escape(f"{record.project}/{record.step}"),
            f"[{colour}]{escape(record.status)}[/]",
            record.started_at[:19].replace("T", " "),
            f"{record.duration_s:.1f}",
            escape((record.error or "").split("\n")[0][:80]) or str(len(record.outputs)),
        )
    console.print(table if table.row_count else "No run yet. 'dml run' makes one.")


def _open_run(lake: Lake, run_id: str) -> duckdb.DuckDBPyConnection:
    project = _project_here(lake)
    # Of a check that compared with a state of its own, below that.
    places = (f"runs/*/{run_id}/*.duckdb", f"{BASES}/*/*/runs/*/{run_id}/*.duckdb")
    files = sorted(str(path) for place in places for path in lake.settings.home.glob(place))
    if not files and project is not None:
        kept = run_files(lake.settings, project, run_id)
        files = [kept.address(entry.name) for entry in kept.list() if entry.name.endswith(".duckdb")]
    if not files:
        raise ConfigError(
            f"cannot open run {run_id!r}",
            "it left no DuckDB file: only failed runs do, and only the last few are kept",
            "'dml history' lists the runs.",
        )
    connection = lake.connect()
    name = engine.quote_name(project or Path(files[0]).parent.parent.name)
    connection.execute(f"ATTACH {engine.quote(files[0])} AS {name} (READ_ONLY)")
    connection.execute(f"USE {name}.marts")
    return connection


def _query_of(connection: duckdb.DuckDBPyConnection, test: str) -> str:
    try:
        known = dict(connection.execute(f"SELECT name, query FROM {QUERIES}").fetchall())
    except duckdb.CatalogException:  # no test of the run found any
        known = {}
    if test not in known:
        raise ConfigError(
            f"cannot show what test {test!r} found",
            "no test of that name found rows in the run",
            f"These did: {', '.join(sorted(known)) or 'none'}.",
        )
    return str(known[test])


def _project_here(lake: Lake) -> str | None:
    """The one project whose runs are meant: in an object store each keeps its own, and may read no other's."""
    return get_project().name if lake.settings.is_s3 else None


def _view_tables_of(lake: Lake, connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Make only the tables that the query names; all of them where DuckDB cannot tell."""
    try:
        names = connection.get_table_names(query, qualified=True)
        refs = [TableRef.parse(name) for name in names]
    except (duckdb.Error, PlatformError):
        lake.create_views(connection)
        return
    found = {pinned.ref for pinned in lake.create_views(connection, refs)}
    if missing := [ref.dotted for ref in refs if ref not in found]:
        raise ConfigError(
            "cannot run the query", f"{', '.join(missing)} is not published", "'dml tables' lists what there is."
        )


def _run(connection: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyConnection:
    try:
        return connection.execute(query)
    except duckdb.Error as error:
        raise ConfigError(
            "cannot run the query", str(error).strip(), "'dml tables' lists the tables: write project.layer.name."
        ) from error


def _print(console: Console, result: duckdb.DuckDBPyConnection, *, output: str, max_rows: int) -> None:
    if result.description is None:
        return
    names = [column[0] for column in result.description]
    if output == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        while batch := result.fetchmany(10_000):
            writer.writerows(batch)
    elif output == "json":
        while batch := result.fetchmany(10_000):
            for row in batch:
                print(json.dumps(dict(zip(names, row, strict=True)), default=str, ensure_ascii=False))
    else:
        rows = result.fetchmany(max_rows + 1)
        table = Table(*map(escape, names), box=None, padding=(0, 2, 0, 0))
        for row in rows[:max_rows]:
            table.add_row(*("" if value is None else escape(str(value)) for value in row))
        console.print(table)
        if len(rows) > max_rows:
            console.print(f"[dim]first {max_rows} rows; --max-rows shows more, --format csv all[/]")


def _prompt(console: Console, connection: duckdb.DuckDBPyConnection, *, output: str, max_rows: int) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() editing and history where the platform has it
    console.print("[dim]SQL over the published tables; end with ; — .tables lists them, .quit leaves[/]")
    pending = ""
    while True:
        try:
            line = input("   ...> " if pending else "dml> ")
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if not pending and line.strip() in (".quit", ".exit", "exit", "quit"):
            return
        if not pending and line.strip() == ".tables":
            line = _LIST_TABLES
        pending = f"{pending}\n{line}".strip()
        if not pending.endswith(";"):
            continue
        try:
            _print(console, _run(connection, pending), output=output, max_rows=max_rows)
        except PlatformError as error:
            console.print(error.why, style="red", markup=False)
        pending = ""


def _age(moment: datetime) -> str:
    seconds = (datetime.now(timezone.utc) - moment).total_seconds()
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
