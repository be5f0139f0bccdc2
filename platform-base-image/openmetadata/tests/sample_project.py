"""A small project's document, with one of everything: stream → raw → staging → mart → notebook."""

from __future__ import annotations

import copy
from typing import Any

OWNER = {"name": "Shop data", "email": "shop-data@example.com"}
RUN_AT = "2026-11-20T05:00:{:02d}.000+00:00"


def sample(**changes: Any) -> dict[str, Any]:
    """The document, with other values for some of its fields."""
    return {**copy.deepcopy(_DOCUMENT), **changes}


def renamed(document: dict[str, Any], old: str, new: str, at: str) -> dict[str, Any]:
    """The document after somebody renamed a model."""
    return {**_replace(document, old, new), "generated_at": at}


def table_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    """A table of a document, to be changed in place."""
    return next(table for table in document["tables"] if table["name"] == name)


def _replace(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {_replace(key, old, new): _replace(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replace(inner, old, new) for inner in value]
    return value.replace(old, new) if isinstance(value, str) else value


def _edge(source: str, column: str | None, target: str, to: str, via: str) -> dict[str, Any]:
    return {"source": source, "source_column": column, "target": target, "target_column": to, "via": via}


_RAW, _STAGED, _MART = "shop.raw.crm__orders", "shop.staging.stg_crm__orders", "shop.marts.fct_orders"
_STREAM = "shop.source:crm.orders"
_DOCUMENT: dict[str, Any] = {
    "project": "shop",
    "description": "Orders, from the CRM to a mart.",
    "owner": OWNER,
    "generated_at": "2026-11-20T05:01:00.000+00:00",
    "dagster_url": "https://dagster.example.com/",
    "tables": [
        {"name": _STREAM, "kind": "stream", "columns": [{"name": "id", "type": "BIGINT"}]},
        {
            "name": _RAW,
            "kind": "raw",
            "description": "Orders as they came.",
            "columns": [
                {"name": "id", "type": "BIGINT"},
                {"name": "who", "type": "STRUCT(name VARCHAR, emails VARCHAR[])", "tags": ["pii"]},
                {"name": "amount", "type": "DECIMAL(10,2)"},
            ],
            "owner": {"name": "Warehouse"},
            "snapshot_id": 11,
            "published_at": RUN_AT.format(2),
            "row_count": 40,
            "size_bytes": 4000,
        },
        {
            "name": _STAGED,
            "kind": "staging",
            "columns": [{"name": "order_id", "type": "BIGINT"}, {"name": "amount_cents", "type": "BIGINT"}],
            "path": "dbt/models/staging/stg_crm__orders.sql",
            "sql": "select id as order_id, amount * 100 as amount_cents from raw",
        },
        {
            "name": _MART,
            "kind": "mart",
            "description": "One row per order.",
            "columns": [
                {
                    "name": "order_id",
                    "type": "BIGINT",
                    "description": "The order.",
                    "profile": {"null_share": 0.0, "distinct_count": 40, "min": "1", "max": "40"},
                },
                {"name": "amount_cents", "type": "BIGINT", "description": "What was paid.", "tags": ["finance"]},
                {"name": "ordered_date", "type": "DATE", "profile": {"null_share": 0.25, "min": "2026-01-01"}},
                {"name": "note", "type": "VARCHAR"},
            ],
            "tags": ["daily"],
            "unique_key": ["order_id"],
            "path": "dbt/models/marts/fct_orders.sql",
            "sql": "select * from stg",
            "snapshot_id": 22,
            "published_at": RUN_AT.format(9),
            "row_count": 40,
            "history": [
                {"snapshot_id": 22, "published_at": RUN_AT.format(9), "row_count": 40},
                {"snapshot_id": 21, "published_at": "2026-11-19T05:00:09.000+00:00", "row_count": 38},
            ],
        },
    ],
    "tests": [
        {
            "id": "test.shop.not_null_fct_orders_amount_cents.1",
            "name": "not_null_fct_orders_amount_cents",
            "kind": "data",
            "table": _MART,
            "column": "amount_cents",
            "description": "Every order was paid.",
            "results": [
                {"run_id": "r1", "at": RUN_AT.format(8), "status": "fail", "failures": 2, "message": "Got 2 results"}
            ],
        },
        {
            "id": "freshness.shop.raw.crm__orders",
            "name": "crm__orders is fresh",
            "kind": "freshness",
            "table": _RAW,
            "results": [{"run_id": "r1", "at": RUN_AT.format(10), "status": "pass"}],
        },
        {"id": "test.shop.assert_all.2", "name": "assert_all", "kind": "data", "results": []},
    ],
    "table_edges": [
        {"source": _STREAM, "target": _RAW},
        {"source": _RAW, "target": _STAGED},
        {"source": _STAGED, "target": _MART},
    ],
    "column_edges": [
        _edge(_STREAM, "id", _RAW, "id", "copy"),
        _edge(_RAW, "id", _STAGED, "order_id", "copy"),
        _edge(_RAW, "amount", _STAGED, "amount_cents", "transform"),
        _edge(_STAGED, "order_id", _MART, "order_id", "copy"),
        _edge(_STAGED, "amount_cents", _MART, "amount_cents", "copy"),
        _edge(_STAGED, "order_id", _MART, "*", "filter"),
        _edge(_STAGED, None, _MART, "note", "unknown"),
        _edge(_STAGED, "gone", _MART, "note", "copy"),
    ],
    "consumers": [
        {
            "name": "review",
            "kind": "notebook",
            "label": "Review",
            "url": "https://x.example.com/r",
            "depends_on": [_MART],
        }
    ],
    "pipelines": [
        {
            "name": "daily",
            "description": "Everything.",
            "schedule": "0 5 * * *",
            "sensors": ["new_files"],
            "tables": [_RAW, _STAGED, _MART],
        }
    ],
    "runs": [
        {
            "run_id": "r1",
            "job": "daily",
            "status": "failed",
            "started_at": RUN_AT.format(0),
            "duration_s": 12.0,
            "git_commit": "abc",
            "url": "https://dagster.example.com/runs/r1",
            "steps": [
                {
                    "name": "crm",
                    "status": "success",
                    "started_at": RUN_AT.format(0),
                    "duration_s": 2.0,
                    "outputs": {_RAW: 11},
                    "rows": {_RAW: 40},
                },
                {
                    "name": "dbt",
                    "status": "failed",
                    "started_at": RUN_AT.format(3),
                    "duration_s": 6.0,
                    "inputs": {_RAW: 11},
                    "error": "not_null failed",
                },
            ],
        }
    ],
}
