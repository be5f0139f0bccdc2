#!/usr/bin/env python3
"""Takes the pictures of docs/tutorial.md: the report's page and Dagster's lineage of what the reader made.

    tree/tutorial.py --keep FOLDER && tree/pictures.py FOLDER/dml

Writes docs/images/*.png. Needs Chromium, and playwright from the environment of ./dml.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
SIZE = {"width": 1200, "height": 720}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def take_report(page: Page, dml: Path) -> None:
    """The page of the table that the tutorial published."""
    report = dml.parent / ".dml" / "report" / "picture.html"
    subprocess.run([dml, "report", "--no-open", "--output", report], cwd=dml.parent, check=True)
    page.goto(f"{report.as_uri()}#/table/sales.marts.fct_weekly_revenue")
    page.get_by_text("fct_weekly_revenue").first.wait_for()
    page.screenshot(path=IMAGES / "report.png")


def take_lineage(page: Page, dml: Path) -> None:
    """What Dagster knows of it: what it is made from, and that its checks passed."""
    port = free_port()
    subprocess.run([dml, "up", "--detach", "--port", str(port)], cwd=dml.parent, check=True)
    try:
        page.goto(f"http://127.0.0.1:{port}/assets/sales/marts/fct_weekly_revenue?view=lineage")
        page.get_by_text("4 / 4 Passed").wait_for(timeout=120_000)
        page.screenshot(path=IMAGES / "lineage.png")
    finally:
        subprocess.run([dml, "down"], cwd=dml.parent, check=True)


def main(arguments: list[str]) -> int:
    """Take both; the exit code."""
    if len(arguments) != 1 or not (Path(arguments[0]) / "dml").exists():
        print(__doc__, file=sys.stderr)
        return 2
    dml = Path(arguments[0]).resolve() / "dml"
    for name in [name for name in os.environ if name.startswith("DML_") and name != "DML_PYTHON"]:
        del os.environ[name]
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        take_report(page, dml)
        take_lineage(page, dml)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
