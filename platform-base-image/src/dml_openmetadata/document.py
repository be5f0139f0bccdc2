"""The parts of the catalogue document that OpenMetadata takes. Its shape is dml_platform's; the rest is ignored."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Owner(_Part):
    """A name, an address, or both."""

    name: str | None = None
    email: str | None = None


class Column(_Part):
    """A column; ``type`` is DuckDB's name."""

    name: str
    type: str | None = None
    description: str = ""
    tags: tuple[str, ...] = ()
    profile: dict[str, Any] = {}


class TablePoint(_Part):
    """One published snapshot."""

    published_at: str
    row_count: int | None = None


class Table(_Part):
    """A table, view, seed, file source or connector stream."""

    name: str
    kind: str
    description: str = ""
    columns: tuple[Column, ...] = ()
    owner: Owner | None = None
    tags: tuple[str, ...] = ()
    path: str | None = None
    sql: str | None = None
    unique_key: tuple[str, ...] = ()
    published_at: str | None = None
    row_count: int | None = None
    size_bytes: int | None = None
    history: tuple[TablePoint, ...] = ()


class TestResult(_Part):
    """One outcome of a test."""

    __test__ = False

    run_id: str
    at: str
    status: str
    failures: int | None = None
    message: str | None = None


class Test(_Part):
    """A test with its results, newest first."""

    __test__ = False

    id: str
    name: str
    kind: str
    table: str | None = None
    column: str | None = None
    description: str = ""
    severity: str = "error"
    results: tuple[TestResult, ...] = ()


class TableEdge(_Part):
    """``target`` is made from ``source``."""

    source: str
    target: str


class ColumnEdge(_Part):
    """A column is made from another; without ``source_column``, or to ``"*"``, it is about more than one."""

    source: str
    source_column: str | None
    target: str
    target_column: str
    via: str = "transform"


class Consumer(_Part):
    """A notebook, dashboard, application or model that reads tables."""

    name: str
    kind: str
    label: str = ""
    description: str = ""
    owner: Owner | None = None
    url: str | None = None
    depends_on: tuple[str, ...] = ()


class Step(_Part):
    """A step of a run; ``inputs`` and ``outputs`` are snapshot ids by table."""

    name: str
    status: str
    started_at: str
    duration_s: float
    inputs: dict[str, int] = {}
    outputs: dict[str, int] = {}
    rows: dict[str, int] = {}
    error: str | None = None


class Run(_Part):
    """One run of the project; ``job`` is the Dagster job, where it was one."""

    run_id: str
    status: str
    started_at: str
    duration_s: float
    job: str | None = None
    git_commit: str = "unknown"
    url: str | None = None
    steps: tuple[Step, ...] = ()


class Pipeline(_Part):
    """A Dagster job and when it runs by itself."""

    name: str
    description: str = ""
    schedule: str | None = None
    sensors: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


class Document(_Part):
    """A project, whole."""

    version: Literal[1] = 1
    project: str
    description: str = ""
    owner: Owner | None = None
    generated_at: str
    dagster_url: str | None = None
    tables: tuple[Table, ...] = ()
    tests: tuple[Test, ...] = ()
    table_edges: tuple[TableEdge, ...] = ()
    column_edges: tuple[ColumnEdge, ...] = ()
    consumers: tuple[Consumer, ...] = ()
    pipelines: tuple[Pipeline, ...] = ()
    runs: tuple[Run, ...] = ()


def milliseconds(moment: str) -> int:
    """OpenMetadata's time of an ISO 8601 one."""
    return round(datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp() * 1000)
