"""The page as text: what is in it, that nothing gets out of it, and its size."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from sample_extremes import EVIL, big_document, empty_document, evil_document
from sample_report import sales_document

from dml_platform.core.document import Document
from dml_platform.report.encode import POINTS, RESULTS, encode
from dml_platform.report.page import SCRIPTS, embed_json, render_report

STATIC = files("dml_platform.report") / "static"


class Elements(HTMLParser):
    """The elements of a page, as a browser's parser finds them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def read_data(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="document">(.*?)</script>', page, re.DOTALL)
    assert match
    data: dict[str, Any] = json.loads(match.group(1))
    return data


def test_nothing_in_a_document_becomes_markup() -> None:
    page = render_report(evil_document())
    plain = Elements()
    plain.feed(render_report(empty_document()))
    evil = Elements()
    evil.feed(page)
    assert [tag for tag, _ in evil.found] == [tag for tag, _ in plain.found]
    assert page.count("</script>") == 2
    assert read_data(page)["description"] == EVIL


def test_snapshot_ids_survive_javascript_and_numbers_are_json() -> None:
    data = read_data(render_report(evil_document()))
    assert data["snapshots"][0] == str(2**63 - 1)
    [column] = data["tables"][0]["columns"]
    assert column["profile"] == {EVIL: EVIL, "mean": None, "sum": str(2**70)}
    assert data["runs"][0]["duration_s"] is None


def test_embedded_json_holds_no_character_that_html_knows() -> None:
    text = embed_json({"a": "</script><!-- & \u2028 \u2029"})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"a": "</script><!-- & \u2028 \u2029"}


def test_policy_allows_this_script_and_style_and_no_address() -> None:
    page = render_report(sales_document())
    match = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert match
    policy = match.group(1)
    assert "default-src 'none'" in policy
    for pattern, name in ((r"<script>(.*)</script>", "script-src"), (r"<style>(.*?)</style>", "style-src")):
        body = re.search(pattern, page, re.DOTALL)
        assert body
        digest = base64.b64encode(hashlib.sha256(body.group(1).encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy
    elements = Elements()
    elements.feed(page)
    assert not [tag for tag, given in elements.found if given.get("src") or tag in ("link", "iframe", "object")]


def test_histories_are_cut_and_say_so() -> None:
    data = encode(big_document(12, days=100))
    test = data["tests"][0]
    assert len(test["statuses"]) == RESULTS
    assert test["results_total"] == 100
    mart = data["tables"][-1]
    assert len(mart["history"]) == POINTS
    assert mart["history_total"] == 98


def test_three_hundred_models_are_at_most_three_megabytes() -> None:
    document = big_document(300)
    assert len(document.tables) == 300
    assert len(document.tests) == 1200
    assert len(render_report(document).encode()) <= 3_000_000


@pytest.mark.parametrize("document", [empty_document(), sales_document()], ids=["empty", "sales"])
def test_a_document_that_went_through_json_makes_the_same_page(document: Document) -> None:
    again = Document.model_validate_json(document.model_dump_json())
    assert render_report(again) == render_report(document)


def test_every_script_is_in_the_page_and_parses() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on the path")
    there = {Path(str(each)).stem for each in STATIC.iterdir() if each.name.endswith(".js")}
    assert there == set(SCRIPTS)
    for name in SCRIPTS:
        done = subprocess.run(
            [node, "--check", str(STATIC / f"{name}.js")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_scripts_never_write_markup() -> None:
    for name in SCRIPTS:
        text = (STATIC / f"{name}.js").read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), name
