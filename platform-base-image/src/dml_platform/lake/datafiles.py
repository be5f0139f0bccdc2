"""The data files of a table: rows to Parquet, and which files a merge replaces.

Commits nothing: a file that no snapshot names is invisible.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
from duckdb import DuckDBPyConnection
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema

from dml_platform.core.errors import PermanentError, SchemaMismatchError
from dml_platform.core.naming import TableRef
from dml_platform.core.settings import Settings
from dml_platform.lake.engine import quote, quote_name
from dml_platform.lake.read import PinnedTable
from dml_platform.lake.schema import duckdb_type, field_ids

_STORAGE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class Written:
    """Files with new rows, and the table's files that they replace."""

    paths: tuple[str, ...]
    rows: int
    replaced: tuple[DataFile, ...] = ()


def write_files(
    connection: DuckDBPyConnection,
    sql: str,
    schema: Schema,
    *,
    location: str,
    settings: Settings,
    enums: Collection[str] = (),
) -> Written:
    """Write a query's rows as Parquet files with the schema's columns, types and field ids.

    Args:
        sql: a SELECT with every column of the schema, in any order.
        location: the table's folder.
        enums: the query's ENUM columns; one that the table stores as text becomes plain text in the file.
    """
    folder = f"{location}/data"
    if not settings.is_s3:
        Path(folder).mkdir(parents=True, exist_ok=True)
    options = (
        "FORMAT parquet",
        # Iceberg's own default, and four tenths smaller than DuckDB's (snappy). Parquet's version 2 would be smaller
        # still, but Spark's vectorized reader of Iceberg tables refuses its encodings.
        "COMPRESSION zstd",
        "COMPRESSION_LEVEL 1",
        f"FIELD_IDS {field_ids(schema)}",
        f"FILE_SIZE_BYTES '{settings.lake.file_size_mb}MB'",
        "FILENAME_PATTERN '{uuid}'",
        "APPEND true",
        "RETURN_STATS true",
    )
    copied = connection.execute(
        f"COPY ({cast_to(schema, sql, enums)}) TO {quote(folder)} ({', '.join(options)})"
    ).fetchall()
    files = [(row[0], row[1]) for row in copied if row[1] > 0]
    return Written(tuple(path for path, _ in files), sum(rows for _, rows in files))


def write_merged(
    connection: DuckDBPyConnection,
    sql: str,
    schema: Schema,
    head: PinnedTable,
    *,
    key: Sequence[str],
    location: str,
    settings: Settings,
) -> Written:
    """Write a query's rows and the kept rows of the files that hold a row with the same key (copy on write).

    Raises:
        SchemaMismatchError: the key is empty or doubled in the rows, or DuckDB cannot read the table's files.
    """
    require_own_files(head)
    by_path = {data_file.file_path: data_file for data_file in live_files(head)}
    keys = ", ".join(quote_name(k) for k in key)
    with temporary_table(connection, cast_to(schema, sql)) as incoming:
        rows = require_unique(connection, incoming, head.ref, key)
        touched: list[str] = []
        if by_path:
            named = head.select_files(list(by_path), filename="_dml_file")
            touched = [
                path
                for (path,) in connection.execute(
                    f"SELECT DISTINCT _dml_file FROM ({named}) SEMI JOIN {incoming} USING ({keys})"
                ).fetchall()
            ]
        kept = f"SELECT * FROM ({head.select_files(touched)}) ANTI JOIN {incoming} USING ({keys})"
        written = write_files(
            connection,
            f"SELECT * FROM {incoming} UNION ALL BY NAME {kept}",
            schema,
            location=location,
            settings=settings,
        )
    return Written(written.paths, rows, tuple(by_path[path] for path in touched))


def require_own_files(head: PinnedTable) -> None:
    """Refuse to merge into files of which only pyiceberg knows what is in them.

    Raises:
        SchemaMismatchError: there are such files.
    """
    if head.files()[1]:
        raise SchemaMismatchError(
            f"cannot merge into {head.ref.dotted!r}",
            "another engine left row deletes in it, files without field ids, or renamed a part of a nested column",
            "Rewrite the table with that engine (compaction), or use a full refresh.",
        )


def live_files(head: PinnedTable) -> list[DataFile]:
    """The data files of a snapshot."""
    if head.snapshot_id is None:
        return []
    return [task.file for task in head.table.scan(snapshot_id=head.snapshot_id).plan_files()]


def cast_to(schema: Schema, sql: str, enums: Collection[str] = ()) -> str:
    """Bring a query's columns into the schema's order and types; ENUMs stay what they are where text is due."""

    def cast(name: str, kind: str) -> str:
        return quote_name(name) if name in enums and kind == "VARCHAR" else f"CAST({quote_name(name)} AS {kind})"

    columns = (f"{cast(f.name, duckdb_type(f.field_type))} AS {quote_name(f.name)}" for f in schema.fields)
    return f"SELECT {', '.join(columns)} FROM ({sql})"


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk into a sentence.

    Raises:
        PermanentError: the storage refused the write.
    """
    try:
        yield
    except (OSError, duckdb.IOException, duckdb.OutOfMemoryException) as error:
        faults = [code for code in _STORAGE_FAULTS if os.strerror(code) in str(error)]
        if not faults:
            raise
        raise PermanentError(
            what, str(error).splitlines()[0], "Make space or correct the rights, then run it again."
        ) from error


def require_unique(connection: DuckDBPyConnection, incoming: str, ref: TableRef, key: Sequence[str]) -> int:
    """Count the rows; a key that is NULL or doubled would make a second run give another table.

    Raises:
        SchemaMismatchError: there is such a key.
    """
    keys = ", ".join(quote_name(k) for k in key)
    is_null = " OR ".join(f"{quote_name(k)} IS NULL" for k in key)
    counted = connection.execute(
        f"SELECT coalesce(sum(n), 0)::BIGINT, count(*) FILTER (n > 1), coalesce(sum(n) FILTER ({is_null}), 0)::BIGINT"
        f" FROM (SELECT {keys}, count(*) AS n FROM {incoming} GROUP BY ALL)"
    ).fetchone()
    assert counted is not None
    rows, doubled, empty = counted
    if empty or doubled:
        found = f"{empty} rows have no value in" if empty else f"{doubled} values occur more than once in"
        raise SchemaMismatchError(
            f"cannot merge into {ref.dotted!r}",
            f"{found} its key ({', '.join(key)})",
            "Make the query return one row for each key.",
        )
    return int(rows)


@contextmanager
def temporary_table(connection: DuckDBPyConnection, select: str) -> Iterator[str]:
    """A query's rows under a name of their own, for as long as they are needed."""
    name = f"_dml_merge_{uuid.uuid4().hex}"
    connection.execute(f"CREATE TEMP TABLE {name} AS {select}")
    try:
        yield name
    finally:
        connection.execute(f"DROP TABLE IF EXISTS {name}")
