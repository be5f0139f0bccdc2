"""One dbt invocation's view of the lake: its private DuckDB file, what it pinned, what it staged.

The dbt-duckdb plugin has no way to receive arguments but the profile, which must stay constant (dbt parses
everything anew when it changes). So the caller activates a session here, and the plugin takes it;
plain ``dbt build`` in a terminal finds none and gets one of its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dml_platform.core.errors import PlatformError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import get_project
from dml_platform.core.runrecord import utc_now
from dml_platform.core.settings import load_settings
from dml_platform.dbt.history import LAYER
from dml_platform.dbt.packages import are_installed
from dml_platform.lake import Lake, StagedTable, Step

_active: Session | None = None


@dataclass
class Session:
    """State of one invocation; ``root`` is set for a terminal's, which keeps its own run record.

    ``database`` is the private DuckDB file; ``pinned`` maps tables to the snapshots that were read; ``published`` is
    None until the end of the invocation; ``held_back`` says why nothing was published. ``history`` are the snapshots of
    Elementary's tables that were loaded, where its package is installed.
    """

    lake: Lake
    project: str
    step: Step
    database: Path
    with_history: bool = False
    with_whole_history: bool = False
    started_at: str = field(default_factory=utc_now)
    root: Path | None = None
    pinned: dict[TableRef, int] = field(default_factory=dict)
    staged: dict[TableRef, StagedTable] = field(default_factory=dict)
    published: list[StagedTable] | None = None
    held_back: str | None = None
    error: PlatformError | None = None
    history: dict[TableRef, int] = field(default_factory=dict)


@contextmanager
def activate(session: Session) -> Iterator[Session]:
    """Make a session the one that the plugin takes. One dbt invocation at a time per process (dbt's own rule)."""
    global _active
    assert _active is None, "dbt runs once at a time in a process"
    _active = session
    try:
        yield session
    finally:
        _active = None


def current(project: str) -> Session:
    """The active session, or a new one for a terminal, with a DuckDB file that is kept between invocations."""
    if _active is not None:
        return _active
    found = get_project(project)
    root = found.root
    lake = Lake(load_settings(root), root)
    return Session(
        lake=lake,
        project=project,
        step=lake.step(f"cli{uuid.uuid4().hex[:8]}", "dbt"),
        database=lake.settings.home / "dev" / f"{project}.duckdb",
        with_history=are_installed(found.dbt_dir),
        root=root,
    )


def readable_tables(lake: Lake, project: str) -> list[TableRef]:
    """What a project's models may read: its own tables, but for what Elementary remembers, and the others' marts."""
    return [ref for ref in lake.tables() if ref.layer == "marts" or (ref.project == project and ref.layer != LAYER)]
