"""SQL for rows that come as JSON: fields as texts, texts as values, and what nobody declared.

Never rounds or cuts a value: one that does not fit its column raises.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from dml_platform.lake.engine import quote


def fields_as_texts(data: str, columns: Sequence[tuple[str, str]]) -> str:
    """SQL that gives the named fields of a JSON object as a struct of texts; JSON stays JSON."""
    fields = {name: "JSON" if kind == "JSON" else "VARCHAR" for name, kind in columns}
    return f"from_json({data}, {quote(json.dumps(fields, ensure_ascii=False))})" if fields else "NULL"


def convert_text(value: str, kind: str) -> str:
    """SQL that gives a text's value in a column's type, or raises rather than lose a part of it.

    DuckDB's own casts round 1.5 to an integer and cut the time off a date and the offset off a timestamp.
    """
    if kind in ("VARCHAR", "JSON"):
        return f"CAST({value} AS VARCHAR)"
    cast = f"CAST({value} AS {kind})"
    if kind == "BIGINT":
        whole = f"CASE WHEN regexp_full_match({value}, '-?[0-9]+[.]0+') THEN split_part({value}, '.', 1) ELSE 'x' END"
        return f"CASE WHEN contains({value}, '.') THEN CAST({whole} AS BIGINT) ELSE {cast} END"
    if kind == "DATE":
        # A time of day other than midnight does not fit.
        day = f"CASE WHEN regexp_matches({value}, '^.{{10}}[T ]00:00(:00([.]0+)?)?(Z|[+]00:?00)?$') THEN {value} END"
        return f"CASE WHEN length({value}) > 10 THEN CAST(coalesce(substr({day}, 1, 10), 'x') AS DATE) ELSE {cast} END"
    if kind == "TIMESTAMP":
        # At UTC there is nothing to lose.
        offset = (
            f"length({value}) > 16 AND regexp_matches({value}, '[+-][0-9][0-9]:?[0-9][0-9]$') "
            f"AND NOT regexp_matches({value}, '[+]00:?00$')"
        )
        return f"CASE WHEN {offset} THEN CAST('x' || {value} AS TIMESTAMP) ELSE {cast} END"
    return cast


def other_fields(data: str, names: Sequence[str]) -> str:
    """SQL that gives the fields of a JSON object that are not named, as a JSON text, or null when there are none."""
    declared = "[" + ", ".join(map(quote, names)) + "]::VARCHAR[]"
    # A merge patch removes what it sets to null (RFC 7396).
    patch = quote(json.dumps(dict.fromkeys(names), ensure_ascii=False))
    keys = f"json_keys({data})"
    return (
        f"CASE WHEN {keys} = {declared} OR list_has_all({declared}, {keys}) THEN NULL "
        f"ELSE CAST(json_merge_patch({data}, {patch}) AS VARCHAR) END"
    )
