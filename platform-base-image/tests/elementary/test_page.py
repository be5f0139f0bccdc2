"""Elementary's page where a server shows it: without an origin, so that a browser refuses its scripts any storage."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser
from report_browser import browser

from dml_platform.elementary.report import with_storage

__all__ = ["browser"]

ADDRESS = "https://data.example.com/reports/shop/elementary/report.html"
# What Elementary's scripts do before they draw anything.
PAGE = """<!DOCTYPE html><html><head><title>x</title></head><body>nothing drawn<script>
localStorage.setItem("seen", 7);
sessionStorage.setItem("gone", "x"); sessionStorage.removeItem("gone");
const kept = [localStorage.getItem("seen"), localStorage.getItem("other"), localStorage.length, localStorage.key(0)];
document.body.textContent = JSON.stringify([...kept, sessionStorage.getItem("gone")]);
</script></body></html>"""
WITHOUT_ORIGIN = {"Content-Security-Policy": "sandbox allow-scripts", "Content-Type": "text/html; charset=utf-8"}


def drawn(browser: Browser, page: str, headers: dict[str, str]) -> str:
    context = browser.new_context()
    try:
        context.route(ADDRESS, lambda route: route.fulfill(body=page, headers=headers))
        opened = context.new_page()
        opened.goto(ADDRESS)
        return opened.inner_text("body")
    finally:
        context.close()


@pytest.mark.integration
def test_page_draws_itself_where_the_browser_gives_it_no_storage(browser: Browser) -> None:
    assert drawn(browser, PAGE, WITHOUT_ORIGIN) == "nothing drawn"
    assert drawn(browser, with_storage(PAGE), WITHOUT_ORIGIN) == '["7",null,1,"seen",null]'


@pytest.mark.integration
def test_page_keeps_the_browsers_own_storage_where_it_has_one(browser: Browser) -> None:
    page = with_storage(PAGE).replace("JSON.stringify([", "JSON.stringify([String(localStorage),")
    [kind, *values] = drawn(browser, page, {"Content-Type": "text/html"}).strip("[]").split(",")
    assert (kind, values[0]) == ('"[object Storage]"', '"7"')
