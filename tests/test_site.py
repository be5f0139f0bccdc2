"""The site as somebody opens it who has only the folder: from a file, without a server and without any other host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

SITE = os.environ.get("TEST_SITE")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.skipif(not SITE, reason="the session `docs` builds the site, then runs this"),
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: .ci/run installs it"),
]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def test_the_search_finds_pages_and_asks_no_other_host(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((Path(str(SITE)) / "index.html").as_uri())
    page.click(".md-search__input")
    page.keyboard.type("rollback", delay=20)
    result = page.locator(".md-search-result__link", has_text="Take a bad publish back").first
    expect(result).to_be_visible(timeout=60_000)
    result.click()
    expect(page.locator("h1")).to_contain_text("Take a bad publish back", timeout=60_000)
    assert [url for url in asked if not url.startswith(("file:", "about:", "data:"))] == []


@pytest.mark.parametrize("width", [1280, 400])
def test_no_command_of_the_first_page_is_cut_off(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto((Path(str(SITE)) / "index.html").as_uri())
    sizes = page.evaluate("[...document.querySelectorAll('pre code')].map(e => [e.scrollWidth, e.clientWidth])")
    assert sizes
    assert [(inner, outer) for inner, outer in sizes if inner > outer] == []
