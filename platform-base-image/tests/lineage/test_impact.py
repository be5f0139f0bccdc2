"""What is downstream of a name, and what a name may mean."""

from __future__ import annotations

import pytest

from dml_platform.core.document import Column, ColumnEdge, Consumer, Document, Owner, Pipeline, Table, TableEdge, Test
from dml_platform.core.errors import ConfigError
from dml_platform.lineage.impact import Graph, find_impact, owner_of


def edge(source: str, target: str, via: str = "copy") -> ColumnEdge:
    table, column = source.rsplit(".", 1)
    below, made = target.rsplit(".", 1)
    return ColumnEdge(
        source=table, source_column=None if column == "?" else column, target=below, target_column=made, via=via
    )


@pytest.fixture
def graph() -> Graph:
    def table(name: str, kind: str, *columns: str, owner: str | None = None, path: str | None = None) -> Table:
        return Table(
            name=name,
            kind=kind,
            columns=tuple(Column(name=c) for c in columns),
            owner=Owner(email=owner) if owner else None,
            path=path,
        )

    shop = Document(
        project="shop",
        generated_at="2026-01-01T00:00:00Z",
        owner=Owner(email="shop@example.com"),
        tables=(
            table("shop.source:web.orders", "file", "id", "amount", path="data/orders.csv"),
            table("shop.raw.web__orders", "raw", "id", "amount", "state"),
            table("shop.staging.stg_orders", "staging", "order_id", "cents", path="dbt/models/stg_orders.sql"),
            table("shop.marts.fct_orders", "mart", "order_id", "cents", owner="facts@example.com"),
            table("shop.marts.dim_states", "mart", "state"),
        ),
        column_edges=(
            edge("shop.source:web.orders.amount", "shop.raw.web__orders.amount"),
            edge("shop.raw.web__orders.id", "shop.staging.stg_orders.order_id"),
            edge("shop.raw.web__orders.amount", "shop.staging.stg_orders.cents", "transform"),
            edge("shop.raw.web__orders.state", "shop.staging.stg_orders.*", "filter"),
            edge("shop.raw.web__orders.state", "shop.marts.dim_states.state"),
            edge("shop.staging.stg_orders.order_id", "shop.marts.fct_orders.order_id"),
            edge("shop.staging.stg_orders.cents", "shop.marts.fct_orders.cents"),
        ),
        table_edges=(
            TableEdge(source="shop.raw.web__orders", target="shop.staging.stg_orders"),
            TableEdge(source="shop.raw.web__orders", target="shop.marts.dim_states"),
            TableEdge(source="shop.staging.stg_orders", target="shop.marts.fct_orders"),
            TableEdge(source="shop.marts.fct_orders", target="other.marts.report"),
        ),
        tests=(
            Test(id="t1", name="cents_not_null", kind="data", table="shop.marts.fct_orders", column="cents"),
            Test(id="t2", name="id_unique", kind="data", table="shop.marts.fct_orders", column="order_id"),
        ),
        consumers=(
            Consumer(name="board", kind="dashboard", owner=Owner(name="Ann"), depends_on=("shop.marts.fct_orders",)),
        ),
        pipelines=(Pipeline(name="daily", tables=("shop.marts.fct_orders",)),),
    )
    other = Document(
        project="other",
        generated_at="2026-01-01T00:00:00Z",
        owner=Owner(email="other@example.com"),
        column_edges=(edge("shop.marts.fct_orders.?", "other.marts.report.total", "unknown"),),
    )
    return Graph.of([shop, other])


def test_a_column_reaches_what_is_made_of_it_with_tests_consumers_pipelines_and_owners(graph: Graph) -> None:
    found = find_impact(graph, *graph.resolve("web__orders.amount"))
    assert [(a.table, a.how, a.columns, a.owner) for a in found.tables] == [
        ("shop.staging.stg_orders", "column", ("cents",), "shop@example.com"),
        ("shop.marts.fct_orders", "column", ("cents",), "facts@example.com"),
        ("other.marts.report", "unknown", (), "other@example.com"),
    ]
    assert [t["name"] for t in found.tests] == ["cents_not_null"]
    assert [c["name"] for c in found.consumers] == ["board"]
    assert found.pipelines == ("daily",)
    assert found.owners == ("Ann", "facts@example.com", "other@example.com", "shop@example.com")


def test_a_column_that_only_filters_reaches_all_that_has_these_rows(graph: Graph) -> None:
    found = find_impact(graph, *graph.resolve("shop.raw.web__orders.state"))
    assert [(a.table, a.how) for a in found.tables] == [
        ("shop.marts.dim_states", "column"),
        ("shop.staging.stg_orders", "filter"),
        ("shop.marts.fct_orders", "filter"),
        ("other.marts.report", "filter"),
    ]


def test_a_table_reaches_every_table_below(graph: Graph) -> None:
    found = find_impact(graph, *graph.resolve("shop.source:web.orders"))
    assert [a.table for a in found.tables] == [
        "shop.raw.web__orders",
        "shop.staging.stg_orders",
        "shop.marts.fct_orders",
        "other.marts.report",
    ]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("STG_Orders", ("shop.staging.stg_orders", None)),
        ("marts.fct_orders", ("shop.marts.fct_orders", None)),
        ("fct_orders.Cents", ("shop.marts.fct_orders", "cents")),
        ("./dbt/models/stg_orders.sql", ("shop.staging.stg_orders", None)),
        ("stg_orders.sql", ("shop.staging.stg_orders", None)),
        ("data/orders.csv", ("shop.source:web.orders", None)),
        ("web.orders.amount", ("shop.source:web.orders", "amount")),
    ],
)
def test_a_name_is_a_model_table_column_or_file(graph: Graph, text: str, meant: tuple[str, str | None]) -> None:
    assert graph.resolve(text) == meant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fct_ordrs", "Did you mean fct_orders"),
        ("fct_orders.cent", "Did you mean cents?"),
        ("nothing_like_it_at_all", "'dml tables' lists"),
    ],
)
def test_a_wrong_name_is_told_what_is_near(graph: Graph, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot find") as caught:
        graph.resolve(text)
    assert message in str(caught.value)


def test_an_owner_has_one_name_wherever_its_address_is_missing_or_stands_alone() -> None:
    owners = {"a": Owner(name="marketing"), "b": Owner(email="m@example.com"), "c": Owner(name="Ann")}
    tables = [Table(name=f"shop.marts.{name}", kind="mart", owner=owner) for name, owner in owners.items()]
    document = Document(
        project="shop",
        generated_at="2026-01-01T00:00:00Z",
        owner=Owner(name="marketing", email="m@example.com"),
        tables=tuple(tables),
    )
    graph = Graph.of([document])
    shown = [owner_of(graph, f"shop.marts.{name}") for name in ("a", "b", "c", "not known")]
    assert shown == ["marketing (m@example.com)", "marketing (m@example.com)", "Ann", "marketing (m@example.com)"]
