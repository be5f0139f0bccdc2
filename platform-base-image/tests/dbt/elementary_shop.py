"""A small project with a test of Elementary's of each kind, and days that pass: each is a build with its own now.

The lake is all that lives on between them. ``TEST_DBT_PACKAGES_MIRROR`` names the mirror that Elementary comes from.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project, read_project
from dml_platform.core.settings import load_settings
from dml_platform.dbt.packages import install_packages
from dml_platform.dbt.runner import build
from dml_platform.lake import Lake

MIRROR = os.environ.get("TEST_DBT_PACKAGES_MIRROR", "")

ORDERS = TableRef("shop", "raw", "web__orders")
FIRST_DAY = datetime(2026, 9, 1, tzinfo=timezone.utc)
ENABLED = "\"{{ env_var('DBT_HAS_ELEMENTARY', 'false') == 'true' }}\""

FILES = {
    "pyproject.toml": '[project]\nname = "project-shop"\nversion = "0"\n[tool.dml]\nproject = "shop"\n',
    "dbt/dbt_project.yml": """
name: shop
profile: shop
version: "1.0"
flags: {send_anonymous_usage_stats: false}
vars: {custom_run_started_at: "{{ env_var('DBT_NOW') }}"}
models: {shop: {+materialized: lake, +schema: marts}}
""",
    "dbt/profiles.yml": """
shop:
  target: local
  outputs:
    local:
      type: duckdb
      path: ":memory:"
      attach: [{path: ":memory:", alias: shop}]
      database: shop
      schema: staging
      threads: 2
      plugins: [{module: dml_platform.dbt.plugin, alias: lake}]
""",
    "dbt/models/fct_orders.sql": "select * from {{ source('raw', 'web__orders') }}\n",
    "dbt/models/schema.yml": f"""
version: 2
sources:
  - name: raw
    database: shop
    schema: raw
    tables:
      - name: web__orders
        loaded_at_field: ordered_at
        config: {{freshness: {{warn_after: {{count: 2, period: day}}}}}}
        data_tests:
          - elementary.schema_changes: {{config: {{severity: warn, enabled: {ENABLED}}}}}
models:
  - name: fct_orders
    data_tests:
      - elementary.volume_anomalies:
          arguments: {{timestamp_column: ordered_at, time_bucket: {{period: day, count: 1}}}}
          config: {{severity: warn, enabled: {ENABLED}}}
      - elementary.freshness_anomalies:
          arguments: {{timestamp_column: ordered_at, exclude_detection_period_from_training: true}}
          config: {{severity: warn, enabled: {ENABLED}}}
    columns:
      - name: amount_cents
        data_tests:
          - elementary.column_anomalies:
              arguments: {{timestamp_column: ordered_at, column_anomalies: [null_percent, average]}}
              config: {{severity: warn, enabled: {ENABLED}}}
""",
}
KINDS = ("schema_changes", "volume_anomalies", "freshness_anomalies", "column_anomalies")


class Shop:
    """The project, its lake, and days that pass."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch, first_day: datetime) -> None:
        self.project = project
        self.lake = Lake(load_settings(project.root), project.root)
        self._monkeypatch = monkeypatch
        self._first_day = first_day
        self.day = 0

    def land(self, rows: int, *, amount: str = "1000 + hash(i) % 400", extra: str = "") -> None:
        """The orders of a day, spread over it."""
        start = self._first_day + timedelta(days=self.day)
        step = self.lake.step(f"land{self.day + 100}", "land")
        step.write_query(
            ORDERS,
            self.lake.connect(),
            f"SELECT {self.day} * 10000 + i AS order_id, ({amount})::BIGINT AS amount_cents{extra},"
            f" TIMESTAMP '{start:%Y-%m-%d}' + INTERVAL 1 SECOND * (i * 86399 / {rows})::INT AS ordered_at"
            f" FROM range({rows}) AS t(i)",
        )
        step.publish()

    def build(self, *, hours_later: float = 0.5) -> list[str]:
        """Build at the end of the day, or later. Returns: the kinds of tests that found something."""
        self._monkeypatch.setenv("DBT_NOW", self.now(hours_later).isoformat())
        result = build(self.project, self.lake, run_id=f"day{self.day}after{round(hours_later)}h")
        assert result.error is None, result.error
        return sorted({kind for node in result.warned for kind in KINDS if kind in node.name})

    def now(self, hours_later: float) -> datetime:
        """So long after the end of the day."""
        return self._first_day + timedelta(days=self.day + 1, hours=hours_later)


def rows_of(day: int) -> int:
    """Orders of a usual day."""
    return 200 + (day * 37) % 23


def open_shop(root: Path, monkeypatch: pytest.MonkeyPatch, *, first_day: datetime = FIRST_DAY) -> Shop:
    """The project with Elementary in it, and orders of three weeks before its first day.

    A table that begins today is an anomaly to Elementary, which counts the days before it as empty.
    """
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (root.parent / ".dml").mkdir()
    project = read_project(root)
    assert project is not None
    install_packages(project, MIRROR)
    shop = Shop(project, monkeypatch, first_day)
    for shop.day in range(-21, 0):
        shop.land(rows_of(shop.day))
    shop.day = 0
    return shop
