"""Rows that did not parse: one private table a load, physical line numbers, and the limit.

Readers insert ``(source_file, line_number, column_name, reason, raw_line)``; one row for each rejected row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from duckdb import DuckDBPyConnection

from dml_platform.core.errors import TooManyRejectsError
from dml_platform.core.naming import TableRef
from dml_platform.lake.engine import quote

REJECTS = "_dml_rejects"
RAW_LINE_CHARS = 10_000
_SHOWN = 5
_CHUNK = 1 << 22


def create_rejects(connection: DuckDBPyConnection) -> None:
    """Begin a load without rejects."""
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {REJECTS} "
        "(source_file VARCHAR, line_number BIGINT, column_name VARCHAR, reason VARCHAR, raw_line VARCHAR)"
    )


def count_rejects(connection: DuckDBPyConnection) -> dict[str, int]:
    """Rejected rows of each file that has any."""
    rows = connection.execute(f"SELECT source_file, count(*) FROM {REJECTS} GROUP BY ALL").fetchall()
    return dict(rows)


def check_share(
    connection: DuckDBPyConnection,
    ref: TableRef,
    rows: Mapping[str, int],
    *,
    max_share: float,
    report: str,
) -> None:
    """Refuse a load in which one file has more rejects than allowed.

    Args:
        rows: how many rows of each file did parse; other files are not looked at.
        report: file or ``s3://`` address to which all rejects of a refused load are written as CSV.
    Raises:
        TooManyRejectsError: with the worst file's first rejects.
    """
    rejects = {name: count for name, count in count_rejects(connection).items() if name in rows}
    shares = {name: count / (count + rows[name]) for name, count in rejects.items()}
    over = {name: share for name, share in shares.items() if share > max_share}
    if not over:
        return
    name = max(over, key=lambda n: over[n])
    count = rejects[name]
    first = connection.execute(
        f"SELECT line_number, column_name, reason, raw_line FROM {REJECTS} WHERE source_file = ? "
        f"ORDER BY line_number LIMIT {_SHOWN}",
        [name],
    ).fetchall()
    if "://" not in report:
        Path(report).parent.mkdir(parents=True, exist_ok=True)
    connection.execute(
        f"COPY (FROM {REJECTS} ORDER BY source_file, line_number) TO {quote(report)} (FORMAT csv, HEADER)"
    )
    lines = "".join(
        f"\n  line {line}{f', column {column}' if column else ''}: {_short(reason)}\n    {_short(raw)}"
        for line, column, reason, raw in first
    )
    others = f"; {len(over) - 1} more files have too many as well" if len(over) > 1 else ""
    raise TooManyRejectsError(
        f"cannot land {name!r} in {ref.dotted!r}",
        f"{count:,} of its {count + rows[name]:,} rows did not parse ({_percent(over[name])}, "
        f"allowed {_percent(max_share)}){others}; nothing was published{lines}\n  all of them: {report}",
        "Correct the file, its columns in config/sources.yaml, or raise max_rejects_share.",
    )


def number_lines(stream: BinaryIO, positions: Sequence[int]) -> Iterator[int]:
    """The physical line (from 1) at which the record at each byte position begins.

    DuckDB counts records instead, and its positions may point at the line end before the record.

    Args:
        positions: ascending, from 0.
    """
    line, base, cursor = 1, 0, 0
    chunk = stream.read(_CHUNK)
    end = b"\n" if b"\n" in chunk else b"\r"
    for position in positions:
        target = max(position, cursor)
        while True:
            if chunk and target >= base + len(chunk):
                line += chunk.count(end, cursor - base)
                base += len(chunk)
                cursor = base
                chunk = stream.read(_CHUNK)
                continue
            if not chunk:
                break
            line += chunk.count(end, cursor - base, target - base)
            cursor = target
            byte = chunk[cursor - base : cursor - base + 1]
            if byte not in (b"\r", b"\n"):
                break
            target += 1
        yield line


def _short(text: str | None, limit: int = 160) -> str:
    text = " ".join((text or "").split())
    return text if len(text) <= limit else f"{text[:limit]}…"


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"
