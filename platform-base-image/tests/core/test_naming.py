from __future__ import annotations

import pytest

from dml_platform.core.errors import ConfigError
from dml_platform.core.naming import TableRef


def test_one_name_gives_all_others() -> None:
    ref = TableRef.parse("sales.marts.fct_orders")
    assert ref == TableRef("sales", "marts", "fct_orders")
    assert ref.asset_key == ["sales", "marts", "fct_orders"]
    assert ref.identifier == ("sales", "marts", "fct_orders")
    assert ref.namespace == ("sales", "marts")
    assert ref.path == "sales/marts/fct_orders"
    assert ref.sql == '"sales"."marts"."fct_orders"'
    assert str(ref) == ref.dotted == "sales.marts.fct_orders"
    assert ref.rejects.dotted == "sales.marts.fct_orders__rejects"


@pytest.mark.parametrize("name", ["Orders", "1st", "or-ders", "", "a b", "orders\n", "ö", 'o"; drop'])
def test_part_that_is_not_snake_case_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not lower case letters, digits and underscores") as caught:
        TableRef("sales", "marts", name)
    assert repr(name) in str(caught.value)


def test_unknown_layer_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'gold' is not a layer\.\nUse one of: raw, staging, intermediate, marts"):
        TableRef("sales", "gold", "orders")


@pytest.mark.parametrize(("dotted", "parts"), [("orders", 1), ("marts.orders", 2), ("a.b.c.d", 4)])
def test_name_of_other_than_three_parts_is_refused(dotted: str, parts: int) -> None:
    with pytest.raises(ConfigError, match=f"cannot read table name {dotted!r}: it has {parts} parts"):
        TableRef.parse(dotted)
