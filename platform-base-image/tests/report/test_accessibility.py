"""What a keyboard and a screen reader need, checked on every kind of page, light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from report_browser import Open, go
from sample_report import sales_document

pytestmark = pytest.mark.integration

ADDRESSES = [
    "#/",
    "#/tables",
    "#/table/sales.marts.fct_daily_revenue",
    "#/table/sales.raw.shop__users",
    "#/lineage",
    "#/lineage/sales.marts.fct_purchases",
    "#/lineage/sales.marts.fct_daily_revenue/purchase_count",
    "#/tests",
    "#/test/test.sales.unique_fct_purchases_purchase_id",
    "#/runs",
    "#/run/d82c07cd",
    "#/freshness",
    "#/pipelines",
    "#/consumer/sales_review",
    "#/owners",
    "#/owner/Sales%20data",
]
CHECKS = (Path(__file__).parent / "page_checks.js").read_text()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_names_headings_landmarks_targets_and_contrast(open_report: Open, width: int, dark: bool) -> None:
    page = open_report(sales_document(), width=width, dark=dark)
    faults = {}
    for address in ADDRESSES:
        go(page, address)
        expect(page.get_by_role("heading", level=1)).not_to_contain_text("No such")
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.make?.(); each.open = true; })")
        if found := page.evaluate(CHECKS):
            faults[address] = found
    assert faults == {}


def test_checks_find_planted_faults(open_report: Open) -> None:
    page = open_report(sales_document())
    page.evaluate(
        """() => { const main = document.querySelector('main');
        main.insertAdjacentHTML('beforeend', '<h5></h5><h4>x</h4><button></button><p id="main">twice</p>');
        main.querySelector('.lead').style.color = '#999'; }"""
    )
    found = " ".join(page.evaluate(CHECKS))
    for fault in ("no name: <button>", "id main twice", "is followed by 4", "contrast 2."):
        assert fault in found


def test_keys_alone_lead_through_the_page(open_report: Open) -> None:
    page = open_report(sales_document())
    order = []
    for _ in range(14):
        page.keyboard.press("Tab")
        order.append(_focused(page))
    names = [each["name"] for each in order]
    assert names[:4] == ["Skip to the content", "sales", "search", "Switch to dark colours"]
    assert names[4:12] == ["Health", "Tables", "Lineage", "Tests", "Runs", "Freshness", "Pipelines", "Owners"]
    assert names[12] == "Sales data"
    assert all(each["outline"] >= 2 for each in order), order


def test_skip_link_leads_to_the_content(open_report: Open) -> None:
    page = open_report(sales_document())
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert _focused(page)["name"] == "Sales data"


def test_theme_follows_the_system_until_it_is_switched(open_report: Open) -> None:
    page = open_report(sales_document(), dark=True)
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(18, 21, 26)"
    page.get_by_role("button", name="Switch to light colours").click()
    assert page.evaluate(ground) == "rgb(245, 246, 248)"
    page.reload()
    assert page.evaluate(ground) == "rgb(245, 246, 248)"
    expect(page.get_by_role("button", name="Switch to dark colours")).to_be_visible()


def test_charts_say_in_words_what_they_draw(open_report: Open) -> None:
    page = open_report(sales_document())
    expect(page.get_by_role("img", name="Revenue by day: 360 values")).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text("The last 24 runs: 21 succeeded, 2 failed, 1 unchanged")
    page.get_by_text("The values as a table").nth(1).click()
    expect(page.get_by_role("table", name="Customers by segment, values")).to_contain_text("1,830")
    assert page.locator(".runbar.failed").count() == 2
    assert page.locator("a.run > path.stroke.bad").count() == 2


def _focused(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(
        """() => { const at = document.activeElement; return {
        name: at.id === 'search-all' ? 'search' : at.getAttribute('aria-label') || at.textContent,
        outline: parseFloat(getComputedStyle(at).outlineWidth) || 0 }; }"""
    )
    return found
