"""The stages of ``dvc.yaml``: ``python -m <this package>.pipeline <stage>``.

Belongs here: reading and writing the stages' files. Does not belong here: anything of the lake or of Dagster.
"""

from __future__ import annotations

import csv
import json
import sys
from datetime import date, timedelta
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


def calendar() -> None:
    """Write each day of the years of ``params.yaml`` with its ISO week and weekday."""
    years = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["calendar"]
    first, last = date(years["first_year"], 1, 1), date(years["last_year"], 12, 31)
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "calendar.csv").open("w", encoding="ascii", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["day_date", "iso_year", "iso_week", "iso_weekday", "is_weekend"])
        for day in days:
            year, week, weekday = day.isocalendar()
            writer.writerow([day.isoformat(), year, week, weekday, str(weekday > 5).lower()])
    metrics = {"day_count": len(days), "weekend_day_count": sum(day.isoweekday() > 5 for day in days)}
    (RESULTS / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


STAGES = {"calendar": calendar}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in STAGES:
        sys.exit(f"usage: {Path(sys.argv[0]).name} {'|'.join(STAGES)}")
    STAGES[sys.argv[1]]()
