"""Assets that are not SQL: the repeat-purchase forecast, in pandas.

Belongs here: Dagster's side of it. The model itself is in ``forecast``, which knows no Dagster.
"""

from collections.abc import Iterator

import dagster as dg
import pandas as pd
from dml_platform.core.errors import PermanentError
from dml_platform.lake.reporting import RETRY_POLICY, failures, picture

OWNER = "sales-data@example.com"
FORECAST = dg.AssetKey(["sales", "marts", "customer_forecast"])
HORIZON_WEEKS = 12
MAX_TOTAL_ERROR_PCT = 20.0

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
            description=f"Fitted to 39 weeks, it misses the total of the rest by at most {MAX_TOTAL_ERROR_PCT:.0f}%.",
        )
    ],
    description=(
        f"Purchases expected in the {HORIZON_WEEKS} weeks after the history ends, one row per customer. "
        "BG/NBD model (Fader, Hardie and Lee 2005)."
    ),
)
def purchase_forecast(purchases: pd.DataFrame) -> Iterator[dg.MaterializeResult]:
    """Fit the model to the whole history and forecast every customer."""
    from project_sales.forecast import check_holdout, fit_bgnbd, forecast_purchases, summarize_customers
    from project_sales.plots import draw_tracking

    with failures():
        model = fit_bgnbd(summarize_customers(purchases))
        holdout = check_holdout(purchases)
        forecast = forecast_purchases(model, purchases, weeks=HORIZON_WEEKS)
        check_forecast(forecast, customer_count=purchases["customer_id"].nunique())
        plot = picture(draw_tracking(holdout))
    # Yielded: Dagster compares a returned result with others, and frames do not compare.
    yield dg.MaterializeResult(
        value=forecast,
        metadata={
            "model": {"r": model.r, "alpha_weeks": model.alpha, "a": model.a, "b": model.b},
            "holdout": holdout.metrics,
            "total_error_pct": holdout.metrics["total_error_pct"],
            "plot": plot,
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="forecast_is_close",
                passed=abs(holdout.metrics["total_error_pct"]) <= MAX_TOTAL_ERROR_PCT,
                severity=dg.AssetCheckSeverity.WARN,
                metadata=holdout.metrics,
            )
        ],
    )


def check_forecast(forecast: pd.DataFrame, *, customer_count: int) -> None:
    """Refuse a forecast that must not be published: it is written as soon as the asset yields it.

    Raises:
        PermanentError: says what is wrong with its rows.
    """
    expected = forecast["expected_purchases"]
    problems = {
        f"it has {len(forecast):,} rows for {customer_count:,} customers": len(forecast) != customer_count,
        "a customer occurs more than once": forecast["customer_id"].duplicated().any(),
        f"values are missing in {', '.join(forecast.columns[forecast.isna().any()])}": forecast.isna().to_numpy().any(),
        "expected_purchases is negative or infinite": ((expected < 0) | (expected == float("inf"))).any(),
    }
    if found := [problem for problem, is_there in problems.items() if is_there]:
        raise PermanentError(
            f"cannot publish {'.'.join(FORECAST.path)!r}",
            "; ".join(found),
            "Check the newest purchases in fct_purchases and the fitted model; the last forecast is still published.",
        )
