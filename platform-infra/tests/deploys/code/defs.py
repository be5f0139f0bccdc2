"""A code location that is enough to be deployed: what it has and how it breaks is decided by its image's variables."""

import os

import dagster as dg

PROJECT = os.environ.get("CODE_PROJECT", "orders")
BREAK = os.environ.get("CODE_BREAK", "")

if BREAK == "import":
    import a_package_that_is_not_there  # noqa: F401


@dg.asset(key=[PROJECT, "marts", "fct_orders"])
def fct_orders() -> int:
    """One row."""
    return 1


job = dg.define_asset_job("daily", selection="*")
schedules = [
    dg.ScheduleDefinition(name=name, job=job, cron_schedule="0 5 * * *")
    for name in os.environ.get("CODE_SCHEDULES", "daily_schedule").split()
]


@dg.sensor(
    name="often", job=job, minimum_interval_seconds=2, default_status=dg.DefaultSensorStatus(os.environ["CODE_SENSOR"])
)
def often(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Ticks and does nothing."""
    return dg.SkipReason(f"version {os.environ.get('CODE_VERSION')}")


defs = dg.Definitions(assets=[fct_orders], jobs=[job], schedules=schedules, sensors=[often])
