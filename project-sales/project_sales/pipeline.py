"""The stages of ``dvc.yaml``, from the raw file to exported results: ``python -m project_sales.pipeline <stage>``.

Belongs here: reading and writing the stages' files. Does not belong here: the model, which Dagster's asset shares
(``forecast``), and anything of the lake. Figures are rounded, so that another machine's last digit is no new version.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from project_sales.forecast import make_forecast
from project_sales.params import PARAMS, read_params

ROOT = PARAMS.parent
RAW = ROOT / "data" / "drop" / "cdnow" / "cdnow_purchases.csv.gz"
RESULTS = ROOT / "results"
PURCHASES = RESULTS / "purchases.csv"
FORECAST = RESULTS / "customer_forecast.csv"
DECIMALS = 4


def prepare() -> None:
    """Turn the raw file into purchases with the columns and units of ``fct_purchases``."""
    raw = pd.read_csv(RAW, dtype={"customer_id": "int64", "units": "int64", "dollars": "float64"})
    purchases = pd.DataFrame(
        {
            "customer_id": raw["customer_id"],
            "purchased_date": raw["date"],
            "units": raw["units"],
            "amount_cents": (raw["dollars"] * 100).round().astype("int64"),
        }
    )
    _write_rows(PURCHASES, purchases.sort_values(list(purchases.columns)))


def forecast() -> None:
    """Forecast every customer, and check the model against the held-out weeks: metrics and plots."""
    params = read_params().forecast
    purchases = pd.read_csv(PURCHASES, parse_dates=["purchased_date"])
    made = make_forecast(purchases, horizon_weeks=params.horizon_weeks, calibration_weeks=params.calibration_weeks)
    model = made.model
    _write_rows(FORECAST, made.forecast)
    _write_json(
        RESULTS / "model.json",
        {"r": model.r, "alpha_weeks": model.alpha, "a": model.a, "b": model.b, "customers": model.customer_count},
    )
    _write_json(RESULTS / "metrics.json", made.holdout.metrics)
    _write_rows(RESULTS / "tracking.csv", made.holdout.weekly)
    _write_rows(RESULTS / "frequency.csv", made.holdout.by_frequency[["bucket", "actual_mean", "expected_mean"]])


def export() -> None:
    """Draw the sample of the forecast that leaves the house."""
    params = read_params().export
    forecasts = pd.read_csv(FORECAST)
    count = min(params.sample_customers, len(forecasts))
    sample = forecasts.sample(count, random_state=params.sample_seed).sort_values("customer_id")
    _write_rows(RESULTS / "forecast_sample.csv", sample)


STAGES = {"prepare": prepare, "forecast": forecast, "export": export}


def _write_rows(path: Path, rows: pd.DataFrame) -> None:
    path.parent.mkdir(exist_ok=True)
    rows.to_csv(path, index=False, float_format=f"%.{DECIMALS}f", lineterminator="\n")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    rounded = {name: round(value, DECIMALS) for name, value in content.items()}
    path.write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in STAGES:
        sys.exit(f"usage: python -m project_sales.pipeline {'|'.join(STAGES)}")
    STAGES[sys.argv[1]]()
