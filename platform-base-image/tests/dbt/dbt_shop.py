"""A small dbt project on a lake of its own, written anew for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project, read_project
from dml_platform.core.settings import load_settings
from dml_platform.dbt.manifest import adopt_parsed, keep_parsed
from dml_platform.lake import Lake

ORDERS = TableRef("shop", "raw", "web__orders")

FILES = {
    "pyproject.toml": '[project]\nname = "project-shop"\nversion = "0"\n[tool.dml]\nproject = "shop"\n',
    ".gitignore": "target/\n",
    "dbt/dbt_project.yml": """
name: shop
profile: shop
version: "1.0"
flags: {send_anonymous_usage_stats: false}
models:
  shop:
    staging: {+materialized: view, +schema: staging}
    marts: {+materialized: lake, +schema: marts}
seeds:
  shop: {+schema: seeds}
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
    "dbt/seeds/countries.csv": "code,name\nde,Germany\nfr,France\n",
    "dbt/models/staging/stg_orders.sql": "select * from {{ source('raw', 'web__orders') }}\n",
    "dbt/models/marts/fct_orders.sql": """
select orders.order_id, orders.amount_cents, countries.name as country
from {{ ref('stg_orders') }} as orders
left join {{ ref('countries') }} as countries on orders.country_code = countries.code
""",
    "dbt/models/marts/fct_latest.sql": """
{{ config(write_mode='merge', unique_key='order_id') }}
select order_id, max(amount_cents) as amount_cents, '{{ is_incremental() }}' as was_incremental
from {{ ref('stg_orders') }}
{% if is_incremental() %}
where order_id > (select max(order_id) - 1 from {{ this }})
{% endif %}
group by order_id
""",
    "dbt/models/marts/fct_log.sql": """
{{ config(write_mode='append') }}
select count(*) as order_count from {{ ref('stg_orders') }}
""",
    "dbt/models/schema.yml": """
version: 2
sources:
  - {name: raw, database: shop, schema: raw, tables: [{name: web__orders}]}
models:
  - name: fct_orders
    columns:
      - name: order_id
        data_tests: [unique, not_null]
  - name: fct_latest
    columns:
      - name: was_incremental
        data_tests:
          - accepted_values: {arguments: {values: ['False', 'True']}, config: {severity: warn}}
""",
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The project's folder, in a workspace of its own."""
    root = tmp_path / "project-shop"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / ".dml").mkdir()
    found = read_project(root)
    assert found is not None
    return found


@pytest.fixture
def shop_lake(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The workspace's lake, with three raw orders published; the project is parsed, as an earlier test left it."""
    parsed = tmp_path_factory.getbasetemp() / "parsed shop"
    if not adopt_parsed(project, parsed):
        keep_parsed(project, parsed)
    lake = Lake(load_settings(project.root))
    land_orders(lake, "values (1, 500, 'de'), (2, 700, 'fr'), (3, 900, 'de')", run_id="land1")
    return lake


def land_orders(lake: Lake, values: str, *, run_id: str) -> None:
    """Publish more raw orders."""
    step = lake.step(run_id, "land")
    sql = f"select order_id, amount_cents, country_code from ({values}) as t(order_id, amount_cents, country_code)"
    step.write_query(ORDERS, lake.connect(), sql)
    step.publish()
