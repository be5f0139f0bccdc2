"""A whole project: chains of models, what is documented only, what cannot be read; and what changed."""

from __future__ import annotations

from typing import Any

from dml_platform.lineage import Lineage, trace_project
from dml_platform.lineage.changes import Change, compare

RAW = {"shop.raw.orders": {"id": "BIGINT", "amount": "DECIMAL(10,2)", "state": "VARCHAR"}}


def node(name: str, sql: str | None, *parents: str, kind: str = "model", **values: Any) -> dict[str, Any]:
    return {
        "resource_type": kind,
        "database": "shop",
        "schema": "marts",
        "name": name,
        "config": {"materialized": values.pop("materialized", "view")},
        "depends_on": {"nodes": list(parents)},
        "columns": {c: {"name": c, "data_type": None} for c in values.pop("columns", ())},
        "compiled_code": sql,
        **values,
    }


def manifest(*nodes: dict[str, Any], sources: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {
        "nodes": {f"{n['resource_type']}.shop.{n['name']}": n for n in nodes},
        "sources": {f"source.shop.{n['name']}": n for n in sources},
    }


def edges(lineage: Lineage) -> set[str]:
    return {f"{e.source}.{e.source_column} {e.via} {e.target}.{e.target_column}" for e in lineage.edges}


STG = node("stg", 'select id as order_id, amount * 100 as cents, state from "shop"."raw"."orders" where id > 0')
FCT = node("fct", 'with o as (select * from "shop"."marts"."stg") select * exclude (state) from o', "model.shop.stg")


def test_a_model_is_traced_to_those_that_it_reads_in_any_order_of_the_manifest() -> None:
    lineage = trace_project(manifest(FCT, STG), RAW)
    assert edges(lineage) == {
        "shop.raw.orders.id copy shop.marts.stg.order_id",
        "shop.raw.orders.amount transform shop.marts.stg.cents",
        "shop.raw.orders.state copy shop.marts.stg.state",
        "shop.raw.orders.id filter shop.marts.stg.*",
        "shop.marts.stg.order_id copy shop.marts.fct.order_id",
        "shop.marts.stg.cents copy shop.marts.fct.cents",
    }
    assert lineage.columns["shop.marts.fct"] == {"order_id": "BIGINT", "cents": None}
    assert lineage.notices == []
    assert {(e.source, e.target) for e in lineage.table_edges} == {
        ("shop.raw.orders", "shop.marts.stg"),
        ("shop.marts.stg", "shop.marts.fct"),
    }


def test_filters_can_be_left_out() -> None:
    assert not [e for e in trace_project(manifest(STG), RAW, filters=False).edges if e.via == "filter"]


def test_documented_columns_are_followed_through_a_star_over_a_table_nobody_knows() -> None:
    seen = trace_project(manifest(node("m", "select * from far.away.t", columns=["x"])), {})
    assert edges(seen) == {"far.away.t.x copy shop.marts.m.x", "far.away.t.None unknown shop.marts.m.*"}


def test_documented_columns_of_a_source_may_not_be_all_of_them() -> None:
    source = node("web", None, kind="source", columns=["x"])
    model = node("m", 'select x, y from "shop"."marts"."web"', "source.shop.web")
    assert edges(trace_project(manifest(model, sources=(source,)), {})) == {
        "shop.marts.web.x copy shop.marts.m.x",
        "shop.marts.web.y copy shop.marts.m.y",
    }


def test_a_model_that_cannot_be_read_is_unknown_and_said() -> None:
    broken = node("broken", "select ((", "model.shop.stg", columns=["z"])
    python = node("py", "def model(dbt, session): ...", "model.shop.stg", language="python")
    below = node("below", 'select z, w from "shop"."marts"."broken"', "model.shop.broken")
    lineage = trace_project(manifest(STG, broken, python, below), RAW)
    assert {
        "shop.marts.stg.None unknown shop.marts.broken.z",
        "shop.marts.stg.None unknown shop.marts.broken.*",
        "shop.marts.stg.None unknown shop.marts.py.*",
        "shop.marts.broken.z copy shop.marts.below.z",
        "shop.marts.broken.w copy shop.marts.below.w",
    } <= edges(lineage)
    assert len(lineage.notices) == 2
    assert "shop.marts.broken: its SQL could not be read" in lineage.notices[0]


def test_an_ephemeral_model_is_no_table_and_its_parents_are_read_through_it() -> None:
    ephemeral = node("eph", "select id from shop.raw.orders", "source.shop.orders", materialized="ephemeral")
    source = node("orders", None, kind="source", schema="raw")
    sql = "with __dbt__cte__eph as (select id from shop.raw.orders) select id from __dbt__cte__eph"
    lineage = trace_project(manifest(ephemeral, node("m", sql, "model.shop.eph"), sources=(source,)), RAW)
    assert edges(lineage) == {"shop.raw.orders.id copy shop.marts.m.id"}
    assert {(e.source, e.target) for e in lineage.table_edges} == {("shop.raw.orders", "shop.marts.m")}


def test_an_incremental_model_is_not_its_own_source() -> None:
    sql = 'select id from shop.raw.orders where id > (select max(id) from "shop"."marts"."m")'
    assert edges(trace_project(manifest(node("m", sql)), RAW)) == {
        "shop.raw.orders.id copy shop.marts.m.id",
        "shop.raw.orders.id filter shop.marts.m.*",
    }


def test_changes_are_columns_that_went_came_or_are_made_of_something_else() -> None:
    def version(*models: dict[str, Any]) -> tuple[Lineage, dict[str, str]]:
        return trace_project(manifest(*models), RAW), {f"shop.marts.{m['name']}": m["compiled_code"] for m in models}

    before, sql_before = version(STG, FCT, node("gone", "select 1 as a"))
    after, sql_after = version(
        node("stg", 'select id as order_id, id * 100 as cents, 1 as extra from "shop"."raw"."orders" where id > 0'),
        FCT,
    )
    assert compare(before, after, sql_before=sql_before, sql_after=sql_after) == [
        Change("shop.marts.fct", "extra", "added"),
        Change("shop.marts.gone", None, "removed"),
        Change("shop.marts.stg", "cents", "changed", "was made of shop.raw.orders.amount, now of shop.raw.orders.id"),
        Change("shop.marts.stg", "extra", "added"),
        Change("shop.marts.stg", "state", "removed"),
    ]
    assert compare(before, before, sql_before=sql_before, sql_after=sql_before) == []
    other = {**sql_before, "shop.marts.stg": "select something else"}
    assert [c.why for c in compare(before, before, sql_before=sql_before, sql_after=other)] == [
        "its SQL changed over the same columns"
    ]


def test_an_expression_that_changed_is_told_beside_a_column_that_came() -> None:
    def version(sql: str) -> tuple[Lineage, dict[str, str]]:
        below = node("below", 'select usd from "shop"."marts"."m"', "model.shop.m")
        return trace_project(manifest(node("m", sql), below), RAW), {"shop.marts.m": sql}

    before, sql_before = version("select id, amount / 100 as usd from shop.raw.orders")
    after, sql_after = version("select id, amount / 1000 as usd, state from shop.raw.orders -- in thousands")
    assert compare(before, after, sql_before=sql_before, sql_after=sql_after) == [
        Change("shop.marts.m", "state", "added"),
        Change("shop.marts.m", "usd", "changed", "its expression changed"),
    ]
    after, sql_after = version("select id, amount / 100 as usd, state from shop.raw.orders limit 10")
    assert compare(before, after, sql_before=sql_before, sql_after=sql_after) == [
        Change("shop.marts.m", None, "changed", "its SQL changed beyond these columns"),
        Change("shop.marts.m", "state", "added"),
    ]
    after, sql_after = version("select id, amount / 100 as usd, state from shop.raw.orders -- and a note")
    assert compare(before, after, sql_before=sql_before, sql_after=sql_after) == [
        Change("shop.marts.m", "state", "added")
    ]
