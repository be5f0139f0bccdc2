"""What people are told of a table that is published already."""

from __future__ import annotations

import logging

import pandas as pd
import pytest
from lake_steps import REF, write

from dml_platform.lake import Lake
from dml_platform.lake.reporting import table_metadata


def test_a_plot_that_raises_is_a_warning_and_does_not_fail_the_step(
    local_lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    write(local_lake, "select 1 as id")

    def draw(_rows: pd.DataFrame) -> None:
        raise KeyError("revenue_cents")

    with caplog.at_level(logging.WARNING):
        found = table_metadata(local_lake, [local_lake.pin(REF)], plots={REF.name: draw})[REF.dotted]  # type: ignore[dict-item]
    assert found["plot_error"] == "KeyError: 'revenue_cents'"
    assert found["dagster/row_count"] == 1
    assert "| 1 |" in found["preview"].value
    assert "plot" not in found
    assert "the plot of sales.marts.fct_orders could not be made: KeyError: 'revenue_cents'" in caplog.text


def test_a_plot_that_does_not_exist_is_a_warning(local_lake: Lake) -> None:
    write(local_lake, "select 1 as id")
    found = table_metadata(local_lake, [local_lake.pin(REF)], plots={REF.name: "no_such_module:draw"})[REF.dotted]
    assert found["plot_error"] == "ModuleNotFoundError: No module named 'no_such_module'"


def test_a_preview_that_cannot_be_read_is_a_warning(local_lake: Lake) -> None:
    write(local_lake, "select 1 as id")
    pinned = local_lake.pin(REF)
    for path in (local_lake.settings.home / "lake" / "warehouse").rglob("*.parquet"):
        path.unlink()
    found = table_metadata(local_lake, [pinned])[REF.dotted]
    assert "preview" not in found
    assert "No files found" in found["preview_error"]


def test_rows_are_shown_only_where_asked_for(local_lake: Lake) -> None:
    write(local_lake, "select 'ada@example.com' as email")
    found = table_metadata(local_lake, [local_lake.pin(REF)], preview=False)[REF.dotted]
    assert found["dagster/row_count"] == 1
    assert [column.name for column in found["dagster/column_schema"].columns] == ["email"]
    assert "ada@example.com" not in str(found)
