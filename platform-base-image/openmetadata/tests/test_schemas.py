"""Each request and answer against OpenMetadata's own JSON schemas, and the same story against a real server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Pusher, populate
from fake_openmetadata import TOKEN, FakeOpenMetadata
from sample_project import renamed, sample, table_of
from vendor_schema import Spec, WrongShape, find_spec

from dml_openmetadata import kinds
from dml_openmetadata.server import Access, Server

LATER, LATEST = "2026-11-21T05:01:00.000+00:00", "2026-11-22T05:01:00.000+00:00"


@pytest.fixture(scope="module")
def spec() -> Spec:
    found = find_spec()
    if isinstance(found, str):
        pytest.skip(f"{found}. Every body is still checked by the models that OpenMetadata generates from them.")
    return found


@pytest.fixture(params=["json schemas", "models", "real"])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Address and token of a server."""
    if request.param == "real":
        if not (url := os.environ.get("TEST_OPENMETADATA_URL")):
            pytest.skip("no real OpenMetadata: TEST_OPENMETADATA_URL and TEST_OPENMETADATA_TOKEN name one")
        yield url, os.environ["TEST_OPENMETADATA_TOKEN"]
        return
    spec = request.getfixturevalue("spec") if request.param == "json schemas" else None
    with FakeOpenMetadata(spec).running() as fake:
        populate(fake)
        yield fake.url, TOKEN


def test_the_story_of_a_project(place: tuple[str, str]) -> None:
    """Create, nothing, a hand-written description, a rename, back again; in a service of its own."""
    service = f"dml_test_{uuid.uuid4().hex[:8]}"
    push, server = Pusher(*place), Server(Access(*place))
    try:
        done = push(sample(), service=service)
        assert (done.fault, done.refused) == (None, [])
        assert push(sample(), service=service).changes == []
        fqn = f"{service}.shop.marts.fct_orders"
        mart = server.by_name(kinds.TABLE.route, fqn, fields=kinds.TABLE.fields)
        assert [column["name"] for column in mart["columns"]][:2] == ["order_id", "amount_cents"]
        server.patch(f"/tables/{mart['id']}", [{"op": "add", "path": "/description", "value": "By hand."}])
        document = sample(generated_at=LATER)
        table_of(document, "shop.marts.fct_orders")["description"] = "From the project."
        assert f"{fqn}: description" in push(document, service=service).kept
        moved = renamed(sample(), "fct_orders", "fct_sold", LATEST)
        assert push(moved, service=service).refused == []
        assert server.by_name(kinds.TABLE.route, fqn)["deleted"]
        lineage: Any = server.get(f"/lineage/table/name/{service}.shop.marts.fct_sold", upstreamDepth=1)
        assert len(lineage["upstreamEdges"]) == 1
        done = push(sample(generated_at="2026-11-23T05:01:00.000+00:00"), service=service)
        assert (done.fault, done.refused) == (None, [])
        mart = server.by_name(kinds.TABLE.route, fqn, fields=kinds.TABLE.fields)
        assert (mart["deleted"], mart["description"]) == (False, "By hand.")
    finally:
        for kind in (kinds.DASHBOARD_SERVICE, kinds.PIPELINE_SERVICE, kinds.DATABASE_SERVICE):
            if made := server.by_name(kind.route, service):
                server.delete(f"{kind.route}/{made['id']}", hardDelete="true", recursive="true")
        server.close()


def test_the_checker_finds_a_wrong_shape() -> None:
    fake = FakeOpenMetadata()
    with fake.running():
        with pytest.raises(WrongShape, match="dataType"):
            fake.checker.check(
                "api/data/createTable", {"name": "x", "databaseSchema": "a", "columns": [{"name": "c"}]}, ""
            )
        with pytest.raises(WrongShape, match="Extra inputs"):
            fake.checker.check("api/data/createDatabase", {"name": "x", "service": "a", "unheard": 1}, "")
