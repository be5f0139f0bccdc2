"""Plots of the marts, shared by the notebook and by the assets' metadata.

Belongs here: functions from a mart's data frame to a matplotlib figure. Does not belong here: reading, computing.
Figures are made without pyplot, so nothing is global and no display is needed. Import this module late: matplotlib is
slow to import.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from project_sales.forecast import HoldoutCheck


def draw_revenue(daily: pd.DataFrame) -> Figure:
    """Draw revenue by week, what customers paid on their first day apart from repeat purchases.

    Args:
        daily: ``fct_daily_revenue``.
    """
    figure, axes = _make_axes("Revenue a week, US dollars")
    table = daily.assign(revenue_date=pd.to_datetime(daily["revenue_date"])).set_index("revenue_date")
    # Weeks are counted from the first day of the history, as in the forecast: none but the last can be cut short.
    weekly = table[["revenue_cents", "repeat_revenue_cents"]].resample("7D").sum() / 100
    axes.fill_between(weekly.index, weekly["repeat_revenue_cents"], color="tab:blue", label="repeat purchases")
    axes.fill_between(
        weekly.index,
        weekly["repeat_revenue_cents"],
        weekly["revenue_cents"],
        color="lightsteelblue",
        label="first day",
    )
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def draw_retention(cohorts: pd.DataFrame) -> Figure:
    """Draw the share of each cohort that bought again, month by month, as a heat map.

    Args:
        cohorts: ``customer_cohorts``.
    """
    figure, axes = _make_axes("Customers who bought in a month, % of their cohort", height=2.6)
    later = cohorts[cohorts["months_since_first"] > 0]
    table = later.pivot(index="cohort_month_date", columns="months_since_first", values="retention_pct")
    cells = table.to_numpy(dtype=float)
    image = axes.imshow(cells, aspect="auto", cmap="Blues", vmin=0)
    for (row, column), value in np.ndenumerate(cells):
        if not np.isnan(value):
            color = "white" if value > 0.6 * np.nanmax(cells) else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(table.columns)), [str(month) for month in table.columns])
    axes.set_yticks(range(len(table)), [f"{pd.Timestamp(month):%b %Y}" for month in table.index])
    axes.set_xlabel("months since the first purchase")
    figure.colorbar(image, ax=axes)
    return figure


def draw_segments(rfm: pd.DataFrame) -> Figure:
    """Draw each segment's share of the customers beside its share of the revenue.

    Args:
        rfm: ``customer_rfm``.
    """
    figure, axes = _make_axes("Segments, % of customers and of revenue")
    table = rfm.groupby("segment").agg(customers=("customer_id", "size"), revenue=("revenue_cents", "sum"))
    table = (100 * table / table.sum()).sort_values("revenue")
    position = np.arange(len(table))
    axes.barh(position + 0.2, table["customers"], height=0.4, color="lightsteelblue", label="customers")
    axes.barh(position - 0.2, table["revenue"], height=0.4, color="tab:blue", label="revenue")
    axes.set_yticks(position, [str(segment) for segment in table.index])
    axes.legend()
    return figure


def draw_tracking(check: HoldoutCheck) -> Figure:
    """Draw cumulative repeat purchases by week, as they were and as the model expected them."""
    figure, axes = _make_axes("Cumulative repeat purchases")
    axes.plot(check.weekly["week"], check.weekly["actual"], color="black", label="actual")
    axes.plot(check.weekly["week"], check.weekly["expected"], "--", color="tab:blue", label="BG/NBD")
    axes.axvline(check.calibration_weeks, color="grey", linewidth=0.8)
    axes.set_xlabel(f"week (the model saw {check.calibration_weeks})")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def draw_frequency(check: HoldoutCheck) -> Figure:
    """Draw purchases in the held-out weeks by number of repeat purchases before, actual and expected."""
    figure, axes = _make_axes("Mean purchases of a customer in the held-out weeks")
    table = check.by_frequency
    position = np.arange(len(table))
    axes.bar(position - 0.2, table["actual_mean"], width=0.4, color="black", label="actual")
    axes.bar(position + 0.2, table["expected_mean"], width=0.4, color="tab:blue", label="BG/NBD")
    axes.set_xticks(position, table["bucket"].tolist())
    axes.set_xlabel("repeat purchases in the calibration weeks")
    axes.legend()
    return figure


def _make_axes(title: str, *, height: float = 4.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes
