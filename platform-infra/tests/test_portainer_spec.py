"""What the stand-in of Portainer holds to, against Portainer's own API description.

`PORTAINER_API_SPEC` names a file with the whole description (Swagger 2 or OpenAPI 3, YAML or JSON).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
import yaml
from fakes.portainer import API, FakePortainer


def test_the_stand_in_s_description_is_part_of_portainer_s() -> None:
    given = os.environ.get("PORTAINER_API_SPEC")
    if not given:
        pytest.skip("PORTAINER_API_SPEC names no API description")
    spec = yaml.safe_load(Path(given).read_text(encoding="utf-8"))
    assert list(compare(spec)) == []


def compare(spec: dict[str, Any]) -> Iterator[str]:
    """Where the stand-in's description says something that the whole one does not."""
    for operation, mine in API["operations"].items():
        if "undescribed" in mine:
            continue
        method, path = operation.split(" ")
        theirs = spec["paths"].get(path, {}).get(method.lower())
        if theirs is None:
            yield f"{operation}: not there"
            continue
        query = {p["name"]: p.get("required", False) for p in theirs.get("parameters", []) if p["in"] == "query"}
        for name, required in mine["query"].items():
            if name not in query or query[name] != required:
                yield f"{operation}: query {name!r} is {query.get(name, 'absent')}, not {required}"
        yield from (
            f"{operation}: query {n!r} is missing" for n, needed in query.items() if needed and n not in mine["query"]
        )
        if "body" in mine:
            body = next((p["schema"] for p in theirs["parameters"] if p["in"] == "body"), None)
            body = body or theirs["requestBody"]["content"]["application/json"]["schema"]
            yield from compare_fields(spec, f"{operation} body", mine["body"], body)
        if mine["answers"].get("200"):
            answer = theirs["responses"]["200"]
            answer = answer["schema"] if "schema" in answer else answer["content"]["application/json"]["schema"]
            yield from compare_fields(spec, f"{operation} answer", mine["answers"]["200"], answer)


def compare_fields(spec: dict[str, Any], where: str, mine: Any, theirs: Any) -> Iterator[str]:
    mine, theirs = resolve(API, mine), resolve(spec, theirs)
    if "items" in mine:
        yield from compare_fields(spec, where + "[]", mine["items"], theirs.get("items", {}))
    # Portainer reads and writes names whatever their case; published descriptions differ in it.
    fields = {name.lower(): schema for name, schema in theirs.get("properties", {}).items()}
    for name, schema in mine.get("properties", {}).items():
        if name.lower() not in fields:
            # Younger than some descriptions.
            if name not in {"DeploymentStatus", "DeploymentStartStatus", "RepullImageAndRedeploy"}:
                yield f"{where}: no field {name!r}"
            continue
        mine_type, their_type = (resolve(*pair).get("type") for pair in ((API, schema), (spec, fields[name.lower()])))
        if their_type and their_type not in (mine_type if isinstance(mine_type, list) else [mine_type]):
            yield f"{where}: {name!r} is {their_type}, not {mine_type}"
        yield from compare_fields(spec, f"{where}.{name}", schema, fields[name.lower()])
    if "enum" in mine and "enum" in theirs and not set(theirs["enum"]) <= set(mine["enum"]):
        yield f"{where}: values {theirs['enum']}, not {mine['enum']}"


def resolve(document: dict[str, Any], schema: Any) -> dict[str, Any]:
    while "$ref" in schema or len(schema.get("allOf", [])) == 1:
        if "$ref" not in schema:
            schema = schema["allOf"][0]
            continue
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return dict(schema)


def test_the_comparison_finds_what_differs() -> None:
    spec: dict[str, Any] = {"paths": {"/endpoints": {"get": {"parameters": [], "responses": {"200": {"schema": {}}}}}}}
    found = list(compare(spec))
    assert "GET /endpoints: query 'excludeSnapshots' is absent, not False" in found
    assert "GET /endpoints answer[]: no field 'Id'" in found
    assert "PUT /stacks/{id}: not there" in found


def test_the_stand_in_notices_a_request_that_does_not_fit(tmp_path: Path) -> None:
    portainer = FakePortainer(tmp_path)
    try:
        requests.post(
            f"{portainer.url}/api/stacks/create/standalone/string",
            params={"endpointId": 2},
            json={"Name": "x", "StackFileContent": "services: {}", "Env": {"COLOUR": "red"}},
            headers={"X-API-Key": portainer.key},
            timeout=5,
        )
    finally:
        portainer.close()
    assert any("request $.Env" in line for line in portainer.broken)


def test_the_stand_in_s_schemas_are_schemas() -> None:
    for schema in API["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
