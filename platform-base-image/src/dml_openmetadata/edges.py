"""Makes the edges of a project what they should be. An edge that somebody drew by hand stays as it is."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote as quote_url

from metadata.generated.schema.api.lineage.addLineage import AddLineageRequest

from dml_openmetadata import kinds
from dml_openmetadata.kinds import checked
from dml_openmetadata.lineage import Edge, edges, ours
from dml_openmetadata.push import Push

_ROUTE = "/lineage"


def make_edges(push: Push) -> None:
    """Add and correct the edges, and remove those of ours that are no more."""
    description = ours(push.document.project)
    wanted = {edge.key: edge for edge in edges(push.entities)}
    ends = {edge.target for edge in wanted.values()} | {
        key for key in push.ids if key in push.wanted and key.startswith(("table:", "dashboard:"))
    }
    gone = {key for kind, key in push.gone() if kind in (kinds.TABLE, kinds.DASHBOARD)}
    there: dict[str, dict[str, Any]] = {}
    for end in sorted(ends | gone):
        if end in push.ids and end not in push.created:
            there |= _edges_of(push, end, downstream=end in gone)
    for key, edge in wanted.items():
        push.attempt(f"lineage {key}", _ensure, push, edge, there.get(key), description)
    kept = set(wanted)
    for key, found in sorted(there.items()):
        details = found.get("lineageDetails") or {}
        if key not in kept and (details.get("description") == description):
            push.attempt(f"lineage {key}", _remove, push, key, found)
    if not push.is_dry:
        push.state.edges = sorted(kept)


def _remove(push: Push, key: str, edge: dict[str, Any]) -> None:
    push.write(lambda: push.server.delete(_path(edge)))
    push.note("delete", "lineage", key)


def _edges_of(push: Push, end: str, *, downstream: bool) -> dict[str, dict[str, Any]]:
    kind, _, fqn = end.partition(":")
    depth = {"upstreamDepth": 1, "downstreamDepth": int(downstream), "includeDeleted": "true"}
    found = push.server.get(f"{_ROUTE}/{kind}/name/{quote_url(fqn, safe='')}", **depth) or {}
    nodes = {node["id"]: node for node in (found.get("entity"), *(found.get("nodes") or ())) if node}
    for node in nodes.values():
        push.ids.setdefault(f"{node['type']}:{node['fullyQualifiedName']}", node["id"])
    result = {}
    for edge in (*(found.get("upstreamEdges") or ()), *(found.get("downstreamEdges") or ())):
        source, target = nodes.get(edge["fromEntity"]), nodes.get(edge["toEntity"])
        if source and target and (downstream or target["id"] == push.ids[end]):
            key = f"{source['type']}:{source['fullyQualifiedName']} -> {target['type']}:{target['fullyQualifiedName']}"
            result[key] = edge | {"_types": (source["type"], target["type"])}
    return result


def _ensure(push: Push, edge: Edge, there: dict[str, Any] | None, description: str) -> None:
    ids = [_find(push, end) for end in (edge.source, edge.target)]
    pipeline = push.ids.get(f"{kinds.PIPELINE.type}:{edge.pipeline}") if edge.pipeline else None
    details = edge.details(description, pipeline)
    if there is None:
        missing = [end for end, found in zip((edge.source, edge.target), ids, strict=True) if found is None]
        if missing and not (push.is_dry and all(end in push.created for end in missing)):
            push.notices.append(f"Lineage {edge.key} waits: {missing[0].partition(':')[2]} is not in OpenMetadata.")
            return
    else:
        known = there.get("lineageDetails") or {}
        if known.get("description") != description:
            push.kept.append(f"lineage {edge.key}: drawn by hand")
            return
        if _comparable(known) == _comparable(details):
            return
    types = [end.partition(":")[0] for end in (edge.source, edge.target)]
    if all(ids):
        source, target = ({"id": found, "type": kind} for found, kind in zip(ids, types, strict=True))
        body = checked(
            AddLineageRequest, {"edge": {"fromEntity": source, "toEntity": target, "lineageDetails": details}}
        )
        push.write(lambda: push.server.put(_ROUTE, body))
    push.note("change" if there else "create", "lineage", edge.key, _columns(edge))


def _find(push: Push, end: str) -> str | None:
    """The id of an end; another project's table is looked up."""
    if end not in push.ids and end not in push.created and end.startswith("table:"):
        found = push.server.by_name(kinds.TABLE.route, end.partition(":")[2], include="non-deleted")
        if found:
            push.ids[end] = found["id"]
    return push.ids.get(end)


def _comparable(details: dict[str, Any]) -> tuple[Any, ...]:
    columns = {
        (tuple(sorted(column.get("fromColumns") or ())), column.get("toColumn"), column.get("function"))
        for column in details.get("columnsLineage") or ()
    }
    return details.get("source"), (details.get("pipeline") or {}).get("id"), columns


def _path(edge: dict[str, Any]) -> str:
    source, target = edge["_types"]
    return f"{_ROUTE}/{source}/{edge['fromEntity']}/{target}/{edge['toEntity']}"


def _columns(edge: Edge) -> str:
    return f"{len(edge.columns)} columns" if edge.columns else ""
