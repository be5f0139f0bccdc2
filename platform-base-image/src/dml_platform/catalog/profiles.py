"""Figures of what is published: of columns, and the key figures that a project declares.

Computed once for a snapshot and kept beside the document. Of text only how much there is: its values may be personal.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import duckdb

from dml_platform.core.config import FigureConfig
from dml_platform.core.document import Figure
from dml_platform.core.storage import Storage
from dml_platform.lake import Lake, PinnedTable, create_view
from dml_platform.lake.datafiles import live_files
from dml_platform.lake.engine import quote_name
from dml_platform.lake.schema import duckdb_type

logger = logging.getLogger(__name__)

# Rows of a table that are looked at: whole files until there are so many.
MAX_ROWS = 5_000_000
MAX_POINTS = 400
_NAME = "profiles.json"
_VERSION = 1
_ORDERED = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "DATE", "TIME")
_COUNTED = (*_ORDERED, "VARCHAR", "BOOLEAN", "UUID")


class Profiler:
    """Profiles and figures of snapshots, from the cache where they are in it."""

    def __init__(self, lake: Lake, storage: Storage) -> None:
        self._lake, self._storage = lake, storage
        self._known: dict[str, Any] = self._read()
        self._used: dict[str, Any] = {}
        self.notices: list[str] = []

    def profile(self, tables: Iterable[PinnedTable]) -> dict[str, dict[str, dict[str, Any]]]:
        """Of each column by table: ``null_share``, ``distinct_count`` (approximate), but of text ``min``, ``max``."""
        found = {}
        with contextlib.ExitStack() as stack:
            connection: duckdb.DuckDBPyConnection | None = None
            for table in tables:
                key = f"{table.ref.dotted}@{table.snapshot_id}"
                if key not in self._known:
                    connection = connection or stack.enter_context(contextlib.closing(self._lake.connect()))
                    try:
                        self._known[key] = _profile(connection, table)
                    except (duckdb.Error, OSError) as error:
                        self.notices.append(f"{table.ref.dotted}: its columns could not be profiled ({_line(error)}).")
                        continue
                self._used[key] = found[table.ref.dotted] = self._known[key]
        return found

    def draw(self, figures: Sequence[FigureConfig], tables: dict[str, PinnedTable]) -> list[Figure]:
        """The points of each key figure whose table is published."""
        drawn = []
        for figure in figures:
            table = tables.get(figure.table)
            if table is None:
                self.notices.append(f"Figure {figure.title!r} is not drawn: {figure.table} is not published.")
                continue
            digest = hashlib.sha256(f"{figure.x}\0{figure.y}".encode()).hexdigest()[:16]
            key = f"{table.ref.dotted}@{table.snapshot_id}#{digest}"
            if key not in self._known:
                try:
                    with contextlib.closing(self._lake.connect()) as connection:
                        self._known[key] = _points(connection, table, figure)
                except (duckdb.Error, OSError, ValueError) as error:
                    self.notices.append(f"Figure {figure.title!r} could not be drawn: {_line(error)}.")
                    continue
            self._used[key] = self._known[key]
            points = tuple((label, value) for label, value in self._known[key])
            drawn.append(Figure(table=figure.table, title=figure.title, unit=figure.unit, points=points))
        return drawn

    def save(self) -> None:
        """Keep what the snapshots of now have; a cache that cannot be written costs time only."""
        if self._used == self._before:
            return
        try:
            self._storage.write(_NAME, json.dumps({"version": _VERSION, "known": self._used}).encode())
        except OSError as error:
            logger.warning("column profiles could not be kept: %s", error)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._storage.read(_NAME) or b"{}")
        except (OSError, ValueError):
            found = {}
        self._before: dict[str, Any] = found.get("known", {}) if found.get("version") == _VERSION else {}
        return dict(self._before)


def _profile(connection: duckdb.DuckDBPyConnection, table: PinnedTable) -> dict[str, dict[str, Any]]:
    kinds = {field.name: duckdb_type(field.field_type) for field in table.schema.fields}
    parts = ["count(*)"]
    for name, kind in kinds.items():
        column = quote_name(name)
        base = kind.split("(")[0].split(" ")[0] if "[" not in kind else ""
        base = "TIME" if base.startswith("TIMESTAMP") else base
        parts.append(f"count({column})")
        parts.append(f"approx_count_distinct({column})" if base in _COUNTED else "NULL")
        for function in ("min", "max"):
            parts.append(f"{function}({column})::VARCHAR" if base in _ORDERED else "NULL")
    source, sampled = _source(connection, table)
    row = connection.execute(f"SELECT {', '.join(parts)} FROM {source}").fetchone()
    assert row is not None
    total, profiles = row[0], {}
    for number, name in enumerate(kinds):
        count, distinct, least, most = row[1 + number * 4 : 5 + number * 4]
        profile = {
            "null_share": round(1 - count / total, 6) if total else None,
            "distinct_count": min(distinct, count) if distinct is not None else None,
            "min": least,
            "max": most,
            "rows_looked_at": total if sampled else None,
        }
        profiles[name] = {key: value for key, value in profile.items() if value is not None}
    return profiles


def _source(connection: duckdb.DuckDBPyConnection, table: PinnedTable) -> tuple[str, bool]:
    """The whole table, or its first files where it is big."""
    if table.rows > MAX_ROWS and not table.files()[1]:
        paths, rows = [], 0
        for file in live_files(table):
            paths.append(file.file_path)
            rows += file.record_count
            if rows >= MAX_ROWS:
                break
        return f"({table.select_files(paths)})", rows < table.rows
    create_view(connection, table)
    return table.ref.sql, False


def _points(connection: duckdb.DuckDBPyConnection, table: PinnedTable, figure: FigureConfig) -> list[tuple[str, float]]:
    create_view(connection, table)
    rows = connection.execute(
        f"SELECT x::VARCHAR, y::DOUBLE FROM (SELECT {figure.x} AS x, {figure.y} AS y FROM {table.ref.sql} GROUP BY ALL)"
        f" WHERE x IS NOT NULL AND y IS NOT NULL AND isfinite(y::DOUBLE) ORDER BY x LIMIT {MAX_POINTS + 1}"
    ).fetchall()
    if len(rows) > MAX_POINTS:
        raise ValueError(f"it has more than {MAX_POINTS} points; give x a coarser unit, e.g. date_trunc('week', day)")
    return rows


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
