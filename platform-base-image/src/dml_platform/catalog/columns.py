"""Column lineage of the dbt models, traced anew only where SQL or columns changed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dml_platform import __version__
from dml_platform.catalog.draft import Draft
from dml_platform.core.document import ColumnEdge, TableEdge
from dml_platform.core.storage import Storage

if TYPE_CHECKING:
    from dml_platform.lineage.memory import Memory

logger = logging.getLogger(__name__)

_NAME = "lineage.json"
_READ = ("database", "schema", "alias", "identifier", "name", "resource_type", "language", "depends_on")


def add_lineage(
    draft: Draft,
    manifest: Mapping[str, Any],
    compiled: Mapping[str, str],
    storage: Storage,
    memory: Memory | None = None,
) -> None:
    """Add the models' edges between columns, and the columns of views; ``memory`` is what was traced before."""
    nodes = {k: n for k, n in manifest["nodes"].items() if n["resource_type"] in ("model", "seed", "snapshot")}
    nodes |= manifest.get("sources", {})
    sql = {key: compiled[key] for key in sorted(nodes.keys() & compiled.keys())}
    if not sql:
        draft.notices.append("No model was built here yet, so columns are not traced; 'dml run' builds them.")
        return
    schemas = {
        name: {column: values.get("type") for column, values in table.columns.items()}
        for name, table in sorted(draft.tables.items())
        if table.kind == "raw" or (table.kind == "mart" and "sql" not in table.values)
        if table.columns
    }
    seen = {
        key: [[node.get(part) for part in _READ], [[c["name"], c.get("data_type")] for c in node["columns"].values()]]
        for key, node in sorted(nodes.items())
    }
    digest = hashlib.sha256(json.dumps([__version__, sql, schemas, seen], default=str).encode()).hexdigest()
    found = _read(storage, digest)
    if found is None:
        found = {"digest": digest, **_trace(manifest, schemas, sql, memory)}
        try:
            storage.write(_NAME, json.dumps(found).encode())
        except OSError as error:
            logger.warning("the lineage could not be kept: %s", error)
    for edge in found["edges"]:
        draft.column_edges.setdefault(ColumnEdge(**edge))
    for edge in found["table_edges"]:
        if edge["source"] in draft.tables and edge["target"] in draft.tables:
            draft.table_edges.setdefault(TableEdge(**edge))
    for name, columns in found["columns"].items():
        table = draft.tables.get(name)
        for column, kind in columns.items() if table is not None and table.values.get("snapshot_id") is None else ():
            assert table is not None
            table.fill_column(column, type=kind)
    draft.notices += found["notices"]


def _trace(
    manifest: Mapping[str, Any], schemas: Mapping[str, Any], sql: Mapping[str, str], memory: Memory | None
) -> dict[str, Any]:
    from dml_platform.lineage.project import trace_project  # sqlglot takes a while to import

    lineage = trace_project(manifest, schemas, compiled=sql, memory=memory)
    return {
        "edges": [edge.model_dump() for edge in lineage.edges],
        "table_edges": [edge.model_dump() for edge in lineage.table_edges],
        "columns": lineage.columns,
        "notices": lineage.notices,
    }


def _read(storage: Storage, digest: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(storage.read(_NAME) or b"{}")
    except (OSError, ValueError):
        return None
    return found if found.get("digest") == digest else None
