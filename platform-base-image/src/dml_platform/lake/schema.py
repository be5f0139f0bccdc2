"""Types and columns: DuckDB's types as Iceberg's, and how a table's schema may change.

A table's columns may be added and widened. Everything else is refused with the list of differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import pyiceberg.types as t
from duckdb import DuckDBPyConnection
from duckdb.sqltypes import DuckDBPyType
from pyiceberg.schema import Schema, assign_fresh_schema_ids

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
    """A column of a query: its name and the Iceberg type that it is stored as.

    An ENUM is stored as text, and written faster than text: DuckDB has its dictionary already.
    """

    name: str
    type: t.IcebergType
    is_enum: bool = False


def describe_query(connection: DuckDBPyConnection, sql: str, *, ref: TableRef) -> list[Column]:
    """Bind a query and give its columns as they would be stored.

    Raises:
        SchemaMismatchError: a column has a type that Iceberg does not have, or two share a name.
    """
    relation = connection.sql(sql)
    columns = [
        Column(name, iceberg_type(duck_type, column=name, ref=ref), is_enum=duck_type.id == "enum")
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

    def convert(duck: Any) -> t.IcebergType:
        kind = duck.id
        if kind == "decimal":
            options: dict[str, Any] = dict(duck.children)
            return t.DecimalType(options["precision"], options["scale"])
        if kind in ("list", "array"):
            return t.ListType(next(ids), convert(duck.children[0][1]), element_required=False)
        if kind == "map":
            parts: dict[str, Any] = dict(duck.children)
            return t.MapType(next(ids), convert(parts["key"]), next(ids), convert(parts["value"]), value_required=False)
        if kind == "struct":
            return t.StructType(*(t.NestedField(next(ids), name, convert(child)) for name, child in duck.children))
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
    if type(iceberg) not in names:
        raise SchemaMismatchError(
            "cannot use the table in DuckDB",
            f"it has a column of type {iceberg}",
            "Use a table of Iceberg format version 2 without that type.",
        )
    return names[type(iceberg)]


def new_schema(columns: Sequence[Column]) -> Schema:
    """A schema for a new table; every column is optional."""
    return evolve(Schema(), columns, last_column_id=0).schema


@dataclass(frozen=True)
class Evolution:
    """The schema that takes the rows, and what it took to get there.

    ``refused`` lists the differences that a table cannot take: then ``schema`` must not be used.
    """

    schema: Schema
    changed: bool
    refused: tuple[str, ...]


def evolve(table: Schema, columns: Sequence[Column], *, last_column_id: int, replace: bool = False) -> Evolution:
    """Add and widen columns, nested fields too, until rows with ``columns`` fit into the table.

    Args:
        last_column_id: the highest field id that the table ever used; new columns get higher ones.
        replace: drop what the rows do not have and replace what does not fit, under new ids.
    Source: Iceberg table spec, "Schema Evolution".
    """
    merger = _Merger(count(last_column_id + 1))
    offered = {c.name: c for c in columns}
    fields = []
    for old in table.fields:
        before = len(merger.refused)
        column = offered.pop(old.name, None)
        if column is None:
            merger.refuse(old.name, old.field_type, None)
        else:
            kind = merger.merge(old.name, old.field_type, column.type)
            if not (replace and len(merger.refused) > before):
                fields.append(_retyped(old, kind))
            else:
                offered[old.name] = column
    fields += [merger.new_field(c.name, c.type) for c in columns if c.name in offered]
    schema = Schema(*fields, identifier_field_ids=[] if replace else table.identifier_field_ids)
    return Evolution(schema, schema.fields != table.fields, () if replace else tuple(merger.refused))


class _Merger:
    """Merges types field by field; remembers what does not fit, with the path of the field."""

    def __init__(self, ids: Iterator[int]) -> None:
        self.ids = ids
        self.refused: list[str] = []

    def refuse(self, path: str, old: t.IcebergType, new: t.IcebergType | None) -> None:
        rows = f"{duckdb_type(new)} in the rows" if new else "missing in the rows"
        self.refused.append(f"{path}: {duckdb_type(old)} in the table, {rows}")

    def merge(self, path: str, old: t.IcebergType, new: t.IcebergType) -> t.IcebergType:
        """The type that takes values of both; ``old`` where there is none."""
        if isinstance(old, t.StructType) and isinstance(new, t.StructType):
            return self._merge_struct(path, old, new)
        if isinstance(old, t.ListType) and isinstance(new, t.ListType):
            element = self.merge(f"{path}[]", old.element_type, new.element_type)
            return t.ListType(old.element_id, element, element_required=old.element_required)
        if isinstance(old, t.MapType) and isinstance(new, t.MapType) and _same(old.key_type, new.key_type):
            value = self.merge(f"{path}[]", old.value_type, new.value_type)
            return t.MapType(old.key_id, old.key_type, old.value_id, value, value_required=old.value_required)
        if _same(old, new) or _fits(new, into=old):
            return old
        if _fits(old, into=new):
            return new
        self.refuse(path, old, new)
        return old

    def _merge_struct(self, path: str, old: t.StructType, new: t.StructType) -> t.StructType:
        offered = {f.name: f for f in new.fields}
        fields = []
        for field in old.fields:
            other = offered.pop(field.name, None)
            if other is None:
                self.refuse(f"{path}.{field.name}", field.field_type, None)
                continue
            fields.append(_retyped(field, self.merge(f"{path}.{field.name}", field.field_type, other.field_type)))
        return t.StructType(*fields, *(self.new_field(f.name, f.field_type) for f in offered.values()))

    def new_field(self, name: str, kind: t.IcebergType) -> t.NestedField:
        field = t.NestedField(0, name, kind, required=False)
        return assign_fresh_schema_ids(Schema(field), next_id=lambda: next(self.ids)).fields[0]


def _retyped(field: t.NestedField, kind: t.IcebergType) -> t.NestedField:
    return field if field.field_type == kind else field.model_copy(update={"field_type": kind})


def _same(left: t.IcebergType, right: t.IcebergType) -> bool:
    """Equal apart from field ids."""
    return duckdb_type(left) == duckdb_type(right)


def _fits(narrow: t.IcebergType, *, into: t.IcebergType) -> bool:
    """Whether Iceberg allows the promotion."""
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
