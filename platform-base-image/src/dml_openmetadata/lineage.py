"""Edges between tables and to those who read them, with the columns that are known to be made from columns.

What is unknown is not sent; nor what is about all columns: a filter of rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dml_openmetadata import kinds
from dml_openmetadata.document import Column, ColumnEdge, Table
from dml_openmetadata.entities import Entities
from dml_openmetadata.names import join, quote, table_fqn

_MODELS = ("staging", "intermediate", "mart")


@dataclass(frozen=True)
class Edge:
    """An edge as it should be; ``kind:fqn`` are its ends. ``columns`` are (sources, target, how)."""

    source: str
    target: str
    origin: str
    columns: tuple[tuple[tuple[str, ...], str, str], ...] = ()
    pipeline: str | None = None

    @property
    def key(self) -> str:
        """Its name in our state."""
        return f"{self.source} -> {self.target}"

    def details(self, description: str, pipeline_id: str | None) -> dict[str, Any]:
        """OpenMetadata's LineageDetails."""
        columns = [
            {"fromColumns": list(sources), "toColumn": target, "function": how} for sources, target, how in self.columns
        ]
        found: dict[str, Any] = {"source": self.origin, "description": description, "columnsLineage": columns}
        if pipeline_id:
            found["pipeline"] = {"id": pipeline_id, "type": kinds.PIPELINE.type}
        return found


def ours(project: str) -> str:
    """The description that marks an edge as a project's."""
    return f"Of project {project}, by dml-platform."


def edges(entities: Entities) -> list[Edge]:
    """The edges whose target is the project's, by target and source."""
    document, service = entities.document, entities.service
    by_pair: dict[tuple[str, str], list[ColumnEdge]] = defaultdict(list)
    for column in document.column_edges:
        by_pair[column.source, column.target].append(column)
    known = {table.name: table for table in document.tables}
    pipelines = {table: entities.pipeline_fqn(p.name) for p in reversed(document.pipelines) for table in p.tables}
    pairs = {(edge.source, edge.target) for edge in document.table_edges} | set(by_pair)
    found = []
    for source, target in sorted(pairs, key=lambda pair: (pair[1], pair[0])):
        if target not in entities.tables or source == target or "." not in source:
            continue
        is_model = entities.tables[target].kind in _MODELS and entities.tables[target].sql
        found.append(
            Edge(
                f"table:{table_fqn(service, source)}",
                f"table:{table_fqn(service, target)}",
                "DbtLineage" if is_model else "PipelineLineage",
                _columns(by_pair[source, target], known.get(source), known[target], service),
                pipelines.get(target),
            )
        )
    for consumer in document.consumers:
        for source in sorted(set(consumer.depends_on)):
            end = f"dashboard:{entities.dashboard_fqn(consumer.name)}"
            found.append(Edge(f"table:{table_fqn(service, source)}", end, "DashboardLineage"))
    return found


def _columns(
    edges: Iterable[ColumnEdge], source: Table | None, target: Table, service: str
) -> tuple[tuple[tuple[str, ...], str, str], ...]:
    """Fold the edges by target column. OpenMetadata refuses an edge with a column that a table does not have."""
    made: dict[str, dict[str, None]] = defaultdict(dict)
    how: dict[str, set[str]] = defaultdict(set)
    for edge in edges:
        if edge.source_column is None or edge.target_column == "*" or edge.via in ("filter", "unknown"):
            continue
        start = _column_fqn(table_fqn(service, edge.source), edge.source_column, source)
        end = _column_fqn(table_fqn(service, edge.target), edge.target_column, target)
        if start and end:
            made[end][start] = None
            how[end].add(edge.via)
    return tuple((tuple(sorted(starts)), end, " and ".join(sorted(how[end]))) for end, starts in sorted(made.items()))


def _column_fqn(table: str, column: str, described: Table | None) -> str | None:
    """A column, or a field of a struct column, where the table is known to have it."""
    if described is None:
        return None
    names: Mapping[str, Column] = {found.name: found for found in described.columns}
    if column in names:
        return f"{table}.{quote(column)}"
    # A field of a struct: its column has the edge.
    outer = column.partition(".")[0]
    return join(outer) and f"{table}.{quote(outer)}" if outer in names else None
