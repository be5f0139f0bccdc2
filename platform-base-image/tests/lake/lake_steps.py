"""One-line steps for the tests of the lake; run as a program it is another process that uses the lake."""

from __future__ import annotations

from typing import Any

from dml_platform.core.naming import TableRef
from dml_platform.lake import Lake, Mode

REF = TableRef("sales", "marts", "fct_orders")


def write(lake: Lake, sql: str, mode: Mode = "append", ref: TableRef = REF, **options: Any) -> None:
    """Write and publish one query."""
    step = lake.step("r1", "write")
    step.write_query(ref, lake.connect(), sql, mode=mode, **options)
    step.publish()


def rows(lake: Lake, ref: TableRef = REF) -> list[tuple[Any, ...]]:
    """What readers see, sorted."""
    return sorted(lake.sql(f"select * from {ref.dotted}").fetchall())
