"""What Dagster loads. A new release of the project differs in the one constant that the image build replaces."""

import os
import time
from pathlib import Path

import dagster as dg
import pandas as pd
from dml_platform.definitions import build_definitions
from dml_platform.lake.reporting import RETRY_POLICY

RELEASE = os.environ.get("ORDERS_RELEASE", "0")
ROWS_PER_BATCH = 100
TILL = dg.AssetKey(["orders", "raw", "till__orders"])


class Batch(dg.Config):
    """How long a run takes before it writes."""

    wait_s: float = 0.0


@dg.asset(
    key=TILL,
    group_name="raw",
    kinds={"pandas", "iceberg"},
    owners=["orders-data@example.com"],
    metadata={"write_mode": "append"},
    retry_policy=RETRY_POLICY,
    description="One batch of orders a run, marked with the run that brought it.",
)
def till_orders(context: dg.AssetExecutionContext, config: Batch) -> pd.DataFrame:
    """Wait as long as asked, then bring one batch."""
    context.log.info(f"release {RELEASE}, waiting {config.wait_s} s")
    until = time.monotonic() + config.wait_s
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(1.0, left))
    order = pd.RangeIndex(ROWS_PER_BATCH)
    return pd.DataFrame({"batch_id": context.run_id, "order_id": order, "amount_cents": order * 7 + 100})


intake = dg.define_asset_job("intake", selection=[TILL], description="One batch.")
everything = dg.define_asset_job("everything", selection=dg.AssetSelection.all(), description="One batch and the mart.")

every_minute = dg.ScheduleDefinition(
    name="every_minute",
    job=intake,
    cron_schedule="* * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
nightly = dg.ScheduleDefinition(name="nightly", job=everything, cron_schedule="0 3 * * *", execution_timezone="UTC")


@dg.sensor(name="pulse", job=intake, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def pulse(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Count its own ticks and start nothing."""
    count = int(context.cursor or 0) + 1
    return dg.SensorResult(skip_reason=f"tick {count} of release {RELEASE}", cursor=str(count))


defs = build_definitions(
    Path(__file__).parents[1],
    assets=[till_orders],
    jobs=[intake, everything],
    schedules=[every_minute, nightly],
    sensors=[pulse],
)
