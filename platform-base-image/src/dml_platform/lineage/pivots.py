"""PIVOT and UNPIVOT, in DuckDB's own and in the standard's form."""

from __future__ import annotations

from dataclasses import replace

from sqlglot import exp

from dml_platform.lineage.expressions import Scope, origins
from dml_platform.lineage.relation import NOTHING, Column, Origins, Relation, as_filter, merge, transformed, unknown


def pivot(relation: Relation, node: exp.Pivot, scope: Scope) -> Relation:
    """Columns for the values of others. Their names are known only where the values are listed."""
    aggregates = list(node.args.get("using") or node.expressions if not node.args.get("fields") else node.expressions)
    keys = list(node.args.get("fields") or node.expressions)
    group = node.args.get("group")
    used = {column.name.lower() for part in (*aggregates, *keys) for column in part.find_all(exp.Column)}
    key_origins = merge(NOTHING, *(origins(key.this if isinstance(key, exp.In) else key, scope) for key in keys))
    if group is not None:
        kept = [scope.column([p.name for p in part.parts]).named(part.name) for part in group.expressions]
        left_over: Relation = Relation(tuple(kept))
    else:
        left_over = replace(relation, columns=tuple(c for c in relation.columns if c.name.lower() not in used))
    made = [(part, transformed(merge(key_origins, origins(part, scope)))) for part in aggregates]
    filters = merge(relation.filters, as_filter(merge(NOTHING, *(c.origins for c in left_over.columns))))
    names = _value_names(keys)
    everything = merge(NOTHING, *(found for _, found in made)) if made else transformed(key_origins)
    if names is None:
        rest = merge(left_over.rest or NOTHING, unknown(left_over.open), everything)
        return replace(left_over, open={}, rest=rest, rows=relation.rows, filters=filters)
    columns = [Column(_pivoted_name(v, part, len(made)), found) for v in names for part, found in made]
    return replace(left_over, columns=(*left_over.columns, *columns), rows=relation.rows, filters=filters)


def _value_names(keys: list[exp.Expr]) -> list[str] | None:
    if len(keys) != 1 or not isinstance(keys[0], exp.In) or keys[0].args.get("query") is not None:
        return None
    names = []
    for item in keys[0].expressions:
        if isinstance(item, exp.PivotAlias):
            names.append(item.args["alias"].name)
        elif isinstance(item, (exp.Literal, exp.Boolean)):
            names.append(item.name)
        else:
            return None
    return names


def _pivoted_name(key: str, aggregate: exp.Expr, count: int) -> str:
    if isinstance(aggregate, exp.Alias):
        return f"{key}_{aggregate.alias}"
    return key if count == 1 else f"{key}_{aggregate.sql('duckdb', comments=False).lower()}"


def unpivot(relation: Relation, node: exp.Pivot) -> Relation:
    """Rows for columns: a column with their names and one, or more, with their values."""
    into = node.args.get("into")
    fields = node.args.get("fields") or []
    if fields:
        names, values = [fields[0].this.name], [part.name for part in node.expressions]
        items = fields[0].expressions
    elif into is not None:
        names, values = [into.this.name], [part.name for part in into.expressions]
        items = node.expressions
    else:
        names, values, items = ["name"], ["value"], node.expressions
    groups: list[list[exp.Column]] = [list(item.find_all(exp.Column)) for item in items]
    if any(isinstance(part, (exp.Star, exp.Columns)) for item in items for part in item.walk()):
        anything: Origins = transformed(relation.everything())
        return replace(relation, columns=(), open={}, rest=anything)
    folded = {column.name.lower() for group in groups for column in group}
    kept = [column for column in relation.columns if column.name.lower() not in folded]
    made = []
    for index, name in enumerate(values):
        held = [relation.guess_free(group[index].name) for group in groups if index < len(group)]
        made.append(Column(name, merge(NOTHING, *(column.origins for column in held if column is not None))))
    # The names are the query's own words: no column's values are in them.
    return replace(relation, columns=(*kept, *(Column(name) for name in names), *made))
