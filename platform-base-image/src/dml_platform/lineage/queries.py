"""From a SQL query in DuckDB's dialect to its columns and what each is made of.

Reads WITH, FROM, joins and set operations; ``projections`` reads SELECT, ``pivots`` PIVOT and UNPIVOT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sqlglot import exp

from dml_platform.lineage.expressions import QUERIES, Bound, Scope, filter_origins, origins, value
from dml_platform.lineage.pivots import pivot, unpivot
from dml_platform.lineage.projections import project
from dml_platform.lineage.relation import (
    NOTHING,
    Column,
    Origins,
    Relation,
    as_filter,
    merge,
    transformed,
    unique_names,
    unknown,
)

_RECURSIONS = 20


class Tracer:
    """Traces the queries of one dialect against known tables.

    Args:
        lookup: the relation of a table, by the parts of its name in lower case.
    """

    def __init__(self, lookup: Callable[[tuple[str, ...]], Relation]) -> None:
        self._lookup = lookup
        self._ctes: list[dict[str, Relation]] = []
        self.unresolved: list[str] = []

    def trace(self, node: exp.Expr, outer: Scope | None = None) -> Relation:
        """The relation that a query makes."""
        with_ = node.args.get("with_")
        if with_ is not None:
            self._ctes.append({})
            for cte in with_.expressions:
                self._ctes[-1][cte.alias.lower()] = self._cte(cte, bool(with_.args.get("recursive")), outer)
        try:
            return self._query(node, outer)
        finally:
            if with_ is not None:
                self._ctes.pop()

    def _query(self, node: exp.Expr, outer: Scope | None) -> Relation:
        if isinstance(node, exp.Select):
            return self._select(node, outer)
        if isinstance(node, exp.SetOperation):
            return self._set_operation(node, outer)
        if isinstance(node, exp.Pivot):
            inner = self._relation(node.this, Scope(self._subquery, outer)).relation
            return self._pivoted(inner, node, outer)
        if isinstance(node, exp.Subquery):
            scope = Scope(self._subquery, outer)
            bound = self._relation(node, scope)
            return bound.relation
        if isinstance(node, exp.Values):
            return self._values(node, Scope(self._subquery, outer))
        if isinstance(node, exp.Table):
            return self._relation(node, Scope(self._subquery, outer)).relation
        return Relation(rest=unknown({f"{node.key}()"}))

    def _subquery(self, node: exp.Expr, scope: Scope) -> Relation:
        inner = node.this if isinstance(node, exp.Subquery) and not node.args.get("pivots") else node
        return self.trace(inner, scope)

    def _cte(self, cte: exp.CTE, recursive: bool, outer: Scope | None) -> Relation:
        names = [column.name for column in cte.args["alias"].columns] if cte.args.get("alias") else []
        body, alias = cte.this, cte.alias.lower()
        if not (recursive and isinstance(body, exp.SetOperation)):
            return _derived(self.trace(body, outer)).renamed(names)
        made = _derived(self.trace(body.this, outer)).renamed(names)
        for _ in range(_RECURSIONS):
            self._ctes[-1][alias] = made
            again = _derived(self.trace(body, outer)).renamed(names)
            if again == made:
                break
            made = again
        return made

    def _select(self, node: exp.Select, outer: Scope | None) -> Relation:
        scope = Scope(self._subquery, outer)
        scope.windows = {w.name.lower(): w for w in node.args.get("windows") or []}
        if (from_ := node.args.get("from_")) is not None:
            self._join(scope, self._relation(from_.this, scope), None)
            for join in from_.this.args.get("joins") or []:
                self._join(scope, self._relation(join.this, scope), join)
        for lateral in node.args.get("laterals") or []:
            self._join(scope, self._relation(lateral, scope), None)
        for join in node.args.get("joins") or []:
            self._join(scope, self._relation(join.this, scope), join)
        made = project(node, scope)
        scope.aliases = {column.name.lower(): column for column in made.columns}
        for part in ("where", "having", "qualify"):
            scope.filters.append(filter_origins(node.args.get(part), scope))
        scope.filters += self._grouping(node, scope, made)
        if node.args.get("limit") is not None and node.args.get("order") is not None:
            scope.filters.append(filter_origins(node.args["order"], scope))
        distinct = node.args.get("distinct")
        if distinct is not None and distinct.args.get("on") is not None:
            scope.filters.append(filter_origins(distinct.args["on"], scope))
            scope.filters.append(filter_origins(node.args.get("order"), scope))
        self.unresolved += scope.unresolved
        below = [bound.relation.filters for bound in scope.bounds]
        rows = frozenset(table for bound in scope.bounds for table in bound.relation.rows)
        return replace(made, rows=rows, filters=merge(NOTHING, *below, *scope.filters))

    def _grouping(self, node: exp.Select, scope: Scope, made: Relation) -> list[Origins]:
        group = node.args.get("group")
        if group is None:
            return []
        if group.args.get("all"):
            keys = [p for p in node.expressions if not p.find(exp.AggFunc)]
            return [filter_origins(key, scope) for key in keys]
        found = []
        for part in group.iter_expressions():
            if isinstance(part, exp.Literal) and not part.is_string and not made.is_open:
                index = int(part.this) - 1
                found.append(as_filter(made.columns[index].origins) if index < len(made.columns) else NOTHING)
            else:
                found.append(filter_origins(part, scope))
        return found

    def _set_operation(self, node: exp.SetOperation, outer: Scope | None) -> Relation:
        left, right = self.trace(node.this, outer), self.trace(node.expression, outer)
        rows, filters = left.rows | right.rows, merge(left.filters, right.filters)
        if isinstance(node, (exp.Except, exp.Intersect)):
            filters = merge(filters, as_filter(right.everything()))
            if isinstance(node, exp.Except):  # no value of the right side comes out
                return replace(left, rows=rows, filters=filters)
        if node.args.get("by_name"):
            names = {c.name.lower(): c.name for c in (*left.columns, *right.columns)}
            columns = tuple(_both(name, left.guess_free(name), right.guess_free(name)) for name in names.values())
            rest = merge(left.rest or NOTHING, right.rest or NOTHING) if left.rest or right.rest else None
            return Relation(columns, {**left.open, **right.open}, rest, rows, filters)
        # By position: what has unknown columns cannot be counted off.
        anything = right.everything() if right.is_open else NOTHING
        counted: list[Column] = []
        for index, column in enumerate(left.columns):
            if left.is_open or right.is_open:
                second: Column | None = Column("", _unsure(anything or right.everything()))
            else:
                second = right.columns[index] if index < len(right.columns) else None
            counted.append(_both(column.name, column, second))
        rest = left.rest
        open_ = dict(left.open)
        if left.is_open:
            open_ |= {table: "unknown" for table, _ in right.everything()}
        return Relation(tuple(counted), open_, rest, rows, filters)

    def _values(self, node: exp.Values, scope: Scope) -> Relation:
        width = max((len(row.expressions) for row in node.expressions), default=0)
        columns = tuple(
            Column(
                f"col{i}",
                merge(NOTHING, *(origins(r.expressions[i], scope) for r in node.expressions if i < len(r.expressions))),
            )
            for i in range(width)
        )
        return Relation(columns).renamed(_alias_columns(node))

    def _relation(self, node: exp.Expr, scope: Scope) -> Bound:
        """One item of FROM, under the name that it has there."""
        alias = (node.alias or "").lower()
        path: tuple[str, ...] = ()
        inside: tuple[Bound, ...] = ()
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            parts = tuple(part.name for part in node.parts)
            relation = self._table(parts)
            alias, path = alias or parts[-1].lower(), () if alias else tuple(p.lower() for p in parts)
        elif isinstance(node, exp.Table):
            relation = self._function(node.this, scope, alias)
            alias = alias or node.this.name.lower()
        elif isinstance(node, exp.Unnest):
            relation = self._unnest(node, scope)
        elif isinstance(node, exp.Lateral):
            inner = node.this
            if isinstance(inner, exp.Subquery):
                relation = _derived(self.trace(inner.this, scope))
            else:
                relation = self._function(inner, scope, alias)
        elif isinstance(node, exp.Values):
            return Bound(alias, self._values(node, scope))
        elif isinstance(node, exp.Subquery) and isinstance(node.this, (exp.Table, exp.Subquery)):
            inner_scope = Scope(self._subquery, scope)
            self._join(inner_scope, self._relation(node.this, inner_scope), None)
            for join in (*(node.this.args.get("joins") or []), *(node.args.get("joins") or [])):
                self._join(inner_scope, self._relation(join.this, inner_scope), join)
            relation, inside = _derived(_all_of(inner_scope)), () if alias else tuple(inner_scope.bounds)
        elif isinstance(node, exp.Subquery):
            # A subquery in FROM sees the query around it, and what stands before it (DuckDB: lateral by itself).
            relation = _derived(self.trace(node.this, scope))
        elif isinstance(node, QUERIES):
            relation = _derived(self.trace(node, scope))
        else:
            relation = self._function(node, scope, alias)
        for part in node.args.get("pivots") or []:
            relation = self._pivoted(relation, part, scope)
            alias, path = (part.alias or alias).lower(), ()
            relation = relation.renamed(_alias_columns(part))
        return Bound(alias, relation.renamed(_alias_columns(node)), path, inside)

    def _pivoted(self, relation: Relation, node: exp.Pivot, outer: Scope | None) -> Relation:
        scope = Scope(self._subquery, outer, [Bound("", relation)], star=[(c, "") for c in relation.columns])
        made = unpivot(relation, node) if node.args.get("unpivot") else pivot(relation, node, scope)
        self.unresolved += scope.unresolved
        return made

    def _table(self, parts: tuple[str, ...]) -> Relation:
        lowered = tuple(part.lower() for part in parts)
        if len(parts) == 1:
            for ctes in reversed(self._ctes):
                if lowered[0] in ctes:
                    return ctes[lowered[0]]
        return self._lookup(lowered)

    def _function(self, node: exp.Expr, scope: Scope, alias: str) -> Relation:
        if isinstance(node, (exp.Explode, exp.Unnest)):
            return self._unnest(node, scope)
        made_of = transformed(
            merge(NOTHING, *(origins(c, scope) for c in node.args.values() if isinstance(c, exp.Expr)))
        )
        if isinstance(node, exp.GenerateSeries):
            name = "range" if node.args.get("is_end_exclusive") else "generate_series"
            return Relation((Column(alias or name, made_of),))
        files = [literal.this for literal in node.find_all(exp.Literal) if literal.is_string]
        if node.key.startswith("read") and files and not made_of:
            return self._lookup((files[0],))
        name = node.sql("duckdb", comments=False)
        return Relation(open={name: "unknown"}, rest=made_of or None, rows=frozenset({name}))

    def _unnest(self, node: exp.Expr, scope: Scope) -> Relation:
        lists = node.expressions if isinstance(node, exp.Unnest) else [node.this]
        columns = [value(item, scope).element().named("unnest") for item in lists]
        if node.args.get("offset"):
            columns.append(Column("ordinality"))
        alias = node.alias if isinstance(node, exp.Unnest) else ""
        if alias and not _alias_columns(node) and len(columns) == 1:
            columns = [columns[0].named(alias)]  # DuckDB shows it as `unnest` and takes either name
        return Relation(unique_names(columns))

    def _join(self, scope: Scope, right: Bound, join: exp.Join | None) -> None:
        """Add one relation to what is in scope, as its join says."""
        kind = (join.kind or "").upper() if join is not None else ""
        side = (join.side or "").upper() if join is not None else ""
        method = (join.method or "").upper() if join is not None else ""
        using = [part.name for part in join.args.get("using") or []] if join is not None else []
        if method == "NATURAL":
            mine = {c.name.lower() for c, _ in scope.star}
            using = [c.name for c in right.relation.columns if c.name.lower() in mine]
        pairs = {}
        for name in using:
            left_column = scope.column([name])
            right_column = right.relation.guess_free(name) or Column(name, unknown(right.relation.rows))
            scope.filters += [as_filter(left_column.origins), as_filter(right_column.origins)]
            pairs[name.lower()] = _merged(name, left_column, right_column, side)
        star, hidden = list(scope.star), {name.lower() for name in using}
        scope.bounds.append(right)
        scope.star += [(c, right.alias) for c in right.relation.columns if c.name.lower() not in hidden]
        scope.star = [(pairs.get(c.name.lower(), c), bound) for c, bound in scope.star]
        scope.merged |= pairs
        if join is not None:
            scope.filters.append(filter_origins(join.args.get("on"), scope))
            scope.filters.append(filter_origins(join.args.get("match_condition"), scope))
        if kind in ("SEMI", "ANTI") or side in ("SEMI", "ANTI"):
            scope.bounds.pop()
            scope.star = star
            scope.filters.append(right.relation.filters)
            for name in pairs:
                scope.merged.pop(name)


def _merged(name: str, left: Column, right: Column, side: str) -> Column:
    if side == "FULL":
        return Column(name, transformed(merge(left.origins, right.origins)))
    return right if side == "RIGHT" else left


def _both(name: str, left: Column | None, right: Column | None) -> Column:
    known = [side for side in (left, right) if side is not None]
    kind = known[0].type if known else None
    fields = known[0].fields if len(known) == 1 else None
    return Column(name, merge(NOTHING, *(side.origins for side in known)), kind, fields)


def _unsure(made_of: Origins) -> Origins:
    return unknown({table for table, _ in made_of})


def _derived(relation: Relation) -> Relation:
    """As a subquery or CTE: names are made unique."""
    return replace(relation, columns=unique_names(relation.columns))


def _all_of(scope: Scope) -> Relation:
    """``select *`` of what is in scope."""
    rest = [bound.relation.rest for bound in scope.bounds if bound.relation.rest is not None]
    open_: dict[str, Any] = {}
    for bound in scope.bounds:
        open_ |= bound.relation.open
    return Relation(
        tuple(column for column, _ in scope.star),
        open_,
        merge(*rest) if rest else None,
        frozenset(table for bound in scope.bounds for table in bound.relation.rows),
        merge(NOTHING, *(bound.relation.filters for bound in scope.bounds), *scope.filters),
    )


def _alias_columns(node: exp.Expr) -> list[str]:
    alias = node.args.get("alias")
    return [column.name for column in alias.columns] if isinstance(alias, exp.TableAlias) else []


def schema_relation(table: str, columns: Mapping[str, exp.DataType | None] | None, *, complete: bool) -> Relation:
    """A table as a relation; open where its columns are not all known."""
    made = tuple(Column(name, {(table, name): "copy"}, kind) for name, kind in (columns or {}).items())
    return Relation(made, {} if complete else {table: "copy"}, rows=frozenset({table}))
