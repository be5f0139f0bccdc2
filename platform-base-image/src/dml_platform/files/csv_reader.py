"""CSV files: header, columns, and DuckDB's reader with its table of rejected lines.

DuckDB's dialect detection is not used: what separates columns is configured, so a corrupt file cannot change it.
"""

from __future__ import annotations

import csv
import glob
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from dml_platform.core.errors import SchemaMismatchError, SourceError
from dml_platform.core.naming import TableRef
from dml_platform.files.config import PLATFORM_COLUMNS, CsvOptions, FileTable
from dml_platform.files.discover import SourceFile
from dml_platform.files.infer import SAMPLE_ROWS, infer_types, measure_fit
from dml_platform.files.reader import Batch, check_declared, unify
from dml_platform.files.rejects import RAW_LINE_CHARS, REJECTS, number_lines
from dml_platform.lake.engine import quote

_HEADER_BYTES = 1 << 20
_SAMPLE = "_dml_sample"
# The column has a column of its own here.
_CAST = '\'^Error when converting column "[^"]*"\\. \''
_COUNT = "'^Expected Number of Columns: (\\d+) Found: (\\d+)'"


@dataclass(frozen=True)
class _Header:
    """A file's column names in its order. ``skip``: blank lines before them; ``newline``: of the first line.

    Files of one kind of line end are read together, but DuckDB is not told which: of a file with CRLF it then gives no
    row and no error (1.5.5).
    """

    names: tuple[str, ...]
    skip: int
    newline: str


def plan_csv(
    connection: DuckDBPyConnection,
    ref: TableRef,
    source: FileTable,
    files: Sequence[SourceFile],
    known: Mapping[str, str],
) -> list[Batch]:
    """Group files that DuckDB can read together, and settle every column's type.

    Args:
        known: the columns of the table so far and their DuckDB types.
    Raises:
        SourceError: a header is missing or unreadable.
        SchemaMismatchError: a column is missing, not declared, or would lose digits.
    """
    groups: dict[_Header, list[SourceFile]] = defaultdict(list)
    for file in files:
        groups[_read_header(ref, source, file)].append(file)
    inferred: dict[str, str] = {}
    for header, members in groups.items():
        for file in members:
            types = _settle_types(connection, ref, source, file, header, known)
            for name, kind in types.items():
                inferred[name] = unify(inferred.get(name), kind)
    batches = []
    for number, (header, members) in enumerate(sorted(groups.items(), key=lambda group: len(group[0].names))):
        columns = {name: inferred[name] for name in header.names}
        table = f"_dml_csv_{number}"
        reader = _reader(members, columns, header, source.csv, rejects=table)
        batches.append(
            Batch(tuple(members), f"SELECT *, filename FROM {reader}", partial(_collect, table=table, files=members))
        )
    return batches


def _read_header(ref: TableRef, source: FileTable, file: SourceFile) -> _Header:
    what, options = f"cannot land {file.name!r} in {ref.dotted!r}", source.csv
    with file.open() as stream:
        head = stream.read(_HEADER_BYTES)
    encoding = "utf-8-sig" if options.encoding == "utf-8" else options.encoding
    text = head.decode(encoding, errors="replace")
    skip = 0
    while text[:1] in ("\r", "\n"):
        text = text[2:] if text.startswith("\r\n") else text[1:]
        skip += 1
    if not text.strip():
        raise SourceError(what, "it is empty, without even a header", "Export it again, or delete it if that is right.")
    first = text.splitlines()[0]
    newline = r"\r\n" if f"{first}\r\n" in text else r"\n"
    if not options.header:
        return _Header(tuple(source.columns or ()), skip, newline)
    if "\N{REPLACEMENT CHARACTER}" in first:
        raise SourceError(what, f"its header is not {options.encoding}", "Save it as UTF-8 or set csv.encoding.")
    dialect: dict[str, Any] = {"delimiter": options.delimiter, "quotechar": options.quote or None}
    if not options.quote:
        dialect["quoting"] = csv.QUOTE_NONE
    try:
        names = tuple(next(csv.reader(io.StringIO(text, newline=""), **dialect)))
    except (csv.Error, StopIteration) as error:
        raise SourceError(what, f"its header does not parse ({error})", "Correct the first line.") from error
    fix = "Correct the first line, or set csv.header: false and declare the columns."
    if source.columns and not set(names) & set(source.columns):
        raise SourceError(
            what, f"its first line {first[:200]!r} has none of the declared columns {list(source.columns)}", fix
        )
    other = next((d for d in ";\t|," if len(names) == 1 and d in first and d != options.delimiter), None)
    if other:
        raise SourceError(
            what, f"its header {first[:200]!r} is separated by {other!r}", f"Set csv.delimiter: {other!r}."
        )
    blank = [i for i, name in enumerate(names, 1) if not name.strip()]
    lowered = [name.lower() for name in names]
    doubled = sorted({name for name in names if lowered.count(name.lower()) > 1 and name.strip()})
    reserved = sorted(set(names) & set(PLATFORM_COLUMNS))
    for found, problem in (
        (blank, f"column {blank} of its header has no name"),
        (doubled, f"its header names {doubled} more than once"),
        (reserved, f"its header has {reserved}, which the platform adds itself"),
    ):
        if found:
            raise SourceError(what, problem, fix)
    if source.columns:
        check_declared(ref, file.name, declared=list(source.columns), found=names)
    return _Header(names, skip, newline)


def _settle_types(
    connection: DuckDBPyConnection,
    ref: TableRef,
    source: FileTable,
    file: SourceFile,
    header: _Header,
    known: Mapping[str, str],
) -> dict[str, str]:
    """Declared types, else the table's where the file's values fit it, else inferred."""
    text = dict.fromkeys(header.names, "VARCHAR")
    reader = _reader([file], text, header, source.csv, rejects=None)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {_SAMPLE} AS SELECT * FROM {reader} LIMIT {SAMPLE_ROWS}")
    expected = {name: kind for name, kind in (source.columns or known).items() if name in header.names}
    fits = measure_fit(connection, _SAMPLE, expected, options=source.csv)
    if source.columns:
        cut = [f"{name}: {expected[name]} would lose part of {fit.example!r}" for name, fit in fits.items() if fit.cut]
        if cut:
            raise SchemaMismatchError(
                f"cannot land {file.name!r} in {ref.dotted!r}",
                "its values do not fit the declared columns: " + "; ".join(cut),
                "Declare a type that holds them in config/sources.yaml, e.g. DOUBLE or TIMESTAMP.",
            )
        return expected
    # One bad value is a reject; when most are bad, the column has changed its type, and the lake says so.
    keep = {
        name: kind
        for name, kind in expected.items()
        if not fits[name].cut and fits[name].failing * 2 <= fits[name].values
    }
    others = [name for name in header.names if name not in keep]
    return keep | infer_types(connection, _SAMPLE, others, options=source.csv, tolerance=source.max_rejects_share)


def _reader(
    files: Sequence[SourceFile],
    columns: Mapping[str, str],
    header: _Header,
    options: CsvOptions,
    *,
    rejects: str | None,
) -> str:
    types = ", ".join(f"{quote(name)}: {quote(kind)}" for name, kind in columns.items())
    arguments = [
        "[" + ", ".join(quote(glob.escape(str(file.path))) for file in files) + "]",
        "auto_detect = false",
        f"columns = {{{types}}}",
        f"header = {str(options.header).lower()}",
        f"skip = {header.skip}",
        f"delim = {quote(options.delimiter)}",
        f"quote = {quote(options.quote)}",
        f"escape = {quote(options.escape if options.quote else '')}",
        f"nullstr = [{', '.join(map(quote, options.null_strings))}]",
        f"decimal_separator = {quote(options.decimal_separator)}",
        f"encoding = {quote(options.encoding)}",
        f"strict_mode = {str(options.strict).lower()}",
    ]
    if options.date_format:
        arguments.append(f"dateformat = {quote(options.date_format)}")
    if options.timestamp_format:
        arguments.append(f"timestampformat = {quote(options.timestamp_format)}")
    if rejects:
        arguments += [
            "store_rejects = true",
            "rejects_limit = 0",
            f"rejects_table = '{rejects}_errors'",
            f"rejects_scan = '{rejects}_scans'",
        ]
    else:
        arguments.append("ignore_errors = true")
    return f"read_csv({', '.join(arguments)})"


def _collect(connection: DuckDBPyConnection, *, table: str, files: Sequence[SourceFile]) -> None:
    """Copy DuckDB's errors to the load's rejects: one row a record, with its physical line."""
    by_path = {str(file.path): file for file in files}
    positions = defaultdict(list)
    errors = f"{table}_errors JOIN {table}_scans USING (scan_id, file_id)"
    for path, position in connection.execute(
        f"SELECT DISTINCT file_path, line_byte_position FROM {errors} ORDER BY ALL"
    ).fetchall():
        positions[path].append(position)
    for path, found in positions.items():
        file = by_path[path]
        with file.open() as stream:
            lines = list(number_lines(stream, [position - 1 for position in found]))
        numbered = pa.table({"position": pa.array(found, pa.int64()), "line_number": pa.array(lines, pa.int64())})
        connection.register("_dml_lines", numbered)
        connection.execute(
            f"""
            INSERT INTO {REJECTS}
            SELECT ?, any_value(line_number), string_agg(column_name, ', ' ORDER BY column_idx),
                concat_ws('; ',
                    arg_min(regexp_replace(error_message, {_COUNT}, '\\1 columns expected, \\2 found'), column_idx)
                        FILTER (error_type IN ('MISSING COLUMNS', 'TOO MANY COLUMNS')),
                    string_agg(regexp_replace(error_message, {_CAST}, ''), '; ' ORDER BY column_idx)
                        FILTER (error_type NOT IN ('MISSING COLUMNS', 'TOO MANY COLUMNS'))),
                any_value(left(trim(csv_line, chr(10) || chr(13)), {RAW_LINE_CHARS}))
            FROM {errors} JOIN _dml_lines ON position = line_byte_position
            WHERE file_path = ?
            GROUP BY line_byte_position
            """,
            [file.name, path],
        )
        connection.unregister("_dml_lines")
