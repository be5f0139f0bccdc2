"""What is gathered of a project before it is a document: several places know something of the same table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dml_platform.core.document import Column, ColumnEdge, Consumer, Kind, Owner, Table, TableEdge, Test
from dml_platform.core.errors import ConfigError
from dml_platform.core.naming import TableRef

KINDS: dict[str, Kind] = {
    "raw": "raw",
    "seeds": "seed",
    "staging": "staging",
    "intermediate": "intermediate",
    "marts": "mart",
}


@dataclass
class DraftTable:
    """A table so far: ``values`` are fields of the document's, ``columns`` are those of its columns by name."""

    name: str
    kind: Kind
    values: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)

    def fill(self, **values: Any) -> None:
        """Take what is not known yet; what was said first stays."""
        for name, value in values.items():
            if value and not self.values.get(name):
                self.values[name] = value

    def fill_column(self, name: str, **values: Any) -> None:
        """Take a column, and of a known one what is not known yet."""
        column = self.columns.setdefault(name, {"name": name})
        for key, value in values.items():
            if value and not column.get(key):
                column[key] = value

    def finish(self) -> Table:
        """The document's table."""
        columns = tuple(Column(**column) for column in self.columns.values())
        return Table(name=self.name, kind=self.kind, columns=columns, **self.values)


@dataclass
class Draft:
    """A project so far."""

    project: str
    owner: Owner | None = None
    tables: dict[str, DraftTable] = field(default_factory=dict)
    tests: dict[str, Test] = field(default_factory=dict)
    consumers: list[Consumer] = field(default_factory=list)
    table_edges: dict[TableEdge, None] = field(default_factory=dict)
    column_edges: dict[ColumnEdge, None] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def table(self, name: str, kind: Kind | None = None) -> DraftTable | None:
        """The table of that name, made if it is one of the lake's; None for what is no table of the platform."""
        if name not in self.tables:
            kind = kind or _kind(name)
            if kind is None:
                return None
            self.tables[name] = DraftTable(name, kind)
        return self.tables[name]

    def connect(self, source: str, target: str) -> None:
        """Note that a table is made from another."""
        if source != target:
            self.table_edges.setdefault(TableEdge(source=source, target=target))


def parse_owner(text: str | None) -> Owner | None:
    """An address, or a name such as ``team:sales``."""
    if not text:
        return None
    return Owner(email=text) if "@" in text else Owner(name=text.removeprefix("team:"))


def _kind(name: str) -> Kind | None:
    try:
        return KINDS.get(TableRef.parse(name).layer)
    except ConfigError:
        return None
