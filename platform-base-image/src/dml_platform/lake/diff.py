"""How two states of a table differ: rows that came, went or changed by key, and in which columns.

Only counts come out, never a value: they are shown in pull requests. Columns that the platform adds (``_loaded_at``,
…) are left out, floating point counts as equal in nine significant digits. Which rows differ is ``compare``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from duckdb import DuckDBPyConnection

from dml_platform.lake.compare import _scalars, comparable
from dml_platform.lake.engine import quote_name


@dataclass(frozen=True)
class ColumnDiff:
    """One column. ``rows`` counts the rows of both sides in which its value differs; None where nobody can say."""

    name: str
    what: str  # added, removed, retyped or changed
    was: str | None = None
    now: str | None = None
    rows: int | None = None


@dataclass(frozen=True)
class TableDiff:
    """One table. Without a usable ``key``, for which ``note`` says why, a changed row is one that went and one new."""

    table: str
    key: tuple[str, ...] = ()
    rows_before: int | None = None
    rows_after: int | None = None
    added: int = 0
    removed: int = 0
    changed: int = 0
    columns: tuple[ColumnDiff, ...] = ()
    note: str = ""

    @property
    def is_same(self) -> bool:
        """Whether a reader would notice nothing."""
        counts = (self.added, self.removed, self.changed, len(self.columns))
        return None not in (self.rows_before, self.rows_after) and not any(counts)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "is_same": self.is_same}


def diff_rows(
    connection: DuckDBPyConnection, before: str | None, after: str | None, *, table: str, key: Sequence[str] = ()
) -> TableDiff:
    """Compare two relations.

    Args:
        before: a name or a query in brackets; None for a table that is new.
        after: the same; None for a table that goes.
        table: what to call it.
        key: columns that identify a row; used where they do on both sides.
    """
    if before is None or after is None:
        rows = _scalars(connection, f"SELECT count(*) FROM {before or after}")[0]
        if before is None:
            return TableDiff(table, tuple(key), rows_after=rows, added=rows, note="new table")
        return TableDiff(table, tuple(key), rows_before=rows, removed=rows, note="removed table")
    was, now = _types(connection, before), _types(connection, after)
    columns = [ColumnDiff(name, "removed", was=kind) for name, kind in was.items() if name not in now]
    columns += [ColumnDiff(name, "added", now=kind) for name, kind in now.items() if name not in was]
    shared = {name: kind for name, kind in was.items() if name in now}
    columns += [ColumnDiff(n, "retyped", was=kind, now=now[n]) for n, kind in shared.items() if kind != now[n]]
    rows_before, rows_after = (_scalars(connection, f"SELECT count(*) FROM {side}")[0] for side in (before, after))
    found = {"table": table, "rows_before": rows_before, "rows_after": rows_after}
    reason = _no_key(connection, key, shared, _sides(before, after, shared, now, key))
    if reason:
        added, removed = _unmatched(connection, *_sides(before, after, shared, now), shared)
        return TableDiff(**found, added=added, removed=removed, columns=tuple(columns), note=reason)
    counts = _matched(connection, *_sides(before, after, shared, now, key), key, shared)
    columns += [ColumnDiff(n, "changed", rows=counts[n]) for n in shared if counts.get(n)]
    return TableDiff(
        **found,
        key=tuple(key),
        added=counts["+"],
        removed=counts["-"],
        changed=counts["~"],
        columns=tuple(columns),
    )


def _types(connection: DuckDBPyConnection, side: str) -> dict[str, str]:
    described = connection.execute(f"DESCRIBE SELECT * FROM {side}").fetchall()
    return {name: kind for name, kind, *_ in described if not name.startswith("_")}


def _no_key(connection: DuckDBPyConnection, key: Sequence[str], shared: Mapping[str, str], sides: Sequence[str]) -> str:
    """Why rows cannot be told apart; empty where they can."""
    if not key:
        return "no key is known: it has neither a unique_key nor a column that is tested as unique"
    names = ", ".join(quote_name(name) for name in key)
    if missing := [name for name in key if name not in shared]:
        return f"its key {', '.join(missing)} is not on both sides"
    for side, which in zip(sides, ("published", "new"), strict=True):
        query = f"SELECT EXISTS (SELECT 1 FROM {side} GROUP BY {names} HAVING count(*) > 1)"
        if _scalars(connection, query)[0]:
            return f"its key {', '.join(key)} is not unique in the {which} rows"
    return ""


def _sides(
    before: str, after: str, shared: Mapping[str, str], now: Mapping[str, str], key: Sequence[str] = ()
) -> tuple[str, str]:
    """Both sides as they are compared: in the types that they had; what identifies a row is not rounded."""

    def one(name: str, kind: str, there: str) -> str:
        column = quote_name(name)
        value = column if there == kind else f"TRY_CAST({column} AS {kind})"
        return f"{value if name in key else comparable(value, kind)} AS {column}"

    old, new = (", ".join(one(n, k, types[n]) for n, k in shared.items()) for types in (shared, now))
    return f"(SELECT {old or 'NULL'} FROM {before})", f"(SELECT {new or 'NULL'} FROM {after})"


def _unmatched(connection: DuckDBPyConnection, old: str, new: str, shared: Mapping[str, str]) -> tuple[int, int]:
    if not shared:
        return tuple(_scalars(connection, f"SELECT count(*) FROM {side}")[0] for side in (new, old))
    return tuple(
        _scalars(connection, f"SELECT count(*) FROM (FROM {one} EXCEPT ALL FROM {other})")[0]
        for one, other in ((new, old), (old, new))
    )


def _matched(
    connection: DuckDBPyConnection, old: str, new: str, key: Sequence[str], shared: Mapping[str, str]
) -> dict[str, int]:
    """Counts by column, and of rows: ``+`` came, ``-`` went, ``~`` changed."""
    old, new = (f"(SELECT *, true AS _there FROM {side})" for side in (old, new))
    on = " AND ".join(f"o.{quote_name(k)} IS NOT DISTINCT FROM n.{quote_name(k)}" for k in key)
    both = "o._there AND n._there"
    differs = {n: f"o.{quote_name(n)} IS DISTINCT FROM n.{quote_name(n)}" for n in shared if n not in key}
    any_of = " OR ".join(differs.values()) or "false"
    asked = ["n._there AND o._there IS NULL", "o._there AND n._there IS NULL", f"{both} AND ({any_of})"]
    asked += [f"{both} AND {condition}" for condition in differs.values()]
    counts = ", ".join(f"count(*) FILTER ({condition})" for condition in asked)
    values = _scalars(connection, f"SELECT {counts} FROM {old} o FULL JOIN {new} n ON {on}")
    return dict(zip(["+", "-", "~", *differs], values, strict=True))
