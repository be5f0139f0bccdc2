"""Puts the page together: template, style, scripts and the document, all inline.

The page asks no server for anything. Its content security policy says so and names the script and the style by their
hash, so that not even text that got past the escaping could run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from functools import cache
from importlib.resources import files

from dml_platform.core.document import Document
from dml_platform.report.encode import encode

# In this order: a script uses what is above it, and `app` starts the page.
SCRIPTS = (
    "dom",
    "data",
    "format",
    "charts",
    "layout",
    "columns",
    "graph",
    "lineage",
    "health",
    "tables",
    "table",
    "tests",
    "runs",
    "people",
    "search",
    "app",
)
# What could end the script element or open a comment inside it.
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def render_report(document: Document) -> str:
    """One HTML page with everything that the document knows.

    Returns: the page's text; written anywhere, it opens without a server or a network.
    """
    style, script = _style(), _script()
    parts = {
        "TITLE": html.escape(f"{document.project} · data report"),
        "PROJECT": html.escape(document.project),
        "POLICY": (
            f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
            f"script-src '{_hash(script)}'; style-src '{_hash(style)}'"
        ),
        "STYLE": style,
        "DATA": embed_json(encode(document)),
        "SCRIPT": script,
    }
    # One pass: what a part brings is never taken for a place of another.
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda place: parts[place.group(1)], _read("page.html"))


def embed_json(value: object) -> str:
    """JSON that cannot leave the script element it is written into, whatever its texts are."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for unsafe, escaped in _UNSAFE.items():
        text = text.replace(unsafe, escaped)
    # Half of a surrogate pair, as a broken name may hold, is no UTF-8.
    return text.encode("utf-8", errors="replace").decode("utf-8")


@cache
def _style() -> str:
    return _read("style.css") + _read("print.css")


@cache
def _script() -> str:
    body = "\n".join(_read(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{body}\n}})();'


def _read(name: str) -> str:
    return (files("dml_platform.report") / "static" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
