"""Column types from a sample of text values, and whether a type keeps every value as it was written.

Stricter than DuckDB's own sniffer where that would lose something: ``00123`` stays text, ``1.5`` is never a BIGINT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from duckdb import DuckDBPyConnection

from dml_platform.files.config import CsvOptions
from dml_platform.lake.engine import quote, quote_name

SAMPLE_ROWS = 20_480
_INTEGERS = re.compile(r"U?(TINYINT|SMALLINT|INTEGER|INT|BIGINT|HUGEINT|LONG|INT[1248])$", re.IGNORECASE)
_DECIMAL = re.compile(r"(?:DECIMAL|NUMERIC)\((\d+),\s*(\d+)\)$", re.IGNORECASE)
_NUMBER = r"-?(0|[1-9]\d*)?(\.\d+)?([eE][+-]?\d+)?"
_DAY = r"\d{4}-\d{2}-\d{2}"
_MOMENT = _DAY + r"[ T]\d{2}:\d{2}(:\d{2}(\.\d+)?)?"


@dataclass(frozen=True)
class Fit:
    """How a sample's values took to a type: how many there are, fail, would be cut or rounded; one of the last."""

    values: int
    failing: int
    cut: int
    example: str | None


def infer_types(
    connection: DuckDBPyConnection, table: str, columns: Sequence[str], *, options: CsvOptions, tolerance: float
) -> dict[str, str]:
    """Choose the narrowest type that all values of a column have, but for a share of ``tolerance``.

    Args:
        table: the sample; every column is VARCHAR.
    """
    chosen = {}
    for column in columns:
        value = quote_name(column)
        candidates = _candidates(value, options)
        counts = ", ".join(f"count(*) FILTER (NOT coalesce({test}, false))" for test in candidates.values())
        row = connection.execute(f"SELECT count(*), {counts} FROM {table} WHERE {value} IS NOT NULL").fetchone()
        assert row is not None
        allowed = row[0] * tolerance
        fitting = (kind for kind, failing in zip(candidates, row[1:], strict=True) if failing <= allowed)
        chosen[column] = next(fitting, "VARCHAR") if row[0] else "VARCHAR"
    return chosen


def _candidates(value: str, options: CsvOptions) -> dict[str, str]:
    number = _as_number(value, options)
    day, moment = _as_time(value, "DATE", options), _as_time(value, "TIMESTAMP", options)
    return {
        "BOOLEAN": f"lower({value}) IN ('true', 'false')",
        "BIGINT": rf"regexp_full_match({value}, '-?(0|[1-9]\d*)') AND TRY_CAST({value} AS BIGINT) IS NOT NULL",
        # More digits than a double keeps are an identifier or a decimal that has to be declared.
        "DOUBLE": f"regexp_full_match({number}, '{_NUMBER}') AND TRY_CAST({number} AS DOUBLE) IS NOT NULL"
        f" AND length(regexp_replace({value}, '[^0-9]', '', 'g')) <= 15",
        "DATE": f"{day} IS NOT NULL" + ("" if options.date_format else f" AND regexp_full_match({value}, '{_DAY}')"),
        "TIMESTAMP": f"{moment} IS NOT NULL"
        + ("" if options.timestamp_format else f" AND regexp_full_match({value}, '{_MOMENT}')"),
        "TIMESTAMPTZ": rf"TRY_CAST({value} AS TIMESTAMPTZ) IS NOT NULL"
        rf" AND regexp_full_match({value}, '{_MOMENT} ?(Z|[+-]\d{{2}}(:?\d{{2}})?)')",
    }


def measure_fit(
    connection: DuckDBPyConnection, table: str, types: Mapping[str, str], *, options: CsvOptions
) -> dict[str, Fit]:
    """Try each column's type on the sample's values.

    Args:
        table: the sample; every column is VARCHAR.
    """
    if not types:
        return {}
    parts = []
    for column, kind in types.items():
        value = quote_name(column)
        converts, cuts = _conversion(value, kind, options)
        parts += [
            f"count({value})",
            f"count(*) FILTER ({value} IS NOT NULL AND NOT ({converts}))",
            f"count(*) FILTER ({cuts})",
            f"any_value({value}) FILTER ({cuts})",
        ]
    row = connection.execute(f"SELECT {', '.join(parts)} FROM {table}").fetchone()
    assert row is not None
    return {column: Fit(*row[4 * i : 4 * i + 4]) for i, column in enumerate(types)}


def _conversion(value: str, kind: str, options: CsvOptions) -> tuple[str, str]:
    """Two conditions: the value converts; the conversion rounds it or cuts something off."""
    upper = kind.upper().strip()
    if upper == "DATE":
        moment = f"TRY_CAST({value} AS TIMESTAMP)"
        cuts = "false" if options.date_format else f"coalesce({moment} <> date_trunc('day', {moment}), false)"
        return f"{_as_time(value, 'DATE', options)} IS NOT NULL", cuts
    if upper.startswith("TIMESTAMP"):
        return f"{_as_time(value, kind, options)} IS NOT NULL", "false"
    number = _as_number(value, options)
    if _INTEGERS.match(upper):
        exact = f"TRY_CAST({number} AS DECIMAL(38,9))"
        cuts = f"CASE WHEN {_has_fraction(number, digits=0)} THEN coalesce({exact} % 1 <> 0, false) ELSE false END"
        return f"TRY_CAST({number} AS {kind}) IS NOT NULL", cuts
    if decimal := _DECIMAL.match(upper):
        exact = f"TRY_CAST({number} AS DECIMAL(38,{min(int(decimal[2]) + 6, 37)}))"
        rounded = f"TRY_CAST({number} AS {kind})"
        cuts = f"coalesce({exact} <> {rounded}, false)"
        return (
            f"{rounded} IS NOT NULL",
            f"CASE WHEN {_has_fraction(number, digits=int(decimal[2]))} THEN {cuts} ELSE false END",
        )
    if upper in ("DOUBLE", "FLOAT", "REAL"):
        return f"TRY_CAST({number} AS {kind}) IS NOT NULL", "false"
    return f"TRY_CAST({value} AS {kind}) IS NOT NULL", "false"


def _has_fraction(number: str, *, digits: int) -> str:
    """Cheap test for more than ``digits`` after the point, or an exponent; the exact one is 100 times slower."""
    point = f"strpos({number}, '.')"
    return f"({point} > 0 AND length({number}) - {point} > {digits}) OR strpos(lower({number}), 'e') > 0"


def _as_number(value: str, options: CsvOptions) -> str:
    return f"replace({value}, ',', '.')" if options.decimal_separator == "," else value


def _as_time(value: str, kind: str, options: CsvOptions) -> str:
    pattern = options.date_format if kind.upper() == "DATE" else options.timestamp_format
    return f"try_strptime({value}, {quote(pattern)})" if pattern else f"TRY_CAST({value} AS {kind})"
