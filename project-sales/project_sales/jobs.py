"""When things run: everything daily, and at once when a file is dropped."""

import hashlib
from pathlib import Path

import dagster as dg

DROP_FOLDER = Path(__file__).parents[1] / "data" / "drop"

daily = dg.define_asset_job(
    "daily",
    selection=dg.AssetSelection.all(),
    description="Ingest every source, build and test the models, publish, forecast.",
)

daily_schedule = dg.ScheduleDefinition(
    name="daily_schedule", job=daily, cron_schedule="0 5 * * *", execution_timezone="UTC"
)


@dg.sensor(name="new_files", job=daily, minimum_interval_seconds=30)
def new_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Run when the files of the drop folder changed; one run for all that came since the last look."""
    listing = "\n".join(
        f"{path.relative_to(DROP_FOLDER)} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for path in sorted(DROP_FOLDER.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    )
    seen = hashlib.sha256(listing.encode()).hexdigest()
    if seen == context.cursor:
        return dg.SkipReason("no new files")
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=f"drop-{seen[:16]}")], cursor=seen)
