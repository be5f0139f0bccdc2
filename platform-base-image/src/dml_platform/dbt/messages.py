"""What may be told of dbt's messages where many read them: a comment, its JSON, a job's log. No value of a row.

DuckDB names the value that it could not take. Before it reads rows it names columns, tables and pieces of the query
only; afterwards, and in what a query itself raises, a message may hold anything.
"""

from __future__ import annotations

import re

LEFT_OUT = "…"
_BEFORE_ROWS = re.compile(r"\b(Parser|Binder|Catalog|Compilation|Syntax) Error\b")
_KIND = re.compile(r"\b(?:[A-Z][A-Za-z]+ )+Error: ")
# The only kind whose wording is always DuckDB's own: "Could not convert string '…' to INT32 when casting from …".
_KNOWN = "Conversion Error: "
_EXCERPT = re.compile(r"\s*\n\s*LINE \d+:.*", re.DOTALL)
# From the first mark to the last: a value may have such marks in itself.
_QUOTED = re.compile(r"""(?<!\w)(['"]).*\1(?!\w)""", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d.,:/eE+-]*")
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def without_colours(text: str | None) -> str | None:
    """Without a terminal's control sequences, which dbt has in the message of a unit test."""
    return _ANSI.sub("", text) if text else text


def without_values(text: str) -> str:
    """A message of a node that failed, with what may be a value of a row left out."""
    if _BEFORE_ROWS.search(text):
        return text
    kind = _KIND.search(text)
    if kind is None:
        return _QUOTED.sub(rf"\g<1>{LEFT_OUT}\g<1>", text)
    before, after = text[: kind.end()], _EXCERPT.sub("", text[kind.end() :])
    if not kind[0].endswith(_KNOWN):
        return f"{before}{LEFT_OUT}"
    return before + _NUMBER.sub(LEFT_OUT, _QUOTED.sub(rf"\g<1>{LEFT_OUT}\g<1>", after))


def told(text: str) -> str:
    """What dbt prints, or an error says: without colours, and without values where it is about an error."""
    text = _ANSI.sub("", text)
    return without_values(text) if "Error" in text else text
