"""A step made again from the snapshots that it read then: it reads the lake and writes nothing to it.

What it makes stays in the caller's DuckDB file, so nothing is published, and nothing is left behind when it is killed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import dagster as dg
from duckdb import DuckDBPyConnection
from pyiceberg.schema import Schema
from pyiceberg.table.snapshots import Snapshot

from dml_platform.core.errors import ConfigError, PermanentError
from dml_platform.core.naming import TableRef
from dml_platform.lake.client import Lake
from dml_platform.lake.datafiles import cast_to, require_unique, temporary_table
from dml_platform.lake.engine import quote_name
from dml_platform.lake.io_manager import _READERS, _as_arrow, _mode, _ref
from dml_platform.lake.read import PinnedTable, create_view
from dml_platform.lake.schema import describe_query, evolve
from dml_platform.lake.state import summary_of
from dml_platform.lake.write import StagedTable, Step, _require_key

REPLAYED = "_dml_replayed"


@dataclass(frozen=True)
class ReplayedTable(PinnedTable):
    """A table as the replay made it, in the DuckDB file that it works in, with the columns that it would have."""

    made_with: Schema

    @cached_property
    def schema(self) -> Schema:
        """The columns' types as they would be stored."""
        return self.made_with

    def select(self, where: Any = None) -> str:
        """All of its rows."""
        return f"SELECT * FROM {replayed_name(self.ref)}"


@dataclass
class ReplayStep(Step):
    """A step whose ``main`` is what it was before the run, and whose writes go to DuckDB.

    Args:
        pinned: tables as the run read them; what is not here does not exist for the step.
    """

    pinned: Mapping[TableRef, PinnedTable] = field(default_factory=dict)
    made: dict[TableRef, ReplayedTable] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def pin_all(self, refs: Iterable[TableRef]) -> dict[TableRef, PinnedTable | None]:
        """What was made again, else what was read then."""
        return {ref: self.made.get(ref) or self.pinned.get(ref) for ref in refs}

    def write_query(
        self,
        ref: TableRef,
        connection: DuckDBPyConnection,
        sql: str,
        *,
        mode: str = "append",
        key: Sequence[str] = (),
        full_refresh: bool = False,
        **_options: Any,
    ) -> StagedTable:
        """Make the table as the step would leave it, in the connection's file; refuse the rows that it would refuse."""
        name, base = replayed_name(ref), self.made.get(ref) or self.pinned.get(ref)
        with self._turn:  # models are made in several threads, and DuckDB refuses two that create the same
            connection.execute(f"ATTACH IF NOT EXISTS ':memory:' AS {quote_name(ref.project)}")
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote_name(ref.project)}.{quote_name(REPLAYED)}")
        columns = describe_query(connection, sql, ref=ref)
        if mode == "merge":
            _require_key(ref, key, columns)
        # As it would be stored: DuckDB's JSON becomes text there, its HUGEINT a decimal.
        base_schema = base.schema if base else Schema()
        schema = evolve(base_schema, columns, last_column_id=base_schema.highest_field_id, replace=True).schema
        with temporary_table(connection, cast_to(schema, sql)) as new:
            if mode == "merge" and not full_refresh:
                require_unique(connection, new, ref, key)
            if mode == "table" or full_refresh or base is None:
                query = f"SELECT * FROM {new}"
            else:
                create_view(connection, base)
                same = " AND ".join(f"o.{quote_name(k)} IS NOT DISTINCT FROM n.{quote_name(k)}" for k in key)
                kept = f" o WHERE NOT EXISTS (SELECT 1 FROM {new} n WHERE {same})" if mode == "merge" else ""
                query = f"SELECT * FROM {ref.sql}{kept} UNION ALL BY NAME SELECT * FROM {new}"
            connection.execute(f"CREATE OR REPLACE TABLE {name} AS {query}")
        (rows,) = connection.execute(f"SELECT count(*) FROM {name}").fetchone() or (0,)
        self.made[ref] = ReplayedTable(ref, base.table if base else None, 0, schema)  # type: ignore[arg-type]
        self.staged[ref] = StagedTable(ref, 0, base.snapshot_id if base else None, rows, rows)
        return self.staged[ref]

    def publish(self) -> list[StagedTable]:
        """Nothing is published."""
        return []

    def abandon(self) -> None:
        """Nothing was written that would have to go."""


class ReplayIOManager(dg.IOManager):
    """Gives an asset the snapshots that it was given then, and keeps what it returns in the replay's DuckDB file."""

    def __init__(self, step: ReplayStep, connection: DuckDBPyConnection) -> None:
        self._step = step
        self._connection = connection

    def load_input(self, context: dg.InputContext) -> Any:
        """Read a table as it was then."""
        ref = _ref(context.asset_key)
        pinned = self._step.pin(ref)
        if pinned is None:
            raise PermanentError(
                f"cannot make {self._step.name!r} again",
                f"the run record does not say which snapshot of {ref.dotted!r} it read",
                "Runs from before that was recorded cannot be made again; newer ones can.",
            )
        connection = self._connection.cursor()
        create_view(connection, pinned)
        wanted = context.dagster_type.typing_type
        return _READERS.get(wanted, lambda relation: relation)(connection.sql(f"SELECT * FROM {ref.sql}"))

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Keep the rows."""
        ref = _ref(context.asset_key)
        if obj is None:
            raise PermanentError(
                f"cannot make {ref.dotted!r} again", "its asset writes the table itself", "Let it return its rows."
            )
        mode, key = _mode(context, ref)
        self._step.write_batches(ref, self._connection, _as_arrow(obj, ref), mode=mode, key=key)


def replayed_name(ref: TableRef) -> str:
    """Where a replay keeps a table, quoted for SQL."""
    return ".".join(quote_name(part) for part in (ref.project, REPLAYED, f"{ref.layer}__{ref.name}"))


def replay_step(
    lake: Lake, *, run_id: str, name: str, inputs: Mapping[str, int], outputs: Mapping[str, int]
) -> ReplayStep:
    """The step that makes ``outputs`` again from ``inputs``, both by snapshot id as the run record has them.

    An input whose snapshot is gone is left out: :func:`missing` names it.
    """
    pinned = {}
    for dotted, snapshot_id in {**inputs, **outputs}.items():
        with contextlib.suppress(ConfigError):  # the table or the snapshot is gone
            table = lake.pin(dotted, snapshot_id=snapshot_id)
            if dotted in outputs:  # what the run found there before it wrote
                before = _before(table, run_id)
                if before is not None:
                    pinned[table.ref] = PinnedTable(table.ref, table.table, before.snapshot_id)
            else:
                pinned[table.ref] = table
    return ReplayStep(lake.catalog, lake.settings, run_id, name, pinned=pinned)


def missing(lake: Lake, snapshots: Mapping[str, int]) -> list[str]:
    """Tables of which the snapshot is gone."""
    found = []
    for dotted, snapshot_id in snapshots.items():
        try:
            lake.pin(dotted, snapshot_id=snapshot_id)
        except ConfigError:
            found.append(dotted)
    return found


def _before(output: PinnedTable, run_id: str) -> Snapshot | None:
    """The newest ancestor that another run wrote."""
    assert output.snapshot_id is not None
    snapshot = output.table.snapshot_by_id(output.snapshot_id)
    while snapshot is not None:
        if summary_of(snapshot).get("run_id") != run_id:
            return snapshot
        parent = snapshot.parent_snapshot_id
        snapshot = output.table.snapshot_by_id(parent) if parent is not None else None
    return None
