"""Assets that are not SQL: the repeat-purchase forecast, in pandas.

Belongs here: Dagster's side of it. The model itself is in ``forecast``, which knows no Dagster.
"""

from collections.abc import Iterator

import dagster as dg
import pandas as pd
from dml_platform.lake.reporting import RETRY_POLICY, failures, picture

OWNER = "sales-data@example.com"
FORECAST = dg.AssetKey(["sales", "marts", "customer_forecast"])

_CUSTOMER, _DAY = (
    dg.TableColumnDep(asset_key=dg.AssetKey(["sales", "marts", "fct_purchases"]), column_name=name)
    for name in ("customer_id", "purchased_date")
)
# A customer's history is their days with a purchase; the model is fitted to all histories together.
LINEAGE = dg.TableColumnLineage(
    deps_by_column={
        "customer_id": [_CUSTOMER],
        "as_of_date": [_DAY],
        "horizon_weeks": [],
        "repeat_day_count": [_CUSTOMER, _DAY],
        "recency_weeks": [_CUSTOMER, _DAY],
        "age_weeks": [_CUSTOMER, _DAY],
        "alive_probability": [_CUSTOMER, _DAY],
        "expected_purchases": [_CUSTOMER, _DAY],
    }
)


@dg.asset(
    key=FORECAST,
    ins={"purchases": dg.AssetIn(key=dg.AssetKey(["sales", "marts", "fct_purchases"]))},
    group_name="marts",
    owners=[OWNER],
    kinds={"pandas", "iceberg"},
    metadata={"write_mode": "table", "dagster/column_lineage": LINEAGE},
    retry_policy=RETRY_POLICY,
    check_specs=[
        dg.AssetCheckSpec(
            "forecast_is_close",
            asset=FORECAST,
            description="Fitted to the first weeks, it misses the total of the rest by no more than params.yaml says.",
        )
    ],
    description=(
        "Purchases expected in the weeks after the history ends (params.yaml: 12), one row per customer. "
        "BG/NBD model (Fader, Hardie and Lee 2005)."
    ),
)
def purchase_forecast(purchases: pd.DataFrame) -> Iterator[dg.MaterializeResult]:
    """Fit the model to the whole history and forecast every customer."""
    from project_sales.forecast import make_forecast
    from project_sales.params import read_params
    from project_sales.plots import draw_tracking

    with failures():
        params = read_params().forecast
        made = make_forecast(purchases, horizon_weeks=params.horizon_weeks, calibration_weeks=params.calibration_weeks)
        model, holdout = made.model, made.holdout
        plot = picture(draw_tracking(holdout))
    # Yielded: Dagster compares a returned result with others, and frames do not compare.
    yield dg.MaterializeResult(
        value=made.forecast,
        metadata={
            "model": {"r": model.r, "alpha_weeks": model.alpha, "a": model.a, "b": model.b},
            "holdout": holdout.metrics,
            "total_error_pct": holdout.metrics["total_error_pct"],
            "plot": plot,
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="forecast_is_close",
                passed=abs(holdout.metrics["total_error_pct"]) <= params.max_total_error_pct,
                severity=dg.AssetCheckSeverity.WARN,
                metadata=holdout.metrics,
            )
        ],
    )
