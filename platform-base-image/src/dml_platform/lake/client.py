"""The lake as a person or a step uses it: tables, snapshots, SQL, and steps that write.

Knows no Dagster and works from a notebook.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table.snapshots import ancestors_of

from dml_platform.core.errors import ConfigError
from dml_platform.core.naming import LAYERS, TableRef
from dml_platform.core.project import project_root, read_project
from dml_platform.core.runrecord import git_commit
from dml_platform.core.settings import Settings, load_settings
from dml_platform.lake import catalog as catalogs
from dml_platform.lake import engine
from dml_platform.lake.connection import open_catalog
from dml_platform.lake.filelists import remembered
from dml_platform.lake.read import PinnedTable, create_view, pin
from dml_platform.lake.state import summary_of
from dml_platform.lake.write import Step

if TYPE_CHECKING:
    import pandas as pd

_TABLE_NAME = re.compile(rf'"?(\w+)"?\."?({"|".join(LAYERS)})"?\."?(\w+)"?')


@dataclass(frozen=True)
class SnapshotInfo:
    """One published state of a table. ``rows_total`` is None where the writer did not say."""

    snapshot_id: int
    committed_at: datetime
    operation: str
    rows_total: int | None
    summary: dict[str, str]


class Lake:
    """All tables of one catalogue.

    Args:
        settings: where the catalogue and the warehouse are.
        root: the folder whose git commit snapshots are stamped with; default: the current folder.
    """

    def __init__(self, settings: Settings, root: Path | None = None) -> None:
        self.settings = settings
        self.root = root

    @cached_property
    def catalog(self) -> SqlCatalog:
        """The Iceberg catalogue, opened on first use."""
        return open_catalog(self.settings)

    def connect(self, path: str | Path = ":memory:") -> duckdb.DuckDBPyConnection:
        """Open a DuckDB connection that can read and write the warehouse."""
        return engine.connect(self.settings, path)

    def step(self, run_id: str, name: str) -> Step:
        """Begin a unit of write-audit-publish."""
        return Step(self.catalog, self.settings, run_id, name, summary={"git_commit": git_commit(self.root)})

    def tables(self, project: str | None = None) -> list[TableRef]:
        """Every table of the lake or of one project, published or not."""
        return catalogs.list_tables(self.catalog, project)

    def readable_tables(self) -> list[TableRef]:
        """What this process may read: on a server the tables of the project around it and the others' marts."""
        tables = self.tables()
        root = project_root(self.root) if self.settings.is_s3 else None
        own = read_project(root) if root else None
        return [ref for ref in tables if own is None or ref.project == own.name or ref.layer == "marts"]

    def pin(self, ref: TableRef | str, *, snapshot_id: int | None = None, branch: str = "main") -> PinnedTable:
        """Fix a table at a snapshot, by default what is published now.

        Raises:
            ConfigError: there is no such table, or it has no such snapshot.
        """
        ref = TableRef.parse(ref) if isinstance(ref, str) else ref
        table = catalogs.load_table(self.catalog, ref)
        if table is None:
            raise ConfigError(
                f"cannot read {ref.dotted!r}", "the lake has no such table", "'dml tables' lists what there is."
            )
        if snapshot_id is None:
            return pin(ref, table, branch=branch)
        if table.snapshot_by_id(snapshot_id) is None:
            raise ConfigError(
                f"cannot read {ref.dotted!r}",
                f"it has no snapshot {snapshot_id}",
                f"'dml history {ref.dotted}' lists its snapshots.",
            )
        return PinnedTable(ref, table, snapshot_id)

    def published(self, ref: TableRef) -> PinnedTable | None:
        """What readers see of a table, or None when it was never published."""
        table = catalogs.load_table(self.catalog, ref)
        pinned = pin(ref, table) if table is not None else None
        return pinned if pinned and pinned.snapshot_id is not None else None

    def history(self, ref: TableRef) -> Iterator[SnapshotInfo]:
        """The published states of a table, newest first."""
        yield from published_states(self.pin(ref))

    def pin_all(self, refs: Iterable[TableRef]) -> list[PinnedTable]:
        """What is published of some tables, as of one moment; a table that was never published is left out."""
        tables = catalogs.load_tables(self.catalog, refs, to_read=True)
        pinned = (pin(ref, table) for ref, table in tables.items() if table is not None)
        return [p for p in pinned if p.snapshot_id is not None]

    def remember_files(self) -> AbstractContextManager[None]:
        """While it is open, manifests of snapshots that were looked up before are not read again."""
        return remembered(self.settings.home / "lake-files.json")

    def create_views(
        self, connection: duckdb.DuckDBPyConnection, refs: Iterable[TableRef] | None = None
    ) -> list[PinnedTable]:
        """Make published tables (default: all that may be read) readable in a connection as ``project.layer.name``.

        All are pinned as of one moment: a reader sees all tables of a step or none.

        Returns: what was pinned; a table that was never published is left out.
        """
        pinned = self.pin_all(self.readable_tables() if refs is None else refs)
        for table in pinned:
            create_view(connection, table)
        return pinned

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """Run SQL over published tables, named ``project.layer.name``.

        Raises:
            ConfigError: the query names a table that is not published.
        """
        connection = self.connect()
        # DuckDB's get_table_names would say which, but fails on JOIN … USING.
        words = set(re.findall(r"\w+", query.lower()))
        named = {".".join(parts) for parts in _TABLE_NAME.findall(query.lower())}
        readable = set(self.readable_tables())
        # Others' tables by their full name only: the words of several names may happen to be one more.
        refs = [
            ref
            for ref in self.tables()
            if words.issuperset(ref.identifier) and (ref in readable or ref.dotted in named)
        ]
        pinned = {p.ref.dotted for p in self.create_views(connection, refs)}
        try:
            return connection.sql(query)
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            if not (missing := sorted(named - pinned)):
                raise
            raise ConfigError(
                f"cannot read {', '.join(map(repr, missing))}",
                "the lake has no such published table",
                "'dml tables' lists what there is.",
            ) from error

    def df(self, table: TableRef | str) -> pd.DataFrame:
        """A published table as a pandas frame."""
        ref = TableRef.parse(table) if isinstance(table, str) else table
        return self.sql(f"SELECT * FROM {ref.dotted}").df()


def published_states(pinned: PinnedTable) -> Iterator[SnapshotInfo]:
    """A pinned snapshot and those before it, newest first."""
    if pinned.snapshot_id is None:
        return
    head = pinned.table.snapshot_by_id(pinned.snapshot_id)
    for snapshot in ancestors_of(head, pinned.table.metadata):
        properties = snapshot.summary.additional_properties if snapshot.summary else {}
        total = properties.get("total-records")
        yield SnapshotInfo(
            snapshot_id=snapshot.snapshot_id,
            committed_at=datetime.fromtimestamp(snapshot.timestamp_ms / 1000, tz=timezone.utc),
            operation=snapshot.summary.operation.value if snapshot.summary else "",
            rows_total=int(total) if total is not None else None,
            summary=summary_of(snapshot),
        )


def open_lake(settings: Settings | None = None) -> Lake:
    """The lake of the current folder's workspace, or of the given settings."""
    return Lake(settings or load_settings())
