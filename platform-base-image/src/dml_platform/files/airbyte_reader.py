"""What Airbyte's S3 destination writes: JSON lines (flat or with ``_airbyte_data``) and Parquet, as a connector's rows.

The columns come out as where the connector runs as a program: typed, with objects and lists as JSON text, and with
``_emitted_at``. Of Airbyte's own columns only ``_airbyte_meta`` stays, and of that only what Airbyte itself changed.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence

import duckdb
from duckdb import DuckDBPyConnection

from dml_platform.core.errors import SourceError
from dml_platform.core.naming import TableRef
from dml_platform.files.config import PLATFORM_COLUMNS, FileTable
from dml_platform.files.discover import SourceFile
from dml_platform.files.reader import Batch
from dml_platform.files.rejects import RAW_LINE_CHARS, REJECTS
from dml_platform.lake.engine import quote, quote_name
from dml_platform.lake.jsontext import convert_text, fields_as_texts, other_fields

OWN_COLUMNS = ("_emitted_at", "_extra", "_airbyte_meta")
_TIMES = ("_airbyte_extracted_at", "_airbyte_emitted_at")  # the second until 2023
_JSON_TYPES = {"BOOLEAN": "BOOLEAN", "BIGINT": "BIGINT", "UBIGINT": "BIGINT", "DOUBLE": "DOUBLE", "VARCHAR": "VARCHAR"}
_PARQUET_TYPES = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"), "BIGINT"),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "DOUBLE"),
    **{kind: kind for kind in ("BOOLEAN", "VARCHAR", "DATE", "TIMESTAMP")},
    **dict.fromkeys(("TIMESTAMP WITH TIME ZONE",), "TIMESTAMPTZ"),
    **dict.fromkeys(("TIMESTAMP_MS", "TIMESTAMP_S", "TIMESTAMP_NS"), "TIMESTAMP"),
}
_MAX_LINE = 24 << 20  # of a record Airbyte takes 20 MB; DuckDB allocates twice this for each thread
_DAY = r"\d{4}-\d{2}-\d{2}"
# As by the protocol a moment has a zone unless the schema says otherwise, which a text alone does not tell.
_MOMENT = _DAY + r"[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?( ?(Z|[+-]\d{2}(:?\d{2})?))?"
_TEXT_TYPES = {"DATE": _DAY, "TIMESTAMPTZ": _MOMENT}


def plan_airbyte(
    connection: DuckDBPyConnection,
    ref: TableRef,
    source: FileTable,
    files: Sequence[SourceFile],
    known: Mapping[str, str],
) -> list[Batch]:
    """One batch of the JSON lines and one of the Parquet files, with the columns of all.

    The table's types, and declared ones, bind: a value that does not fit is a reject. With declared columns, fields
    that are not declared are kept in ``_extra``; otherwise they become columns.

    Raises:
        SourceError: a file is not what Airbyte writes, or is damaged.
    """
    parquet = [_Parquet(connection, ref, file) for file in files if file.path.suffix == ".parquet"]
    lines = [_Lines(connection, ref, file) for file in files if ".jsonl" in file.path.suffixes]
    if others := [f.name for f in files if f.path.suffix != ".parquet" and ".jsonl" not in f.path.suffixes]:
        raise SourceError(
            f"cannot land {others[0]!r} in {ref.dotted!r}",
            "it is neither Parquet nor JSON lines",
            "Set the output format of Airbyte's S3 destination to one of them.",
        )
    if source.columns:
        columns = {name: kind.upper() for name, kind in source.columns.items()}
    else:
        columns = {name: kind for name, kind in known.items() if name not in OWN_COLUMNS}
        readers: list[_Parquet | _Lines] = [*parquet, *lines]
        for reader in readers:
            for name, kind in reader.find_types(skip=columns).items():
                columns[name] = _widen(columns.get(name), kind)
    _require_own_names(ref, files, columns)
    keep_extra = bool(source.columns) or "_extra" in known
    batches = [reader.batch(columns, keep_extra=keep_extra) for reader in parquet]
    if lines:
        batches.append(_batch_of_lines(connection, [r.file for r in lines], columns, keep_extra=keep_extra))
    return batches


class _Parquet:
    """One Parquet file: its stream's columns are at the root, typed."""

    def __init__(self, connection: DuckDBPyConnection, ref: TableRef, file: SourceFile) -> None:
        self.file = file
        path = quote(glob.escape(str(file.path)))
        self._rows = f"read_parquet([{path}], filename = true, hive_partitioning = false)"
        try:
            relation = connection.sql(f"SELECT * EXCLUDE (filename) FROM {self._rows}")
        except duckdb.Error as error:
            reason = str(error).splitlines()[0].replace(str(file.path), "it")
            what = f"cannot land {file.name!r} in {ref.dotted!r}"
            raise SourceError(
                what, f"it is not a whole Parquet file ({reason[:200]})", "Fetch the file again."
            ) from error
        self._types = dict(zip(relation.columns, map(str, relation.types), strict=True))
        times = [name for name in _TIMES if name in self._types]
        if not times:
            raise _not_airbytes(ref, file)
        self._time = times[0]

    def find_types(self, *, skip: Mapping[str, str]) -> dict[str, str]:
        """The stream's columns that are not known yet."""
        return {
            name: _parquet_type(kind)
            for name, kind in self._types.items()
            if name not in skip and not name.startswith("_airbyte_")
        }

    def batch(self, columns: Mapping[str, str], *, keep_extra: bool) -> Batch:
        """The file's rows; Parquet has no rows that cannot be parsed."""
        values = [f"{self._value(name, kind)} AS {quote_name(name)}" for name, kind in columns.items()]
        if keep_extra:
            others = [n for n in self._types if n not in columns and not n.startswith("_airbyte_")]
            fields = ", ".join(f"{quote_name(n)} := {quote_name(n)}" for n in others)
            filled = " OR ".join(f"{quote_name(n)} IS NOT NULL" for n in others)
            text = f"CASE WHEN {filled} THEN CAST(to_json(struct_pack({fields})) AS VARCHAR) END" if others else "NULL"
            values.append(f"CAST({text} AS VARCHAR) AS _extra")
        is_number = self._types[self._time] in ("BIGINT", "INTEGER", "DOUBLE")
        time = f"make_timestamptz(CAST({self._time} AS BIGINT) * 1000)" if is_number else f"{self._time}::TIMESTAMPTZ"
        meta = "to_json(_airbyte_meta)" if "_airbyte_meta" in self._types else "NULL::JSON"
        if self._types.get("_airbyte_meta") in ("VARCHAR", "JSON"):
            meta = "CAST(_airbyte_meta AS JSON)"
        values += [f"{time} AS _emitted_at", f"{_changes(meta)} AS _airbyte_meta", "filename"]
        return Batch((self.file,), f"SELECT {', '.join(values)} FROM {self._rows}")

    def _value(self, name: str, kind: str) -> str:
        column, found = quote_name(name), self._types.get(name)
        if found is None:
            return f"CAST(NULL AS {'VARCHAR' if kind == 'JSON' else kind})"
        if _parquet_type(found) == kind:
            return _as_text(column, found) if kind == "JSON" else f"CAST({column} AS {kind})"
        return convert_text(_as_text(column, found), kind)


class _Lines:
    """One file of JSON lines."""

    def __init__(self, connection: DuckDBPyConnection, ref: TableRef, file: SourceFile) -> None:
        self.file = file
        self._connection = connection
        self._ref = ref
        first = f"SELECT {_TIME_FIELD} FROM {_objects([file], lenient=True)} WHERE json IS NOT NULL LIMIT 1"
        if connection.execute(first).fetchone() in (None, (None,)):
            raise _not_airbytes(ref, file)

    def find_types(self, *, skip: Mapping[str, str]) -> dict[str, str]:
        """The fields that are not known yet, with the type that holds their values."""
        what = f"cannot land {self.file.name!r} in {self._ref.dotted!r}"
        row = self._connection.execute(
            f"SELECT json_group_structure({_DATA}) FROM {_objects([self.file], lenient=True)}"
        ).fetchone()
        structure = json.loads(row[0]) if row and row[0] else {}
        if not isinstance(structure, dict):
            raise SourceError(what, "a record of it is no JSON object", "Let Airbyte write it again.")
        types = {
            name: _JSON_TYPES.get(kind, "VARCHAR" if kind == "NULL" else "JSON") if isinstance(kind, str) else "JSON"
            for name, kind in structure.items()
            if name not in skip and not name.startswith("_airbyte_")
        }
        return {**types, **self._find_times([name for name, kind in types.items() if kind == "VARCHAR"])}

    def _find_times(self, names: Sequence[str]) -> dict[str, str]:
        """Those texts that are all days or all moments."""
        if not names:
            return {}
        tests = ", ".join(
            f"[count(v.{quote_name(n)}), "
            + ", ".join(
                f"count(*) FILTER (regexp_full_match(v.{quote_name(n)}, {quote(pattern)}) "
                f"AND TRY_CAST(v.{quote_name(n)} AS {kind}) IS NOT NULL)"
                for kind, pattern in _TEXT_TYPES.items()
            )
            + "]"
            for n in names
        )
        texts = fields_as_texts("data", [(n, "VARCHAR") for n in names])
        row = self._connection.execute(
            f"SELECT {tests} FROM (SELECT {texts} AS v FROM (SELECT {_DATA} AS data FROM "
            f"{_objects([self.file], lenient=True)}))"
        ).fetchone()
        found = {}
        for name, (filled, *fitting) in zip(names, row or (), strict=True):
            kinds = [kind for kind, number in zip(_TEXT_TYPES, fitting, strict=True) if filled and number == filled]
            if kinds:
                found[name] = kinds[0]
        return found


_RECORD = "coalesce(json -> '$._airbyte_data', json)"
# Older destinations write the record as a text.
_DATA = f"(CASE WHEN json_type({_RECORD}) = 'VARCHAR' THEN CAST({_RECORD} ->> '$' AS JSON) ELSE {_RECORD} END)"
_TIME_FIELD = "coalesce(json ->> '$._airbyte_extracted_at', json ->> '$._airbyte_emitted_at')"


def _objects(files: Sequence[SourceFile], *, lenient: bool = False) -> str:
    paths = ", ".join(quote(glob.escape(str(file.path))) for file in files)
    ignore = ", ignore_errors = true" if lenient else ""
    return (
        f"read_json_objects([{paths}], format = 'newline_delimited', filename = true, "
        f"maximum_object_size = {_MAX_LINE}{ignore})"
    )


def _batch_of_lines(
    connection: DuckDBPyConnection, files: Sequence[SourceFile], columns: Mapping[str, str], *, keep_extra: bool
) -> Batch:
    def recover(own: DuckDBPyConnection) -> list[Batch]:
        return [
            Batch(
                (file,), _select_lines(_without_bad_lines(own, file, columns, number), columns, keep_extra=keep_extra)
            )
            for number, file in enumerate(files)
        ]

    return Batch(tuple(files), _select_lines(_objects(files), columns, keep_extra=keep_extra), recover=recover)


def _select_lines(rows: str, columns: Mapping[str, str], *, keep_extra: bool) -> str:
    """A strict SELECT: a value that does not fit its column raises."""
    values = [f"{convert_text(f'v.{quote_name(n)}', kind)} AS {quote_name(n)}" for n, kind in columns.items()]
    if keep_extra:
        # Where the record is at the root, Airbyte's own fields stand beside its.
        own = [*columns, *_TIMES, "_airbyte_raw_id", "_airbyte_ab_id", "_airbyte_generation_id", "_airbyte_meta"]
        values.append(f"{other_fields('data', own)} AS _extra")
    values += ["_emitted_at", "_airbyte_meta", "filename"]
    # A number is milliseconds since 1970.
    time = (
        f"CASE WHEN regexp_full_match({_TIME_FIELD}, '[0-9.]+') "
        f"THEN make_timestamptz(CAST(CAST({_TIME_FIELD} AS DOUBLE) * 1000 AS BIGINT)) "
        f"ELSE CAST({_TIME_FIELD} AS TIMESTAMPTZ) END"
    )
    texts = fields_as_texts("data", list(columns.items()))
    return (
        f"SELECT {', '.join(values)} FROM (SELECT data, {texts} AS v, _emitted_at, _airbyte_meta, filename FROM "
        f"(SELECT {_DATA} AS data, {time} AS _emitted_at, {_changes('(json -> ' + quote('$._airbyte_meta') + ')')} "
        f"AS _airbyte_meta, filename FROM {rows}))"
    )


def _without_bad_lines(
    connection: DuckDBPyConnection, file: SourceFile, columns: Mapping[str, str], number: int
) -> str:
    """Put the file's good lines into a temporary table and the others into the load's rejects. Returns: the table."""
    table = f"_dml_airbyte_{number}"
    checks = " ".join(
        f"WHEN v.{quote_name(n)} IS NOT NULL AND TRY({convert_text(f'v.{quote_name(n)}', kind)}) IS NULL "
        f"THEN [{quote(n)}, 'could not convert ' || CAST(v.{quote_name(n)} AS VARCHAR)[:80] || {quote(f' to {kind}')}]"
        for n, kind in columns.items()
    )
    texts = fields_as_texts("data", list(columns.items()))
    connection.execute("SET preserve_insertion_order = true")  # so that numbers are those of the lines
    try:
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT json, filename, line, CASE "
            "WHEN json IS NULL THEN ['', 'not valid JSON'] "
            f"WHEN {_TIME_FIELD} IS NULL THEN ['', 'without the time that Airbyte writes'] {checks} END AS why "
            f"FROM (SELECT json, filename, line, {texts} AS v FROM (SELECT json, filename, {_DATA} AS data, "
            f"row_number() OVER () AS line FROM {_objects([file], lenient=True)}))"
        )
    finally:
        connection.execute("SET preserve_insertion_order = false")
    connection.execute(
        f"INSERT INTO {REJECTS} SELECT ?, line, why[1], why[2], left(CAST(json AS VARCHAR), {RAW_LINE_CHARS}) "
        f"FROM {table} WHERE why IS NOT NULL",
        [file.name],
    )
    connection.execute(f"DELETE FROM {table} WHERE why IS NOT NULL")
    return table


def _changes(meta: str) -> str:
    """What Airbyte had to change in a record (a value too large, a wrong type): mostly nothing."""
    return f"CASE WHEN json_array_length({meta} -> '$.changes') > 0 THEN CAST({meta} AS VARCHAR) END"


def _parquet_type(kind: str) -> str:
    if kind.startswith("DECIMAL"):
        return kind
    return _PARQUET_TYPES.get(kind, "JSON" if kind == "JSON" or kind.endswith(("]", ")")) else kind)


def _as_text(column: str, found: str) -> str:
    is_nested = found.endswith(("]", ")")) and not found.startswith("DECIMAL")
    return f"CAST(to_json({column}) AS VARCHAR)" if is_nested else f"CAST({column} AS VARCHAR)"


def _widen(left: str | None, right: str) -> str:
    if left is None or left == right:
        return right
    return "DOUBLE" if {left, right} == {"BIGINT", "DOUBLE"} else "JSON" if "JSON" in (left, right) else "VARCHAR"


def _require_own_names(ref: TableRef, files: Sequence[SourceFile], columns: Mapping[str, str]) -> None:
    lowered = [name.lower() for name in (*columns, *OWN_COLUMNS, *PLATFORM_COLUMNS)]
    if doubled := sorted({name for name in lowered if lowered.count(name) > 1}):
        raise SourceError(
            f"cannot land {files[0].name!r} in {ref.dotted!r}",
            f"its columns {', '.join(doubled)} differ in case only, or are the platform's own",
            "Leave one of them out at the source (column selection).",
        )


def _not_airbytes(ref: TableRef, file: SourceFile) -> SourceError:
    return SourceError(
        f"cannot land {file.name!r} in {ref.dotted!r}",
        "it has no _airbyte_extracted_at, so Airbyte's S3 destination did not write it",
        "Correct the path in config/sources.yaml, or its format.",
    )
