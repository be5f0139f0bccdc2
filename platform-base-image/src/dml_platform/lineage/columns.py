"""Column lineage of one query: which columns of which tables each of its columns is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import sqlglot
from sqlglot import exp

from dml_platform.lineage.queries import Tracer, schema_relation
from dml_platform.lineage.relation import Origins, Relation, Via, unique_names, unknown

ALL = "*"  # as an output column: all of them; as a key of a schema: there may be more columns
Schema = Mapping[str, "str | None"]
Schemas = Mapping[str, Schema]


@dataclass(frozen=True, order=True)
class Edge:
    """One thing that an output column is made of.

    ``column`` is None for the table's rows (``count(*)``), or, with ``via`` unknown, for some of its columns.
    """

    table: str
    column: str | None
    via: Via


class QueryError(ValueError):
    """The query cannot be read."""


@dataclass(frozen=True)
class Traced:
    """A traced query. ``unresolved`` are names that no table in scope has: a schema is out of date."""

    relation: Relation
    unresolved: tuple[str, ...] = ()


def trace_columns(sql: str, schemas: Schemas) -> dict[str, list[Edge]]:
    """Trace one query in DuckDB's dialect.

    Args:
        schemas: columns and DuckDB types, None where not known, by a table's name as the query writes it
            (``db.schema.name``, any case). With a key ``"*"`` there may be more columns. A table that is not there has
            columns nobody knows.
    Returns: for each output column what it is made of; under ``"*"`` what decides which rows there are (``filter``),
        and what output columns are made of that could not be told apart.
    Raises:
        QueryError: it is no query that can be read.
    """
    return edges_of(trace(sql, Catalog(schemas)).relation)


def edges_of(relation: Relation) -> dict[str, list[Edge]]:
    """A relation's edges by output column, as ``trace_columns`` returns them."""
    found = {column.name: _edges(column.origins) for column in relation.columns}
    extra = {**relation.filters, **(relation.rest or {}), **unknown(relation.open)}
    if extra:
        found[ALL] = _edges(extra)
    return found


def _edges(origins: Origins) -> list[Edge]:
    return sorted(
        (Edge(table, column, via) for (table, column), via in origins.items()),
        key=lambda edge: (edge.table, edge.column or "", edge.via),
    )


class Catalog:
    """The tables that queries may name."""

    def __init__(self, schemas: Schemas | None = None) -> None:
        self._relations: dict[str, Relation] = {}
        for name, columns in (schemas or {}).items():
            self.add(name, columns)

    def add(self, name: str, columns: Schema) -> None:
        """Make a table's columns known."""
        listed = {column: parse_type(kind) for column, kind in columns.items() if column != ALL}
        self._relations[name.lower()] = schema_relation(name, listed, complete=ALL not in columns)

    def add_traced(self, name: str, relation: Relation) -> None:
        """Make known what a query was found to make."""
        columns = {column.name: column.type for column in relation.columns}
        self._relations[name.lower()] = schema_relation(name, columns, complete=not relation.is_open)

    def find(self, parts: tuple[str, ...]) -> Relation:
        """A table; one with columns nobody knows if it was not made known."""
        name = ".".join(parts)
        known = self._relations.get(name.lower())
        return known if known is not None else schema_relation(name, None, complete=False)


def trace(sql: str, catalog: Catalog) -> Traced:
    """Trace one query against a catalogue.

    Raises:
        QueryError: it is no query that can be read.
    """
    try:
        statements = [s for s in sqlglot.parse(sql, dialect="duckdb") if s is not None]
    except sqlglot.errors.SqlglotError as error:
        raise QueryError(str(error).split("\n")[0]) from error
    if len(statements) != 1 or not isinstance(statements[0], (exp.Query, exp.Pivot)):
        raise QueryError("it is not one query")
    tracer = Tracer(catalog.find)
    try:
        relation = tracer.trace(statements[0])
    except RecursionError as error:
        raise QueryError("it is nested too deeply") from error
    relation = Relation(unique_names(relation.columns), relation.open, relation.rest, relation.rows, relation.filters)
    return Traced(relation, tuple(dict.fromkeys(tracer.unresolved)))


@lru_cache(maxsize=4096)
def parse_type(text: str | None) -> exp.DataType | None:
    """A type as DuckDB writes it; None where it cannot be read."""
    if not text:
        return None
    try:
        return exp.DataType.build(text, dialect="duckdb")
    except (sqlglot.errors.SqlglotError, ValueError):
        return None
