"""What the fake OpenMetadata keeps, with the rules of the real one for the calls that we make.

The rules are our understanding of the real one: what a bot may not overwrite by PUT (read in its source), which names
have to exist, what a soft delete leaves. No real server was at hand to compare them with (docs/openmetadata.md).
"""

from __future__ import annotations

import copy
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import jsonpatch
from fake_routes import BY_TYPE, REFERENCES, Kind, linked
from vendor_schema import Checker

from dml_openmetadata.names import quote

BOT = "dml-bot"


class ApiError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Store:
    """Entities by kind and id, edges, and what happened to them."""

    def __init__(self, checker: Checker) -> None:
        self.checker = checker
        self.entities: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in BY_TYPE}
        self.edges: dict[tuple[str, str], dict[str, Any]] = {}
        self.results: dict[str, dict[int, dict[str, Any]]] = {}
        self.statuses: dict[str, dict[int, dict[str, Any]]] = {}
        self.profiles: dict[str, dict[int, dict[str, Any]]] = {}
        self.suites: dict[str, set[str]] = {}

    def by_fqn(self, type_: str, fqn: str) -> dict[str, Any] | None:
        """An entity, deleted or not."""
        return next((e for e in self.entities[type_].values() if e["fullyQualifiedName"] == fqn), None)

    def need(self, type_: str, fqn: str, *, deleted: bool = False) -> dict[str, Any]:
        """An entity that has to be there."""
        found = self.by_fqn(type_, fqn)
        if found is None or (found["deleted"] and not deleted):
            raise ApiError(404, f"{type_} instance for {fqn} not found")
        return found

    def by_id(self, type_: str, id_: str) -> dict[str, Any]:
        """An entity by its id."""
        if id_ not in self.entities[type_]:
            raise ApiError(404, f"{type_} instance for {id_} not found")
        return self.entities[type_][id_]

    def reference(self, type_: str, entity: Mapping[str, Any]) -> dict[str, Any]:
        """How others name an entity."""
        found = {"id": entity["id"], "type": type_, "name": entity["name"], "deleted": entity["deleted"]}
        return found | {"fullyQualifiedName": entity["fullyQualifiedName"]}

    def create_or_update(self, kind: Kind, body: dict[str, Any], user: str) -> tuple[dict[str, Any], bool]:
        """PUT. Returns: the entity, and whether it is new."""
        if "::" in body["name"]:
            raise ApiError(400, "name must not have '::'")
        fqn = kind.fqn(body)
        present = self.by_fqn(kind.type, fqn)
        new = self._build(kind, body, fqn)
        if present is None:
            entity = new | {"id": str(uuid.uuid4()), "version": 0.1, "deleted": False, **_stamp(user)}
            if kind.type == "testCase":
                self._join_basic_suite(entity, user)
            self.entities[kind.type][entity["id"]] = entity
            return entity, True
        merged = {**present, **new, "deleted": False}
        for name in ("description", "owners"):
            if present.get(name) and user == BOT:  # a bot may not overwrite what is there
                merged[name] = present[name]
        merged["tags"] = _union(present.get("tags"), new.get("tags"))
        if "columns" in new:
            merged["columns"] = [_keep(column, present["columns"]) for column in new["columns"]]
        return self._save(kind, present, merged, user), False

    def patch(self, kind: Kind, id_: str, operations: list[dict[str, Any]], user: str) -> dict[str, Any]:
        """PATCH: apply, check, and give it a new version where it changed."""
        present = self.by_id(kind.type, id_)
        try:
            changed = jsonpatch.apply_patch(present, operations)
        except jsonpatch.JsonPatchException as error:
            raise ApiError(400, f"cannot apply the patch: {error}") from error
        for name in ("id", "fullyQualifiedName", "name"):
            if changed.get(name) != present[name]:
                raise ApiError(400, f"attribute {name} cannot be changed")
        self._check_references(kind, changed)
        return self._save(kind, present, changed, user)

    def delete(self, kind: Kind, id_: str, *, hard: bool, recursive: bool) -> dict[str, Any]:
        """DELETE; the parts too, where asked."""
        entity = self.by_id(kind.type, id_)
        parts = list(self._parts(kind, entity))
        if any(not part["deleted"] for _, part in parts) and not recursive:
            raise ApiError(400, f"{kind.type} is not empty")
        for type_, one in [*parts, (kind.type, entity)]:
            if hard:
                self.entities[type_].pop(one["id"])
                self.edges = {key: edge for key, edge in self.edges.items() if one["id"] not in key}
            elif not one["deleted"]:
                one["deleted"] = True
                one["version"] = round(one["version"] + 0.1, 1)
        return entity

    def restore(self, kind: Kind, id_: str) -> dict[str, Any]:
        """Take a soft delete back."""
        entity = self.by_id(kind.type, id_)
        if not entity["deleted"]:
            raise ApiError(400, f"{kind.type} {id_} is not deleted")
        for _, one in [*self._parts(kind, entity), (kind.type, entity)]:
            one["deleted"] = False
        entity["version"] = round(entity["version"] + 0.1, 1)
        return entity

    def inherited(self, kind: Kind, entity: dict[str, Any]) -> dict[str, Any]:
        """An entity without owners has those of what it is in."""
        parent = entity.get("databaseSchema") or entity.get("database")
        if kind.type not in ("table", "databaseSchema") or entity.get("owners") or not parent:
            return entity
        type_ = "databaseSchema" if kind.type == "table" else "database"
        owners = self.inherited(BY_TYPE[type_], self.by_id(type_, parent["id"])).get("owners") or []
        return entity | ({"owners": [owner | {"inherited": True} for owner in owners]} if owners else {})

    def add_edge(self, edge: dict[str, Any]) -> None:
        """PUT /lineage. Columns have to be there."""
        ends = [self.by_id(edge[end]["type"], edge[end]["id"]) for end in ("fromEntity", "toEntity")]
        details = edge.get("lineageDetails") or {}
        for column in details.get("columnsLineage") or ():
            for end, fqns in ((ends[0], column["fromColumns"]), (ends[1], [column["toColumn"]])):
                known = {f"{end['fullyQualifiedName']}.{quote(c['name'])}" for c in end.get("columns", ())}
                if missing := set(fqns) - known:
                    raise ApiError(400, f"Invalid column name {sorted(missing)[0]}")
        if pipeline := details.get("pipeline"):
            self.by_id(pipeline["type"], pipeline["id"])
        self.edges[ends[0]["id"], ends[1]["id"]] = copy.deepcopy(edge)

    def lineage(self, type_: str, fqn: str, up: int, down: int) -> dict[str, Any]:
        """One step of lineage in each direction, where asked."""
        entity = self.need(type_, fqn, deleted=True)
        found: dict[str, Any] = {"entity": self.reference(type_, entity), "nodes": []}
        for name, depth, end, other in (
            ("upstreamEdges", up, 1, "fromEntity"),
            ("downstreamEdges", down, 0, "toEntity"),
        ):
            chosen = [edge for key, edge in self.edges.items() if depth and key[end] == entity["id"]]
            found[name] = [
                {
                    "fromEntity": edge["fromEntity"]["id"],
                    "toEntity": edge["toEntity"]["id"],
                    "lineageDetails": edge.get("lineageDetails") or {},
                }
                for edge in chosen
            ]
            for edge in chosen:
                far = edge[other]
                found["nodes"].append(self.reference(far["type"], self.by_id(far["type"], far["id"])))
        return found

    def _build(self, kind: Kind, body: dict[str, Any], fqn: str) -> dict[str, Any]:
        entity = copy.deepcopy(body) | {"fullyQualifiedName": fqn}
        for name, type_ in REFERENCES.items():
            if isinstance(entity.get(name), str):
                kind_of = type_ or (kind.parent or ("", ""))[1]
                parent = self.need(kind_of, entity[name])
                entity[name] = self.reference(kind_of, parent)
                if name == "service":
                    entity["serviceType"] = parent["serviceType"]
                if name == "databaseSchema":
                    entity |= {"database": parent["database"], "service": parent["service"]}
                    entity["serviceType"] = parent["serviceType"]
                if name == "database":
                    entity |= {"service": parent["service"], "serviceType": parent["serviceType"]}
        if kind.type == "testCase":
            table, column = linked(entity["entityLink"])
            if column and column not in {one["name"] for one in self.need("table", table)["columns"]}:
                raise ApiError(400, f"Invalid column name {column}")
            entity["entityFQN"] = f"{table}.{column}" if column else table
            for name in ("dimensionColumns", "topDimensions"):
                entity.pop(name, None)
        self._check_references(kind, entity)
        for column in entity.get("columns") or ():
            if column["dataType"] in ("VARCHAR", "CHAR") and not column.get("dataLength"):
                raise ApiError(
                    400, "For column data types char, varchar, binary, varbinary dataLength must not be null"
                )
            column["fullyQualifiedName"] = f"{fqn}.{quote(column['name'])}"
        for task in entity.get("tasks") or ():
            task["fullyQualifiedName"] = f"{fqn}.{quote(task['name'])}"
        return entity

    def _check_references(self, kind: Kind, entity: Mapping[str, Any]) -> None:
        columns = entity.get("columns") or () if kind.type == "table" else ()
        for holder in (entity, *columns):
            for tag in holder.get("tags") or ():
                self.need("tag" if tag["source"] == "Classification" else "glossaryTerm", tag["tagFQN"])
        for owner in entity.get("owners") or ():
            self.by_id(owner["type"], owner["id"])

    def _save(self, kind: Kind, present: dict[str, Any], changed: dict[str, Any], user: str) -> dict[str, Any]:
        if changed != present:
            changed |= {"version": round(present["version"] + 0.1, 1), **_stamp(user)}
            self.entities[kind.type][present["id"]] = changed
        return changed

    def _join_basic_suite(self, case: dict[str, Any], user: str) -> None:
        table = self.need("table", linked(case["entityLink"])[0])
        fqn = f"{table['fullyQualifiedName']}.testSuite"
        suite = self.by_fqn("testSuite", fqn)
        if suite is None:
            suite = {"id": str(uuid.uuid4()), "name": fqn, "fullyQualifiedName": fqn, "basic": True, "version": 0.1}
            suite |= {"deleted": False, "basicEntityReference": self.reference("table", table), **_stamp(user)}
            self.entities["testSuite"][suite["id"]] = suite
        case["testSuite"] = self.reference("testSuite", suite)
        self.suites.setdefault(suite["id"], set()).add(case["id"])

    def _parts(self, kind: Kind, entity: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        inside = f"{entity['fullyQualifiedName']}."
        below = {"database": ("databaseSchema", "table", "testCase"), "databaseSchema": ("table", "testCase")}
        for type_ in {**below, "table": ("testCase", "testSuite")}.get(kind.type, ()):
            for part in self.entities[type_].values():
                if part["fullyQualifiedName"].startswith(inside):
                    yield type_, part


def _stamp(user: str) -> dict[str, Any]:
    return {"updatedAt": round(time.time() * 1000), "updatedBy": user}


def _union(there: Any, new: Any) -> list[Any]:
    has = {tag["tagFQN"] for tag in there or ()}
    return [*(there or ()), *(tag for tag in new or () if tag["tagFQN"] not in has)]


def _keep(column: dict[str, Any], there: list[dict[str, Any]]) -> dict[str, Any]:
    old = next((one for one in there if one["name"] == column["name"]), {})
    kept = {name: old[name] for name in ("description",) if old.get(name)}
    return column | kept | {"tags": _union(old.get("tags"), column.get("tags"))}
