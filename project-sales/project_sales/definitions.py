"""What Dagster loads: the sources of ``config/``, the models of ``dbt/`` and what this package adds."""

from __future__ import annotations

from pathlib import Path

from dml_platform.definitions import build_definitions

from project_sales.assets import purchase_forecast
from project_sales.jobs import daily, daily_schedule, new_files

defs = build_definitions(
    Path(__file__).parents[1],
    assets=[purchase_forecast],
    jobs=[daily],
    schedules=[daily_schedule],
    sensors=[new_files],
    plots={
        "fct_daily_revenue": "project_sales.plots:draw_revenue",
        "customer_cohorts": "project_sales.plots:draw_retention",
        "customer_rfm": "project_sales.plots:draw_segments",
    },
)
