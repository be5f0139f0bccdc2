"""The catalogue document: all that is known of a project at one moment, in a form that depends on no tool.

Written after each run, read by the report, ``dml impact``, alerts and the publisher to OpenMetadata. Only its shape is
here; ``dml_platform.catalog`` fills it. A field is only ever added; a change that readers would not survive raises
``VERSION``.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION: Final = 1

Status = Literal["pass", "warn", "fail", "error", "skipped"]
RunStatus = Literal["success", "failed", "running", "unchanged"]
Severity = Literal["error", "warn"]
Kind = Literal["file", "stream", "raw", "seed", "staging", "intermediate", "mart"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Column(_Part):
    """A column. ``type`` is DuckDB's name; ``profile`` has figures of the newest snapshot, e.g. ``null_share``."""

    name: str
    type: str | None = None
    description: str = ""
    tags: tuple[str, ...] = ()
    profile: dict[str, Any] = {}


class Owner(_Part):
    """Who answers for something: a name, an address, or both."""

    name: str | None = None
    email: str | None = None


class Table(_Part):
    """A table, view, seed, file source or connector stream.

    ``name`` is ``project.layer.name`` (``TableRef.dotted``), outside the lake ``project.source:<source>.<entity>``.
    Times are ISO 8601 in UTC; ``snapshot_id`` is None for what lives inside a run only.
    """

    name: str
    kind: Kind
    description: str = ""
    grain: str = ""
    columns: tuple[Column, ...] = ()
    owner: Owner | None = None
    tags: tuple[str, ...] = ()
    path: str | None = Field(default=None, description="the file that defines it, relative to the project")
    sql: str | None = Field(default=None, description="compiled SQL of a model")
    unique_key: tuple[str, ...] = ()
    snapshot_id: int | None = None
    published_at: str | None = None
    row_count: int | None = None
    size_bytes: int | None = None
    run_id: str | None = Field(default=None, description="the run that published the snapshot")
    git_commit: str | None = None
    max_age_hours: float | None = Field(default=None, description="older than this it is late (dbt: freshness)")
    fresh_as_of: str | None = Field(default=None, description="newest time in its freshness column, or of its landing")
    history: tuple[TablePoint, ...] = Field(default=(), description="published snapshots, newest first")


class TablePoint(_Part):
    """One published snapshot of a table."""

    snapshot_id: int
    published_at: str
    row_count: int | None = None
    run_id: str | None = None
    git_commit: str | None = None


class TestResult(_Part):
    """One outcome of a test. ``failures`` counts rows."""

    __test__ = False  # no test class

    run_id: str
    at: str
    status: Status
    failures: int | None = None
    duration_s: float | None = None
    message: str | None = None


class Test(_Part):
    """A data test, unit test or asset check, with its results, newest first."""

    __test__ = False

    id: str
    name: str
    kind: Literal["data", "unit", "check", "freshness", "anomaly"]
    table: str | None = None
    column: str | None = None
    description: str = ""
    severity: Severity = "error"
    sql: str | None = None
    results: tuple[TestResult, ...] = ()


class TableEdge(_Part):
    """``target`` is made from ``source``; both are names of tables or consumers."""

    source: str
    target: str


class ColumnEdge(_Part):
    """A column is made from another. ``via`` says how.

    ``unknown``: the table is read, but which of its columns go in could not be derived; ``source_column`` is then None.
    It is also None, with ``transform``, for what is made of a table's rows as such: ``count(*)``.
    ``target_column`` is ``"*"`` where it is about all columns: ``filter``, what decides which rows there are, and
    ``unknown`` where not even the columns of the target are known.
    """

    source: str
    source_column: str | None
    target: str
    target_column: str
    via: Literal["copy", "transform", "filter", "declared", "unknown"] = "transform"


class Consumer(_Part):
    """Who uses tables without making one: a notebook, dashboard, application or model (dbt: exposure)."""

    name: str
    kind: str
    label: str = ""
    description: str = ""
    owner: Owner | None = None
    url: str | None = None
    depends_on: tuple[str, ...] = ()


class Step(_Part):
    """A step of a run, from its run record. ``inputs`` and ``outputs`` are snapshot ids by table."""

    name: str
    status: RunStatus
    started_at: str
    duration_s: float
    inputs: dict[str, int] = {}
    outputs: dict[str, int] = {}
    rows: dict[str, int] = {}
    error: str | None = None


class Run(_Part):
    """One run of the project's pipeline. ``dvc`` are hashes of versioned files, by path."""

    run_id: str
    status: RunStatus
    started_at: str
    duration_s: float
    job: str | None = Field(default=None, description="the Dagster job; None for a run of no job, as of 'dml run'")
    git_commit: str = "unknown"
    image: str | None = None
    url: str | None = Field(default=None, description="the run in Dagster's UI")
    steps: tuple[Step, ...] = ()
    dvc: dict[str, str] = {}


class Pipeline(_Part):
    """A Dagster job and when it runs by itself."""

    name: str
    description: str = ""
    schedule: str | None = Field(default=None, description="cron expression, in UTC")
    sensors: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


class Figure(_Part):
    """A key figure of a mart over time, to be drawn: ``points`` are (label, value)."""

    table: str
    title: str
    unit: str = ""
    points: tuple[tuple[str, float], ...] = ()


class Document(_Part):
    """A project, whole. ``notices`` are sentences on what could not be known, e.g. that a tool is not installed."""

    version: Literal[1] = VERSION
    project: str
    description: str = ""
    owner: Owner | None = None
    generated_at: str
    git_commit: str = "unknown"
    image: str | None = None
    platform_version: str = ""
    dagster_url: str | None = None
    tables: tuple[Table, ...] = ()
    tests: tuple[Test, ...] = ()
    table_edges: tuple[TableEdge, ...] = ()
    column_edges: tuple[ColumnEdge, ...] = ()
    consumers: tuple[Consumer, ...] = ()
    pipelines: tuple[Pipeline, ...] = ()
    runs: tuple[Run, ...] = Field(default=(), description="newest first")
    figures: tuple[Figure, ...] = ()
    notices: tuple[str, ...] = ()


Table.model_rebuild()
