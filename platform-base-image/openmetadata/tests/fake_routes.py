"""The kinds that the fake server knows: their routes, schemas, names and parents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dml_openmetadata.names import quote


@dataclass(frozen=True)
class Kind:
    """``parent`` is the field of the creation that names it, and the kind that it names."""

    type: str
    route: str
    create: str
    entity: str
    parent: tuple[str, str] | None = None
    fields: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()

    def fqn(self, body: Mapping[str, Any]) -> str:
        """The fully qualified name of what is created."""
        if self.type == "testCase":
            table, column = linked(body["entityLink"])
            return ".".join([table, *([quote(column)] if column else []), quote(body["name"])])
        return f"{body[self.parent[0]]}.{quote(body['name'])}" if self.parent else quote(body["name"])


_COMMON = ("owners", "tags", "followers", "extension", "domains")
KINDS = [
    Kind(
        f"{name}Service",
        f"/services/{name}Services",
        f"api/services/create{name.title()}Service",
        f"entity/services/{name}Service",
        fields=_COMMON,
    )
    for name in ("database", "pipeline", "dashboard")
]
KINDS += [
    Kind(
        "classification",
        "/classifications",
        "api/classification/createClassification",
        "entity/classification/classification",
    ),
    Kind(
        "tag",
        "/tags",
        "api/classification/createTag",
        "entity/classification/tag",
        ("classification", "classification"),
    ),
    Kind(
        "database",
        "/databases",
        "api/data/createDatabase",
        "entity/data/database",
        ("service", "databaseService"),
        (*_COMMON, "sourceHash"),
        ("service",),
    ),
    Kind(
        "databaseSchema",
        "/databaseSchemas",
        "api/data/createDatabaseSchema",
        "entity/data/databaseSchema",
        ("database", "database"),
        (*_COMMON, "sourceHash"),
        ("database",),
    ),
    Kind(
        "table",
        "/tables",
        "api/data/createTable",
        "entity/data/table",
        ("databaseSchema", "databaseSchema"),
        (*_COMMON, "columns", "tableConstraints", "dataModel", "testSuite", "sourceHash"),
        ("database", "databaseSchema"),
    ),
    Kind(
        "pipeline",
        "/pipelines",
        "api/data/createPipeline",
        "entity/data/pipeline",
        ("service", "pipelineService"),
        (*_COMMON, "tasks", "pipelineStatus", "scheduleInterval", "sourceHash"),
        ("service",),
    ),
    Kind(
        "dashboard",
        "/dashboards",
        "api/data/createDashboard",
        "entity/data/dashboard",
        ("service", "dashboardService"),
        (*_COMMON, "charts", "sourceHash"),
        ("service",),
    ),
    Kind("testDefinition", "/dataQuality/testDefinitions", "api/tests/createTestDefinition", "tests/testDefinition"),
    Kind("testSuite", "/dataQuality/testSuites", "api/tests/createTestSuite", "tests/testSuite", fields=_COMMON),
    Kind(
        "testCase",
        "/dataQuality/testCases",
        "api/tests/createTestCase",
        "tests/testCase",
        fields=(*_COMMON, "testDefinition", "testSuite", "testSuites"),
        filters=("testSuiteId",),
    ),
    Kind("user", "/users", "api/teams/createUser", "entity/teams/user"),
    Kind("team", "/teams", "api/teams/createTeam", "entity/teams/team"),
]
BY_TYPE = {kind.type: kind for kind in KINDS}
# Given only when asked for; all else is always there.
_OPTIONAL = {"owners", "tags", "sourceHash", "tasks", "scheduleInterval", "dataModel", "tableConstraints", "columns"}
# References that a creation gives by name and an entity has as a reference.
REFERENCES = {
    "service": None,
    "database": "database",
    "databaseSchema": "databaseSchema",
    "classification": "classification",
    "testDefinition": "testDefinition",
}


def visible(kind: Kind, entity: Mapping[str, Any], fields: set[str]) -> dict[str, Any]:
    """An entity as it is given."""
    hidden = {name for name in _OPTIONAL if name in kind.fields and name not in fields} - {"columns"}
    return {name: value for name, value in entity.items() if name not in hidden and not name.startswith("_")}


def linked(link: str) -> tuple[str, str | None]:
    """Table and column of ``<#E::table::a.b.c.d::columns::e>``."""
    parts = link.removeprefix("<#E::table::").removesuffix(">").split("::columns::")
    return parts[0], parts[1] if len(parts) > 1 else None


def compile_route(pattern: str) -> re.Pattern[str]:
    """``/tables/{id}`` as an expression."""
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))
