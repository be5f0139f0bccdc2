"""The marts, against figures computed here from the source file, in plain Python, and against published ones.

Nothing here shares code or SQL with the project: the file is read with csv and gzip, sums are loops, and the published
tables are read with pyiceberg alone.

Published: Bruce Hardie's note 026, "Notes on the CDNOW Master Data Set" (brucehardie.com), and Fader and Hardie (2001),
"Forecasting Repeat Sales at CDNOW", Interfaces 31 (3, part 2): the whole history up to the end of June 1998 of the
23,570 customers whose first purchase was in the first quarter of 1997. The literature counts 69,659 transactions in it.
"""

from __future__ import annotations

import bisect
import csv
import gzip
from collections import Counter, defaultdict
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pyiceberg.catalog.sql import SqlCatalog

PROJECT = Path(__file__).parents[2]
SOURCE = PROJECT / "data" / "drop" / "cdnow" / "cdnow_purchases.csv.gz"
FIRST_DAY, LAST_DAY = date(1997, 1, 1), date(1998, 6, 30)


class Purchase(NamedTuple):
    customer: int
    day: date
    units: int
    cents: int


@pytest.fixture(scope="module")
def purchases() -> list[Purchase]:
    with gzip.open(SOURCE, "rt", encoding="ascii", newline="") as file:
        return [
            Purchase(
                int(row["customer_id"]),
                date.fromisoformat(row["date"]),
                int(row["units"]),
                int(Decimal(row["dollars"]) * 100),
            )
            for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="module")
def days_of(purchases: list[Purchase]) -> dict[int, list[date]]:
    """The days on which each customer bought, in order, each once."""
    days: dict[int, set[date]] = defaultdict(set)
    for purchase in purchases:
        days[purchase.customer].add(purchase.day)
    return {customer: sorted(found) for customer, found in days.items()}


@pytest.fixture(scope="module")
def catalog(published_lake: Path) -> SqlCatalog:
    return SqlCatalog(
        "dml", uri=f"sqlite:///{published_lake}/lake/catalog.db", warehouse=f"{published_lake}/lake/warehouse"
    )


def read(catalog: SqlCatalog, mart: str) -> list[dict[str, Any]]:
    return catalog.load_table(f"sales.marts.{mart}").scan().to_arrow().to_pylist()


def months_between(earlier: date, later: date) -> int:
    return (later.year - earlier.year) * 12 + later.month - earlier.month


def test_source_file_is_the_published_history(purchases: list[Purchase], days_of: dict[int, list[date]]) -> None:
    assert len(purchases) == 69_659
    assert sorted(days_of) == list(range(1, 23_571))
    first_days = [days[0] for days in days_of.values()]
    assert (min(first_days), max(first_days)) == (FIRST_DAY, date(1997, 3, 25))
    assert max(purchase.day for purchase in purchases) == LAST_DAY


def test_source_file_has_the_totals_that_its_readme_states(purchases: list[Purchase]) -> None:
    assert sum(purchase.cents for purchase in purchases) == 250_031_563
    assert sum(purchase.units for purchase in purchases) == 167_881
    assert sum(purchase.cents == 0 for purchase in purchases) == 80
    assert len(purchases) - len(set(purchases)) == 255


@pytest.mark.integration
def test_fct_purchases_holds_every_purchase_once(catalog: SqlCatalog, purchases: list[Purchase]) -> None:
    rows = read(catalog, "fct_purchases")
    found = Counter((r["customer_id"], r["purchased_date"], r["units"], r["amount_cents"]) for r in rows)
    assert found == Counter(tuple(purchase) for purchase in purchases)
    assert len({row["purchase_id"] for row in rows}) == 69_659
    assert sum(row["amount_cents"] for row in rows) == 250_031_563


@pytest.mark.integration
def test_repeat_flag_is_false_on_first_days_only(catalog: SqlCatalog, days_of: dict[int, list[date]]) -> None:
    for row in read(catalog, "fct_purchases"):
        assert row["is_repeat"] == (row["purchased_date"] != days_of[row["customer_id"]][0])


@pytest.mark.integration
def test_daily_revenue_adds_up_day_by_day(
    catalog: SqlCatalog, purchases: list[Purchase], days_of: dict[int, list[date]]
) -> None:
    revenue: Counter[date] = Counter()
    buyers: dict[date, set[int]] = defaultdict(set)
    for purchase in purchases:
        revenue[purchase.day] += purchase.cents
        buyers[purchase.day].add(purchase.customer)
    newcomers = Counter(days[0] for days in days_of.values())
    expected, day = {}, FIRST_DAY
    while day <= LAST_DAY:
        week = sum(revenue[day - timedelta(days=back)] for back in range(7))
        expected[day] = (revenue[day], len(buyers[day]), newcomers[day], week)
        day += timedelta(days=1)
    found = {
        row["revenue_date"]: (
            row["revenue_cents"],
            row["customer_count"],
            row["new_customer_count"],
            row["revenue_7d_cents"],
        )
        for row in read(catalog, "fct_daily_revenue")
    }
    assert found == expected
    assert len(found) == 546


@pytest.mark.integration
def test_customers_have_their_own_sums_and_the_known_repeat_rate(
    catalog: SqlCatalog, purchases: list[Purchase], days_of: dict[int, list[date]]
) -> None:
    lines: Counter[int] = Counter()
    cents: Counter[int] = Counter()
    for purchase in purchases:
        lines[purchase.customer] += 1
        cents[purchase.customer] += purchase.cents
    rows = read(catalog, "dim_customers")
    assert len(rows) == len({row["customer_id"] for row in rows}) == 23_570
    for row in rows:
        days = days_of[row["customer_id"]]
        assert row["first_purchased_date"] == days[0]
        assert row["second_purchased_date"] == (days[1] if len(days) > 1 else None)
        assert row["last_purchased_date"] == days[-1]
        assert row["cohort_month_date"] == days[0].replace(day=1)
        assert row["purchase_day_count"] == len(days)
        assert row["purchase_count"] == lines[row["customer_id"]]
        assert row["revenue_cents"] == cents[row["customer_id"]]
        assert row["is_repeat_customer"] == (len(days) > 1)
    repeaters = sum(row["is_repeat_customer"] for row in rows)
    assert repeaters == 11_516
    assert round(100 * repeaters / len(rows), 2) == 48.86
    assert sum(row["purchase_count"] == 1 for row in rows) == 11_908


@pytest.mark.integration
def test_every_cohort_keeps_as_many_customers_as_counted_by_hand(
    catalog: SqlCatalog, purchases: list[Purchase], days_of: dict[int, list[date]]
) -> None:
    sizes: Counter[tuple[int, int]] = Counter()
    active: dict[tuple[int, int, int], set[int]] = defaultdict(set)
    cents: Counter[tuple[int, int, int]] = Counter()
    for days in days_of.values():
        sizes[days[0].year, days[0].month] += 1
    for purchase in purchases:
        first = days_of[purchase.customer][0]
        cell = (first.year, first.month, months_between(first, purchase.day))
        active[cell].add(purchase.customer)
        cents[cell] += purchase.cents
    rows = read(catalog, "customer_cohorts")
    assert {(r["cohort_month_date"], r["cohort_size"]) for r in rows} == {
        (date(1997, 1, 1), 7_846),
        (date(1997, 2, 1), 8_476),
        (date(1997, 3, 1), 7_248),
    }
    assert len(rows) == 18 + 17 + 16
    for row in rows:
        month = row["cohort_month_date"]
        cell = (month.year, month.month, row["months_since_first"])
        size = sizes[month.year, month.month]
        assert row["cohort_size"] == size
        assert row["active_customer_count"] == len(active[cell])
        assert row["revenue_cents"] == cents[cell]
        assert row["retention_pct"] == pytest.approx(100 * len(active[cell]) / size)
        if row["months_since_first"] == 0:
            assert row["active_customer_count"] == size


@pytest.mark.integration
def test_rfm_scores_follow_from_ranks_and_steps(
    catalog: SqlCatalog, purchases: list[Purchase], days_of: dict[int, list[date]]
) -> None:
    cents: Counter[int] = Counter()
    for purchase in purchases:
        cents[purchase.customer] += purchase.cents
    last_days = sorted(days[-1] for days in days_of.values())
    amounts = sorted(cents[customer] for customer in days_of)

    def fifth(ordered: list[Any], value: Any) -> int:
        below = bisect.bisect_left(ordered, value)
        return min(5, 1 + 5 * below // (len(ordered) - 1))

    with (PROJECT / "dbt" / "seeds" / "rfm_segments.csv").open(encoding="ascii", newline="") as file:
        segments = {(int(r["recency_score"]), int(r["frequency_score"])): r["segment"] for r in csv.DictReader(file)}
    rows = read(catalog, "customer_rfm")
    assert len(rows) == 23_570
    for row in rows:
        days = days_of[row["customer_id"]]
        frequency = 1 + sum(len(days) >= step for step in (2, 3, 5, 8))
        recency = fifth(last_days, days[-1])
        assert row["recency_days"] == (LAST_DAY - days[-1]).days
        assert row["purchase_day_count"] == len(days)
        assert row["revenue_cents"] == cents[row["customer_id"]]
        assert (row["recency_score"], row["frequency_score"]) == (recency, frequency)
        assert row["monetary_score"] == fifth(amounts, cents[row["customer_id"]])
        assert row["segment"] == segments[recency, frequency]


@pytest.mark.integration
def test_forecast_knows_every_customers_history(catalog: SqlCatalog, days_of: dict[int, list[date]]) -> None:
    rows = read(catalog, "customer_forecast")
    assert len(rows) == len({row["customer_id"] for row in rows}) == 23_570
    for row in rows:
        days = days_of[row["customer_id"]]
        assert row["as_of_date"] == LAST_DAY
        assert row["repeat_day_count"] == len(days) - 1
        assert row["recency_weeks"] == pytest.approx((days[-1] - days[0]).days / 7)
        assert row["age_weeks"] == pytest.approx((LAST_DAY - days[0]).days / 7)
    # Purchases fall slowly by now: the next twelve weeks must look much like the last twelve.
    last_weeks = sum(day > LAST_DAY - timedelta(weeks=12) for days in days_of.values() for day in days)
    assert sum(row["expected_purchases"] for row in rows) == pytest.approx(last_weeks, rel=0.15)


@pytest.mark.integration
def test_shop_purchases_are_the_connectors_and_belong_together(catalog: SqlCatalog) -> None:
    """Counted from the raw records: the connector draws dates up to now, so its figures differ from hour to hour."""
    rows = read(catalog, "fct_shop_purchases")
    records = catalog.load_table("sales.raw.shop__purchases").scan().to_arrow().to_pylist()
    assert len(records) == 1_000
    expected = Counter(
        "returned" if record["returned_at"] else "purchased" if record["purchased_at"] else "in_cart"
        for record in records
    )
    assert len(expected) == 3
    assert Counter(row["status"] for row in rows) == expected
    assert sorted(row["purchase_id"] for row in rows) == list(range(1, 1_001))
    prices = {row["product_id"]: row["price_cents"] for row in read(catalog, "dim_products")}
    users = {row["user_id"] for row in read(catalog, "dim_shop_users")}
    assert (len(prices), len(users)) == (100, 1_000)
    for row in rows:
        assert row["amount_cents"] == prices[row["product_id"]]
        assert row["user_id"] in users
