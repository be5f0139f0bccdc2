"""DuckDB's types in OpenMetadata's words, nested ones with their parts."""

from __future__ import annotations

import re
from typing import Any

_PLAIN = {
    "TINYINT": "TINYINT",
    "SMALLINT": "SMALLINT",
    "INTEGER": "INT",
    "INT": "INT",
    "BIGINT": "BIGINT",
    "HUGEINT": "LARGEINT",
    "UHUGEINT": "LARGEINT",
    "UTINYINT": "UINT",
    "USMALLINT": "UINT",
    "UINTEGER": "UINT",
    "UBIGINT": "UINT",
    "FLOAT": "FLOAT",
    "REAL": "FLOAT",
    "DOUBLE": "DOUBLE",
    "DECIMAL": "DECIMAL",
    "NUMERIC": "NUMERIC",
    "VARCHAR": "VARCHAR",
    "TEXT": "TEXT",
    "STRING": "STRING",
    "CHAR": "CHAR",
    "BOOLEAN": "BOOLEAN",
    "DATE": "DATE",
    "TIME": "TIME",
    "TIMESTAMP": "TIMESTAMP",
    "TIMESTAMP_S": "TIMESTAMP",
    "TIMESTAMP_MS": "TIMESTAMP",
    "TIMESTAMP_NS": "TIMESTAMP",
    "TIMESTAMPTZ": "TIMESTAMPZ",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMPZ",
    "INTERVAL": "INTERVAL",
    "BLOB": "BLOB",
    "BIT": "BIT",
    "UUID": "UUID",
    "JSON": "JSON",
    "ENUM": "ENUM",
    "MAP": "MAP",
    "UNION": "UNION",
    "NULL": "NULL",
    "GEOMETRY": "GEOMETRY",
}
# OpenMetadata refuses these without a length.
_WITH_LENGTH = {"CHAR", "VARCHAR", "BINARY", "VARBINARY"}
NUMBERS = {"TINYINT", "SMALLINT", "INT", "BIGINT", "LARGEINT", "UINT", "FLOAT", "DOUBLE", "DECIMAL", "NUMERIC"}


def describe_type(text: str | None) -> dict[str, Any]:
    """``dataType`` and what belongs to it. What is not known is UNKNOWN, never guessed."""
    text = " ".join((text or "").split())
    if not text:
        return {"dataType": "UNKNOWN"}
    found: dict[str, Any] = {"dataTypeDisplay": text.lower()}
    if element := _list_element(text):
        inner = describe_type(element)
        found |= {"dataType": "ARRAY", "arrayDataType": inner["dataType"]}
        return found | ({"children": inner["children"]} if "children" in inner else {})
    base, inside = _split(text)
    if base in ("STRUCT", "ROW") and inside is not None:
        children = [{"name": name, **describe_type(kind)} for name, kind in map(_field, split_top(inside))]
        return found | {"dataType": "STRUCT", "children": children}
    found["dataType"] = kind = _PLAIN.get(base, "UNKNOWN")
    numbers = [int(n) for n in re.findall(r"\d+", inside or "")] if base not in ("ENUM", "MAP", "UNION") else []
    if kind in ("DECIMAL", "NUMERIC") and len(numbers) == 2:
        found |= {"precision": numbers[0], "scale": numbers[1]}
    if kind in _WITH_LENGTH:
        found["dataLength"] = numbers[0] if numbers else 1
    return found


def split_top(text: str) -> list[str]:
    """Split at the commas that are in no bracket and no quotes."""
    parts, depth, quoted, start = [], 0, False, 0
    for position, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif not quoted and letter in "([":
            depth += 1
        elif not quoted and letter in ")]":
            depth -= 1
        elif letter == "," and depth == 0 and not quoted:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _list_element(text: str) -> str | None:
    found = re.fullmatch(r"(.+)\[\d*\]", text)
    return found[1] if found else None


def _split(text: str) -> tuple[str, str | None]:
    found = re.fullmatch(r"([^(]+)\((.*)\)(.*)", text)
    if not found:
        return text.upper(), None
    return " ".join(f"{found[1]}{found[3]}".split()).upper(), found[2]


def _field(text: str) -> tuple[str, str]:
    found = re.fullmatch(r'"((?:[^"]|"")*)"\s+(.+)|(\S+)\s+(.+)', text)
    if not found:
        return text, ""
    return (found[1].replace('""', '"'), found[2]) if found[2] else (found[3], found[4])
