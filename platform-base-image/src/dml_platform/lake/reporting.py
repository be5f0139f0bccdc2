"""What a Dagster step tells people: failures as sentences, tables as row counts, previews and plots.

Used by every service's assets. What does not belong here: anything that writes a table.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Union

import dagster as dg
from dagster._core.errors import DagsterError, DagsterExecutionInterruptedError
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from dml_platform import __version__
from dml_platform.core.dvcfiles import read_hashes
from dml_platform.core.errors import PermanentError, PlatformError
from dml_platform.core.project import Project
from dml_platform.core.runrecord import RunRecord, git_commit, utc_now, write_record
from dml_platform.lake.client import Lake
from dml_platform.lake.read import PinnedTable, create_view
from dml_platform.lake.schema import duckdb_type

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

# A function, or where to find it ("package.module:function") so that plotting libraries load only when a plot is made.
Plot = Union[Callable[["pd.DataFrame"], "Figure"], str]  # noqa: UP007 - evaluated, with names that are not imported

# Only errors that say a retry can help are retried: see `failures`.
RETRY_POLICY = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
_PREVIEW_ROWS = 8
_NOT_LIVING = {
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.MANAGED,
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
}


def short_run_id(run_id: str) -> str:
    """The part of Dagster's run id that names branches, folders and records."""
    return run_id.split("-", 1)[0]


class RunEndedError(DagsterExecutionInterruptedError, DagsterError):
    """The run was cancelled or its process told to end; no retry policy applies.

    Dagster (1.13) applies a step's retry policy to an interruption too, so a cancelled run would begin its step anew.
    It lets its own errors through, and treats an interruption as one wherever it comes out: hence both base classes.
    """


def living_runs(instance: dg.DagsterInstance) -> list[str]:
    """Dagster's ids of the runs that began and did not end."""
    begun = [status for status in dg.DagsterRunStatus if status not in _NOT_LIVING]
    return [run.run_id for run in instance.get_runs(filters=dg.RunsFilter(statuses=begun))]


@contextmanager
def failures() -> Iterator[None]:
    """Turn errors into Dagster failures that carry the sentence and are retried only if that can help.

    Raises:
        RunEndedError: the run was cancelled meanwhile; it ends, whatever the step's retry policy.
    """
    try:
        yield
    except (KeyboardInterrupt, DagsterExecutionInterruptedError) as interruption:
        raise RunEndedError("the run was cancelled") from interruption
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
    """Keep a run record of the block, whether it succeeds or not.

    Raises:
        PermanentError: the block succeeded and its record cannot be written.
    """
    notes, started, clock, error = StepNotes(), utc_now(), time.monotonic(), None
    try:
        yield notes
    except BaseException as caught:
        error = str(caught) or type(caught).__name__
        raise
    finally:
        record = RunRecord(
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
            dvc=read_hashes(project.root),
            platform=__version__,
        )
        try:
            write_record(lake.settings, record)
        except PermanentError as problem:
            if error is None:  # otherwise the block's own error says more
                raise
            logger.error("%s", problem)


def table_metadata(
    lake: Lake,
    pinned: Sequence[PinnedTable],
    *,
    plots: Mapping[str, Plot] | None = None,
    preview: bool = True,
) -> dict[str, dict[str, Any]]:
    """Row count, snapshot, columns, preview and, where the project has one, a plot, per table name.

    The tables are published by now, so what cannot be shown is a warning and an entry ``preview_error`` or
    ``plot_error``: it does not fail the step.

    Args:
        preview: whether to show rows. They stay in Dagster's log: not a source's, which may be personal.
    """
    found = {}
    with contextlib.closing(lake.connect()) as connection:
        for table in pinned:
            metadata: dict[str, Any] = {
                "dagster/row_count": table.rows,
                "dagster/table_name": table.ref.dotted,
                "snapshot_id": str(table.snapshot_id),
                "dagster/column_schema": dg.TableSchema(
                    columns=[dg.TableColumn(f.name, duckdb_type(f.field_type).lower()) for f in table.schema.fields]
                ),
            }
            plot = (plots or {}).get(table.ref.name)
            if preview:
                metadata |= _shown("preview", table, partial(_preview, connection, table))
            if plot:
                metadata |= _shown("plot", table, partial(_plot, connection, table, plot))
            found[table.ref.dotted] = metadata
    return found


def _shown(
    name: str, table: PinnedTable, draw: Callable[[], dg.MarkdownMetadataValue]
) -> dict[str, dg.MarkdownMetadataValue | str]:
    try:
        return {name: draw()}
    except Exception as error:  # noqa: BLE001 - a project's own code; nothing that it raises takes back a publish
        text = f"{type(error).__name__}: {error}"
        logger.warning("the %s of %s could not be made: %s", name, table.ref.dotted, text)
        return {f"{name}_error": text}


def _preview(connection: DuckDBPyConnection, table: PinnedTable) -> dg.MarkdownMetadataValue:
    rows = _rows(connection, table)
    return dg.MetadataValue.md(_markdown(rows.columns, rows.limit(_PREVIEW_ROWS).fetchall()))


def _plot(connection: DuckDBPyConnection, table: PinnedTable, plot: Plot) -> dg.MarkdownMetadataValue:
    return picture(_resolve(plot)(_rows(connection, table).df()))


def _rows(connection: DuckDBPyConnection, table: PinnedTable) -> DuckDBPyRelation:
    create_view(connection, table)
    return connection.sql(f"SELECT * FROM {table.ref.sql}")


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
