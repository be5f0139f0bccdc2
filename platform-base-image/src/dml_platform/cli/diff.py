"""``dml diff``: how two published states of a table differ, or what a change would make of the published tables."""

from __future__ import annotations

import contextlib
import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dml_platform.core.errors import ConfigError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import find_projects
from dml_platform.dbt.manifest import load_manifest
from dml_platform.dbt.replay import _key, _ref
from dml_platform.lake import Lake, create_view, open_lake
from dml_platform.lake.diff import TableDiff, diff_rows


def diff(
    console: Console, name: str, *, was: int | None, now: int | None, key: list[str], as_json: bool, markdown: bool
) -> None:
    """Compare two snapshots of a table; default: what is published, with what was before it.

    Raises:
        ConfigError: there is no such table or snapshot, or nothing to compare with.
    """
    lake, ref = open_lake(), TableRef.parse(name)
    states = [info.snapshot_id for info in lake.history(ref)]
    if not states:
        raise ConfigError(f"cannot compare {name!r}", "it was never published", "'dml run' fills it.")
    now = now or states[0]
    if was is None:
        later = states.index(now) if now in states else 0
        if later + 1 >= len(states):
            raise ConfigError(
                f"cannot compare {name!r}", "there is no state before that one", f"'dml history {name}' lists them."
            )
        was = states[later + 1]
    found = _compare(lake, ref, was, now, key or _known_key(ref))
    if as_json:
        print(json.dumps({**found.as_dict(), "snapshot_before": was, "snapshot_after": now}, indent=2))
    elif markdown:
        from dml_platform.ci.markdown import _diffs

        print("\n".join(_diffs([found])))
    else:
        _show(console, found, was, now)


def _compare(lake: Lake, ref: TableRef, was: int, now: int, key: list[str]) -> TableDiff:
    with contextlib.closing(lake.connect()) as connection:
        for side, snapshot_id in (("before", was), ("after", now)):
            create_view(connection, lake.pin(ref, snapshot_id=snapshot_id))
            connection.execute(f"CREATE TEMP TABLE _dml_{side} AS SELECT * FROM {ref.sql}")
        return diff_rows(connection, "_dml_before", "_dml_after", table=ref.dotted, key=key)


def _known_key(ref: TableRef) -> list[str]:
    """The key as the project's models say it, where the project is here."""
    for project in find_projects():
        if project.name == ref.project and project.dbt_dir.is_dir():
            manifest = load_manifest(project)
            for node in manifest["nodes"].values():
                if node["resource_type"] == "model" and _ref(node) == ref:
                    return list(_key(manifest, node))
    return []


def _show(console: Console, found: TableDiff, was: int, now: int) -> None:
    console.print(f"{found.table}: snapshot {was} → {now}", markup=False)
    if found.is_same:
        console.print(f"the same {found.rows_after:,} rows")
        return
    console.print(f"rows {found.rows_before:,} → {found.rows_after:,}: {found.added:,} new, {found.removed:,} gone")
    if found.note:
        console.print(found.note, markup=False)
    else:
        console.print(f"{found.changed:,} changed, told apart by {', '.join(found.key)}", markup=False)
    table = Table("column", "what", "was", "now", "rows", box=None, padding=(0, 2, 0, 0))
    for column in found.columns:
        rows = "" if column.rows is None else f"{column.rows:,}"
        table.add_row(escape(column.name), column.what, column.was or "", column.now or "", rows)
    if table.row_count:
        console.print(table)
