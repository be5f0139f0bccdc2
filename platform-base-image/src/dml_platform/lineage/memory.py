"""What was traced before, so that a query is traced anew only where its SQL or a table that it names changed.

An entry says which tables the query looked up and what was known of each. It counts only while the same is known of all
of them, and only for the same code here and in sqlglot; what the file holds counts only as it was written. So an entry
can be missing, never wrong.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dml_platform import __version__
from dml_platform.core.marked import read_marked, write_marked
from dml_platform.lineage.columns import Catalog, Traced, parse_type, trace
from dml_platform.lineage.relation import Column, Origins, Relation

logger = logging.getLogger(__name__)

_MOST = 3  # of one query: an incremental model is traced twice, a branch and its base may differ below it


class Memory:
    """Traced queries, by their SQL. For one process, or with ``load`` and ``save`` for the next one too."""

    def __init__(self) -> None:
        self._known: dict[str, list[dict[str, Any]]] = {}
        self._used: dict[str, list[dict[str, Any]]] = {}
        self.traced = 0

    @classmethod
    def load(cls, path: Path) -> Memory:
        """What a file holds; nothing where it is of other code, or not as it was written."""
        memory = cls()
        memory._known = read_marked(path, _code()) or {}
        return memory

    def save(self, path: Path) -> None:
        """Keep what was used. Where nothing can be written, the next process traces again."""
        try:
            write_marked(path, self._used, _code())
        except OSError as error:
            logger.warning("what was traced could not be kept in %s: %s", path, error)

    def trace(self, sql: str, catalog: Catalog) -> Traced:
        """As ``columns.trace``; what is known is not traced again.

        Raises:
            QueryError: it is no query that can be read.
        """
        key = hashlib.sha256(sql.encode()).hexdigest()
        for entry in (*self._used.get(key, ()), *self._known.get(key, ())):
            if all(_digest(catalog.find(tuple(parts))) == seen for parts, seen in entry["reads"]):
                self._keep(key, entry)
                return Traced(_decode(entry["relation"]), tuple(entry["unresolved"]))
        watched = _Watched(catalog)
        traced = trace(sql, watched)
        self.traced += 1
        relation = _encode(traced.relation)
        if _decode(relation) == traced.relation:  # else a type is there that does not survive being written
            reads = [[list(parts), _digest(found)] for parts, found in watched.found.items()]
            self._keep(key, {"reads": reads, "relation": relation, "unresolved": list(traced.unresolved)})
        return traced

    def _keep(self, key: str, entry: dict[str, Any]) -> None:
        others = [each for each in self._used.get(key, []) if each["reads"] != entry["reads"]]
        self._used[key] = [entry, *others][:_MOST]


class _Watched(Catalog):
    """A catalogue that notes what it is asked for."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.found: dict[tuple[str, ...], Relation] = {}

    def find(self, parts: tuple[str, ...]) -> Relation:
        self.found[parts] = self._catalog.find(parts)
        return self.found[parts]


@cache
def _code() -> bytes:
    """Stands for everything that decides what a trace finds, but for the query and its tables."""
    digest = hashlib.sha256(f"{__version__} {version('sqlglot')}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest().encode()


def _digest(relation: Relation) -> str:
    return hashlib.sha256(json.dumps(_encode(relation)).encode()).hexdigest()


def _encode(relation: Relation) -> dict[str, Any]:
    return {
        "columns": [_encode_column(column) for column in relation.columns],
        "open": dict(relation.open),
        "rest": None if relation.rest is None else _encode_origins(relation.rest),
        "rows": sorted(relation.rows),
        "filters": _encode_origins(relation.filters),
    }


def _encode_column(column: Column) -> list[Any]:
    kind = column.type.sql("duckdb") if column.type is not None else None
    fields = None if column.fields is None else {n: _encode_column(part) for n, part in column.fields.items()}
    return [column.name, _encode_origins(column.origins), kind, fields]


def _encode_origins(origins: Origins) -> list[list[Any]]:
    return [[*key, via] for key, via in origins.items()]


def _decode(found: Mapping[str, Any]) -> Relation:
    return Relation(
        tuple(_decode_column(*column) for column in found["columns"]),
        found["open"],
        None if found["rest"] is None else _decode_origins(found["rest"]),
        frozenset(found["rows"]),
        _decode_origins(found["filters"]),
    )


def _decode_column(name: str, origins: list[Any], kind: str | None, fields: Mapping[str, Any] | None) -> Column:
    inside = None if fields is None else {n: _decode_column(*part) for n, part in fields.items()}
    return Column(name, _decode_origins(origins), parse_type(kind), inside)


def _decode_origins(found: list[list[Any]]) -> Origins:
    return {(table, column): via for table, column, via in found}
