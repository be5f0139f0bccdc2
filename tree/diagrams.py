#!/usr/bin/env python3
"""Draws the Mermaid diagrams of all papers as pictures, so that the site needs no script of another host.

    npm pack mermaid@11.17.2 && tar -xzf mermaid-11.17.2.tgz
    tree/diagrams.py package/dist/mermaid.min.js

Writes docs/images/diagram-*.svg and removes those of diagrams that are gone. Only for who changes a diagram: the
pictures are in git, and a test says when one is missing. Needs Chromium, and playwright from the environment of ./dml.
"""

from __future__ import annotations

import re
import shutil
import sys

from playwright.sync_api import sync_playwright
from site_pages import DIAGRAM, ROOT, papers_of_the_tree, picture_uri

LOOK = "{startOnLoad: false, theme: 'neutral', htmlLabels: false, deterministicIds: true}"
DRAW = f"async text => {{ mermaid.initialize({LOOK}); return (await mermaid.render('diagram', text)).svg }}"


def main(arguments: list[str]) -> int:
    """Draw all; the exit code."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    wanted = {
        ROOT / "docs" / picture_uri(text): text
        for name in [*papers_of_the_tree(), *(p.relative_to(ROOT) for p in (ROOT / "docs").rglob("*.md"))]
        for text in DIAGRAM.findall((ROOT / name).read_text(encoding="utf-8"))
    }
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        page.add_script_tag(path=arguments[0])
        for path, text in wanted.items():
            drawn = str(page.evaluate(DRAW, text))
            # On a dark page the lines would be lost without a ground.
            path.write_text(re.sub(r'(<svg[^>]*style=")', r"\1background:#fff;", drawn, count=1) + "\n")
        browser.close()
    for path in (ROOT / "docs" / "images").glob("diagram-*.svg"):
        if path not in wanted:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
