"""Types and columns: DuckDB's types as Iceberg's, and how a table's schema may change.

A table's columns may be added and widened. Everything else is refused with the list of differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import pyiceberg.types as t
from duckdb import DuckDBPyConnection
from duckdb.sqltypes import DuckDBPyType
from pyiceberg.schema import Schema

from dml_platform.core.errors import SchemaMismatchError
from dml_platform.core.naming import TableRef
from dml_platform.lake.engine import quote_name

_PRIMITIVES: dict[str, t.PrimitiveType] = {
    "boolean": t.BooleanType(),
    "tinyint": t.IntegerType(),
    "smallint": t.IntegerType(),
    "integer": t.IntegerType(),
    "utinyint": t.IntegerType(),
    "usmallint": t.IntegerType(),
    "uinteger": t.LongType(),
    "bigint": t.LongType(),
    "ubigint": t.DecimalType(20, 0),
    "hugeint": t.DecimalType(38, 0),
    "uhugeint": t.DecimalType(38, 0),
    "float": t.FloatType(),
    "double": t.DoubleType(),
    "date": t.DateType(),
    "time": t.TimeType(),
    "timestamp": t.TimestampType(),
    "timestamp_s": t.TimestampType(),
    "timestamp_ms": t.TimestampType(),
    "timestamp_ns": t.TimestampType(),
    "timestamp with time zone": t.TimestamptzType(),
    "varchar": t.StringType(),
    "enum": t.StringType(),
    "json": t.StringType(),
    "uuid": t.StringType(),
    "bit": t.StringType(),
    "blob": t.BinaryType(),
}


@dataclass(frozen=True)
class Column:
    """A column of a query: its name and the Iceberg type that it is stored as."""

    name: str
    type: t.IcebergType


def describe_query(connection: DuckDBPyConnection, sql: str, *, ref: TableRef) -> list[Column]:
    """Bind a query and give its columns as they would be stored.

    Raises:
        SchemaMismatchError: a column has a type that Iceberg does not have, or two share a name.
    """
    relation = connection.sql(sql)
    columns = [
        Column(name, iceberg_type(duck_type, column=name, ref=ref))
        for name, duck_type in zip(relation.columns, relation.types, strict=True)
    ]
    lowered = [c.name.lower() for c in columns]
    if doubled := sorted({n for n in lowered if lowered.count(n) > 1}):
        raise SchemaMismatchError(
            f"cannot write {ref.dotted!r}", f"columns {doubled} occur twice", "Rename one of each."
        )
    return columns


def iceberg_type(duck_type: DuckDBPyType, *, column: str, ref: TableRef) -> t.IcebergType:
    """The Iceberg type that holds every value of a DuckDB type; timestamps are cut to microseconds.

    Raises:
        SchemaMismatchError: Iceberg has no such type (INTERVAL, UNION).
    Source: Iceberg table spec, "Primitive Types".
    """
    ids = count(1)

    def convert(duck: DuckDBPyType) -> t.IcebergType:
        kind = duck.id
        if kind == "decimal":
            options = dict(duck.children)
            return t.DecimalType(int(options["precision"]), int(options["scale"]))
        if kind in ("list", "array"):
            return t.ListType(next(ids), convert(duck.children[0][1]), element_required=False)
        if kind == "map":
            parts = dict(duck.children)
            return t.MapType(
                next(ids), convert(parts["key"]), next(ids), convert(parts["value"]), value_required=False
            )
        if kind == "struct":
            return t.StructType(
                *(t.NestedField(next(ids), name, convert(child)) for name, child in duck.children)
            )
        # DuckDB names a JSON column VARCHAR with an alias.
        primitive = _PRIMITIVES.get(kind) or _PRIMITIVES.get(str(duck).lower())
        if primitive is None:
            raise SchemaMismatchError(
                f"cannot write {ref.dotted!r}",
                f"column {column!r} is {duck}, a type that Iceberg does not have",
                f"Cast it, e.g. cast({column} as varchar).",
            )
        return primitive

    return convert(duck_type)


def duckdb_type(iceberg: t.IcebergType) -> str:
    """The DuckDB type that Iceberg's values are read and written as."""
    if isinstance(iceberg, t.DecimalType):
        return f"DECIMAL({iceberg.precision},{iceberg.scale})"
    if isinstance(iceberg, t.ListType):
        return f"{duckdb_type(iceberg.element_type)}[]"
    if isinstance(iceberg, t.MapType):
        return f"MAP({duckdb_type(iceberg.key_type)}, {duckdb_type(iceberg.value_type)})"
    if isinstance(iceberg, t.StructType):
        fields = (f"{quote_name(f.name)} {duckdb_type(f.field_type)}" for f in iceberg.fields)
        return f"STRUCT({', '.join(fields)})"
    names: dict[type[t.IcebergType], str] = {
        t.BooleanType: "BOOLEAN",
        t.IntegerType: "INTEGER",
        t.LongType: "BIGINT",
        t.FloatType: "FLOAT",
        t.DoubleType: "DOUBLE",
        t.DateType: "DATE",
        t.TimeType: "TIME",
        t.TimestampType: "TIMESTAMP",
        t.TimestamptzType: "TIMESTAMPTZ",
        t.StringType: "VARCHAR",
        t.BinaryType: "BLOB",
        t.FixedType: "BLOB",
        t.UUIDType: "UUID",
    }
    return names[type(iceberg)]


def new_schema(columns: Sequence[Column]) -> Schema:
    """A schema for a new table; every column is optional, ids are given anew by the catalogue."""
    return Schema(*(t.NestedField(i, c.name, c.type, required=False) for i, c in enumerate(columns, 1)))


@dataclass(frozen=True)
class SchemaChange:
    """What has to happen to a table before rows with other columns fit in."""

    added: tuple[Column, ...] = ()
    widened: tuple[Column, ...] = ()
    refused: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.widened)


def compare(table: Schema, columns: Sequence[Column]) -> SchemaChange:
    """Compare a table with the columns of the rows to write."""
    present = {f.name: f for f in table.fields}
    offered = {c.name: c for c in columns}
    added, widened, refused = [], [], []
    for column in columns:
        field = present.get(column.name)
        if field is None:
            added.append(column)
        elif not _same(field.field_type, column.type):
            if _fits(column.type, into=field.field_type):
                continue
            if _fits(field.field_type, into=column.type):
                widened.append(column)
            else:
                refused.append(
                    f"{column.name}: {duckdb_type(field.field_type)} in the table, "
                    f"{duckdb_type(column.type)} in the rows"
                )
    refused += [
        f"{f.name}: {duckdb_type(f.field_type)} in the table, missing in the rows"
        for f in table.fields
        if f.name not in offered
    ]
    return SchemaChange(tuple(added), tuple(widened), tuple(refused))


def _same(left: t.IcebergType, right: t.IcebergType) -> bool:
    """Equal apart from field ids."""
    return duckdb_type(left) == duckdb_type(right)


def _fits(narrow: t.IcebergType, *, into: t.IcebergType) -> bool:
    """Whether Iceberg allows the promotion (spec, "Schema Evolution")."""
    if isinstance(narrow, t.IntegerType):
        return isinstance(into, t.LongType)
    if isinstance(narrow, t.FloatType):
        return isinstance(into, t.DoubleType)
    if isinstance(narrow, t.DecimalType) and isinstance(into, t.DecimalType):
        return narrow.scale == into.scale and narrow.precision <= into.precision
    return False


def field_ids(schema: Schema) -> str:
    """DuckDB's FIELD_IDS literal for a schema, nested fields included."""
    return _field_ids_of(schema.fields)


def _field_ids_of(fields: Sequence[t.NestedField]) -> str:
    return "{" + ", ".join(f"{quote_name(f.name)}: {_id_of(f.field_id, f.field_type)}" for f in fields) + "}"


def _id_of(field_id: int, kind: t.IcebergType) -> str:
    if isinstance(kind, t.StructType):
        children = _field_ids_of(kind.fields)[1:-1]
        return f"{{__duckdb_field_id: {field_id}, {children}}}"
    if isinstance(kind, t.ListType):
        return f"{{__duckdb_field_id: {field_id}, element: {_id_of(kind.element_id, kind.element_type)}}}"
    if isinstance(kind, t.MapType):
        return (
            f"{{__duckdb_field_id: {field_id}, key: {_id_of(kind.key_id, kind.key_type)}, "
            f"value: {_id_of(kind.value_id, kind.value_type)}}}"
        )
    return str(field_id)
