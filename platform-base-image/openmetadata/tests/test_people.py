"""What people write in OpenMetadata stays; what we wrote follows the project until somebody writes there."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Pusher
from fake_openmetadata import FakeOpenMetadata
from sample_project import sample, table_of

MART = "dml.shop.marts.fct_orders"
LATER, LATEST = "2026-11-21T05:01:00.000+00:00", "2026-11-22T05:01:00.000+00:00"


@pytest.fixture
def edit(fake: FakeOpenMetadata, push: Pusher) -> Any:
    """Somebody changes a field of the mart, after the first push."""
    push(sample())

    def change(*operations: dict[str, Any]) -> None:
        table = fake.get("table", MART)
        assert table
        fake.person("PATCH", f"/tables/{table['id']}", list(operations))

    return change


def _changed(at: str) -> dict[str, Any]:
    """The project says something else everywhere."""
    document = sample(generated_at=at)
    table = table_of(document, "shop.marts.fct_orders")
    table |= {"description": f"As of {at}.", "tags": ["weekly"], "owner": {"name": "Warehouse"}}
    table["columns"][0]["description"] = f"The order as of {at}."
    table["columns"][1]["tags"] = []
    return document


def test_what_nobody_touched_follows_the_project(fake: FakeOpenMetadata, push: Pusher) -> None:
    push(sample())
    push(_changed(LATER))
    done = push(_changed(LATEST))
    mart = fake.get("table", MART)
    assert mart
    assert (mart["description"], done.kept) == (f"As of {LATEST}.", [])
    assert [tag["tagFQN"] for tag in mart["tags"]] == ["DataPlatform.weekly"]
    assert [owner["type"] for owner in mart["owners"]] == ["team"]
    assert mart["columns"][0]["description"] == f"The order as of {LATEST}."
    assert mart["columns"][1]["tags"] == []


def test_a_description_written_by_hand_stays_and_is_named(fake: FakeOpenMetadata, push: Pusher, edit: Any) -> None:
    edit(
        {"op": "add", "path": "/description", "value": "Anna's."},
        {"op": "add", "path": "/columns/0/description", "value": "Anna's order."},
        {"op": "add", "path": "/columns/2/description", "value": "Anna's date."},
    )
    for at in (LATER, LATEST):
        done = push(_changed(at))
        fields = ("description", "columns.order_id.description", "columns.ordered_date.description")
        assert done.kept == [f"{MART}: {field}" for field in fields]
    mart = fake.get("table", MART)
    assert mart
    assert mart["description"] == "Anna's."
    assert [c.get("description") for c in mart["columns"]] == ["Anna's order.", "What was paid.", "Anna's date.", None]


def test_a_description_that_was_cleared_is_filled_again(fake: FakeOpenMetadata, push: Pusher, edit: Any) -> None:
    edit({"op": "remove", "path": "/description"})
    push(sample(generated_at=LATER))
    assert fake.get("table", MART)["description"] == "One row per order."  # type: ignore[index]


def test_an_owner_chosen_by_hand_stays(fake: FakeOpenMetadata, push: Pusher, edit: Any) -> None:
    anna = fake.get("user", "anna")
    assert anna
    edit({"op": "add", "path": "/owners", "value": [{"id": anna["id"], "type": "user"}]})
    done = push(_changed(LATER))
    assert f"{MART}: owners" in done.kept
    assert [owner["id"] for owner in fake.get("table", MART)["owners"]] == [anna["id"]]  # type: ignore[index]


def test_tags_of_people_stay_and_ours_that_they_took_away_stay_away(
    fake: FakeOpenMetadata, push: Pusher, edit: Any
) -> None:
    fake.person("PUT", "/classifications", {"name": "Tier", "description": "Importance."})
    fake.person("PUT", "/tags", {"name": "Gold", "classification": "Tier", "description": "Very."})
    gold = {"tagFQN": "Tier.Gold", "source": "Classification", "labelType": "Manual", "state": "Confirmed"}
    edit({"op": "add", "path": "/tags", "value": [gold]}, {"op": "add", "path": "/columns/1/tags", "value": [gold]})
    push(sample(generated_at=LATER))
    assert [tag["tagFQN"] for tag in fake.get("table", MART)["tags"]] == ["Tier.Gold"]  # type: ignore[index]
    push(_changed(LATEST))
    mart = fake.get("table", MART)
    assert mart
    assert sorted(tag["tagFQN"] for tag in mart["tags"]) == ["DataPlatform.weekly", "Tier.Gold"]
    assert [tag["tagFQN"] for tag in mart["columns"][1]["tags"]] == ["Tier.Gold"]


def test_a_changed_column_keeps_what_people_wrote_at_it(fake: FakeOpenMetadata, push: Pusher, edit: Any) -> None:
    edit({"op": "add", "path": "/columns/3/description", "value": "Anna's note."})
    edit({"op": "add", "path": "/columns/3/displayName", "value": "Note"})
    document = sample(generated_at=LATER)
    table = table_of(document, "shop.marts.fct_orders")
    table["columns"].insert(0, {"name": "new", "type": "BOOLEAN"})
    table["columns"][4]["type"] = "BIGINT"
    push(document)
    mart = fake.get("table", MART)
    assert mart
    assert mart["columns"][0]["name"] == "new"
    note = {key: mart["columns"][4].get(key) for key in ("dataType", "description", "displayName")}
    assert note == {"dataType": "BIGINT", "description": "Anna's note.", "displayName": "Note"}


def test_an_edge_drawn_by_hand_stays(fake: FakeOpenMetadata, push: Pusher, edit: Any) -> None:
    raw, mart = fake.get("table", "dml.shop.raw.crm__orders"), fake.get("table", MART)
    assert raw
    assert mart
    ends = {"fromEntity": {"id": raw["id"], "type": "table"}, "toEntity": {"id": mart["id"], "type": "table"}}
    fake.person("PUT", "/lineage", {"edge": {**ends, "lineageDetails": {"source": "Manual", "description": "Anna"}}})
    document = sample(generated_at=LATER)
    document["table_edges"].append({"source": "shop.raw.crm__orders", "target": "shop.marts.fct_orders"})
    for at in (LATER, LATEST):
        done = push({**document, "generated_at": at})
        assert done.kept == [f"lineage table:dml.shop.raw.crm__orders -> table:{MART}: drawn by hand"]
    push(sample(generated_at="2026-11-23T05:01:00.000+00:00"))
    assert f"dml.shop.raw.crm__orders -> {MART}" in fake.edges()


def test_owners_that_are_inherited_are_no_difference(fake: FakeOpenMetadata, push: Pusher) -> None:
    push(sample())
    schema = fake.get("databaseSchema", "dml.shop.marts")
    assert schema
    seen = fake.person("GET", f"/databaseSchemas/{schema['id']}?fields=owners")
    assert seen["owners"][0]["inherited"]
    assert push(sample()).requests_that_write == 0


def test_a_cleared_edge_is_drawn_again_and_a_stale_one_removed(fake: FakeOpenMetadata, push: Pusher) -> None:
    push(sample())
    fake.store.edges.clear()
    document = sample(generated_at=LATER)
    document["column_edges"] = []
    document["table_edges"] = document["table_edges"][:2]
    push(document)
    document["table_edges"] = document["table_edges"][:1]
    done = push({**document, "generated_at": LATEST})
    assert [(change["action"], change["kind"]) for change in done.changes if change["kind"] == "lineage"] == [
        ("delete", "lineage")
    ]
    assert fake.edges() == [
        "dml.shop.marts.fct_orders -> dml.shop__review",
        "dml.shop.sources.crm__orders -> dml.shop.raw.crm__orders",
    ]
