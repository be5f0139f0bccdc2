"""From a number in ``fct_daily_revenue`` back to the file, the run, the commit, the tests and the owner."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT, Dml

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

REVENUE = ("sales.marts.fct_daily_revenue", "revenue_cents")
FORECAST = "sales.marts.customer_forecast"


@pytest.fixture(scope="module")
def document(published_lake: Path) -> dict[str, Any]:
    """The catalogue document that the run left: what the report and OpenMetadata are made from."""
    return json.loads((published_lake / "catalog" / "sales.json").read_text())


def made_of(document: dict[str, Any], table: str, column: str) -> list[dict[str, Any]]:
    return [e for e in document["column_edges"] if (e["target"], e["target_column"]) == (table, column)]


def named(document: dict[str, Any], table: str) -> dict[str, Any]:
    (found,) = (each for each in document["tables"] if each["name"] == table)
    return found


def test_a_number_is_followed_to_the_column_of_the_file(document: dict[str, Any]) -> None:
    reached, pending = [], [REVENUE]
    while pending:
        at = pending.pop()
        reached.append(at)
        edges = made_of(document, *at)
        assert all(edge.get("via") != "unknown" for edge in edges), edges
        pending += {(e["source"], e["source_column"]) for e in edges} - {*reached, *pending}
    assert reached[0] == REVENUE
    assert ("sales.marts.fct_purchases", "amount_cents") in reached
    assert ("sales.raw.cdnow__purchases", "dollars") in reached
    assert ("sales.source:cdnow.purchases", "dollars") in reached
    assert not made_of(document, "sales.source:cdnow.purchases", "dollars"), "a file is where it begins"
    assert named(document, "sales.source:cdnow.purchases")["path"] == "config/sources.yaml"


def test_it_has_a_run_a_commit_an_owner_and_tests_that_passed(document: dict[str, Any]) -> None:
    table = named(document, REVENUE[0])
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=PROJECT, text=True).strip()
    assert table["git_commit"].removesuffix("+changes").startswith(commit[:7])
    assert table["owner"]["email"] == "sales-data@example.com"
    (run,) = (each for each in document["runs"] if each["run_id"] == table["run_id"])
    assert run["status"] == "success"
    (step,) = (each for each in run["steps"] if REVENUE[0] in each.get("outputs", {}))
    assert step["outputs"][REVENUE[0]] == table["snapshot_id"]
    assert "sales.raw.cdnow__purchases" in step["inputs"]
    tests = {
        each["name"]: each["results"][0]["status"] for each in document["tests"] if each.get("table") == REVENUE[0]
    }
    assert tests["not_null_fct_daily_revenue_revenue_cents"] == "pass"
    assert tests["unique_fct_daily_revenue_revenue_date"] == "pass"
    assert set(tests.values()) == {"pass"}


def test_a_pandas_asset_is_followed_as_far_as_it_declares(document: dict[str, Any]) -> None:
    edges = [edge for edge in document["column_edges"] if edge["target"] == FORECAST]
    assert {edge["via"] for edge in edges} == {"declared"}
    columns = {column["name"] for column in named(document, FORECAST)["columns"]}
    # How far it looks ahead is a parameter, no column of anything.
    assert columns - {edge["target_column"] for edge in edges} == {"horizon_weeks"}


def test_its_source_rows_are_a_query_away(document: dict[str, Any], dml: Dml, published_lake: Path) -> None:
    day = "1997-03-29"
    query = "select revenue_cents from sales.marts.fct_daily_revenue where revenue_date = date '{day}'"
    source = (
        "select sum(round(dollars * 100))::bigint as revenue_cents, min(_source_file) as file, min(_run_id) as run "
        "from sales.raw.cdnow__purchases where date = date '{day}'"
    )
    rows = []
    for text in (query, source):
        done = dml(published_lake, "sql", "--format", "json", text.format(day=day))
        assert done.returncode == 0, done.stderr
        rows.append(json.loads(done.stdout))
    assert rows[0]["revenue_cents"] == rows[1]["revenue_cents"] > 0
    assert rows[1]["file"] == "data/drop/cdnow/cdnow_purchases.csv.gz"
    assert rows[1]["run"] in {run["run_id"] for run in document["runs"]}


def test_impact_says_the_same_the_other_way_round(dml: Dml, published_lake: Path) -> None:
    done = dml(published_lake, "impact", "cdnow.purchases.dollars", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert REVENUE[0] in {each["table"] for each in found["tables"]}
    assert found["owners"] == ["Sales data (sales-data@example.com)"]
