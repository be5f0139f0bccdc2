"""What changed between two versions of a project's columns, by their traced lineage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from dml_platform.core.document import ColumnEdge
from dml_platform.lineage.columns import ALL
from dml_platform.lineage.edits import touched_columns
from dml_platform.lineage.project import Lineage

What = Literal["removed", "changed", "added"]


@dataclass(frozen=True, order=True)
class Change:
    """One column, or with ``column`` None a whole table, that is not what it was. ``why`` says how that is known."""

    table: str
    column: str | None
    what: What
    why: str = ""


def compare(
    before: Lineage, after: Lineage, *, sql_before: Mapping[str, str], sql_after: Mapping[str, str]
) -> list[Change]:
    """Tables and columns that were removed, added or are made of something else.

    Args:
        sql_before: compiled SQL by table name, to notice a change of an expression over the same columns.
        sql_after: the same of the other version.
    """
    found: list[Change] = []
    for table in sorted(before.columns.keys() | after.columns.keys()):
        if table not in after.columns:
            found.append(Change(table, None, "removed"))
        elif table not in before.columns:
            found.append(Change(table, None, "added"))
        else:
            changes = _columns(table, before, after)
            if (was := sql_before.get(table)) != (now := sql_after.get(table)):
                changes += _by_sql(table, was or "", now or "", changes, before.columns[table], after.columns[table])
            found += sorted(changes, key=lambda c: (c.column or "", c.what))
    return found


def _by_sql(
    table: str, was: str, now: str, known: Iterable[Change], before: Iterable[str], after: Iterable[str]
) -> list[Change]:
    """What is made of the same columns in another way."""
    columns = {change.column.lower() if change.column else None for change in known}
    touched = touched_columns(was, now)
    if touched is None:
        why = "its SQL changed over the same columns" if not columns else "its SQL changed beyond these columns"
        return [] if None in columns else [Change(table, None, "changed", why)]
    shared = {name.lower() for name in before} & touched - columns
    return [Change(table, name, "changed", "its expression changed") for name in after if name.lower() in shared]


def _columns(table: str, before: Lineage, after: Lineage) -> list[Change]:
    old = {name.lower(): name for name in before.columns[table]}
    new = {name.lower(): name for name in after.columns[table]}
    found = [Change(table, old[key], "removed") for key in old if key not in new]
    found += [Change(table, new[key], "added") for key in new if key not in old]
    was, now = _made_of(table, before), _made_of(table, after)
    for key in old.keys() & new.keys():
        if was.get(key) != now.get(key):
            found.append(Change(table, new[key], "changed", _difference(was.get(key), now.get(key))))
            continue
        kinds = before.columns[table][old[key]], after.columns[table][new[key]]
        # A type that could not be derived, on either side, is no change that anybody could know of.
        if None not in kinds and kinds[0] != kinds[1]:
            found.append(Change(table, new[key], "changed", f"its type was {kinds[0]}, now {kinds[1]}"))
    if was.get(ALL) != now.get(ALL):
        found.append(Change(table, None, "changed", "other columns decide which rows there are"))
    return found


def _made_of(table: str, lineage: Lineage) -> dict[str, set[tuple[str, str | None, str]]]:
    made: dict[str, set[tuple[str, str | None, str]]] = {}
    for edge in lineage.edges:
        if edge.target == table:
            made.setdefault(edge.target_column.lower(), set()).add(_key(edge))
    return made


def _key(edge: ColumnEdge) -> tuple[str, str | None, str]:
    return edge.source.lower(), edge.source_column.lower() if edge.source_column else None, edge.via


def _difference(was: set[tuple[str, str | None, str]] | None, now: set[tuple[str, str | None, str]] | None) -> str:
    def told(edges: set[tuple[str, str | None, str]], *, with_way: bool) -> str:
        ways = {(f"{t}.{c}" if c else t) + (f" ({via})" if with_way else "") for t, c, via in edges}
        return ", ".join(sorted(ways)) or "nothing"

    was, now = was or set(), now or set()
    is_same_columns = {edge[:2] for edge in was} == {edge[:2] for edge in now}
    return f"was made of {told(was, with_way=is_same_columns)}, now of {told(now, with_way=is_same_columns)}"
