"""The forecast, against the figures that its authors published and against counts made here.

Published figures: Fader, Hardie and Lee (2005), "'Counting Your Customers' the Easy Way", Marketing Science 24 (2):
the parameters and the log-likelihood of the sample of 2,357 customers with 39 weeks of calibration. The worked example
for that sample's first customer is in the authors' note "Implementing the BG/NBD Model for Customer Base Analysis in
Excel".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dml_platform.core.errors import PermanentError
from scipy import integrate, special

from project_sales import forecast

PROJECT = Path(__file__).parents[1]
CALIBRATION_END = pd.Timestamp("1997-09-30")
PUBLISHED = forecast.BgNbd(r=0.243, alpha=4.414, a=0.793, b=2.426, log_likelihood=-9582.4, customer_count=2357)


@pytest.fixture(scope="module")
def purchases() -> pd.DataFrame:
    source = PROJECT / "data" / "drop" / "cdnow" / "cdnow_purchases.csv.gz"
    return pd.read_csv(source, parse_dates=["date"]).rename(columns={"date": "purchased_date"})


@pytest.fixture(scope="module")
def sample(purchases: pd.DataFrame) -> pd.DataFrame:
    """The purchases of the published 1/10th sample."""
    members = pd.read_csv(PROJECT / "tests" / "data" / "cdnow_sample_customers.csv")["customer_id"]
    return purchases[purchases["customer_id"].isin(members)]


@pytest.fixture(scope="module")
def check(purchases: pd.DataFrame) -> forecast.HoldoutCheck:
    return forecast.check_holdout(purchases)


def customers_of(*rows: tuple[int, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["repeat_day_count", "recency_weeks", "age_weeks"])


def test_fit_reproduces_the_published_parameters(sample: pd.DataFrame) -> None:
    customers = forecast.summarize_customers(sample, through=CALIBRATION_END)
    model = forecast.fit_bgnbd(customers)
    assert len(customers) == model.customer_count == PUBLISHED.customer_count
    assert [round(v, 3) for v in (model.r, model.alpha, model.a, model.b)] == [0.243, 4.414, 0.793, 2.426]
    assert round(model.log_likelihood, 1) == PUBLISHED.log_likelihood


def test_expected_purchases_reproduce_the_published_example() -> None:
    customers = customers_of((2, 30.43, 38.86))
    assert forecast.expect_purchases(PUBLISHED, customers, weeks=39).round(3).tolist() == [1.226]


def test_summary_counts_days_not_lines_and_stops_at_the_given_day() -> None:
    purchases = pd.DataFrame(
        {
            "customer_id": [2, 1, 1, 1, 1, 3],
            "purchased_date": ["1997-01-15", "1997-01-01", "1997-01-01", "1997-01-15", "1997-03-01", "1997-02-27"],
        }
    )
    summary = forecast.summarize_customers(purchases, through=pd.Timestamp("1997-01-29"))
    assert summary.to_dict("list") == {
        "customer_id": [1, 2],
        "repeat_day_count": [1, 0],
        "recency_weeks": [2.0, 0.0],
        "age_weeks": [4.0, 2.0],
    }


def test_log_likelihood_gradient_agrees_with_differences() -> None:
    x, t_x, age = np.array([0.0, 1.0, 7.0, 170.0]), np.array([0.0, 0.2, 30.0, 77.0]), np.array([39.0, 39.0, 38.5, 77.5])
    at = np.array([0.243, 4.414, 0.793, 2.426])
    _, gradient = forecast._log_likelihood(at, x, t_x, age)
    for index in range(4):
        step = np.zeros(4)
        step[index] = 1e-6 * at[index]
        above, below = (forecast._log_likelihood(at + sign * step, x, t_x, age)[0] for sign in (1, -1))
        assert gradient[index] == pytest.approx((above - below) / (2 * step[index]), rel=1e-5, abs=1e-6)


def test_likelihood_agrees_with_integrating_over_customers() -> None:
    """The model's definition, integrated numerically over the purchase rate and the drop-out probability."""
    r, alpha, a, b = 0.6, 4.0, 0.8, 2.4
    x, t_x, age = 3, 20.0, 30.0

    def density(p: float, rate: float) -> float:
        stayed = (1 - p) ** x * rate**x * np.exp(-rate * age)
        left = p * (1 - p) ** (x - 1) * rate**x * np.exp(-rate * t_x)
        gamma = alpha**r * rate ** (r - 1) * np.exp(-rate * alpha) / special.gamma(r)
        beta = p ** (a - 1) * (1 - p) ** (b - 1) / special.beta(a, b)
        return (stayed + left) * gamma * beta

    integral, _ = integrate.dblquad(density, 0, 5, 0, 1, epsrel=1e-7)
    value, _ = forecast._log_likelihood(np.array([r, alpha, a, b]), np.array([x]), np.array([t_x]), np.array([age]))
    assert value[0] == pytest.approx(np.log(integral), abs=1e-4)


def test_expected_purchases_agree_with_the_papers_form() -> None:
    customers = customers_of((0, 0.0, 39.0), (1, 5.0, 39.0), (7, 29.4, 38.9), (40, 30.0, 70.0))
    model, weeks = PUBLISHED, 12.0
    x, t_x, age = (customers[c].to_numpy(dtype=float) for c in customers)
    c = model.a + model.b + x - 1
    z = weeks / (model.alpha + age + weeks)
    series = special.hyp2f1(model.r + x, model.b + x, c, z)
    top = c / (model.a - 1) * (1 - (1 - z) ** (model.r + x) * series)
    odds = model.a / (model.b + x - 1) * ((model.alpha + age) / (model.alpha + t_x)) ** (model.r + x)
    paper = top / (1 + np.where(x > 0, odds, 0))
    np.testing.assert_allclose(forecast.expect_purchases(model, customers, weeks=weeks), paper, rtol=1e-10)


def test_expected_purchases_stay_finite_in_extreme_histories() -> None:
    customers = customers_of((0, 0.0, 0.0), (2000, 1.0, 500.0), (2000, 500.0, 500.0), (1, 0.14, 5000.0))
    for a in (0.793, 1.0, 3.5):
        model = forecast.BgNbd(0.243, 4.414, a, 2.426, 0.0, 0)
        expected = forecast.expect_purchases(model, customers, weeks=12)
        alive = forecast.estimate_alive(model, customers)
        assert np.isfinite(expected).all()
        assert (expected >= 0).all()
        assert alive.between(0, 1).all()


def test_forecast_has_one_row_for_each_customer(purchases: pd.DataFrame) -> None:
    model = forecast.fit_bgnbd(forecast.summarize_customers(purchases))
    table = forecast.forecast_purchases(model, purchases, weeks=12)
    assert table["customer_id"].tolist() == list(range(1, 23571))
    assert not table.isna().to_numpy().any()
    assert {str(day) for day in table["as_of_date"]} == {"1998-06-30"}
    assert table["alive_probability"].between(0, 1).all()
    assert (table["expected_purchases"] >= 0).all()


def test_holdout_counts_are_those_of_the_file(purchases: pd.DataFrame, check: forecast.HoldoutCheck) -> None:
    days = set(zip(purchases["customer_id"], purchases["purchased_date"], strict=True))
    late = sum(1 for _, day in days if day > CALIBRATION_END)
    assert check.metrics["actual_purchases"] == late == check.by_frequency["actual_sum"].sum()
    assert check.weekly["week"].tolist() == list(range(1, 79))
    assert check.weekly["actual"].iloc[-1] == len(days) - 23570
    assert check.weekly["actual"].iloc[38] == len(days) - 23570 - late


def test_model_beats_extrapolating_each_customers_own_rate(check: forecast.HoldoutCheck) -> None:
    metrics = check.metrics
    assert abs(metrics["total_error_pct"]) < 15
    assert metrics["tracking_mape_pct"] < 5
    assert metrics["mae_purchases"] < 0.85 < metrics["naive_mae_purchases"]
    assert abs(metrics["naive_total_error_pct"]) > 40


def test_model_sees_nothing_of_the_held_out_weeks(purchases: pd.DataFrame, check: forecast.HoldoutCheck) -> None:
    early = purchases[purchases["purchased_date"] <= CALIBRATION_END]
    assert forecast.fit_bgnbd(forecast.summarize_customers(early, through=CALIBRATION_END)) == check.model


def test_history_without_repeats_is_refused() -> None:
    with pytest.raises(PermanentError, match=r"cannot fit BG/NBD to 1 customers: none has bought on more than one day"):
        forecast.fit_bgnbd(customers_of((0, 0.0, 10.0)))


def test_missing_date_is_refused() -> None:
    purchases = pd.DataFrame({"customer_id": [1, 2], "purchased_date": [pd.Timestamp("1997-01-01"), pd.NaT]})
    with pytest.raises(PermanentError, match="a customer_id or purchased_date is missing"):
        forecast.summarize_customers(purchases)


def test_calibration_longer_than_the_history_is_refused(sample: pd.DataFrame) -> None:
    with pytest.raises(PermanentError, match="the purchases end on 1998-06-30, the calibration on"):
        forecast.check_holdout(sample, calibration_weeks=80)
