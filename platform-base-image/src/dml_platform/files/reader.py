"""What the readers of all formats share: a batch to read, declared columns, common types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from duckdb import DuckDBPyConnection

from dml_platform.core.errors import SchemaMismatchError
from dml_platform.core.naming import TableRef
from dml_platform.files.discover import SourceFile

_WIDER = {
    frozenset(("BIGINT", "DOUBLE")): "DOUBLE",
    frozenset(("DATE", "TIMESTAMP")): "TIMESTAMP",
}


@dataclass(frozen=True)
class Batch:
    """Files that one query reads.

    ``select`` gives the source's columns and ``filename``; ``collect`` moves what it could not read to the load's
    rejects; ``recover``, when the query fails because of the rows, gives batches without the bad ones; ``discard``
    removes the file that such a batch was copied to.
    """

    files: tuple[SourceFile, ...]
    select: str
    collect: Callable[[DuckDBPyConnection], None] | None = None
    recover: Callable[[DuckDBPyConnection], list[Batch]] | None = None
    discard: Callable[[], None] | None = None


def check_declared(ref: TableRef, name: str, *, declared: Sequence[str], found: Sequence[str]) -> None:
    """Compare a file's columns with the declared ones; their order is free.

    Raises:
        SchemaMismatchError: names every column that is missing or not declared.
    """
    missing = [f"{column}: declared, missing in the file" for column in declared if column not in found]
    extra = [f"{column}: in the file, not declared" for column in found if column not in declared]
    if missing or extra:
        raise SchemaMismatchError(
            f"cannot land {name!r} in {ref.dotted!r}",
            "its columns differ: " + "; ".join(missing + extra),
            "Correct the file, or the columns in config/sources.yaml.",
        )


def unify(left: str | None, right: str) -> str:
    """The type that holds the values of both."""
    if left is None or left == right:
        return right
    return _WIDER.get(frozenset((left, right)), "VARCHAR")
