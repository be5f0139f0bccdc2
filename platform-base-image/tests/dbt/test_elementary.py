"""Elementary itself, from a mirror that ``TEST_DBT_PACKAGES_MIRROR`` names: 30 quiet days, then a fault of each kind.

A day is a build with the moment that Elementary takes for now; the lake is all that lives on between them.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

import pytest

from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project, read_project
from dml_platform.core.settings import load_settings
from dml_platform.dbt.packages import install_packages
from dml_platform.dbt.runner import build
from dml_platform.lake import Lake

MIRROR = os.environ.get("TEST_DBT_PACKAGES_MIRROR", "")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(3600),
    # Of strings in Elementary's own macros, and of what Jinja makes of them.
    pytest.mark.filterwarnings("ignore:invalid escape sequence"),
    pytest.mark.skipif(not MIRROR, reason="no mirror of dbt packages: set TEST_DBT_PACKAGES_MIRROR"),
]

ORDERS = TableRef("shop", "raw", "web__orders")
FIRST_DAY = datetime(2026, 9, 1, tzinfo=timezone.utc)
DAYS = int(os.environ.get("TEST_ELEMENTARY_DAYS", "30"))
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
        data_tests:
          - elementary.schema_changes: {{config: {{severity: warn, enabled: {ENABLED}}}}}
models:
  - name: fct_orders
    data_tests:
      - elementary.volume_anomalies:
          arguments: {{timestamp_column: ordered_at, time_bucket: {{period: day, count: 1}}}}
          config: {{severity: warn, enabled: {ENABLED}}}
      - elementary.freshness_anomalies:
          arguments: {{timestamp_column: ordered_at}}
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

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project = project
        self.lake = Lake(load_settings(project.root), project.root)
        self._monkeypatch = monkeypatch
        self.day = 0

    def land(self, rows: int, *, amount: str = "1000 + hash(i) % 400", extra: str = "") -> None:
        """The orders of a day, spread over it."""
        start = FIRST_DAY + timedelta(days=self.day)
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
        """Build at the end of the day. Returns: the kinds of tests that found something."""
        now = FIRST_DAY + timedelta(days=self.day + 1, hours=hours_later)
        self._monkeypatch.setenv("DBT_NOW", now.isoformat())
        result = build(self.project, self.lake, run_id=f"day{self.day}{'late' if hours_later > 1 else ''}")
        assert result.error is None, result.error
        return sorted({kind for node in result.warned for kind in KINDS if kind in node.name})


def rows_of(day: int) -> int:
    return 200 + (day * 37) % 23


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """After 30 clean days, of which each was quiet."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = tmp_path_factory.mktemp("elementary") / "project-shop"
        for name, text in FILES.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (root.parent / ".dml").mkdir()
        project = read_project(root)
        assert project is not None
        install_packages(project, MIRROR)
        shop = Shop(project, pytest.MonkeyPatch())
        # A table that begins today is an anomaly to Elementary, which counts the days before it as empty.
        for shop.day in range(-21, 0):
            shop.land(rows_of(shop.day))
        found = {}
        for shop.day in range(DAYS):
            shop.land(rows_of(shop.day))
            found[shop.day] = shop.build()
        assert {day: kinds for day, kinds in found.items() if kinds} == {}
        monkeypatch.undo()
        shop.day += 1
        return shop


def test_clean_days_are_quiet_and_all_of_their_results_are_kept(shop: Shop) -> None:
    counted = shop.lake.sql(
        "SELECT count(DISTINCT invocation_id), count(*), count(DISTINCT id)"
        " FROM shop.elementary.elementary_test_results"
    ).fetchone()
    assert counted is not None
    runs, results, ids = counted
    assert runs >= DAYS
    assert results == ids >= DAYS * len(KINDS)


def test_each_fault_is_found_by_its_test(shop: Shop) -> None:
    shop.land(20)
    assert "volume_anomalies" in shop.build()
    shop.day += 1
    shop.land(rows_of(shop.day), amount="CASE WHEN i % 2 = 0 THEN 1000 + hash(i) % 400 END")
    assert "column_anomalies" in shop.build()
    shop.day += 1
    shop.land(rows_of(shop.day), extra=", 'de' AS country")
    assert "schema_changes" in shop.build()
    assert "freshness_anomalies" in shop.build(hours_later=36)
