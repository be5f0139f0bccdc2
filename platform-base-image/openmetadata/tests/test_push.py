"""What a project becomes in OpenMetadata; a second push has nothing to do; what is gone is deleted, and only that."""

from __future__ import annotations

from typing import Any

from conftest import Pusher
from fake_openmetadata import FakeOpenMetadata
from sample_project import RUN_AT, renamed, sample, table_of

MART = "dml.shop.marts.fct_orders"
CASE = f"{MART}.amount_cents.not_null_fct_orders_amount_cents"
LATER = "2026-11-21T05:01:00.000+00:00"


def test_a_table_of_the_lake_has_one_name_and_all_that_is_known_of_it(fake: FakeOpenMetadata, push: Pusher) -> None:
    done = push(sample())
    assert (done.fault, done.refused) == (None, [])
    assert fake.names("table") == [
        MART,
        "dml.shop.raw.crm__orders",
        "dml.shop.sources.crm__orders",
        "dml.shop.staging.stg_crm__orders",
    ]
    mart = fake.get("table", MART)
    assert mart
    assert (mart["tableType"], mart["description"]) == ("Iceberg", "One row per order.")
    assert mart["sourceUrl"] == "https://dagster.example.com/assets/shop/marts/fct_orders"
    assert [tag["tagFQN"] for tag in mart["tags"]] == ["DataPlatform.daily"]
    assert mart["owners"][0]["id"] == fake.get("user", "shop-data")["id"]  # type: ignore[index]
    assert mart["dataModel"]["path"] == "dbt/models/marts/fct_orders.sql"
    columns = {column["name"]: column for column in mart["columns"]}
    assert columns["order_id"]["constraint"] == "PRIMARY_KEY"
    assert columns["amount_cents"]["constraint"] == "NOT_NULL"
    assert columns["amount_cents"]["description"] == "What was paid."
    assert columns["amount_cents"]["tags"][0]["tagFQN"] == "DataPlatform.finance"
    raw = fake.get("table", "dml.shop.raw.crm__orders")
    assert raw
    assert raw["owners"][0]["id"] == fake.get("team", "Warehouse")["id"]  # type: ignore[index]
    assert [child["dataType"] for child in raw["columns"][1]["children"]] == ["VARCHAR", "ARRAY"]
    assert fake.get("table", "dml.shop.staging.stg_crm__orders")["tableType"] == "View"  # type: ignore[index]


def test_columns_are_traced_where_that_is_known_and_nowhere_else(fake: FakeOpenMetadata, push: Pusher) -> None:
    push(sample())
    assert fake.edges() == [
        "dml.shop.marts.fct_orders -> dml.shop__review",
        "dml.shop.raw.crm__orders -> dml.shop.staging.stg_crm__orders",
        "dml.shop.sources.crm__orders -> dml.shop.raw.crm__orders",
        "dml.shop.staging.stg_crm__orders -> dml.shop.marts.fct_orders",
    ]
    mart = fake.get("table", MART)
    assert mart
    details = next(edge["lineageDetails"] for (_, end), edge in fake.store.edges.items() if end == mart["id"])
    assert [column["toColumn"] for column in details["columnsLineage"]] == [f"{MART}.amount_cents", f"{MART}.order_id"]
    assert details["source"] == "DbtLineage"
    assert details["pipeline"]["id"] == fake.get("pipeline", "dml.shop__daily")["id"]  # type: ignore[index]


def test_tests_runs_and_profiles_arrive_with_their_history(fake: FakeOpenMetadata, push: Pusher) -> None:
    done = push(sample())
    [result] = fake.store.results[CASE].values()
    assert (result["testCaseStatus"], result["failedRows"], result["result"]) == ("Failed", 2, "Got 2 results (run r1)")
    suite = fake.get("testSuite", "dml_shop")
    assert suite
    assert len(fake.store.suites[suite["id"]]) == 2
    assert done.notices == ["1 test belongs to no table, so OpenMetadata cannot show it: assert_all."]
    profiles = fake.store.profiles[MART]
    assert [body["tableProfile"]["rowCount"] for _, body in sorted(profiles.items())] == [38, 40]
    newest = {column["name"]: column for column in profiles[max(profiles)]["columnProfile"]}
    assert (newest["order_id"]["max"], newest["ordered_date"]["nullCount"]) == (40, 10)
    [status] = fake.store.statuses["dml.shop__daily"].values()
    assert (status["executionStatus"], status["error"]["failedTask"]) == ("Failed", "dbt")
    assert [task["name"] for task in status["taskStatus"]] == ["shop.raw.crm__orders"]
    assert status["taskStatus"][0]["logLink"] == "https://dagster.example.com/runs/r1"
    pipeline = fake.get("pipeline", "dml.shop__daily")
    assert pipeline
    assert pipeline["scheduleInterval"] == "0 5 * * *"
    assert pipeline["tasks"][1]["downstreamTasks"] == ["shop.staging.stg_crm__orders"]


def test_a_second_push_has_nothing_to_do(fake: FakeOpenMetadata, push: Pusher) -> None:
    push(sample())
    versions = {e["id"]: e["version"] for kind in fake.store.entities.values() for e in kind.values()}
    done = push(sample())
    assert (done.changes, done.requests_that_write) == ([], 0)
    assert versions == {e["id"]: e["version"] for kind in fake.store.entities.values() for e in kind.values()}


def test_a_dry_run_writes_nothing_and_says_what_the_push_then_does(fake: FakeOpenMetadata, push: Pusher) -> None:
    for document in (sample(), renamed(sample(), "fct_orders", "fct_sold", LATER)):
        fake.log.clear()
        planned = push(document, dry_run=True)
        assert fake.writes() == []
        assert _what(planned.changes) == _what(push(document).changes)
        assert planned.changes


def test_a_renamed_model_leaves_neither_table_nor_edge_nor_test(fake: FakeOpenMetadata, push: Pusher) -> None:
    push(sample())
    done = push(renamed(sample(), "fct_orders", "fct_sold", LATER))
    assert done.refused == []
    assert "dml.shop.marts.fct_sold" in fake.names("table")
    gone = fake.get("table", MART, deleted=True)
    assert gone
    assert gone["deleted"]
    assert [edge for edge in fake.edges() if "fct_orders" in edge] == []
    assert [name for name in fake.names("testCase") if "fct_orders" in name] == []
    assert push(renamed(sample(), "fct_orders", "fct_sold", LATER)).changes == []


def test_a_table_that_comes_back_is_the_old_one(fake: FakeOpenMetadata, push: Pusher) -> None:
    push(sample())
    before = fake.get("table", MART)
    assert before
    fake.person("PATCH", f"/tables/{before['id']}", [{"op": "add", "path": "/description", "value": "By hand."}])
    push(renamed(sample(), "fct_orders", "fct_sold", LATER))
    done = push(sample(generated_at="2026-11-22T05:01:00.000+00:00"))
    assert done.refused == []
    after = fake.get("table", MART)
    assert after
    assert (after["id"], after["description"]) == (before["id"], "By hand.")
    assert CASE in fake.names("testCase")


def test_what_others_made_is_never_deleted(fake: FakeOpenMetadata, push: Pusher) -> None:
    push(sample())
    columns = [{"name": "x", "dataType": "INT"}]
    theirs = {"name": "made_by_hand", "databaseSchema": "dml.shop.staging", "columns": columns}
    fake.person("PUT", "/tables", theirs)
    other = Pusher(fake.url)
    other(renamed(sample(), "shop", "stock", LATER))
    document = sample(generated_at=LATER)
    document["tables"] = [table for table in document["tables"] if ".staging." not in table["name"]]
    document["table_edges"] = document["column_edges"] = []
    done = push(document)
    deleted = {change["name"] for change in done.changes if change["action"] == "delete" and "->" not in change["name"]}
    assert deleted == {"dml.shop.staging.stg_crm__orders"}  # the schema still holds somebody's table
    assert "dml.shop.staging.made_by_hand" in fake.names("table")
    assert len([name for name in fake.names("table") if name.startswith("dml.stock.")]) == 4


def test_without_its_state_a_push_still_finds_what_it_made(fake: FakeOpenMetadata, push: Pusher) -> None:
    push(sample())
    results = {fqn: len(found) for fqn, found in fake.store.results.items()}
    push.state = None
    done = push(renamed(sample(), "fct_orders", "fct_sold", LATER))
    assert MART not in fake.names("table")
    assert CASE not in fake.names("testCase")
    assert {fqn: len(found) for fqn, found in fake.store.results.items() if fqn in results} == results
    assert done.refused == []


def test_a_column_that_changes_its_type_or_goes_is_changed_in_place(fake: FakeOpenMetadata, push: Pusher) -> None:
    push(sample())
    document = sample(generated_at=LATER)
    table = table_of(document, "shop.marts.fct_orders")
    table["columns"][3]["type"] = "BIGINT"
    table["columns"].pop(2)
    document["tests"][0]["results"] = []
    done = push(document)
    mart = fake.get("table", MART)
    assert mart
    assert [(c["name"], c["dataType"], "dataLength" in c) for c in mart["columns"]] == [
        ("order_id", "BIGINT", False),
        ("amount_cents", "BIGINT", False),
        ("note", "BIGINT", False),
    ]
    assert [change["detail"] for change in done.changes if change["name"] == MART] == ["columns"]


def test_another_projects_table_is_a_source_once_it_is_there(fake: FakeOpenMetadata, push: Pusher) -> None:
    document = sample()
    document["table_edges"].append({"source": "stock.marts.fct_orders", "target": "shop.staging.stg_crm__orders"})
    done = push(document)
    edge = "table:dml.stock.marts.fct_orders -> table:dml.shop.staging.stg_crm__orders"
    assert f"Lineage {edge} waits: dml.stock.marts.fct_orders is not in OpenMetadata." in done.notices
    Pusher(fake.url)(renamed(sample(), "shop", "stock", LATER))
    done = push({**document, "generated_at": LATER})
    assert [(change["action"], change["name"]) for change in done.changes] == [("create", edge)]


def test_what_waited_is_sent_with_the_newest(fake: FakeOpenMetadata, push: Pusher) -> None:
    newest = sample(generated_at=LATER)
    newest["tests"][0]["results"] = [{"run_id": "r2", "at": "2026-11-21T05:00:08.000+00:00", "status": "pass"}]
    newest["runs"] = [{**newest["runs"][0], "run_id": "r2", "started_at": "2026-11-21T05:00:00.000+00:00"}]
    push(newest, sample())  # in any order
    assert [r["testCaseStatus"] for _, r in sorted(fake.store.results[CASE].items())] == ["Failed", "Success"]
    assert [s["executionId"] for _, s in sorted(fake.store.statuses["dml.shop__daily"].items())] == ["r1", "r2"]


def test_a_run_of_no_job_is_shown_at_the_project(fake: FakeOpenMetadata, push: Pusher) -> None:
    document = sample()
    document["runs"][0].pop("job")
    push(document)
    [status] = fake.store.statuses["dml.shop"].values()
    assert status["timestamp"] == 1000 * int(status["timestamp"] / 1000)
    assert RUN_AT.format(0).startswith("2026-11-20")


def test_an_owner_whom_openmetadata_does_not_know_is_said(fake: FakeOpenMetadata, push: Pusher) -> None:
    done = push(sample(owner={"name": "Nobody", "email": "shop-data@elsewhere.example.com"}))
    who = "Owner Nobody <shop-data@elsewhere.example.com> is neither a user nor a team in OpenMetadata"
    assert [notice for notice in done.notices if notice.startswith(who)]


def _what(changes: list[dict[str, str]]) -> set[tuple[str, ...]]:
    return {(change["action"], change["kind"], change["name"]) for change in changes}


def test_every_kind_of_thing_is_checked_by_its_schema(fake: FakeOpenMetadata, push: Pusher) -> None:
    push(sample())
    assert fake.checker.count > 60
    kinds: dict[str, Any] = {kind: found for kind, found in fake.store.entities.items() if found}
    assert len(kinds) == 15
