"""DuckDB's types and the platform's names in OpenMetadata's words."""

from __future__ import annotations

from typing import Any

import pytest

from dml_openmetadata.columns import describe_type
from dml_openmetadata.names import clean, join, mark, split_table, table_fqn


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("BIGINT", {"dataType": "BIGINT"}),
        ("DECIMAL(10,2)", {"dataType": "DECIMAL", "precision": 10, "scale": 2}),
        ("VARCHAR", {"dataType": "VARCHAR", "dataLength": 1}),
        ("TIMESTAMPTZ", {"dataType": "TIMESTAMPZ"}),
        ("TIMESTAMP WITH TIME ZONE", {"dataType": "TIMESTAMPZ"}),
        ("ENUM('a', 'b')", {"dataType": "ENUM"}),
        ("MAP(VARCHAR, INTEGER)", {"dataType": "MAP"}),
        ("INTEGER[3][]", {"dataType": "ARRAY", "arrayDataType": "ARRAY"}),
        ("something new", {"dataType": "UNKNOWN"}),
        (None, {"dataType": "UNKNOWN"}),
    ],
)
def test_a_type_of_duckdb_has_openmetadatas_name(text: str | None, expected: dict[str, Any]) -> None:
    found = describe_type(text)
    assert found.pop("dataTypeDisplay", None) == (text.lower() if text else None)
    assert found == expected


def test_a_struct_has_its_fields_as_children() -> None:
    found = describe_type('STRUCT("first name" VARCHAR, "at, when" STRUCT(a INTEGER, b DECIMAL(3,1))[])[]')
    assert (found["dataType"], found["arrayDataType"]) == ("ARRAY", "STRUCT")
    first, second = found["children"]
    assert (first["name"], first["dataType"]) == ("first name", "VARCHAR")
    assert (second["name"], second["dataType"], second["arrayDataType"]) == ("at, when", "ARRAY", "STRUCT")
    assert [(child["name"], child["dataType"]) for child in second["children"]] == [("a", "INT"), ("b", "DECIMAL")]


def test_a_table_of_the_lake_and_a_source_have_one_name_each() -> None:
    assert table_fqn("dml", "shop.marts.fct_orders") == "dml.shop.marts.fct_orders"
    assert table_fqn("my.lake", "shop.source:crm.orders") == '"my.lake".shop.sources.crm__orders'
    assert split_table("shop.source:files.a.b") == ("shop", "sources", "files__a__b")


def test_names_that_openmetadata_refuses_are_cleaned_and_stay_apart() -> None:
    assert clean("not_null_x") == "not_null_x"
    assert clean("a::b") != clean("a:b")
    assert len(clean("x" * 500)) == 200
    assert join("a.b", 'c"d') == '"a.b"."c\\"d"'
    assert len(mark("shop")) == 32
