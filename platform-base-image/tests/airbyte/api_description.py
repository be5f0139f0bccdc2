"""What Airbyte's public API takes and gives, for the calls that we make: checks each request and response.

Source: the API description of airbytehq/airbyte-platform, airbyte-api/server-api/src/main/openapi/api.yaml, and
problems-api beside it, as of August 2026. Where the variable ``AIRBYTE_API_SPEC`` names that file, all is checked
against it as well.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import yaml

_TEXT, _INTEGER, _UUID = {"type": "string"}, {"type": "integer"}, {"type": "string", "format": "UUID"}
_JOB_TYPES = {"enum": ["sync", "reset", "refresh", "clear"]}
_STATUSES = {"enum": ["pending", "queued", "running", "incomplete", "failed", "succeeded", "cancelled"]}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    properties = {**required, **(optional or {})}
    return {"type": "object", "required": sorted(required), "properties": properties, "additionalProperties": False}


JOB = _object(
    {"jobId": _INTEGER, "status": _STATUSES, "jobType": _JOB_TYPES, "startTime": _TEXT, "connectionId": _UUID},
    {"lastUpdatedAt": _TEXT, "duration": _TEXT, "bytesSynced": _INTEGER, "rowsSynced": _INTEGER},
)
STREAM = _object(
    {"name": _TEXT},
    {
        "namespace": _TEXT,
        "syncMode": {"enum": ["full_refresh_overwrite", "full_refresh_append", "incremental_append"]},
        "cursorField": {"type": "array", "items": _TEXT},
        "primaryKey": {"type": "array", "items": {"type": "array", "items": _TEXT}},
    },
)
CONNECTION = _object(
    {
        "connectionId": _UUID,
        "name": _TEXT,
        "sourceId": _UUID,
        "destinationId": _UUID,
        "workspaceId": _UUID,
        "status": {"enum": ["active", "inactive", "deprecated", "locked"]},
        "schedule": _object({"scheduleType": {"enum": ["manual", "cron", "basic"]}}, {"cronExpression": _TEXT}),
        "configurations": _object({}, {"streams": {"type": "array", "items": STREAM}}),
        "createdAt": _INTEGER,
        "tags": {"type": "array"},
    },
    {"namespaceDefinition": _TEXT, "prefix": _TEXT},
)
TOKEN_REQUEST = _object(
    {"client_id": _TEXT, "client_secret": _TEXT, "grant_type": _TEXT}, {"grant-type": {"enum": ["client_credentials"]}}
)
TOKEN = _object({"access_token": _TEXT, "token_type": {"enum": ["Bearer"]}, "expires_in": _INTEGER})
PROBLEM = _object(
    {"type": _TEXT, "title": _TEXT},
    {"status": _INTEGER, "detail": _TEXT, "documentationUrl": _TEXT, "data": {"type": "object"}},
)
JOBS = _object({"data": {"type": "array", "items": JOB}}, {"previous": _TEXT, "next": _TEXT})
NUMBER = {"type": "string", "pattern": "^[0-9]+$"}
LIST_QUERY = _object(
    {},
    {
        "connectionId": _UUID,
        "limit": {"type": "string", "pattern": "^([1-9][0-9]?|100)$"},
        "offset": NUMBER,
        "jobType": _JOB_TYPES,
        "status": _STATUSES,
        "orderBy": {"type": "string", "pattern": r"^\w+\|(ASC|DESC)$"},
    },
)
# Method and path: the request's body and query, and what comes with 200.
OPERATIONS: dict[tuple[str, str], tuple[dict[str, Any] | None, dict[str, Any], dict[str, Any]]] = {
    ("post", "/applications/token"): (TOKEN_REQUEST, _object({}), TOKEN),
    ("get", "/connections/{connectionId}"): (None, _object({}), CONNECTION),
    ("get", "/jobs"): (None, LIST_QUERY, JOBS),
    ("post", "/jobs"): (_object({"connectionId": _UUID, "jobType": _JOB_TYPES}), _object({}), JOB),
    ("get", "/jobs/{jobId}"): (None, _object({}), JOB),
    ("delete", "/jobs/{jobId}"): (None, _object({}), JOB),
}


def find_operation(method: str, path: str) -> str | None:
    """The path of the description that a request is for."""
    for known_method, template in OPERATIONS:
        if known_method == method.lower() and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            return template
    return None


class Description:
    """Finds what a request or response has that the description does not allow."""

    def __init__(self) -> None:
        named = os.environ.get("AIRBYTE_API_SPEC")
        self._vendors: dict[str, Any] | None = (
            yaml.safe_load(Path(named).read_text(encoding="utf-8")) if named else None
        )

    @property
    def is_vendors(self) -> bool:
        return self._vendors is not None

    def check_request(self, method: str, path: str, query: dict[str, str], body: Any) -> list[str]:
        wanted, wanted_query, _ = OPERATIONS[method, path]
        found = _validate(query, wanted_query, f"{method} {path} query")
        if wanted is None:
            found += [f"{method} {path} has a body"] if body is not None else []
        else:
            found += _validate(body, wanted, f"{method} {path} body")
        if self._vendors is not None:
            operation = self._vendors["paths"][path][method]
            known = {p["name"] for p in operation.get("parameters", []) if p["in"] == "query"}
            found += [f"{method} {path}: no parameter {name!r}" for name in query if name not in known]
            if wanted is not None:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                found += _validate(body, self._resolved(schema), f"{method} {path} vendor's body")
        return found

    def check_response(self, method: str, path: str, status: int, body: Any) -> list[str]:
        if status != 200:
            return _validate(body, PROBLEM, f"{method} {path} {status}")
        found = _validate(body, OPERATIONS[method, path][2], f"{method} {path} 200")
        if self._vendors is not None:
            schema = self._vendors["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
            found += _validate(body, self._resolved(schema), f"{method} {path} vendor's 200")
        return found

    def _resolved(self, schema: Any) -> dict[str, Any]:
        """The schema with the description's components beside it; a dangling reference is not followed."""
        assert self._vendors is not None
        return {**schema, "components": self._vendors["components"]}


def _validate(document: Any, schema: dict[str, Any], where: str) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{where}: {error.json_path} {error.message}" for error in validator.iter_errors(document)]
