"""What is checked of the forecast before it is published."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import pandas as pd
import pytest
from dml_platform.core.errors import PermanentError

from project_sales.assets import purchase_forecast
from project_sales.forecast import check_forecast

GOOD = pd.DataFrame({"customer_id": [1, 2, 3], "alive_probability": [0.1, 0.5, 1.0], "expected_purchases": [0, 0.2, 3]})


def test_a_good_forecast_passes() -> None:
    check_forecast(GOOD, customer_count=3)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda rows: rows[:2], "it has 2 rows for 3 customers"),
        (lambda rows: rows.assign(customer_id=[1, 2, 2]), "a customer occurs more than once"),
        (lambda rows: rows.assign(alive_probability=[None, 0.5, 1.0]), "values are missing in alive_probability"),
        (lambda rows: rows.assign(expected_purchases=[0, -0.1, 3]), "expected_purchases is negative or infinite"),
        (
            lambda rows: rows.assign(expected_purchases=[0, float("inf"), 3]),
            "expected_purchases is negative or infinite",
        ),
    ],
    ids=["lost customer", "doubled customer", "missing value", "negative", "infinite"],
)
def test_a_forecast_that_cannot_be_right_is_refused_in_a_sentence(
    spoil: Callable[[pd.DataFrame], pd.DataFrame], problem: str
) -> None:
    with pytest.raises(PermanentError, match=rf"cannot publish 'sales\.marts\.customer_forecast': {problem}"):
        check_forecast(spoil(GOOD), customer_count=3)


def test_a_refusal_is_a_failure_with_the_sentence_and_is_not_retried() -> None:
    none = pd.DataFrame({"customer_id": [], "purchased_date": []})
    with pytest.raises(dg.Failure, match="cannot summarize purchases: there is none") as caught:
        list(purchase_forecast(none))
    assert not caught.value.allow_retries
