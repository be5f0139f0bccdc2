"""JSON lines: DuckDB's typed reader at full speed; only when it fails, a second pass that finds the bad lines.

A key that a line does not have is NULL. DuckDB reads past keys that it was not told of, so they are looked for first.
"""

from __future__ import annotations

import codecs
import glob
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from duckdb import DuckDBPyConnection

from dml_platform.core.errors import SchemaMismatchError, SourceError
from dml_platform.core.naming import TableRef
from dml_platform.files.config import PLATFORM_COLUMNS, CsvOptions, FileTable
from dml_platform.files.discover import SourceFile
from dml_platform.files.infer import SAMPLE_ROWS, Fit, measure_fit
from dml_platform.files.reader import Batch, unify
from dml_platform.files.rejects import RAW_LINE_CHARS, REJECTS
from dml_platform.lake.engine import quote, quote_name

_LINES_AT_ONCE = 50_000
_SAMPLE = "_dml_sample"
_TYPES = {"BIGINT": "BIGINT", "UBIGINT": "BIGINT", "DOUBLE": "DOUBLE", "BOOLEAN": "BOOLEAN", "VARCHAR": "VARCHAR"}


def plan_jsonl(
    connection: DuckDBPyConnection,
    ref: TableRef,
    source: FileTable,
    files: Sequence[SourceFile],
    known: Mapping[str, str],
) -> list[Batch]:
    """One batch of all files, with the columns of all their lines.

    Raises:
        SourceError: no line of a file is a JSON object.
        SchemaMismatchError: a key is not declared, or a declared type would lose digits.
    """
    columns = dict(source.columns or known)
    for file in files:
        found = _read_keys(connection, ref, file)
        expected = {name: kind for name, kind in columns.items() if name in found and name in (source.columns or known)}
        fits = _measure(connection, file, expected)
        if source.columns:
            _check_declared(ref, source.columns, file, found, {n: f.example for n, f in fits.items() if f.cut})
            continue
        for name, kind in found.items():
            fit = fits.get(name)
            if fit is None:
                columns[name] = _unify(connection, columns.get(name), kind)
            elif fit.cut or fit.failing * 2 > fit.values:
                columns[name] = kind  # changed its type: the lake says so
    return [_batch(ref, columns, tuple(files), connection)]


def _check_declared(
    ref: TableRef,
    declared: Mapping[str, str],
    file: SourceFile,
    found: Mapping[str, str],
    cut: Mapping[str, str | None],
) -> None:
    wrong = [f"{name}: in the file, not declared" for name in found if name not in declared]
    wrong += [f"{name}: {declared[name]} would lose part of {example!r}" for name, example in cut.items()]
    if wrong:
        raise SchemaMismatchError(
            f"cannot land {file.name!r} in {ref.dotted!r}",
            "its keys differ from the declared columns: " + "; ".join(wrong),
            "Correct the file, or the columns in config/sources.yaml.",
        )


def _read_keys(connection: DuckDBPyConnection, ref: TableRef, file: SourceFile) -> dict[str, str]:
    """Every key of the file and the type that holds its values."""
    what = f"cannot land {file.name!r} in {ref.dotted!r}"
    path = quote(glob.escape(str(file.path)))
    relation = connection.sql(
        f"FROM read_json({path}, format = 'newline_delimited', sample_size = -1, ignore_errors = true)"
    )
    types = {name: str(kind) for name, kind in zip(relation.columns, relation.types, strict=True)}
    if list(types) == ["json"]:
        # Some line is no object, so DuckDB gives up on columns; the keys are those of the other lines.
        row = connection.execute(
            f"SELECT json_group_structure(json) FROM read_json_objects({path}, format = 'newline_delimited', "
            "ignore_errors = true) WHERE json_type(json) = 'OBJECT'"
        ).fetchone()
        structure = json.loads(row[0]) if row and row[0] else {}
        if not structure:
            raise SourceError(
                what, "none of its lines is a JSON object", "Write one object a line, or correct 'format'."
            )
        types = {
            name: _TYPES.get(kind, "JSON") if isinstance(kind, str) else "JSON" for name, kind in structure.items()
        }
    if reserved := sorted(set(types) & set(PLATFORM_COLUMNS)):
        raise SourceError(what, f"it has keys {reserved}, which the platform adds itself", "Rename them at the source.")
    return types


def _unify(connection: DuckDBPyConnection, left: str | None, right: str) -> str:
    """As :func:`unify`, and objects get the keys of both."""
    nested = ("]", ")")
    if left is None or not left.endswith(nested):
        return unify(left, right)
    if not right.endswith(nested):
        return left
    row = connection.execute(
        f"SELECT typeof(x) FROM (SELECT CAST(NULL AS {left}) AS x UNION ALL SELECT CAST(NULL AS {right}))"
    ).fetchone()
    return str(row[0]) if row else right


def _measure(connection: DuckDBPyConnection, file: SourceFile, types: Mapping[str, str]) -> dict[str, Fit]:
    scalars = {name: kind for name, kind in types.items() if not kind.endswith(("]", ")")) or kind.startswith("DEC")}
    if not scalars:
        return {}
    values = ", ".join(f"json ->> {quote('$.' + quote_name(name))} AS {quote_name(name)}" for name in scalars)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {_SAMPLE} AS SELECT {values} FROM read_json_objects("
        f"{quote(glob.escape(str(file.path)))}, format = 'newline_delimited', ignore_errors = true) LIMIT {SAMPLE_ROWS}"
    )
    return measure_fit(connection, _SAMPLE, scalars, options=CsvOptions())


def _batch(
    ref: TableRef, columns: Mapping[str, str], files: tuple[SourceFile, ...], connection: DuckDBPyConnection
) -> Batch:
    paths = [str(file.path) for file in files]
    return Batch(
        files, _select(columns, paths), recover=lambda c: [_without_bad_lines(c, columns, file) for file in files]
    )


def _select(columns: Mapping[str, str], paths: Sequence[str]) -> str:
    types = ", ".join(f"{quote(name)}: {quote(kind)}" for name, kind in columns.items())
    names = ", ".join(quote(glob.escape(path)) for path in paths)
    return f"SELECT *, filename FROM read_json([{names}], format = 'newline_delimited', columns = {{{types}}})"


def _without_bad_lines(connection: DuckDBPyConnection, columns: Mapping[str, str], file: SourceFile) -> Batch:
    """Write the lines that DuckDB can read to a private file and the others to the load's rejects."""
    row = connection.execute("SELECT current_setting('temp_directory')").fetchone()
    assert row is not None
    clean = Path(f"{row[0]}-{file.sha256}.jsonl")
    with clean.open("wb") as kept:
        for lines in _batches_of_lines(file):
            bad = _find_bad_lines(connection, columns, file, lines)
            kept.writelines(raw + b"\n" for number, raw in lines if number not in bad)
    return Batch((file,), _select(columns, [str(clean)]), discard=lambda: clean.unlink(missing_ok=True))


def _batches_of_lines(file: SourceFile) -> Iterator[list[tuple[int, bytes]]]:
    with file.open() as stream:
        numbered = (
            (n, raw.removeprefix(codecs.BOM_UTF8 if n == 1 else b"").strip(b"\r\n")) for n, raw in enumerate(stream, 1)
        )
        filled = ((n, raw) for n, raw in numbered if raw.strip())
        while lines := list(itertools.islice(filled, _LINES_AT_ONCE)):
            yield lines


def _find_bad_lines(
    connection: DuckDBPyConnection, columns: Mapping[str, str], file: SourceFile, lines: Sequence[tuple[int, bytes]]
) -> set[int]:
    numbers, texts, undecodable = [], [], []
    for number, raw in lines:
        try:
            texts.append(raw.decode("utf-8"))
            numbers.append(number)
        except UnicodeDecodeError as error:
            undecodable.append(
                (
                    file.name,
                    number,
                    "",
                    f"invalid UTF-8 ({error.reason} at byte {error.start + 1})",
                    raw[:RAW_LINE_CHARS].decode("utf-8", errors="replace"),
                )
            )
    if undecodable:
        connection.executemany(f"INSERT INTO {REJECTS} VALUES (?, ?, ?, ?, ?)", undecodable)
    connection.register(
        "_dml_lines", pa.table({"number": pa.array(numbers, pa.int64()), "line": pa.array(texts, pa.string())})
    )
    values = {name: f"(line -> {quote('$.' + quote_name(name))})" for name in columns}
    wrong = {
        name: f"(json_type({value}) <> 'NULL' AND {_converted(value, columns[name])} IS NULL)"
        for name, value in values.items()
        if columns[name] not in ("VARCHAR", "JSON")
    }
    reasons = " ".join(
        f"WHEN {test} THEN [{quote(name)}, "
        f"'could not convert ' || {values[name]}::VARCHAR || {quote(f' to {columns[name]}')}]"
        for name, test in wrong.items()
    )
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE _dml_bad AS
        SELECT number, left(line, {RAW_LINE_CHARS}) AS raw, CASE
            WHEN NOT json_valid(line) THEN ['', 'not valid JSON']
            WHEN json_type(line) <> 'OBJECT' THEN ['', 'a JSON ' || lower(json_type(line)) || ', not an object']
            WHEN len(json_keys(line)) <> len(list_distinct(json_keys(line))) THEN ['', 'a key occurs twice']
            {reasons} END AS why
        FROM _dml_lines WHERE why IS NOT NULL
        """
    )
    connection.execute(f"INSERT INTO {REJECTS} SELECT ?, number, why[1], why[2], raw FROM _dml_bad", [file.name])
    bad = {number for (number,) in connection.execute("SELECT number FROM _dml_bad").fetchall()}
    connection.unregister("_dml_lines")
    return bad | {entry[1] for entry in undecodable}


def _converted(value: str, kind: str) -> str:
    if kind.endswith("]"):
        return f"(CASE json_type({value}) WHEN 'ARRAY' THEN TRY_CAST({value} AS {kind}) END)"
    if kind.startswith(("STRUCT", "MAP")):
        # A strict cast asks for every key of a nested object, which the reader does not.
        return f"(CASE json_type({value}) WHEN 'OBJECT' THEN TRY_CAST({value} AS {kind}) END)"
    return f"TRY(CAST({value} AS {kind}))"
