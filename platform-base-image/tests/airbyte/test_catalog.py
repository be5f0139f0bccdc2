"""Streams and schemas as tables and types."""

from __future__ import annotations

from typing import Any

import pytest

from dml_platform.airbyte.catalog import configured_catalog, duckdb_type, plan_streams, table_name
from dml_platform.airbyte.config import StreamConfig
from dml_platform.core.errors import ConfigError, SourceError


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer"}, "BIGINT"),
        ({"type": ["null", "integer"]}, "BIGINT"),
        ({"type": "number"}, "DOUBLE"),
        ({"type": "number", "airbyte_type": "integer"}, "BIGINT"),
        ({"type": ["integer", "number"]}, "DOUBLE"),
        ({"type": "boolean"}, "BOOLEAN"),
        ({"type": "string"}, "VARCHAR"),
        ({"type": "string", "format": "date"}, "DATE"),
        ({"type": "string", "format": "date-time"}, "TIMESTAMPTZ"),
        ({"type": "string", "format": "date-time", "airbyte_type": "timestamp_with_timezone"}, "TIMESTAMPTZ"),
        ({"type": "string", "format": "date-time", "airbyte_type": "timestamp_without_timezone"}, "TIMESTAMP"),
        ({"type": "string", "format": "time"}, "VARCHAR"),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, "JSON"),
        ({"type": ["null", "array"], "items": {"type": "integer"}}, "JSON"),
        ({"oneOf": [{"type": "null"}, {"type": "integer"}]}, "BIGINT"),
        ({"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]}, "DATE"),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, "JSON"),
        ({"oneOf": [{"type": "string"}, {"type": "string", "format": "date-time"}]}, "VARCHAR"),
        ({"type": "null"}, "JSON"),
        ({"$ref": "#/definitions/x"}, "JSON"),
        ({}, "JSON"),
        (True, "JSON"),
    ],
)
def test_json_schema_becomes_a_type_that_loses_nothing(schema: Any, expected: str) -> None:
    assert duckdb_type(schema) == expected


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ("users", "shop__users"),
        ("OrderItems", "shop__order_items"),
        ("HTTPLogs", "shop__http_logs"),
        ("public.Users", "shop__public_users"),
        ("2024 sales!", "shop__2024_sales"),
    ],
)
def test_stream_names_become_snake_case(stream: str, expected: str) -> None:
    assert table_name("shop", stream) == expected


def stream(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "json_schema": {"properties": {"id": {"type": "integer"}}},
        "supported_sync_modes": ["full_refresh", "incremental"],
        **more,
    }


FULL = StreamConfig(sync_mode="full_refresh")
INCREMENTAL = StreamConfig(sync_mode="incremental")


def test_the_configured_catalog_is_what_the_protocol_asks_for() -> None:
    offered = stream("users", default_cursor_field=["updated_at"], source_defined_primary_key=[["id"]])
    options = StreamConfig(sync_mode="incremental", cursor_field=("created_at",))
    plans = plan_streams("p", "s", [offered], {"users": options})
    assert configured_catalog(plans) == {
        "streams": [
            {
                "stream": offered,
                "sync_mode": "incremental",
                "destination_sync_mode": "append",
                "cursor_field": ["created_at"],
                "primary_key": [["id"]],
            }
        ]
    }


@pytest.mark.parametrize(
    ("offered", "chosen", "error", "message"),
    [
        ([stream("b"), stream("a")], {"c": FULL}, ConfigError, "has no stream 'c'; it has a, b"),
        (
            [stream("a", supported_sync_modes=["full_refresh"])],
            {"a": INCREMENTAL},
            ConfigError,
            "it supports full_refresh, not incremental",
        ),
        ([stream("a")], {"a": INCREMENTAL}, ConfigError, "no cursor of its own"),
        (
            [stream("a", namespace="x"), stream("a", namespace="y")],
            {"a": FULL},
            ConfigError,
            "a in more than one namespace",
        ),
        ([stream("a b"), stream("a_b")], {"a b": FULL, "a_b": FULL}, ConfigError, "would both land in 'p.raw.s__a_b'"),
        (
            [stream("a", json_schema={"properties": {"Id": {}, "id": {}, "_run_id": {}}})],
            {"a": FULL},
            SourceError,
            "its columns _run_id, id differ in case only",
        ),
    ],
)
def test_a_wrong_choice_is_refused_in_words(
    offered: list[dict[str, Any]], chosen: dict[str, StreamConfig], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan_streams("p", "s", offered, chosen)
