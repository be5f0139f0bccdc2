"""The columns of a SELECT: names, ``*`` with EXCLUDE, REPLACE and RENAME, ``COLUMNS(...)``, unnested structs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlglot import exp

from dml_platform.lineage.expressions import Bound, Scope, matches, value
from dml_platform.lineage.relation import NOTHING, Column, Origins, Relation, merge, transformed, unknown


def project(node: exp.Select, scope: Scope) -> Relation:
    """What SELECT makes of the relations in scope; without filters and rows."""
    columns: list[Column] = []
    open_: dict[str, Any] = {}
    rest: list[Origins] = []
    for part in node.expressions:
        made = _expand(part, scope)
        columns += made.columns
        open_ |= made.open
        if made.rest is not None:
            rest.append(made.rest)
        if isinstance(part, exp.Alias):
            scope.aliases[part.alias.lower()] = made.columns[0] if made.columns else Column(part.alias)
    return Relation(tuple(columns), open_, merge(*rest) if rest else None)


def _expand(part: exp.Expr, scope: Scope) -> Relation:
    inner = part.this if isinstance(part, exp.Alias) else part
    if isinstance(inner, exp.Star):
        return _star(inner, scope, None)
    if isinstance(inner, exp.Column) and isinstance(inner.this, exp.Star):
        return _star(inner.this, scope, [p.name.lower() for p in inner.parts[:-1]])
    if isinstance(inner, (exp.Like, exp.ILike)) and isinstance(inner.this, exp.Star):
        return _each(part, inner, _star(inner.this, scope, None), inner, scope)
    if (chosen := inner.find(exp.Columns)) is not None and _is_own(chosen, inner):
        return _columns(part, inner, chosen, scope)
    if isinstance(inner, exp.Explode) and (made := _unnested(inner, scope)) is not None:
        return made
    return Relation((value(inner, scope).named(_name(part)),))


def _is_own(node: exp.Expr, inside: exp.Expr) -> bool:
    """Whether it belongs to this SELECT, not to a subquery of it."""
    query = node.find_ancestor(exp.Select)
    return query is inside.find_ancestor(exp.Select)


def _name(part: exp.Expr) -> str:
    if part.alias_or_name and not isinstance(part, (exp.Func, exp.Literal)):
        return str(part.output_name or part.alias_or_name)
    if isinstance(part, exp.Count) and isinstance(part.this, exp.Star):
        return "count_star()"
    return str(part.sql("duckdb", comments=False))


def _star(star: exp.Star, scope: Scope, qualifier: list[str] | None) -> Relation:
    if qualifier is None:
        source = Relation(tuple(column for column, _ in scope.star), *_besides(scope.bounds))
    else:
        bound = next((b for b in _visible(scope) if b.answers_to(qualifier)), None)
        if bound is None:  # a struct's fields
            held = scope.column(qualifier)
            parts = held.parts()
            if parts is None:
                return Relation(rest=transformed(held.origins))
            source = Relation(tuple(parts.values()))
        else:
            source = bound.relation
    return _changed(star, source, scope)


def _visible(scope: Scope | None) -> list[Bound]:
    found: list[Bound] = []
    while scope is not None:
        found += [*scope.bounds, *(inner for bound in scope.bounds for inner in bound.inside)]
        scope = scope.outer
    return found


def _besides(bounds: list[Bound]) -> tuple[dict[str, Any], Origins | None]:
    open_: dict[str, Any] = {}
    for bound in bounds:
        open_ |= bound.relation.open
    rest = [bound.relation.rest for bound in bounds if bound.relation.rest is not None]
    return open_, merge(*rest) if rest else None


def _changed(star: exp.Star, source: Relation, scope: Scope) -> Relation:
    excluded = {part.name.lower() for part in star.args.get("except_") or []}
    replaced = {part.alias.lower(): part.this for part in star.args.get("replace") or []}
    renamed = {part.this.name.lower(): part.alias for part in star.args.get("rename") or []}
    columns = []
    for column in source.columns:
        name = column.name.lower()
        if name in excluded:
            continue
        if name in replaced:
            column = value(replaced.pop(name), scope).named(column.name)
        columns.append(column.named(renamed.pop(name)) if name in renamed else column)
    if source.is_open:  # the named ones are there, although they are not listed
        columns += [value(node, scope).named(name) for name, node in replaced.items()]
        columns += [found.named(new) for old, new in renamed.items() if (found := source.guess_free(old)) is not None]
    return replace(source, columns=tuple(columns))


def _columns(part: exp.Expr, inner: exp.Expr, chosen: exp.Columns, scope: Scope) -> Relation:
    pattern = chosen.this
    source = Relation(tuple(column for column, _ in scope.star), *_besides(scope.bounds))
    if isinstance(pattern, exp.Star):
        return _each(part, inner, _changed(pattern, source, scope), None, scope)
    if isinstance(pattern, exp.Column) and isinstance(pattern.this, exp.Star):
        return _each(part, inner, _star(pattern.this, scope, [p.name.lower() for p in pattern.parts[:-1]]), None, scope)
    return _each(part, inner, source, pattern, scope)


def _each(part: exp.Expr, inner: exp.Expr, source: Relation, pattern: exp.Expr | None, scope: Scope) -> Relation:
    """The expression once for each column that the pattern chooses."""
    names = [column.name for column in source.columns]
    wanted = set(names) if pattern is None else matches(pattern, names)
    is_plain = inner is pattern or isinstance(inner, exp.Columns)
    # With an alias the names are the alias, perhaps with groups of the pattern in it.
    alias = part.alias if isinstance(part, exp.Alias) else None
    if wanted is None or (source.is_open and not is_plain) or (alias and "\\" in alias):
        return Relation(rest=unknown({table for table, _ in source.everything()}))
    columns = []
    for column in source.columns:
        if column.name not in wanted:
            continue
        made = column
        if not is_plain:
            scope.each = column
            made = value(inner, scope)
            scope.each = None
        columns.append(made.named(alias or column.name))
    return Relation(tuple(columns), source.open, source.rest)


def _unnested(node: exp.Expr, scope: Scope) -> Relation | None:
    """The columns of ``unnest(struct)``; None where it makes one column."""
    held = value(node.this, scope)
    is_recursive = any(
        isinstance(p, exp.PropertyEQ) and p.name.lower() == "recursive" for p in node.args.get("expressions") or []
    )
    parts = held.parts()
    if parts is None and not is_recursive:
        return None
    if parts is None or is_recursive:
        inner = parts if parts is not None else held.element().parts()
        if inner is None or any(
            c.type is None or c.type.is_type(exp.DType.STRUCT, exp.DType.LIST) for c in inner.values()
        ):
            return Relation(rest=merge(NOTHING, transformed(held.origins)))
        parts = inner
    return Relation(tuple(c.named(c.name) for c in parts.values()))
