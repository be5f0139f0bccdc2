"""A step that tries what a change would make of the published tables: it reads the lake and writes nothing to it.

So a pull request needs no right to write, and nothing is left behind when it is killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from duckdb import DuckDBPyConnection

from dml_platform.core.naming import TableRef
from dml_platform.lake.client import Lake
from dml_platform.lake.datafiles import require_own_files
from dml_platform.lake.replay import ReplayStep
from dml_platform.lake.schema import describe_query, evolve
from dml_platform.lake.write import StagedTable


@dataclass
class TrialStep(ReplayStep):
    """A replay on what is published now.

    Attributes:
        refused: by table, the differences in columns for which publishing would be refused.
    """

    refused: dict[TableRef, tuple[str, ...]] = field(default_factory=dict)

    def write_query(
        self,
        ref: TableRef,
        connection: DuckDBPyConnection,
        sql: str,
        *,
        mode: str = "append",
        key: Sequence[str] = (),
        full_refresh: bool = False,
        **options: Any,
    ) -> StagedTable:
        """Make the table in the connection's file, and remember whether the published one could take its columns."""
        published = self.pinned.get(ref)
        if published is not None and not full_refresh:
            columns = describe_query(connection, sql, ref=ref)
            last = published.table.metadata.last_column_id
            if refused := evolve(published.schema, columns, last_column_id=last).refused:
                self.refused[ref] = refused
                mode = "table"  # what a full refresh would make
            if mode == "merge":
                require_own_files(published)
        return super().write_query(ref, connection, sql, mode=mode, key=key, full_refresh=full_refresh, **options)


def trial_step(lake: Lake, *, run_id: str, readable: Iterable[TableRef]) -> TrialStep:
    """The step that tries a change on what is published now, as of one moment."""
    pinned = {found.ref: found for found in lake.pin_all(readable)}
    return TrialStep(lake.catalog, lake.settings, run_id, "trial", pinned=pinned)
