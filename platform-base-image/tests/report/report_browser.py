"""A real browser, and pages opened in it from a file, as a person does.

It ends with its module: its event loop would be in the way of what Dagster runs in the same thread.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from dml_platform.core.document import Document
from dml_platform.report import render_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium or google-chrome on the path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_report(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Open a document's page at a route; what it logs, raises or asks the network for fails the test at its end."""
    contexts, complaints = [], []

    def open_report(
        document: Document | str, route: str = "#/", *, width: int = 1280, height: int = 900, dark: bool = False
    ) -> Page:
        text = document if isinstance(document, str) else render_report(document)
        path = tmp_path / f"report{len(contexts)}.html"
        path.write_text(text, encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", lambda asked: _note_request(asked.url, path, complaints))
        page.goto(path.as_uri() + route)
        page.wait_for_selector("main h1")
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert complaints == []


def _note_request(url: str, path: Path, complaints: list[Any]) -> None:
    if not url.startswith((path.as_uri(), "blob:")):
        complaints.append(f"asked for {url}")


def go(page: Page, route: str) -> None:
    """Follow a route as a link would."""
    page.evaluate("route => { location.hash = route; }", route)
    page.wait_for_function("route => location.hash === route && document.title", arg=route)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
