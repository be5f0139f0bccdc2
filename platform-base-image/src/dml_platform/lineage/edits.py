"""Which columns a change of a query's SQL touches, beyond what they are made of: ``x / 100`` that became ``x / 1000``.

It goes by names, not by values: what may be another value counts as touched, formatting and comments do not.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlglot
from sqlglot import exp

_STAR = "*"


def touched_columns(before: str, after: str) -> set[str] | None:
    """Names, in lower case, of columns that are computed otherwise; None: there may be other rows, or any column.

    A column that only one version has is no difference of the others. Names of columns inside the query are among them.
    """
    try:
        old, new = (sqlglot.parse_one(sql, dialect="duckdb") for sql in (before, after))
        if _text(old) == _text(new):
            return set()
        parts_old, parts_new = _parts(old), _parts(new)
    except (sqlglot.errors.SqlglotError, RecursionError):
        return set() if before.split() == after.split() else None
    if parts_old is None or parts_new is None or list(parts_old) != list(parts_new):
        return None
    touched: set[str] = set()
    for name, part in parts_new.items():
        found = _touched_in(parts_old[name], part, touched)
        if found is None or _STAR in found:
            return None
        touched |= found
    return touched


def _parts(query: exp.Expr) -> dict[str, exp.Expr] | None:
    """The common table expressions by name, in order, and last what reads them; None where names do not tell."""
    query = query.copy()
    with_ = query.args.get("with_")
    query.set("with_", None)
    if with_ and (with_.recursive or any(cte.alias_column_names for cte in with_.expressions)):
        return None
    return {**{cte.alias.lower(): cte.this for cte in (with_.expressions if with_ else ())}, "": query}


def _touched_in(old: exp.Expr, new: exp.Expr, above: set[str]) -> set[str] | None:
    """What one part touches, where ``above`` is touched in those that it may read."""
    is_same = _text(old) == _text(new)
    if is_same and not above:
        return set()
    was, now = _columns(old), _columns(new)
    if was is None or now is None:  # no plain SELECT: what is the same and names nothing that is touched stays the same
        return set() if is_same and not above & _names(new) and new.find(exp.Star, exp.Pivot) is None else None
    rest = _rest(new)
    if _text(_rest(old)) != _text(rest):
        return None
    found = {key for key in was.keys() & now.keys() if _text(was[key]) != _text(now[key])}
    if _STAR in was.keys() & now.keys():  # what one version replaces, the other takes as it is
        found |= (was.keys() ^ now.keys()) & (_replaced(old) | _replaced(new))
    size = -1
    while size != len(found):  # a column may name another one of the same SELECT
        size, touched = len(found), above | found
        found |= {key for key in was.keys() & now.keys() if touched & (_names(was[key]) | _names(now[key]))}
    if (above | found) & _names(rest) or (above and _takes_all(new, rest)):
        return None
    return None if _decide_rows(new, was, now, found | (was.keys() ^ now.keys())) else found


def _takes_all(select: exp.Expr, rest: exp.Expr) -> bool:
    """Whether columns that it does not name can matter to more than a column of the same name."""
    if rest.find(exp.Star, exp.Pivot) or any(alias.columns for alias in rest.find_all(exp.TableAlias)):
        return True
    tables = {table.alias_or_name.lower() for table in rest.find_all(exp.Table)}
    if any(column.name.lower() in tables for column in select.find_all(exp.Column)):  # a row as a value
        return True
    group = select.args.get("group")
    is_grouped = select.args.get("distinct") or (group and group.args.get("all"))
    return bool(is_grouped and any(each.is_star for each in select.expressions))


def _decide_rows(select: exp.Expr, was: dict[str, exp.Expr], now: dict[str, exp.Expr], differing: set[str]) -> bool:
    """Whether columns that differ can make other rows: as keys of groups, as lists that become rows."""
    odd = [side[key] for side in (was, now) for key in differing if key in side]
    if any(each.find(exp.UDTF, exp.Explode) for each in odd):
        return True
    group = select.args.get("group")
    aggregated = [any(each.find(exp.AggFunc) for each in side.values()) for side in (was, now)]
    if select.args.get("distinct") or (group is None and aggregated[0] != aggregated[1]):
        return bool(odd)
    is_numbered = any(
        part.find(exp.Literal) for key in ("group", "order") if (place := select.args.get(key)) for part in place
    )
    if is_numbered and any(one != other for one, other in zip(was, now, strict=False)):
        return True
    by_place = is_numbered or bool(group and group.args.get("all"))
    return by_place and any(each.find(exp.AggFunc) is None for each in odd)


def _columns(query: exp.Expr) -> dict[str, exp.Expr] | None:
    """A SELECT's columns by name; None where two share one, or it is no SELECT."""
    if not isinstance(query, exp.Select):
        return None
    found = [pair for each in query.expressions for pair in _named(each)]
    return dict(found) if len(dict(found)) == len(found) else None


def _named(expression: exp.Expr) -> Iterator[tuple[str, exp.Expr]]:
    """A column of a SELECT by its name; of ``* replace (…)`` the star and each that it replaces."""
    if not expression.is_star:
        yield expression.alias_or_name.lower(), expression.unalias()
        return
    bare = expression.copy()
    star = bare.find(exp.Star)
    if star is not None:
        star.set("replace", None)
    yield _STAR, bare
    for each in expression.find_all(exp.Star):
        yield from ((alias.alias.lower(), alias.this) for alias in each.args.get("replace") or ())


def _replaced(query: exp.Expr) -> set[str]:
    """Names of the columns that ``* replace (…)`` of a SELECT makes."""
    return {name for each in query.expressions if each.is_star for name, _ in _named(each)} - {_STAR}


def _rest(select: exp.Expr) -> exp.Expr:
    bare = select.copy()
    bare.set("expressions", [])
    return bare


def _names(expression: exp.Expr) -> set[str]:
    return {each.name.lower() for each in expression.find_all(exp.Identifier)}


def _text(expression: exp.Expr) -> str:
    return expression.sql(dialect="duckdb", comments=False)
