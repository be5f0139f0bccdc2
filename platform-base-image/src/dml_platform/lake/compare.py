"""Whether two tables hold the same rows, whatever their order; and which rows differ.

Compared are all columns of the recorded table but those that the platform adds, whose names begin with ``_``
(``_loaded_at``, ``_run_id``, …). Floating point counts as equal in nine significant digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from duckdb import DuckDBPyConnection

from dml_platform.lake.engine import quote_name

_FLOATS = ("FLOAT", "DOUBLE")
SIGNIFICANT_DIGITS = 9


@dataclass(frozen=True)
class Comparison:
    """Both sides' rows and content hash; ``examples`` are the first rows that only one side has, by key."""

    is_same: bool
    rows_then: int
    rows_now: int
    hash_then: str
    hash_now: str
    only_then: int = 0
    only_now: int = 0
    columns: tuple[str, ...] = ()
    examples: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    column_faults: tuple[str, ...] = ()


def compare_rows(
    connection: DuckDBPyConnection, then: str, now: str, *, key: Sequence[str] = (), max_examples: int = 6
) -> Comparison:
    """Compare two relations.

    Args:
        then: what is known: a name or a query in brackets. Its columns and types count.
        now: what is compared with it.
        key: columns by which rows that differ are listed.
    """
    types = {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE SELECT * FROM {then}").fetchall()}
    types = {name: kind for name, kind in types.items() if not name.startswith("_")}
    here = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {now}").fetchall()]
    faults = [f"column {name} is missing" for name in types if name not in here]
    faults += [f"column {name} is new" for name in here if name not in types and not name.startswith("_")]
    if faults:
        counts = [_scalars(connection, f"SELECT count(*) FROM {side}")[0] for side in (then, now)]
        return Comparison(False, counts[0], counts[1], "", "", column_faults=tuple(faults))
    columns = ", ".join(f"{comparable(quote_name(name), kind)} AS {quote_name(name)}" for name, kind in types.items())
    names = ", ".join(quote_name(name) for name in types)
    sides = [f"(SELECT {columns} FROM {side})" for side in (then, now)]
    (rows_then, hash_then), (rows_now, hash_now) = (_content(connection, side, names) for side in sides)
    if (rows_then, hash_then) == (rows_now, hash_now):
        return Comparison(True, rows_then, rows_now, hash_then, hash_now)
    order = ", ".join(quote_name(name) for name in key if name in types) or "ALL"
    counts, examples = [], []
    for label, (one, other) in (("then", sides), ("now", sides[::-1])):
        query = f"SELECT * FROM {one} EXCEPT ALL SELECT * FROM {other}"
        counts.append(_scalars(connection, f"SELECT count(*) FROM ({query})")[0])
        rows = connection.execute(f"SELECT * FROM ({query}) ORDER BY {order} LIMIT {max_examples // 2}").fetchall()
        examples += [(label, tuple(row)) for row in rows]
    position = {name: number for number, name in enumerate(types)}
    chosen = [position[name] for name in key if name in position]
    examples.sort(key=lambda example: ([str(example[1][number]) for number in chosen], example[0] == "now"))
    return Comparison(
        False,
        rows_then,
        rows_now,
        hash_then,
        hash_now,
        only_then=counts[0],
        only_now=counts[1],
        columns=tuple(types),
        examples=tuple(examples),
    )


def _content(connection: DuckDBPyConnection, side: str, names: str) -> tuple[int, str]:
    """Rows, and a hash of them that does not know their order: the sum of the rows' hashes."""
    count, total, mixed = _scalars(
        connection, f"SELECT count(*), coalesce(sum(hash({names})::HUGEINT), 0), bit_xor(hash({names})) FROM {side}"
    )
    return count, f"{int(total) % 2**64:016x}{int(mixed or 0):016x}"


def comparable(value: str, kind: str) -> str:
    """An expression of a type as it is compared: floating point in its significant digits."""
    if kind not in _FLOATS:
        return f"CAST({value} AS {kind})"
    digits = f"{SIGNIFICANT_DIGITS - 1} - floor(log10(abs({value})))::INTEGER"
    return (
        f"CASE WHEN {value} = 0 THEN 0.0 WHEN isfinite({value}) THEN round({value}::DOUBLE, {digits}) "
        f"ELSE {value}::DOUBLE END"
    )


def _scalars(connection: DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    return connection.execute(query).fetchone() or ()
