"""Parquet files: grouped by schema, refused whole when damaged. A row of a readable Parquet file always parses."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Mapping, Sequence

import duckdb
from duckdb import DuckDBPyConnection

from dml_platform.core.errors import SchemaMismatchError, SourceError
from dml_platform.core.naming import TableRef
from dml_platform.files.config import PLATFORM_COLUMNS, FileTable
from dml_platform.files.discover import SourceFile
from dml_platform.files.reader import Batch, check_declared
from dml_platform.lake.engine import quote, quote_name
from dml_platform.lake.schema import describe_query, duckdb_type, evolve, new_schema


def plan_parquet(
    connection: DuckDBPyConnection,
    ref: TableRef,
    source: FileTable,
    files: Sequence[SourceFile],
    known: Mapping[str, str],
) -> list[Batch]:
    """Group files that have the same columns; declared types must hold every value of the file's type.

    Raises:
        SourceError: a file is no Parquet file, or is cut.
        SchemaMismatchError: a column is missing, not declared, or of another type.
    """
    groups: dict[tuple[tuple[str, str], ...], list[SourceFile]] = defaultdict(list)
    for file in files:
        groups[_read_columns(connection, ref, source, file)].append(file)
    batches = []
    for columns, members in sorted(groups.items(), key=lambda group: len(group[0])):
        names = ", ".join(quote_name(name) for name, _ in columns)
        if source.columns:
            names = ", ".join(
                f"CAST({quote_name(name)} AS {kind}) AS {quote_name(name)}" for name, kind in source.columns.items()
            )
        batches.append(Batch(tuple(members), f"SELECT {names}, filename FROM {_reader(members)}"))
    return batches


def _reader(files: Sequence[SourceFile]) -> str:
    paths = ", ".join(quote(glob.escape(str(file.path))) for file in files)
    return f"read_parquet([{paths}], filename = true, hive_partitioning = false)"


def _read_columns(
    connection: DuckDBPyConnection, ref: TableRef, source: FileTable, file: SourceFile
) -> tuple[tuple[str, str], ...]:
    what = f"cannot land {file.name!r} in {ref.dotted!r}"
    try:
        relation = connection.sql(f"SELECT * EXCLUDE (filename) FROM {_reader([file])}")
    except duckdb.Error as error:
        reason = str(error).splitlines()[0].replace(f"'{file.path}'", "it").replace(str(file.path), "it")
        raise SourceError(what, f"it is not a whole Parquet file ({reason[:200]})", "Fetch the file again.") from error
    columns = tuple(zip(relation.columns, map(str, relation.types), strict=True))
    if reserved := sorted(set(relation.columns) & set(PLATFORM_COLUMNS)):
        raise SourceError(what, f"it has {reserved}, which the platform adds itself", "Rename them at the source.")
    if source.columns:
        check_declared(ref, file.name, declared=list(source.columns), found=relation.columns)
        casts = ", ".join(f"CAST(NULL AS {kind}) AS {quote_name(name)}" for name, kind in source.columns.items())
        declared = describe_query(connection, f"SELECT {casts}", ref=ref)
        found = describe_query(connection, f"SELECT * EXCLUDE (filename) FROM {_reader([file])}", ref=ref)
        schema = new_schema(declared)
        change = evolve(schema, found, last_column_id=schema.highest_field_id)
        if change.changed or change.refused:
            wider = [
                f"{name}: {duckdb_type(schema.find_type(name))} declared, {duckdb_type(field.field_type)} in the file"
                for name, field in ((f.name, f) for f in change.schema.fields)
                if field.field_type != schema.find_type(name)
            ]
            refused = "; ".join(change.refused or wider)
            raise SchemaMismatchError(
                what,
                "its columns differ: "
                + refused.replace("in the table", "declared").replace("in the rows", "in the file"),
                "Correct the columns in config/sources.yaml, or convert them at the source.",
            )
    return columns
