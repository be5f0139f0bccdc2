"""What a Dagster step tells people: failures as sentences, tables as row counts, previews and plots.

Used by every service's assets. What does not belong here: anything that writes a table.
"""

from __future__ import annotations

import base64
import importlib
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Union

import dagster as dg

from dml_platform.core.errors import PlatformError
from dml_platform.core.project import Project
from dml_platform.core.runrecord import RunRecord, git_commit, utc_now, write_record
from dml_platform.lake.client import Lake
from dml_platform.lake.read import PinnedTable, create_view
from dml_platform.lake.schema import duckdb_type

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# A function, or where to find it ("package.module:function") so that plotting libraries load only when a plot is made.
Plot = Union[Callable[["pd.DataFrame"], "Figure"], str]  # noqa: UP007 - evaluated, with names that are not imported

# Only errors that say a retry can help are retried: see `failures`.
RETRY_POLICY = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
_PREVIEW_ROWS = 8


def short_run_id(run_id: str) -> str:
    """The part of Dagster's run id that names branches, folders and records."""
    return run_id.split("-", 1)[0]


@contextmanager
def failures() -> Iterator[None]:
    """Turn errors into Dagster failures that carry the sentence and are retried only if that can help."""
    try:
        yield
    except PlatformError as error:
        raise failure(error) from error
    except dg.Failure:
        raise
    except Exception as error:
        raise dg.Failure(f"{type(error).__name__}: {error}", allow_retries=False) from error


def failure(error: PlatformError) -> dg.Failure:
    """The Dagster failure for an error."""
    return dg.Failure(
        description=str(error),
        metadata={"what": error.what, "why": error.why, "fix": error.fix, "exit_code": error.exit_code},
        allow_retries=error.allow_retries,
    )


@dataclass
class StepNotes:
    """What a step fills in for its run record."""

    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@contextmanager
def recorded(project: Project, lake: Lake, *, run_id: str, step: str) -> Iterator[StepNotes]:
    """Keep a run record of the block, whether it succeeds or not."""
    notes, started, clock, error = StepNotes(), utc_now(), time.monotonic(), None
    try:
        yield notes
    except BaseException as caught:
        error = str(caught) or type(caught).__name__
        raise
    finally:
        write_record(
            lake.settings.home,
            RunRecord(
                project=project.name,
                run_id=run_id,
                step=step,
                status="failed" if error else "success",
                started_at=started,
                duration_s=round(time.monotonic() - clock, 3),
                git_commit=git_commit(project.root),
                image=lake.settings.image,
                inputs=notes.inputs,
                outputs=notes.outputs,
                rows=notes.rows,
                error=error,
                details=notes.details,
            ),
        )


def table_metadata(
    lake: Lake, pinned: Sequence[PinnedTable], *, plots: Mapping[str, Plot] | None = None
) -> dict[str, dict[str, Any]]:
    """Row count, snapshot, columns, preview and, where the project has one, a plot, per table name."""
    connection = lake.connect()
    found = {}
    for table in pinned:
        create_view(connection, table)
        relation = connection.sql(f"SELECT * FROM {table.ref.sql}")
        metadata: dict[str, Any] = {
            "dagster/row_count": table.rows,
            "dagster/table_name": table.ref.dotted,
            "snapshot_id": str(table.snapshot_id),
            "dagster/column_schema": dg.TableSchema(
                columns=[dg.TableColumn(f.name, duckdb_type(f.field_type).lower()) for f in table.schema.fields]
            ),
            "preview": dg.MetadataValue.md(_markdown(relation.columns, relation.limit(_PREVIEW_ROWS).fetchall())),
        }
        if plot := (plots or {}).get(table.ref.name):
            metadata["plot"] = picture(_resolve(plot)(relation.df()))
        found[table.ref.dotted] = metadata
    connection.close()
    return found


def _resolve(plot: Plot) -> Callable[[pd.DataFrame], Figure]:
    if not isinstance(plot, str):
        return plot
    module, _, name = plot.partition(":")
    found: Callable[[pd.DataFrame], Figure] = getattr(importlib.import_module(module), name)
    return found


def picture(figure: Figure) -> dg.MarkdownMetadataValue:
    """A matplotlib figure as metadata that Dagster's UI shows."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80, bbox_inches="tight")
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{encoded})")


def _markdown(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    def cell(value: Any) -> str:
        text = "" if value is None else str(value)
        text = text if len(text) <= 60 else text[:59] + "…"
        return text.replace("|", "\\|").replace("\n", " ")

    lines = [columns, ["---"] * len(columns), *([cell(v) for v in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
