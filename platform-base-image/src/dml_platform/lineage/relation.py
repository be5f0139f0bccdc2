"""What is known of a relation's columns: where each came from, and what could not be known.

Values only; reading SQL is in ``queries`` and ``expressions``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from sqlglot import exp

Via = Literal["copy", "transform", "filter", "unknown"]
# Table and column; None for the column: the table's rows (count(*)), or, where unknown, some of its columns.
Key: TypeAlias = "tuple[str, str | None]"
Origins: TypeAlias = "Mapping[Key, Via]"
NOTHING: Origins = {}
# When one column is used in several ways, the first of these is said. "unknown" is of a key of its own, but for rows.
_STRONGEST: tuple[Via, ...] = ("unknown", "transform", "copy", "filter")


def merge(*parts: Origins) -> Origins:
    """All origins together."""
    if len(parts) == 1:
        return parts[0]
    merged: dict[Key, Via] = {}
    for part in parts:
        for key, via in part.items():
            known = merged.get(key)
            merged[key] = via if known is None or _STRONGEST.index(via) < _STRONGEST.index(known) else known
    return merged


def transformed(origins: Origins) -> Origins:
    """The same, no longer as plain copies."""
    return {key: "transform" if via == "copy" else via for key, via in origins.items()}


def as_filter(origins: Origins) -> Origins:
    """The same, as what decides which rows there are."""
    return {
        key: "unknown" if via == "unknown" else "filter"
        for key, via in origins.items()
        if key[1] is not None or via == "unknown"
    }


def values_of(origins: Origins) -> Origins:
    """Without what only decides which rows there are."""
    return {key: via for key, via in origins.items() if via != "filter"}


def unknown(tables: Iterable[str]) -> Origins:
    """Some columns of these tables, and nobody can say which."""
    return {(table, None): "unknown" for table in tables}


@dataclass(frozen=True)
class Column:
    """A column, or the value of an expression. ``fields`` are a struct's, where they are known one by one."""

    name: str
    origins: Origins = field(default_factory=dict)
    type: exp.DataType | None = None
    fields: Mapping[str, Column] | None = None

    def named(self, name: str) -> Column:
        """The same under another name."""
        return replace(self, name=name)

    def parts(self) -> dict[str, Column] | None:
        """The fields of a struct by their name in lower case; None where they are not known."""
        if self.fields is not None:
            return dict(self.fields)
        if self.type is None or not self.type.is_type(exp.DType.STRUCT):
            return None
        found = {}
        for part in self.type.expressions:
            if not isinstance(part, exp.ColumnDef):
                return None
            found[part.name.lower()] = Column(part.name, transformed(self.origins), part.args.get("kind"))
        return found

    def part(self, name: str) -> Column:
        """One field; of a value without known fields, something made from all of it."""
        parts = self.parts()
        if parts is not None and name.lower() in parts:
            return parts[name.lower()]
        return Column(name, transformed(self.origins))

    def element(self) -> Column:
        """One element of a list."""
        kind = self.type
        inner = None
        if kind is not None and kind.is_type(exp.DType.ARRAY, exp.DType.LIST) and kind.expressions:
            inner = kind.expressions[0]
        return Column(self.name, transformed(self.origins), inner if isinstance(inner, exp.DataType) else None)


@dataclass(frozen=True)
class Relation:
    """Columns in their order, and what there may be besides.

    Attributes:
        open: tables of which not all columns are known and that came in whole (``*``): ``copy`` where a name that is
            not among ``columns`` is theirs, ``unknown`` where it may be any of their columns.
        rest: what columns that are not listed are made of, where that is known without their names (PIVOT).
        rows: the tables whose rows these are.
        filters: columns that decide which rows there are.
    """

    columns: tuple[Column, ...] = ()
    open: Mapping[str, Via] = field(default_factory=dict)
    rest: Origins | None = None
    rows: frozenset[str] = frozenset()
    filters: Origins = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether there may be columns that are not listed."""
        return bool(self.open) or self.rest is not None

    def find(self, name: str) -> Column | None:
        """A listed column; names are the same in any case."""
        wanted = name.lower()
        return next((column for column in self.columns if column.name.lower() == wanted), None)

    def guess_free(self, name: str) -> Column | None:
        """A column that must be there because the query names it: listed, or one of those not listed."""
        found = self.find(name)
        if found is not None or not self.is_open:
            return found
        named = [table for table, via in self.open.items() if via != "unknown"]
        parts = [self.rest or NOTHING]
        if len(named) == 1 and self.rest is None:
            parts.append({(named[0], name): self.open[named[0]]})
            parts.append(unknown(table for table in self.open if table != named[0]))
        else:
            parts.append(unknown(self.open))
        return Column(name, merge(*parts))

    def renamed(self, names: Iterable[str]) -> Relation:
        """With other names for the first columns: ``t(a, b)``."""
        new = list(names)
        if not new:
            return self
        if self.is_open and len(new) > len(self.columns):
            rest = merge(self.rest or NOTHING, unknown(self.open))
            extra = tuple(Column(name, rest) for name in new[len(self.columns) :])
            kept = tuple(c.named(n) for c, n in zip(self.columns, new, strict=False))
            return replace(self, columns=kept + extra, open=dict.fromkeys(self.open, "unknown"))
        kept = tuple(c.named(n) for c, n in zip(self.columns, new, strict=False))
        return replace(self, columns=kept + self.columns[len(new) :])

    def everything(self) -> Origins:
        """What all of its columns are made of."""
        return merge(*(c.origins for c in self.columns), self.rest or NOTHING, unknown(self.open))


def unique_names(columns: Iterable[Column]) -> tuple[Column, ...]:
    """As DuckDB names the columns of a subquery: the second ``a`` is ``a_1``."""
    taken: set[str] = set()

    def names() -> Iterator[Column]:
        for column in columns:
            name, count = column.name, 0
            while name.lower() in taken:
                count += 1
                name = f"{column.name}_{count}"
            taken.add(name.lower())
            yield column if name == column.name else column.named(name)

    return tuple(names())
