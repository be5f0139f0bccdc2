"""Column lineage of a whole dbt project, from its manifest and the compiled SQL of its models."""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dml_platform.core.document import ColumnEdge, TableEdge
from dml_platform.lineage.columns import ALL, Catalog, QueryError, Schemas, edges_of
from dml_platform.lineage.memory import Memory
from dml_platform.lineage.relation import Relation

_TRACED = ("model", "snapshot")


@dataclass(frozen=True)
class Lineage:
    """What was found.

    Attributes:
        edges: between columns. ``target_column`` is ``"*"`` where all of a table's rows depend on it (``filter``), or
            columns that could not be named (``unknown``). ``source_column`` is None for ``unknown``, and for what is
            made of the rows as such (``count(*)``, ``transform``).
        table_edges: what each model reads, by its SQL or else by dbt.
        columns: of each traced model, in order, with the type where it is plain.
        notices: sentences on what could not be traced.
    """

    edges: list[ColumnEdge] = field(default_factory=list)
    table_edges: list[TableEdge] = field(default_factory=list)
    columns: dict[str, dict[str, str | None]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def relation_name(node: Mapping[str, Any]) -> str:
    """``database.schema.name`` of a dbt node: ``TableRef.dotted`` for tables of the lake."""
    name = node.get("alias") or node.get("identifier") or node["name"]
    return ".".join(part for part in (node.get("database"), node.get("schema"), name) if part)


def trace_project(
    manifest: Mapping[str, Any],
    schemas: Schemas,
    *,
    compiled: Mapping[str, str] | None = None,
    filters: bool = True,
    memory: Memory | None = None,
) -> Lineage:
    """Trace every model, each after those that it reads.

    Args:
        manifest: dbt's manifest.
        schemas: columns and types of tables that no model makes, by ``database.schema.name``; what the manifest says of
            the columns of sources and seeds is used besides, knowing that it may not be all of them.
        compiled: compiled SQL by unique id; default: ``compiled_code`` of the manifest's nodes.
        filters: also give edges from columns that only decide which rows there are.
        memory: what was traced before, of any version of any project; default: nothing.
    """
    memory = memory or Memory()
    nodes = {key: node for key, node in manifest["nodes"].items() if node["resource_type"] in (*_TRACED, "seed")}
    everything = {**nodes, **manifest.get("sources", {})}
    catalog = Catalog(_known_columns(everything.values(), schemas))
    found = Lineage()
    models = {key: node for key, node in nodes.items() if node["resource_type"] in _TRACED}
    parents = {key: set(node.get("depends_on", {}).get("nodes", ())) & models.keys() for key, node in models.items()}
    for key in graphlib.TopologicalSorter(parents).static_order():
        node = models[key]
        if node["config"].get("materialized") == "ephemeral":
            continue  # a CTE in the SQL of those who use it
        name = relation_name(node)
        sql = (compiled or {}).get(key) or node.get("compiled_code")
        relation = None
        if not sql or node.get("language", "sql") != "sql":
            found.notices.append(f"{name}: no compiled SQL, so its columns are not traced.")
        else:
            try:
                traced = memory.trace(sql, catalog)
                if name.lower() in sql.replace('"', "").lower():  # an incremental model reads itself
                    catalog.add_traced(name, traced.relation)
                    traced = memory.trace(sql, catalog)
            except QueryError as error:
                found.notices.append(f"{name}: its SQL could not be read ({error}), so its columns are not traced.")
            else:
                relation = traced.relation
                if traced.unresolved:
                    names = ", ".join(traced.unresolved[:5])
                    found.notices.append(f"{name}: no table that it reads is known to have {names}.")
        read = [relation_name(everything[p]) for p in _tables_below(node, manifest["nodes"], everything)]
        listed = [column["name"] for column in node.get("columns", {}).values()]
        if relation is None:
            relation = Relation(open=dict.fromkeys(read, "unknown"), rows=frozenset(read))
        _add(found, name, relation, listed, read, filters=filters)
        catalog.add_traced(name, _completed(relation, listed))
    return found


def _tables_below(node: Mapping[str, Any], nodes: Mapping[str, Any], tables: Mapping[str, Any]) -> list[str]:
    """What a model reads by dbt's account, through ephemeral models."""
    found: dict[str, None] = {}
    pending = list(node.get("depends_on", {}).get("nodes", ()))
    while pending:
        key = pending.pop(0)
        below = nodes.get(key)
        if below is not None and below["config"].get("materialized") == "ephemeral":
            pending += below.get("depends_on", {}).get("nodes", ())
        elif key in tables:
            found[key] = None
    return list(found)


def _known_columns(nodes: Iterable[Mapping[str, Any]], schemas: Schemas) -> dict[str, Mapping[str, str | None]]:
    known: dict[str, Mapping[str, str | None]] = {}
    given = {name.lower() for name in schemas}
    for node in nodes:
        name = relation_name(node)
        if name.lower() in given or node["resource_type"] in _TRACED:
            continue
        types = {column["name"]: column.get("data_type") for column in node.get("columns", {}).values()}
        known[name] = {**types, ALL: None}
    return {**known, **schemas}


def _completed(relation: Relation, listed: Iterable[str]) -> Relation:
    """With the columns that are documented: they are there, although the SQL could not be read so far."""
    if not relation.is_open:
        return relation
    extra = [found for name in listed if relation.find(name) is None and (found := relation.guess_free(name))]
    return Relation((*relation.columns, *extra), relation.open, relation.rest, relation.rows, relation.filters)


def _add(found: Lineage, name: str, relation: Relation, listed: list[str], read: list[str], *, filters: bool) -> None:
    relation = _completed(relation, listed)
    found.columns[name] = {c.name: c.type.sql("duckdb") if c.type is not None else None for c in relation.columns}
    sources: dict[str, None] = dict.fromkeys(read)
    for target, edges in edges_of(relation).items():
        for edge in edges:
            # An incremental model reads itself: that says nothing of where its rows are from.
            if edge.table.lower() == name.lower():
                continue
            sources.setdefault(edge.table)
            if edge.via == "filter" and not filters:
                continue
            found.edges.append(
                ColumnEdge(
                    source=edge.table, source_column=edge.column, target=name, target_column=target, via=edge.via
                )
            )
    found.table_edges.extend(TableEdge(source=source, target=name) for source in sources)
