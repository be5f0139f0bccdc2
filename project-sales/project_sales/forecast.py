"""Forecast of repeat purchases with the BG/NBD model, in pandas and scipy.

Belongs here: pure functions from a table of purchases to tables and figures of merit. Does not belong here: Dagster,
the lake, files, the environment, plots.

Method: Fader, P. S., Hardie, B. G. S. and Lee, K. L. (2005), "'Counting Your Customers' the Easy Way: An Alternative
to the Pareto/NBD Model", Marketing Science 24 (2), 275-284. A customer buys at a rate of their own (gamma over
customers) until they drop out after some purchase with a probability of their own (beta over customers). Purchases of
one day count once, as in the paper; time is in weeks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from dml_platform.core.errors import PermanentError
from scipy import optimize, special

DAYS_A_WEEK = 7
TOP_BUCKET = 7  # as the paper's plot of conditional expectations joins them


@dataclass(frozen=True)
class BgNbd:
    """A fitted model.

    Attributes:
        r: shape of the purchase rate over customers.
        alpha: its scale, in weeks.
        a: first parameter of the drop-out probability over customers.
        b: its second parameter.
        log_likelihood: at these parameters, for all customers of the fit.
        customer_count: customers of the fit.
    """

    r: float
    alpha: float
    a: float
    b: float
    log_likelihood: float
    customer_count: int


@dataclass(frozen=True)
class HoldoutCheck:
    """How a model that knows the first weeks only does in the weeks after them.

    Attributes:
        model: fitted to the calibration weeks.
        calibration_weeks: how many weeks the fit saw.
        metrics: plain numbers, named with their unit.
        by_frequency: one row per number of repeat purchases in the calibration weeks (the last: that many or more).
        weekly: one row per whole week since the first purchase of all, cumulative repeat purchases.
    """

    model: BgNbd
    calibration_weeks: int
    metrics: dict[str, float]
    by_frequency: pd.DataFrame
    weekly: pd.DataFrame


@dataclass(frozen=True)
class MadeForecast:
    """A forecast of every customer, the model that made it, and how such a model did in weeks it had not seen."""

    forecast: pd.DataFrame
    model: BgNbd
    holdout: HoldoutCheck


def make_forecast(purchases: pd.DataFrame, *, horizon_weeks: int, calibration_weeks: int) -> MadeForecast:
    """Fit the model to the whole history, check it against held-out weeks and forecast every customer.

    Args:
        purchases: columns ``customer_id`` and ``purchased_date``.
        horizon_weeks: how far to look ahead.
        calibration_weeks: weeks that the checked model sees.
    Raises: PermanentError: the model cannot be fitted, or its forecast must not be published.
    """
    model = fit_bgnbd(summarize_customers(purchases))
    holdout = check_holdout(purchases, calibration_weeks=calibration_weeks)
    forecast = forecast_purchases(model, purchases, weeks=horizon_weeks)
    check_forecast(forecast, customer_count=purchases["customer_id"].nunique())
    return MadeForecast(forecast, model, holdout)


def check_forecast(forecast: pd.DataFrame, *, customer_count: int) -> None:
    """Refuse a forecast that must not be published: it is written as soon as the asset yields it.

    Raises: PermanentError: says what is wrong with its rows.
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
            "cannot publish 'sales.marts.customer_forecast'",
            "; ".join(found),
            "Check the newest purchases in fct_purchases and the fitted model; the last forecast is still published.",
        )


def summarize_customers(purchases: pd.DataFrame, *, through: pd.Timestamp | None = None) -> pd.DataFrame:
    """Reduce purchases to what the model needs to know of each customer.

    Args:
        purchases: columns ``customer_id`` and ``purchased_date``, in any order; others are ignored.
        through: last day to look at; the last day with a purchase when not given.
    Returns: one row per customer who bought by then, ordered by ``customer_id``: ``repeat_day_count`` (days with a
        purchase after the first), ``recency_weeks`` (first to last purchase) and ``age_weeks`` (first purchase to
        ``through``).
    Raises: PermanentError: there is no purchase by that day, or a customer or a date is missing.
    """
    days = purchases.loc[:, ["customer_id", "purchased_date"]]
    if days.isna().to_numpy().any():
        raise PermanentError(
            "cannot summarize purchases",
            "a customer_id or purchased_date is missing",
            "Correct the rows: both are tested as not null in fct_purchases.",
        )
    days = days.assign(purchased_date=pd.to_datetime(days["purchased_date"])).drop_duplicates()
    end = days["purchased_date"].max() if through is None else pd.Timestamp(through)
    days = days[days["purchased_date"] <= end]
    if days.empty:
        raise PermanentError(
            "cannot summarize purchases", f"there is none up to {end}", "Give a later day, or land purchases first."
        )
    by_customer = days.groupby("customer_id", sort=True)["purchased_date"]
    table = by_customer.agg(["size", "min", "max"]).reset_index()
    return pd.DataFrame(
        {
            "customer_id": table["customer_id"],
            "repeat_day_count": table["size"] - 1,
            "recency_weeks": (table["max"] - table["min"]).dt.days / DAYS_A_WEEK,
            "age_weeks": (end - table["min"]).dt.days / DAYS_A_WEEK,
        }
    )


def fit_bgnbd(customers: pd.DataFrame) -> BgNbd:
    """Fit the model by maximum likelihood.

    Args:
        customers: as ``summarize_customers`` returns it.
    Raises: PermanentError: nobody bought twice, so that nothing can be estimated, or the search did not converge.
    Source: equation 6 of the paper. The sum runs over distinct histories, each with its number of customers.
    """
    if customers.empty or not (customers["repeat_day_count"] > 0).any():
        raise PermanentError(
            f"cannot fit BG/NBD to {len(customers)} customers",
            "none has bought on more than one day",
            "Give a longer history.",
        )
    columns = ["repeat_day_count", "recency_weeks", "age_weeks"]
    histories = customers.groupby(columns).size().reset_index(name="weight")
    x, t_x, age, weight = (histories[name].to_numpy(dtype=float) for name in [*columns, "weight"])

    def loss(log_parameters: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = np.exp(log_parameters)
        values, gradients = _log_likelihood(parameters, x, t_x, age)
        # By the chain rule a gradient in log(p) is p times the one in p; per customer, so that the scale is even.
        gradient = (gradients * weight).sum(axis=1) * parameters
        return -(values * weight).sum() / weight.sum(), -gradient / weight.sum()

    found = optimize.minimize(
        loss,
        x0=np.log([0.5, 5.0, 1.0, 2.5]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-9.0, 9.0)] * 4,
        options={"ftol": 1e-14, "gtol": 1e-8, "maxiter": 1000},
    )
    if not found.success:
        raise PermanentError(
            f"cannot fit BG/NBD to {len(customers)} customers",
            f"the search stopped without an optimum ({found.message})",
            "Look at the histories: too few repeat purchases leave the parameters undetermined.",
        )
    r, alpha, a, b = np.exp(found.x).tolist()
    return BgNbd(r, alpha, a, b, float(-found.fun * weight.sum()), len(customers))


def estimate_alive(model: BgNbd, customers: pd.DataFrame) -> pd.Series:
    """Return the probability that each customer has not dropped out by the end of their history.

    It is 1 for customers without a repeat purchase: in this model one drops out after a repeat purchase only. Their
    expected purchases are low all the same, because their rate is.

    Source: Fader, Hardie and Lee (2008), "Computing P(alive) Using the BG/NBD Model".
    """
    x = customers["repeat_day_count"].to_numpy(dtype=float)
    return pd.Series(
        1 / (1 + _dropout_odds(model, customers)),
        index=customers.index,
        name="alive_probability",
    ).where(x > 0, 1.0)


def expect_purchases(model: BgNbd, customers: pd.DataFrame, *, weeks: float) -> pd.Series:
    """Return the expected number of purchases of each customer in the weeks after their history.

    Args:
        customers: as ``summarize_customers`` returns it.
        weeks: how far to look ahead.
    Source: equation 10 of the paper, with Pfaff's transformation of its hypergeometric function: the paper's
        ``(1 - z)**A * F(A, B; C; z)`` equals ``F(A, C - B; C; z / (z - 1))`` and stays small where that overflows.
    """
    x = customers["repeat_day_count"].to_numpy(dtype=float)
    age = customers["age_weeks"].to_numpy(dtype=float)
    a = _away_from_one(model.a)
    c = a + model.b + x - 1
    series = special.hyp2f1(model.r + x, a - 1, c, -weeks / (model.alpha + age))
    expected = c / (a - 1) * (1 - series) / (1 + _dropout_odds(model, customers))
    return pd.Series(expected, index=customers.index, name="expected_purchases")


def expect_new_customer(model: BgNbd, weeks: np.ndarray) -> np.ndarray:
    """Return the expected repeat purchases of a customer of whom only the first purchase, ``weeks`` ago, is known.

    Source: equation 9 of the paper, transformed as in ``expect_purchases``.
    """
    a = _away_from_one(model.a)
    c = a + model.b - 1
    return c / (a - 1) * (1 - special.hyp2f1(model.r, a - 1, c, -weeks / model.alpha))


def forecast_purchases(
    model: BgNbd,
    purchases: pd.DataFrame,
    *,
    weeks: int = 12,
    through: pd.Timestamp | None = None,
) -> pd.DataFrame:
    """Forecast each customer's purchases in the next weeks.

    Args:
        purchases: columns ``customer_id`` and ``purchased_date``.
        weeks: horizon of the forecast.
        through: day that the forecast is made on; the last day with a purchase when not given.
    Returns: one row per customer, ordered by ``customer_id``: ``customer_id``, ``as_of_date``, ``horizon_weeks``,
        ``repeat_day_count``, ``recency_weeks``, ``age_weeks``, ``alive_probability``, ``expected_purchases``.
    """
    customers = summarize_customers(purchases, through=through)
    end = pd.to_datetime(purchases["purchased_date"]).max() if through is None else through
    return pd.DataFrame(
        {
            "customer_id": customers["customer_id"],
            "as_of_date": pd.Timestamp(end).date(),
            "horizon_weeks": np.int64(weeks),
            "repeat_day_count": customers["repeat_day_count"],
            "recency_weeks": customers["recency_weeks"],
            "age_weeks": customers["age_weeks"],
            "alive_probability": estimate_alive(model, customers),
            "expected_purchases": expect_purchases(model, customers, weeks=weeks),
        }
    )


def check_holdout(purchases: pd.DataFrame, *, calibration_weeks: int = 39) -> HoldoutCheck:
    """Fit the model to the first weeks and compare it with what happened in the rest.

    Args:
        purchases: columns ``customer_id`` and ``purchased_date``.
        calibration_weeks: weeks from the first purchase of all that the fit may see.
    Raises: PermanentError: no week is left to compare with.
    """
    start = pd.to_datetime(purchases["purchased_date"]).min()
    end = pd.to_datetime(purchases["purchased_date"]).max()
    split = start + pd.Timedelta(days=calibration_weeks * DAYS_A_WEEK - 1)
    if end <= split:
        raise PermanentError(
            "cannot check the forecast",
            f"the purchases end on {end:%Y-%m-%d}, the calibration on {split:%Y-%m-%d}",
            "Give fewer calibration weeks.",
        )
    customers = summarize_customers(purchases, through=split)
    model = fit_bgnbd(customers)
    holdout_weeks = (end - split).days / DAYS_A_WEEK
    whole = summarize_customers(purchases).set_index("customer_id")["repeat_day_count"]
    compared = customers.assign(
        actual=customers["customer_id"].map(whole) - customers["repeat_day_count"],
        expected=expect_purchases(model, customers, weeks=holdout_weeks),
        naive=customers["repeat_day_count"] / customers["age_weeks"].clip(lower=1) * holdout_weeks,
    )
    weekly = _track_weekly(model, purchases, start=start, end=end)
    late = weekly[weekly["week"] > calibration_weeks]
    metrics = {
        "holdout_weeks": holdout_weeks,
        "customers": float(len(compared)),
        "actual_purchases": float(compared["actual"].sum()),
        "expected_purchases": float(compared["expected"].sum()),
        "total_error_pct": _error_pct(compared["expected"].sum(), compared["actual"].sum()),
        "mae_purchases": float((compared["expected"] - compared["actual"]).abs().mean()),
        "naive_total_error_pct": _error_pct(compared["naive"].sum(), compared["actual"].sum()),
        "naive_mae_purchases": float((compared["naive"] - compared["actual"]).abs().mean()),
        "tracking_mape_pct": float(100 * (late["expected"] / late["actual"] - 1).abs().mean()),
    }
    return HoldoutCheck(model, calibration_weeks, metrics, _group_by_frequency(compared), weekly)


def _log_likelihood(
    parameters: np.ndarray, x: np.ndarray, t_x: np.ndarray, age: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-likelihood of each history and its gradient in (r, alpha, a, b).

    The two ways to have got here, alive or dropped out after the last purchase, are added in logarithms, so neither
    can underflow.
    """
    r, alpha, a, b = parameters
    bought = x > 0
    alive = -(r + x) * np.log(alpha + age)
    # x = 0 has no last purchase to drop out after; 1 keeps the logarithm defined there.
    rest = np.where(bought, b + x - 1, 1.0)
    dropped = np.where(bought, np.log(a) - np.log(rest) - (r + x) * np.log(alpha + t_x), -np.inf)
    both = np.logaddexp(alive, dropped)
    share = np.exp(dropped - both)  # of the likelihood, that the customer has dropped out
    value = (
        special.gammaln(r + x)
        - special.gammaln(r)
        + r * np.log(alpha)
        + special.gammaln(a + b)
        + special.gammaln(b + x)
        - special.gammaln(b)
        - special.gammaln(a + b + x)
        + both
    )
    digamma = special.digamma
    in_sum = digamma(a + b) - digamma(a + b + x)
    log_time = (1 - share) * np.log(alpha + age) + share * np.log(alpha + t_x)
    per_time = (1 - share) / (alpha + age) + share / (alpha + t_x)
    gradient = np.vstack(
        [
            digamma(r + x) - digamma(r) + np.log(alpha) - log_time,
            r / alpha - (r + x) * per_time,
            in_sum + share / a,
            in_sum + digamma(b + x) - digamma(b) - share / rest,
        ]
    )
    return value, gradient


def _dropout_odds(model: BgNbd, customers: pd.DataFrame) -> np.ndarray:
    """Return the odds of having dropped out to being alive; 0 without a repeat purchase."""
    x = customers["repeat_day_count"].to_numpy(dtype=float)
    t_x = customers["recency_weeks"].to_numpy(dtype=float)
    age = customers["age_weeks"].to_numpy(dtype=float)
    rest = np.where(x > 0, model.b + x - 1, 1.0)
    exponent = (model.r + x) * (np.log(model.alpha + age) - np.log(model.alpha + t_x))
    # exp(700) is near the largest float; beyond it the customer has surely dropped out.
    return np.where(x > 0, model.a / rest * np.exp(np.minimum(exponent, 700.0)), 0.0)


def _away_from_one(a: float) -> float:
    """Return ``a``, moved off 1, where the closed forms are 0/0 although their limit exists."""
    return a if abs(a - 1) > 1e-6 else 1 + 1e-6


def _track_weekly(model: BgNbd, purchases: pd.DataFrame, *, start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
    """Return actual and expected cumulative repeat purchases at the end of each whole week."""
    days = purchases.loc[:, ["customer_id", "purchased_date"]]
    days = days.assign(day=(pd.to_datetime(days["purchased_date"]) - start).dt.days)
    days = days.drop_duplicates(["customer_id", "day"])
    first = days.groupby("customer_id")["day"].transform("min")
    repeat_days = np.sort(days.loc[days["day"] > first, "day"].to_numpy())
    joined = days.loc[days["day"] == first, "day"].value_counts().sort_index()
    weeks = np.arange(1, ((end - start).days + 1) // DAYS_A_WEEK + 1)
    last_days = weeks * DAYS_A_WEEK - 1
    # One row per week, one column per day on which customers joined: how long they have been here by then.
    age = (last_days[:, None] - joined.index.to_numpy()[None, :]) / DAYS_A_WEEK
    expected = expect_new_customer(model, np.maximum(age, 0.0)) @ joined.to_numpy(dtype=float)
    return pd.DataFrame(
        {
            "week": weeks,
            "actual": np.searchsorted(repeat_days, last_days, side="right"),
            "expected": expected,
        }
    )


def _group_by_frequency(compared: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison by number of repeat purchases in the calibration weeks."""
    top = TOP_BUCKET
    grouped = compared.assign(repeat_day_count=compared["repeat_day_count"].clip(upper=top)).groupby("repeat_day_count")
    table = grouped.agg(
        customer_count=("customer_id", "size"),
        actual_mean=("actual", "mean"),
        expected_mean=("expected", "mean"),
        actual_sum=("actual", "sum"),
        expected_sum=("expected", "sum"),
    ).reset_index()
    bucket = table["repeat_day_count"].map(lambda count: f"{count}+" if count == top else str(count))
    return table.assign(bucket=bucket)


def _error_pct(expected: float, actual: float) -> float:
    """Return how far the total is off, in per cent of what happened."""
    return float(100 * (expected - actual) / actual)
