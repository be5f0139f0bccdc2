"""What Elementary remembers, kept in the lake: a run's private DuckDB file gets all of it, and gives back what is new.

Every table has a key, and rows are merged by it, so that runs at the same time lose and double nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from duckdb import DuckDBPyConnection

from dml_platform.core.errors import PublishConflictError
from dml_platform.core.naming import TableRef
from dml_platform.lake import Lake
from dml_platform.lake.engine import quote, quote_name

LAYER = "elementary"
_ATTEMPTS = 12

# Grow with each run; a row is known by these columns.
_GROWING = {
    "alerts_v2": ("alert_id",),
    "data_monitoring_metrics": ("id",),
    "dbt_invocations": ("invocation_id",),
    "dbt_run_results": ("model_execution_id",),
    "dbt_source_freshness_results": ("source_freshness_execution_id",),
    "elementary_test_results": ("id",),
    "schema_columns_snapshot": ("column_state_id",),
    "test_result_rows": ("_row_id",),
}
# The project as it is now: replaced as a whole when anything of it changed.
_STATE = (
    *("dbt_columns", "dbt_exposures", "dbt_groups", "dbt_metrics", "dbt_models", "dbt_seeds", "dbt_snapshots"),
    *("dbt_sources", "dbt_tests", "metadata"),
)
# This one has no key of its own: the run's result that a row belongs to, and the row.
_ROW_ID = {"test_result_rows": "md5(concat_ws('|', elementary_test_results_id, result_row))"}


# What ``edr`` sent and has yet to send; no build knows of it.
ALERTS = "alerts_v2"
# All that a build takes from the lake and gives back, empty tables too: no build makes them but the first.
_KEPT = frozenset({*_GROWING, *_STATE}) - {ALERTS}
# What a build only adds to: it gets the columns, and no rows.
_WRITE_ONLY = frozenset(_GROWING) - {ALERTS, "data_monitoring_metrics", "schema_columns_snapshot"}


def has_history(lake: Lake, project: str, version: str) -> bool:
    """Whether Elementary's tables are in the lake, as a version of its package makes them."""
    pinned = {pin.ref.name: pin for pin in lake.pin_all(TableRef(project, LAYER, name) for name in sorted(_KEPT))}
    if pinned.keys() != _KEPT or (select := pinned["metadata"].select()) is None:
        return False
    with lake.connect() as connection:
        return connection.execute(f"SELECT dbt_pkg_version FROM ({select})").fetchall() == [(version,)]


def load_history(
    connection: DuckDBPyConnection, lake: Lake, project: str, *, whole: bool = False
) -> dict[TableRef, int]:
    """Put the project's history into an attached file as tables, which Elementary then goes on with.

    Args:
        whole: also the results of earlier runs, which no test reads and the report does.
    Returns: the snapshots of which a build must add only what is new.
    """
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote_name(project)}.{LAYER}")
    found = {}
    for ref in [ref for ref in lake.tables(project) if ref.layer == LAYER]:
        pinned = lake.published(ref) if whole or ref.name != ALERTS else None
        if pinned is None or pinned.snapshot_id is None or (select := pinned.select()) is None:
            continue
        left_out = " EXCLUDE (_row_id)" if ref.name in _ROW_ID else ""
        rows = "" if whole or ref.name not in _WRITE_ONLY else " WHERE false"
        connection.execute(f"CREATE OR REPLACE TABLE {ref.sql} AS SELECT *{left_out} FROM ({select}){rows}")
        if not rows:
            found[ref] = pinned.snapshot_id
    return found


def save_history(
    lake: Lake,
    project: str,
    database: Path,
    *,
    run_id: str,
    loaded: Mapping[TableRef, int],
    only: Collection[str] = _KEPT,
) -> dict[str, int]:
    """Merge what a finished build added into the lake, whether the build failed or not.

    Args:
        only: names of the tables that are taken; default: all that a build writes.
        loaded: what ``load_history`` gave at the build's beginning.
    Returns: rows written, by table.
    Raises:
        PublishConflictError: other runs were faster each time.
    """
    connection = lake.connect()
    try:
        connection.execute(f"ATTACH {quote(str(database))} AS {quote_name(project)} (READ_ONLY)")
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return _merge(connection, lake, project, f"{run_id}_{attempt}" if attempt > 1 else run_id, loaded, only)
            except PublishConflictError:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(random.uniform(0.1, 0.5) * attempt)
        raise AssertionError("unreachable")
    finally:
        connection.close()


def _merge(
    connection: DuckDBPyConnection,
    lake: Lake,
    project: str,
    run_id: str,
    loaded: Mapping[TableRef, int],
    only: Collection[str],
) -> dict[str, int]:
    step = lake.step(run_id, LAYER)
    there = {
        name
        for (name,) in connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = ? AND schema_name = ?", [project, LAYER]
        ).fetchall()
    }
    written = {}
    try:
        for name in sorted(there & {*only}):
            ref = TableRef(project, LAYER, name)
            columns = f", {_ROW_ID[name]} AS _row_id" if name in _ROW_ID else ""
            now = f"SELECT *{columns} FROM {ref.sql}"
            if name in _STATE:
                pinned = step.pin(ref)
                before = pinned.select() if pinned is not None and pinned.snapshot_id is not None else None
                if before is not None and not _differs(connection, now, before):
                    continue
                step.write_query(ref, connection, now, mode="table")
            else:
                key = _GROWING[name]
                keys = ", ".join(key)
                # Compared with what this run began with: what another run changed since stays as that run has it.
                before = lake.pin(ref, snapshot_id=loaded[ref]).select() if ref in loaded else None
                if before is not None:
                    now = f"SELECT * FROM ({now}) EXCEPT SELECT * FROM ({_like(connection, now, before)})"
                given = " AND ".join(f"{column} IS NOT NULL" for column in key)
                new = f"SELECT * FROM ({now}) WHERE {given} QUALIFY row_number() OVER (PARTITION BY {keys}) = 1"
                is_known = lake.published(ref) is not None
                if is_known and not connection.execute(f"SELECT EXISTS ({new})").fetchone()[0]:  # type: ignore[index]
                    continue
                step.write_query(ref, connection, new, mode="merge", key=key)
            written[name] = step.staged[ref].rows_written
        step.publish()
    except BaseException:
        step.abandon()
        raise
    return written


def _differs(connection: DuckDBPyConnection, now: str, before: str) -> bool:
    like = _like(connection, now, before)
    row = connection.execute(f"SELECT EXISTS (({now}) EXCEPT ({like})) OR EXISTS (({like}) EXCEPT ({now}))").fetchone()
    return bool(row and row[0])


def _like(connection: DuckDBPyConnection, now: str, before: str) -> str:
    """What is published, in the columns' order and types of what is there now; a new column is empty."""
    known = {name for name, *_ in connection.execute(f"DESCRIBE {before}").fetchall()}
    columns = [(name, kind) for name, kind, *_ in connection.execute(f"DESCRIBE {now}").fetchall()]
    parts = (
        f"CAST({quote_name(name) if name in known else 'NULL'} AS {kind}) AS {quote_name(name)}"
        for name, kind in columns
    )
    return f"SELECT {', '.join(parts)} FROM ({before})"
