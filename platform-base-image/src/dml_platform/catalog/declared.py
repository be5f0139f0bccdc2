"""Column lineage that Dagster assets declare, in Dagster's own form: ``TableColumnLineage`` in the asset's metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import dagster as dg
from dagster._core.definitions.metadata import TableMetadataSet

from dml_platform.core.document import ColumnEdge
from dml_platform.lineage import ALL


def declared_edges(
    specs: Iterable[dg.AssetSpec], *, columns: Mapping[str, Iterable[str]], made: Iterable[str] = ()
) -> list[ColumnEdge]:
    """Edges of assets that are no SQL.

    A column that is not declared, of an asset that reads something, is ``unknown``; one that is declared to be made of
    nothing has no edge.

    Args:
        specs: the project's assets, with ``dagster/column_lineage`` in their metadata as far as they declare.
        columns: the columns of published tables, by dotted name.
        made: tables that dbt or a source makes; these say themselves what they are made of.
    """
    edges, known = [], set(made)
    for spec in specs:
        target, reads = ".".join(spec.key.path), [".".join(dep.asset_key.path) for dep in spec.deps]
        if target in known or "dagster_dbt/unique_id" in spec.metadata or not reads:
            continue
        declared = TableMetadataSet.extract(spec.metadata).column_lineage
        by_column = dict(declared.deps_by_column) if declared is not None else {}
        for column, deps in by_column.items():
            edges += [
                ColumnEdge(
                    source=".".join(dep.asset_key.path),
                    source_column=dep.column_name,
                    target=target,
                    target_column=column,
                    via="declared",
                )
                for dep in deps
            ]
        undeclared = [c for c in columns.get(target, ()) if c not in by_column] or ([] if by_column else [ALL])
        edges += [
            ColumnEdge(source=source, source_column=None, target=target, target_column=column, via="unknown")
            for source in reads
            for column in undeclared
        ]
    return edges
