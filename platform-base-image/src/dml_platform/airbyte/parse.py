"""Segments of record lines as rows: DuckDB parses the JSON, checks every value and never rounds or cuts one.

The ordinary way is one strict pass. Only when a value does not fit is the segment read again, leniently, to tell which.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

import duckdb

from dml_platform.airbyte.catalog import StreamPlan
from dml_platform.airbyte.segments import Segment
from dml_platform.core.errors import SourceError
from dml_platform.lake.engine import quote, quote_name
from dml_platform.lake.jsontext import convert_text, fields_as_texts, other_fields

_MAX_OBJECT = 16 << 20  # DuckDB's own default
_SHOWN = 80


@dataclass(frozen=True)
class Reject:
    """The first record that did not fit: its number in the run, the column and why."""

    record_number: int
    column_name: str
    reason: str


@dataclass(frozen=True)
class ParsedSegment:
    """Temporary tables in the connection that parsed; ``rejects_table`` only when there are any.

    ``has_extra`` says whether a record had fields that the stream's schema does not declare.
    """

    table: str
    rows: int
    has_extra: bool
    rejects_table: str | None = None
    rejects: int = 0
    first_reject: Reject | None = None

    def drop(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Free the tables' memory."""
        for name in filter(None, (self.table, self.rejects_table)):
            connection.execute(f"DROP TABLE IF EXISTS {name}")


def parse_segment(
    connection: duckdb.DuckDBPyConnection, plan: StreamPlan, segment: Segment, *, what: str
) -> ParsedSegment:
    """Parse one segment into a temporary table with the stream's columns, ``_extra`` and ``_emitted_at``.

    Raises:
        SourceError: a line is broken JSON or no record.
    """
    table = f"_dml_segment_{uuid.uuid4().hex}"
    try:
        connection.execute(f"CREATE TEMP TABLE {table} AS {_select(plan, _read(segment))}")
    except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.OutOfRangeException) as error:
        _require_records(segment, what=what, reason=error)
        return _parse_leniently(connection, plan, segment, table)
    rows, has_extra = _count(connection, table)
    if rows != segment.records:
        _require_records(segment, what=what, reason=f"{segment.records} lines gave {rows} rows")
        raise SourceError(what, f"{segment.records} record lines of {plan.name!r} gave {rows} rows", "Report this.")
    return ParsedSegment(table, rows, has_extra)


def _read(segment: Segment) -> str:
    """The records' data as JSON text, with the time that they were sent at."""
    size = max(_MAX_OBJECT, segment.longest_block + 1)
    return (
        "(SELECT record.data AS data, record.emitted_at AS emitted_at FROM read_json("
        f"{quote(str(segment.path))}, format='newline_delimited', maximum_object_size={size}, "
        "columns={record: 'STRUCT(data JSON, emitted_at DOUBLE)'}))"
    )


def _select(plan: StreamPlan, source: str) -> str:
    """A strict SELECT: a value that does not fit its column raises."""
    names = [name for name, _ in plan.columns]
    values = "".join(f"{convert_text(f'v.{quote_name(n)}', kind)} AS {quote_name(n)}, " for n, kind in plan.columns)
    return (
        f"SELECT {values}{other_fields('data', names)} AS _extra, "
        "make_timestamptz(CAST(emitted_at * 1000 AS BIGINT)) AS _emitted_at "
        f"FROM (SELECT data, emitted_at, {_texts(plan)} AS v FROM {source} WHERE starts_with(data, '{{'))"
    )


def _texts(plan: StreamPlan) -> str:
    return fields_as_texts("data", plan.columns)


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> tuple[int, bool]:
    row = connection.execute(f"SELECT count(*), count(_extra) > 0 FROM {table}").fetchone()
    assert row is not None
    return int(row[0]), bool(row[1])


def _parse_leniently(
    connection: duckdb.DuckDBPyConnection, plan: StreamPlan, segment: Segment, table: str
) -> ParsedSegment:
    """Split a segment into rows that fit and rejects, one line of these for each value that does not."""
    raw, rejects = f"{table}_raw", f"{table}_rejects"
    checks = ", ".join(
        f"CASE WHEN v.{quote_name(n)} IS NOT NULL AND TRY({convert_text(f'v.{quote_name(n)}', kind)}) IS NULL "
        f"THEN {{'name': {quote(n)}, 'kind': {quote(kind)}, 'value': CAST(v.{quote_name(n)} AS VARCHAR)}} END"
        for n, kind in plan.columns
    )
    connection.execute("SET preserve_insertion_order=true")  # so that numbers are those of the lines
    try:
        connection.execute(
            f"CREATE TEMP TABLE {raw} AS SELECT data, emitted_at, "
            f"row_number() OVER () + {segment.first_record - 1} AS number FROM {_read(segment)}"
        )
    finally:
        connection.execute("SET preserve_insertion_order=false")
    try:
        connection.execute(
            f"CREATE TEMP TABLE {rejects} AS SELECT number AS record_number, bad.name AS column_name, "
            f"printf('%s is no %s', bad.value[:{_SHOWN}], bad.kind) AS reason, CAST(data AS VARCHAR) AS raw_record, "
            "make_timestamptz(CAST(emitted_at * 1000 AS BIGINT)) AS _emitted_at "
            f"FROM (SELECT number, data, emitted_at, unnest([{checks}]) AS bad FROM "
            f"(SELECT number, data, emitted_at, {_texts(plan)} AS v FROM {raw})) WHERE bad IS NOT NULL"
        )
        good = f"(SELECT * FROM {raw} WHERE number NOT IN (SELECT record_number FROM {rejects}))"
        connection.execute(f"CREATE TEMP TABLE {table} AS {_select(plan, good)}")
    finally:
        connection.execute(f"DROP TABLE {raw}")
    rows, has_extra = _count(connection, table)
    first = connection.execute(
        f"SELECT record_number, column_name, reason FROM {rejects} ORDER BY record_number LIMIT 1"
    ).fetchone()
    return ParsedSegment(table, rows, has_extra, rejects, segment.records - rows, Reject(*first) if first else None)


def _require_records(segment: Segment, *, what: str, reason: object) -> None:
    """Find the line that is no record; every one is looked at, which is slow and only done after a failure."""
    with segment.path.open("rb") as lines:
        for number, line in enumerate(lines, segment.first_record):
            try:
                found = json.loads(line)
                if isinstance(found["record"]["data"], dict):
                    continue
                problem = "has no data"
            except (ValueError, KeyError, TypeError, RecursionError):
                problem = "is broken JSON"
            raise SourceError(
                what,
                f"record {number} of the stream {problem} ({line[:_SHOWN].decode('utf-8', 'replace')!r})",
                "Run it again; if it stays, try another version of the connector.",
            ) from (reason if isinstance(reason, Exception) else None)
