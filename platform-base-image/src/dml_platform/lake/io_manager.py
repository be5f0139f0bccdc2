"""Assets that return rows: Arrow, pandas and DuckDB relations to and from the lake.

A returned value is written and published as one step; an input is read at the snapshot that is
published when it is loaded.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa
from pydantic import PrivateAttr

from dml_platform.core.errors import ConfigError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import get_project
from dml_platform.core.settings import load_settings
from dml_platform.lake.client import Lake
from dml_platform.lake.read import create_view
from dml_platform.lake.reporting import failures, recorded, short_run_id, table_metadata
from dml_platform.lake.write import Mode, Step

logger = logging.getLogger(__name__)


class LakeIOManager(dg.ConfigurableIOManager):
    """Stores an asset as the table of its key, ``project/layer/name``.

    The asset's metadata sets ``write_mode`` (``table``, the default, ``append`` or ``merge``) and ``unique_key``.
    """

    project_root: str
    # By run and step: what the step's parameters were read from, for its record.
    _inputs: dict[tuple[str, str], dict[str, int]] = PrivateAttr(default_factory=dict)

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write and publish what an asset returned; None means that it wrote its table itself."""
        if obj is None:
            return
        started = time.monotonic()
        with failures():
            ref = _ref(context.asset_key)
            mode, key = _mode(context, ref)
            lake, rows = self._lake(), _as_arrow(obj, ref)
            run_id = short_run_id(context.run_id)
            project = get_project(start=Path(self.project_root))
            with recorded(project, lake, run_id=run_id, step=ref.name) as notes:
                step = lake.step(run_id, ref.name)
                try:
                    with contextlib.closing(lake.connect()) as connection:
                        staged = step.write_batches(ref, connection, rows, mode=mode, key=key)
                    step.publish()
                except BaseException:
                    _abandon(step)
                    raise
                notes.inputs.update(self._inputs.pop((context.run_id, context.step_key), {}))
                notes.outputs[ref.dotted] = staged.snapshot_id
                notes.rows[ref.dotted] = staged.rows_total
            pinned = lake.pin(ref, snapshot_id=staged.snapshot_id)
        context.add_output_metadata(
            {"seconds": round(time.monotonic() - started, 3), **table_metadata(lake, [pinned])[ref.dotted]}
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """Read a published table as what the parameter is annotated with; a DuckDB relation by default."""
        wanted = context.dagster_type.typing_type
        with failures():
            ref = _ref(context.asset_key)
            if wanted not in (Any, *_READERS):
                raise ConfigError(
                    f"cannot load {ref.dotted!r}",
                    f"the parameter is annotated with {wanted!r}",
                    "Use pandas.DataFrame, pyarrow.Table, pyarrow.RecordBatchReader or duckdb.DuckDBPyRelation.",
                )
            lake = self._lake()
            pinned = lake.published(ref)
            if pinned is None:
                raise ConfigError(
                    f"cannot read {ref.dotted!r}", "the lake has no such published table", "Run what makes it first."
                )
            connection = lake.connect()
            create_view(connection, pinned)
            relation = connection.sql(f"SELECT * FROM {ref.sql}")
            step = context.step_context
            assert pinned.snapshot_id is not None
            self._inputs.setdefault((step.run_id, step.step.key), {})[ref.dotted] = pinned.snapshot_id
        return _READERS[duckdb.DuckDBPyRelation if wanted is Any else wanted](relation)

    def _lake(self) -> Lake:
        root = Path(self.project_root)
        return Lake(load_settings(root), root)


_READERS: dict[Any, Callable[[duckdb.DuckDBPyRelation], Any]] = {
    duckdb.DuckDBPyRelation: lambda relation: relation,
    pa.RecordBatchReader: lambda relation: relation.to_arrow_reader(),
    pa.Table: lambda relation: relation.to_arrow_table(),
    pd.DataFrame: lambda relation: relation.df(),
}


def _abandon(step: Step) -> None:
    try:
        step.abandon()
    except Exception as error:  # noqa: BLE001 - the first error is the one to tell; the next run drops the branch
        logger.warning("branch %s of the failed step is still there: %s", step.branch, error)


def _ref(key: dg.AssetKey) -> TableRef:
    return TableRef.parse(".".join(key.path))


def _mode(context: dg.OutputContext, ref: TableRef) -> tuple[Mode, list[str]]:
    metadata = context.definition_metadata or {}
    mode, key = metadata.get("write_mode", "table"), metadata.get("unique_key", [])
    if mode not in get_args(Mode):
        raise ConfigError(
            f"cannot store {ref.dotted!r}",
            f"its metadata has write_mode {mode!r}",
            f"Use one of: {', '.join(get_args(Mode))}.",
        )
    if mode == "table" and context.has_partition_key:
        raise ConfigError(
            f"cannot store partition {context.partition_key!r} of {ref.dotted!r}",
            "write_mode 'table' replaces the rows of all partitions",
            "Set the asset's metadata write_mode to 'merge' with a unique_key.",
        )
    return mode, [key] if isinstance(key, str) else list(key)


def _as_arrow(obj: Any, ref: TableRef) -> pa.RecordBatchReader | pa.Table:
    if isinstance(obj, (pa.Table, pa.RecordBatchReader)):
        return obj
    if isinstance(obj, pd.DataFrame):
        return pa.Table.from_pandas(obj, preserve_index=False)
    if isinstance(obj, duckdb.DuckDBPyRelation):
        return obj.to_arrow_reader()
    raise ConfigError(
        f"cannot store {ref.dotted!r}",
        f"the asset returned {type(obj).__name__}",
        "Return a pandas frame, an Arrow table or reader, or a DuckDB relation.",
    )
