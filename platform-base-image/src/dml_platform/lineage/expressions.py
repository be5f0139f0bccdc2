"""What the value of a SQL expression is made of, given the relations that are in scope.

Does not read FROM, WITH or set operations: ``queries`` does, and is called back for a subquery.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from dml_platform.lineage.relation import (
    NOTHING,
    Column,
    Origins,
    Relation,
    as_filter,
    merge,
    transformed,
    unknown,
    values_of,
)

QUERIES = (exp.Query, exp.Pivot)


@dataclass(frozen=True)
class Bound:
    """A relation of FROM under its name. ``path`` is the full name of a table that was given no other."""

    alias: str
    relation: Relation
    path: tuple[str, ...] = ()
    inside: tuple[Bound, ...] = ()  # of joins in parentheses, whose relations keep their names

    def answers_to(self, qualifier: Sequence[str]) -> bool:
        """Whether ``qualifier.column`` may mean this one."""
        if len(qualifier) == 1:
            return qualifier[0] == self.alias
        return self.path[-len(qualifier) :] == tuple(qualifier)


@dataclass
class Scope:
    """The names that an expression may use."""

    subquery: Callable[[exp.Expr, Scope], Relation]
    outer: Scope | None = None
    bounds: list[Bound] = field(default_factory=list)
    merged: dict[str, Column] = field(default_factory=dict)
    star: list[tuple[Column, str]] = field(default_factory=list)
    aliases: dict[str, Column] = field(default_factory=dict)
    locals: dict[str, Column] = field(default_factory=dict)
    windows: dict[str, exp.Expr] = field(default_factory=dict)
    outputs: list[Column] = field(default_factory=list)
    filters: list[Origins] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)
    # What `COLUMNS(...)` or `*` inside of an expression stands for while one column of them is looked at.
    each: Column | None = None

    def rows(self) -> Origins:
        """The rows of all relations, e.g. what ``count(*)`` is made of."""
        return {(table, None): "transform" for bound in self.bounds for table in bound.relation.rows}

    def open(self) -> dict[str, str]:
        """The tables whose columns are not all known."""
        return {table: via for bound in self.bounds for table, via in bound.relation.open.items()}

    def column(self, parts: Sequence[str]) -> Column:
        """Resolve ``a.b.c`` as DuckDB does: the longest qualifier first, the rest are fields."""
        scope: Scope | None = self
        while scope is not None:
            found = scope._here(parts)
            if found is not None:
                return found
            scope = scope.outer
        self.unresolved.append(".".join(parts))
        tables = {table for bound in self._all_bounds() for table in bound.relation.rows}
        return Column(parts[-1], unknown(tables))

    def _all_bounds(self) -> Iterator[Bound]:
        scope: Scope | None = self
        while scope is not None:
            yield from scope.bounds
            scope = scope.outer

    def _here(self, parts: Sequence[str]) -> Column | None:
        lowered = [part.lower() for part in parts]
        named = [*self.bounds, *(inner for bound in self.bounds for inner in bound.inside)]
        for length in range(min(len(parts) - 1, 3), 0, -1):
            for bound in named:
                if bound.answers_to(lowered[:length]) and (found := bound.relation.guess_free(parts[length])):
                    return _fields(found, parts[length + 1 :])
        found = self._unqualified(parts[0])
        return _fields(found, parts[1:]) if found else None

    def _unqualified(self, name: str) -> Column | None:
        lowered = name.lower()
        if lowered in self.locals:
            return self.locals[lowered]
        if lowered in self.merged:
            return self.merged[lowered]
        listed = [found for bound in self.bounds if (found := bound.relation.find(name))]
        if len(listed) == 1:
            return listed[0]
        if listed:  # ambiguous to DuckDB as well
            return Column(name, unknown({t for c in listed for t, _ in c.origins}))
        alias = self.aliases.get(lowered)
        candidates = [bound for bound in self.bounds if bound.relation.is_open]
        if not candidates:
            if alias is None and (whole := next((b for b in self.bounds if b.alias == lowered), None)):
                return _whole(whole)
            return alias
        around = self.outer.tables_with(name) if self.outer else set()
        if len(candidates) == 1 and alias is None and not around:
            return candidates[0].relation.guess_free(name)
        tables = {table for bound in candidates for table in (bound.relation.open or bound.relation.rows)}
        others = {t for t, _ in alias.origins} if alias else set()
        return Column(name, unknown(tables | others | around))

    def tables_with(self, name: str) -> set[str]:
        """The tables, here and around, whose column this may be."""
        found: set[str] = set()
        for bound in self._all_bounds():
            column = bound.relation.find(name)
            found |= {table for table, _ in column.origins} if column else set(bound.relation.open)
            if column or bound.relation.is_open:
                found |= bound.relation.rows
        return found


def _whole(bound: Bound) -> Column:
    columns = {c.name.lower(): c for c in bound.relation.columns}
    fields = None if bound.relation.is_open else columns
    return Column(bound.alias, transformed(bound.relation.everything()), fields=fields)


def _fields(column: Column, names: Iterable[str]) -> Column:
    for name in names:
        column = column.part(name)
    return column


def value(node: exp.Expr | None, scope: Scope) -> Column:
    """What an expression is made of; its fields and type where they can be told."""
    if node is None:
        return Column("")
    for kinds, reader in _READERS:
        if isinstance(node, kinds):
            return reader(node, scope)
    return Column("", _of_children(node, scope))


def origins(node: exp.Expr | None, scope: Scope) -> Origins:
    """What an expression is made of."""
    return value(node, scope).origins


def _of_children(node: exp.Expr, scope: Scope) -> Origins:
    found = merge(NOTHING, *(origins(child, scope) for child in node.iter_expressions()))
    if isinstance(node, (exp.AggFunc, exp.Window)) and not found:
        return scope.rows()
    return transformed(found)


def _column(node: exp.Column, scope: Scope) -> Column:
    if isinstance(node.this, exp.Star):
        return _star(node, scope)
    return scope.column([part.name for part in node.parts])


def _star(node: exp.Expr, scope: Scope) -> Column:
    if scope.each is not None:
        return scope.each
    return Column("", merge(NOTHING, *(bound.relation.everything() for bound in scope.bounds)))


def _count(node: exp.Count, scope: Scope) -> Column:
    if node.this is None or isinstance(node.this, exp.Star):
        return Column("", scope.rows())
    return Column("", _of_children(node, scope))


def _dot(node: exp.Dot, scope: Scope) -> Column:
    inner = node.this
    if isinstance(inner, exp.Identifier):  # a field of a lambda's parameter
        return Column("")
    if isinstance(node.expression, exp.Identifier):
        return value(inner, scope).part(node.expression.name)
    return Column("", _of_children(node, scope))


def _bracket(node: exp.Bracket, scope: Scope) -> Column:
    held, keys = value(node.this, scope), node.expressions
    if len(keys) == 1 and isinstance(keys[0], exp.Literal):
        return held.part(keys[0].this) if keys[0].is_string else held.element()
    if len(keys) == 1 and not isinstance(keys[0], exp.Slice):
        return Column("", merge(held.element().origins, transformed(origins(keys[0], scope))))
    return Column("", _of_children(node, scope))


def _extract(node: exp.StructExtract, scope: Scope) -> Column:
    if isinstance(node.expression, exp.Literal):
        return value(node.this, scope).part(node.expression.this)
    return Column("", _of_children(node, scope))


def _struct(node: exp.Struct, scope: Scope) -> Column:
    fields = {}
    for part in node.expressions:
        if not isinstance(part, exp.PropertyEQ):
            return Column("", _of_children(node, scope))
        fields[part.name.lower()] = value(part.expression, scope).named(part.name)
    return Column("", transformed(merge(NOTHING, *(c.origins for c in fields.values()))), fields=fields)


def _cast(node: exp.Cast, scope: Scope) -> Column:
    return Column("", transformed(origins(node.this, scope)), node.to)


def _explode(node: exp.Expr, scope: Scope) -> Column:
    return value(node.this, scope).element()


def _named_argument(node: exp.Expr, scope: Scope) -> Column:
    return value(node.expression, scope)


def _window(node: exp.Window, scope: Scope) -> Column:
    found = [_of_children(node, scope)]
    if node.alias and (named := scope.windows.get(node.alias.lower())):
        found.append(transformed(merge(NOTHING, *(origins(c, scope) for c in named.iter_expressions()))))
        if isinstance(node.this, exp.AggFunc) or any(found):
            found = [merge(*found)]
    merged = merge(*found)
    has_columns = any(key[1] is not None for key in merged)
    # Rows are said only where no column is: row_number() over ().
    return Column(
        "", {k: v for k, v in merged.items() if k[1] is not None or v == "unknown"} if has_columns else merged
    )


def _comprehension(node: exp.Comprehension, scope: Scope) -> Column:
    held = value(node.args.get("iterator"), scope)
    names = {part.name.lower() for part in (node.expression, node.args.get("position")) if part is not None}
    before = dict(scope.locals)
    scope.locals |= dict.fromkeys(names, Column("", held.element().origins))
    try:
        found = merge(held.origins, origins(node.this, scope), origins(node.args.get("condition"), scope))
    finally:
        scope.locals = before
    return Column("", transformed(found))


def _position(node: exp.PositionalColumn, scope: Scope) -> Column:
    index = int(node.name) - 1
    is_known = not any(bound.relation.is_open for bound in scope.bounds) and index < len(scope.star)
    if is_known:
        return scope.star[index][0]
    return Column("", unknown(table for bound in scope.bounds for table in bound.relation.rows))


def _query(node: exp.Expr, scope: Scope) -> Column:
    relation = scope.subquery(node, scope)
    scope.filters.append(relation.filters)
    value_of = relation.columns[0] if len(relation.columns) == 1 and not relation.is_open else None
    made_of = value_of.origins if value_of else transformed(relation.everything())
    return Column("", values_of(made_of), value_of.type if value_of else None)


def _exists(node: exp.Exists, scope: Scope) -> Column:
    if not isinstance(node.this, QUERIES):
        return Column("", _of_children(node, scope))
    relation = scope.subquery(node.this, scope)
    # Whether there is a row follows from the filters; without any, from the rows as such.
    made_of = {key: "transform" if via == "filter" else via for key, via in relation.filters.items()}
    return Column("", made_of or {(table, None): "transform" for table in relation.rows})


_READERS: tuple[tuple[tuple[type, ...], Callable[..., Column]], ...] = (
    ((exp.Column,), _column),
    ((exp.Paren, exp.Alias), lambda node, scope: value(node.this, scope)),
    ((exp.Literal, exp.Identifier, exp.DataType), lambda node, scope: Column("")),
    ((exp.Subquery, *QUERIES), _query),
    ((exp.Exists,), _exists),
    ((exp.Count,), _count),
    ((exp.Star, exp.Columns), _star),
    ((exp.Cast,), _cast),
    ((exp.Explode, exp.Unnest), _explode),
    ((exp.Dot,), _dot),
    ((exp.Bracket,), _bracket),
    ((exp.StructExtract,), _extract),
    ((exp.Struct,), _struct),
    ((exp.PropertyEQ,), _named_argument),
    ((exp.Window,), _window),
    ((exp.Comprehension,), _comprehension),
    ((exp.PositionalColumn,), _position),
)


def filter_origins(node: exp.Expr | None, scope: Scope) -> Origins:
    """What a condition is made of, as something that decides which rows there are."""
    return as_filter(origins(node, scope)) if node is not None else NOTHING


def matches(pattern: exp.Expr, names: Iterable[str]) -> set[str] | None:
    """The names that ``COLUMNS('regex')``, ``COLUMNS(['a'])`` or ``* LIKE`` choose; None where only DuckDB can tell."""
    if isinstance(pattern, exp.Array) and all(isinstance(item, exp.Literal) for item in pattern.expressions):
        wanted = {item.this.lower() for item in pattern.expressions}
        return {name for name in names if name.lower() in wanted}
    if isinstance(pattern, exp.Literal) and pattern.is_string:
        try:
            compiled = re.compile(pattern.this)
        except re.error:
            return None
        return {name for name in names if compiled.search(name)}
    if isinstance(pattern, (exp.Like, exp.ILike)) and isinstance(pattern.expression, exp.Literal):
        text = "".join({"%": ".*", "_": "."}.get(c, re.escape(c)) for c in pattern.expression.this)
        flags = re.IGNORECASE if isinstance(pattern, exp.ILike) else 0
        return {name for name in names if re.fullmatch(text, name, flags | re.DOTALL)}
    return None
