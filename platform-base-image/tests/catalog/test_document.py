"""What the document says of a project, and that writing it can neither fail a run nor cost it much."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dbt_shop import land_orders, project, shop_lake

from dml_platform.after_run import finish_run
from dml_platform.catalog import build_document, profiles, read_document, write_document
from dml_platform.catalog.refresh import refresh
from dml_platform.core.document import Document, Table
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.runrecord import RunRecord, read_records, write_record
from dml_platform.core.settings import Settings
from dml_platform.core.storage import open_storage
from dml_platform.dbt.runner import build
from dml_platform.definitions import build_definitions
from dml_platform.lake import Lake

__all__ = ["project", "shop_lake"]

DOCS = """
version: 2
sources:
  - name: raw
    database: shop
    schema: raw
    loaded_at_field: _loaded_at
    tables:
      - name: web__orders
        config: {freshness: {warn_after: {count: 2, period: day}, error_after: {count: 3, period: day}}}
groups:
  - {name: shop_team, owner: {name: Shop team, email: shop@example.org}}
models:
  - name: stg_orders
    config: {group: shop_team}
  - name: fct_orders
    description: "What was ordered. Grain: one row per order. Key: order_id."
    config: {meta: {owner: orders@example.org}, tags: [daily]}
    columns:
      - name: order_id
        description: The order.
        data_tests: [unique, not_null]
exposures:
  - name: board
    type: dashboard
    owner: {name: Board}
    depends_on: [ref('fct_orders')]
"""
CONFIG = """
owner: team:shop
description: A shop.
figures:
  - {table: shop.marts.fct_orders, x: country, y: sum(amount_cents) / 100, title: By country, unit: euros}
  - {table: shop.marts.fct_orders, x: nope, y: count(*), title: Wrong}
"""
SOURCES = """
sources:
  web:
    kind: files
    tables:
      orders: {path: drop/*.csv, format: csv, columns: {order_id: BIGINT, amount_cents: BIGINT, country_code: VARCHAR}}
"""


@pytest.fixture
def shop(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The small project with docs, sources and figures."""
    (project.dbt_dir / "models" / "schema.yml").write_text(DOCS)
    project.config_dir.mkdir()
    (project.config_dir / "project.yaml").write_text(CONFIG)
    (project.config_dir / "sources.yaml").write_text(SOURCES)
    (project.root / "drop").mkdir()
    (project.root / "drop" / "one.csv").write_text("order_id,amount_cents,country_code\n4,500,de\n5,700,fr\n")
    monkeypatch.chdir(project.root)
    return project


@pytest.fixture
def defs(shop: Project, monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    @dg.asset(
        key=["shop", "marts", "forecast"],
        deps=[["shop", "marts", "fct_orders"]],
        description="Expected orders.",
        owners=["data@example.org"],
        check_specs=[dg.AssetCheckSpec("is_close", asset=["shop", "marts", "forecast"], description="It is close.")],
    )
    def forecast() -> dg.MaterializeResult:
        check = dg.AssetCheckResult(
            passed=False, check_name="is_close", severity=dg.AssetCheckSeverity.WARN, metadata={"error_pct": 31.0}
        )
        return dg.MaterializeResult(check_results=[check])

    @dg.asset(key=["shop", "marts", "broken"])
    def broken() -> None:
        raise ValueError("no such luck")

    made = build_definitions(
        shop.root,
        assets=[forecast, broken],
        jobs=[
            dg.define_asset_job(
                "daily", selection=dg.AssetSelection.all() - dg.AssetSelection.assets("shop/marts/broken")
            ),
            dg.define_asset_job("failing", selection="shop/marts/broken"),
        ],
        schedules=[dg.ScheduleDefinition(name="nightly", job_name="daily", cron_schedule="0 5 * * *")],
    )
    module: Any = ModuleType("project_shop.definitions")
    module.defs = made
    monkeypatch.setitem(sys.modules, "project_shop", ModuleType("project_shop"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return made


def execute(defs: dg.Definitions, job: str, instance: dg.DagsterInstance) -> str:
    """Run a job as a run's process does, by the project's own executor."""
    found = defs.resolve_job_def(job)
    run = instance.create_run_for_job(found)
    execute_run(InMemoryJob(found), run, instance)
    return run.run_id


def table(document: Document, name: str) -> Table:
    [found] = [t for t in document.tables if t.name == name]
    return found


def results(document: Document, name: str) -> list[tuple[str, str | None]]:
    [test] = [t for t in document.tests if t.name == name]
    return [(result.status, result.message) for result in test.results]


def document_of(lake: Lake, name: str = "shop") -> Document:
    found = read_document(lake.settings, name)
    assert found is not None
    return found


def test_run_leaves_a_document_that_goes_from_a_figure_to_its_file(shop_lake: Lake, defs: dg.Definitions) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run_id = execute(defs, "daily", instance)[:8]
        [said] = [
            entry.user_message
            for entry in instance.all_logs(instance.get_run_records()[0].dagster_run.run_id)
            if entry.user_message.startswith("Catalogue document")
        ]
    document = document_of(shop_lake)
    assert f"{len(document.tables)} tables, {len(document.tests)} tests, 0 late" in said

    orders = table(document, "shop.marts.fct_orders")
    assert (orders.grain, orders.tags, orders.unique_key) == ("one row per order", ("daily",), ("order_id",))
    assert orders.owner is not None
    assert orders.owner.email == "orders@example.org"
    assert (orders.run_id, orders.row_count, len(orders.history)) == (run_id, 5, 1)
    assert orders.size_bytes is not None
    key = orders.columns[0]
    assert (key.name, key.type, key.description) == ("order_id", "BIGINT", "The order.")
    assert orders.columns[1].profile == {"null_share": 0.0, "distinct_count": 3, "min": "500", "max": "900"}
    assert "min" not in orders.columns[2].profile  # names of countries here, of people elsewhere
    staged = table(document, "shop.staging.stg_orders")
    assert staged.owner is not None
    assert (staged.owner.name, staged.sql is not None, staged.snapshot_id) == ("Shop team", True, None)

    pairs = {(edge.source, edge.target) for edge in document.table_edges}
    assert {
        ("shop.source:web.orders", "shop.raw.web__orders"),
        ("shop.raw.web__orders", "shop.staging.stg_orders"),
        ("shop.staging.stg_orders", "shop.marts.fct_orders"),
        ("shop.seeds.countries", "shop.marts.fct_orders"),
        ("shop.marts.fct_orders", "shop.marts.forecast"),
    } <= pairs
    columns = {(e.source, e.source_column, e.target, e.target_column) for e in document.column_edges}
    assert ("shop.staging.stg_orders", "amount_cents", "shop.marts.fct_orders", "amount_cents") in columns
    assert ("shop.source:web.orders", "amount_cents", "shop.raw.web__orders", "amount_cents") in columns

    [run] = document.runs
    assert (run.run_id, run.status) == (run_id, "success")
    assert {step.name for step in run.steps} == {"web__orders", "dbt"}
    assert results(document, "unique_fct_orders_order_id") == [("pass", None)]
    assert results(document, "is_close") == [("warn", "error_pct: 31.0")]
    assert results(document, "freshness_web__orders") == [("pass", None)]
    [pipeline] = [p for p in document.pipelines if p.name == "daily"]
    assert pipeline.schedule == "0 5 * * *"
    [figure] = document.figures
    assert ("Germany", 19.0) in figure.points
    assert any("Figure 'Wrong' could not be drawn" in notice for notice in document.notices)
    assert any("Elementary's dbt package is not installed" in notice for notice in document.notices)
    [consumer] = document.consumers
    assert consumer.depends_on == ("shop.marts.fct_orders",)


def test_failed_run_is_in_the_document_with_its_reason(shop_lake: Lake, defs: dg.Definitions) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run_id = execute(defs, "failing", instance)[:8]
    [run] = document_of(shop_lake).runs
    assert (run.run_id, run.status) == (run_id, "failed")
    [step] = run.steps
    assert step.error is not None
    assert "no such luck" in step.error


def test_tests_have_a_history_newest_first_also_of_failures(shop: Project, shop_lake: Lake) -> None:
    build(shop, shop_lake, run_id="r1")
    land_orders(shop_lake, "values (3, 1, 'de')", run_id="land2")
    build(shop, shop_lake, run_id="r2")

    document = build_document(shop, shop_lake)

    assert [status for status, _ in results(document, "unique_fct_orders_order_id")] == ["fail", "pass"]
    [test] = [t for t in document.tests if t.name == "unique_fct_orders_order_id"]
    assert (test.table, test.column, test.results[0].failures) == ("shop.marts.fct_orders", "order_id", 1)
    assert test.sql is not None
    assert "order_id" in test.sql
    assert [(run.run_id, run.status) for run in document.runs] == [("r2", "failed"), ("r1", "success")]


def test_late_source_is_said(shop: Project, shop_lake: Lake) -> None:
    step = shop_lake.step("land3", "land")
    old = (datetime.now(timezone.utc) - timedelta(days=9)).isoformat()
    sql = f"select 7 as order_id, 1 as amount_cents, 'de' as country_code, timestamptz '{old}' as _loaded_at"
    step.write_query(shop_lake.pin("shop.raw.web__orders").ref, shop_lake.connect(), sql, mode="table")
    step.publish()

    document = build_document(shop, shop_lake)

    assert "shop.raw.web__orders is late: the newest _loaded_at is 9 days old; 2 days are allowed." in document.notices
    orders = table(document, "shop.raw.web__orders")
    assert (orders.max_age_hours, (orders.fresh_as_of or "")[:10]) == (48.0, old[:10])
    assert results(document, "freshness_web__orders")[0][0] == "warn"


def test_what_elementary_keeps_in_the_lake_is_no_part_of_it(shop: Project, shop_lake: Lake) -> None:
    step = shop_lake.step("r1", "history")
    step.write_query(TableRef("shop", "elementary", "metadata"), shop_lake.connect(), "select '0.25.1' as version")
    step.publish()

    found = build_document(shop, shop_lake)

    assert "shop.raw.web__orders" in {each.name for each in found.tables}
    assert [each.name for each in found.tables if ".elementary." in each.name] == []


def test_snapshot_is_profiled_once_and_sql_is_traced_once(
    shop: Project, shop_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(shop, shop_lake, run_id="r1")
    first = build_document(shop, shop_lake)

    def refuse(*_: Any) -> Any:
        raise AssertionError("computed again")

    monkeypatch.setattr(profiles, "_profile", refuse)
    monkeypatch.setattr("dml_platform.catalog.columns._trace", refuse)
    again = build_document(shop, shop_lake)
    assert again.tables == first.tables
    assert again.column_edges == first.column_edges


def test_big_table_is_profiled_by_its_first_files(
    shop: Project, shop_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    land_orders(shop_lake, "values (8, 1, 'de')", run_id="land2")
    monkeypatch.setattr(profiles, "MAX_ROWS", 1)
    orders = table(build_document(shop, shop_lake), "shop.raw.web__orders")
    assert orders.columns[0].profile["rows_looked_at"] in (1, 3)


def test_document_that_cannot_be_made_is_one_sentence(
    shop: Project, shop_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError("too much")

    monkeypatch.setattr("dml_platform.catalog.refresh.build_document", fail)
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(_empty_job())
        said = finish_run(shop, instance=instance, dagster_run_id=run.run_id, failed={})
    assert said == ["The catalogue document of project 'shop' was not written: too much"]


def _empty_job() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None:
        pass

    @dg.job
    def empty() -> None:
        nothing()

    return empty


def test_damaged_caches_are_made_anew(shop: Project, shop_lake: Lake) -> None:
    build(shop, shop_lake, run_id="r1")
    first = build_document(shop, shop_lake)
    folder = shop_lake.settings.home / "catalog" / "shop"
    for path in folder.iterdir():
        path.write_text("{cut")
    again = build_document(shop, shop_lake)
    # Not the SQL: compiled now, an incremental model finds its table there.
    assert [(t.name, t.columns) for t in again.tables] == [(t.name, t.columns) for t in first.tables]
    assert again.table_edges == first.table_edges


@pytest.mark.parametrize("settings", ["server"], indirect=True)
def test_server_keeps_the_document_beside_the_tables_and_those_of_the_last_runs(
    settings: Settings, shop: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dml_platform.catalog.store.KEPT_DOCUMENTS", 2)
    lake = Lake(settings, shop.root)
    with closing(lake.catalog), dg.DagsterInstance.ephemeral() as instance:
        land_orders(lake, "values (1, 500, 'de')", run_id="land1")
        build(shop, lake, run_id="r1")
        run = instance.create_run_for_job(_empty_job())
        made = refresh(shop, lake, instance=instance, dagster_run_id=run.run_id)
        assert not isinstance(made, str), made
        document, place = made
        assert place == f"{settings.warehouse}/shop/_catalog/document.json"
        for number in range(3):
            later = document.model_copy(update={"generated_at": f"2030-01-0{number + 1}T00:00:00.000+00:00"})
            write_document(settings, later, run_id=f"r{number}")
    elsewhere = settings.model_copy(update={"home": tmp_path / "next"})
    again = read_document(elsewhere, "shop")
    assert again is not None
    assert again.tables == document.tables
    names = [entry.name for entry in open_storage(settings, "shop", "catalog").list("history")]
    assert names == ["history/20300102T000000-r1.json.gz", "history/20300103T000000-r2.json.gz"]


def test_runs_say_what_became_of_them(local: Settings, tmp_path: Path) -> None:
    from dml_platform.catalog.runs import make_runs, recent_records

    def keep(run_id: str, step: str, minute: int, **values: Any) -> None:
        base: dict[str, Any] = {"status": "success", "duration_s": 30.0, "git_commit": "abc"}
        started = f"2026-01-01T00:{minute:02}:00.000+00:00"
        write_record(local, RunRecord(project="shop", run_id=run_id, step=step, started_at=started, **(base | values)))

    keep("aaaa", "web", 0, outputs={"shop.raw.x": 1})
    keep("aaaa", "dbt", 1, status="failed", error="no")
    keep("aaaa", "catalog", 2, details={"dagster_run_id": "aaaa-1"})
    keep("bbbb", "unchanged", 3)
    runs = make_runs(recent_records(local, "shop"), dagster_url="https://dagster.example.org/")
    assert [(run.run_id, run.status, run.duration_s) for run in runs] == [
        ("bbbb", "unchanged", 30.0),
        ("aaaa", "failed", 150.0),
    ]
    assert runs[1].url == "https://dagster.example.org/runs/aaaa-1"
    assert [step.name for step in runs[0].steps] == ["dbt"]
    assert json.loads(runs[1].model_dump_json())["steps"][1]["error"] == "no"
    assert len(list(read_records(local, "shop"))) == 4
