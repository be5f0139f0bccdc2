"""The Iceberg catalogue: load and create tables, retry commits, swing many tables at once.

With ``connection`` the only module that knows which catalogue it is (pyiceberg's SQL catalogue), so that a REST
catalogue can follow.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.update import RemoveSnapshotRefUpdate, TableUpdate
from sqlalchemy import select, text, tuple_, update
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from dml_platform.core.errors import ConfigError, PermanentError, RetryableError
from dml_platform.core.naming import TableRef
from dml_platform.lake.connection import LakeCatalog

_T = TypeVar("_T")
_MAX_PAUSE_S = 2.0
_MAX_QUEUE_S = 60.0


def load_table(catalog: SqlCatalog, ref: TableRef) -> Table | None:
    """Load a table's current metadata, or None when the catalogue does not have it."""
    return load_tables(catalog, [ref])[ref]


def load_tables(
    catalog: SqlCatalog, refs: Iterable[TableRef], *, to_read: bool = False
) -> dict[TableRef, Table | None]:
    """Load several tables as of one moment: all of what a step published, or nothing of it.

    One SELECT reads every pointer; the metadata files behind the pointers never change.

    Args:
        to_read: only to read them: a file that this process has read is not read again. Who changes a table has to
            notice that its file is damaged.
    Raises:
        PermanentError: a table's files may not be read.
    """
    tables: dict[TableRef, Table | None] = dict.fromkeys(refs)
    names = {(".".join(ref.namespace), ref.name): ref for ref in tables}
    query = select(IcebergTables).where(
        IcebergTables.catalog_name == catalog.name,
        tuple_(IcebergTables.table_namespace, IcebergTables.table_name).in_(list(names)),
    )
    with Session(catalog.engine) as session:
        rows = session.scalars(query).all()
    with ThreadPoolExecutor(max_workers=8) as pool:
        loaded = pool.map(lambda row: _load(catalog, row, to_read=to_read), rows)
    for row, table in zip(rows, loaded, strict=True):
        tables[names[row.table_namespace, row.table_name]] = table
    return tables


def _load(catalog: SqlCatalog, row: IcebergTables, *, to_read: bool) -> Table:
    try:
        if to_read and isinstance(catalog, LakeCatalog) and (known := catalog.recall(row)) is not None:
            return known
        return catalog._convert_orm_to_iceberg(row)
    except OSError as error:
        if "ACCESS_DENIED" not in str(error):
            raise
        raise PermanentError(
            f"cannot read '{row.table_namespace}.{row.table_name}'",
            "the object store does not let this process's key read it",
            "Read its project's marts, which are published to all; or ask its team to publish it there.",
        ) from error


def refuse_foreign(catalog: SqlCatalog, refs: Iterable[TableRef], *, what: str) -> None:
    """Fail when Postgres lets this process's role read some tables, but not change them: another project's.

    Without it an update of such a row matches nothing, which looks as if another writer had been faster.

    Raises:
        PermanentError: a table, or a table's project, is not this role's.
    """
    if catalog.engine.dialect.name != "postgresql":
        return
    locking = text("SELECT row_security_active('iceberg_namespace_properties'), current_user")
    # A row lock wants the right to update; a plain SELECT shows the rows of all.
    visible = text("SELECT 1 FROM iceberg_namespace_properties WHERE catalog_name = :catalog AND namespace = :project")
    own = text(f"{visible.text} FOR KEY SHARE")
    with catalog.engine.connect() as connection:
        restricted, role = connection.execute(locking).one()
        for project in sorted({ref.project for ref in refs}) if restricted else ():
            names = {"catalog": catalog.name, "project": project}
            if connection.execute(visible, names).first() and not connection.execute(own, names).first():
                raise foreign_error(what, project, role)


def foreign_error(what: str, project: str, role: str) -> PermanentError:
    """What a project is told that tries to change another's tables."""
    return PermanentError(
        what,
        f"project {project!r} owns it, and this process works as {role!r}, which may only read it",
        f"Write to tables of {role!r}; the team of {project!r} changes its own.",
    )


def create_table(catalog: SqlCatalog, ref: TableRef, schema: Schema, *, location: str) -> Table:
    """Create an empty, unpublished table; when another writer was faster, take theirs.

    Raises:
        PermanentError: the database does not let this role make tables of that project.
    """
    try:
        return _create_table(catalog, ref, schema, location)
    except ProgrammingError as error:
        if getattr(error.orig, "pgcode", None) != "42501":  # insufficient_privilege
            raise
        what = f"cannot create {ref.dotted!r}"
        raise foreign_error(what, ref.project, catalog.engine.url.username or "its role") from error


def _create_table(catalog: SqlCatalog, ref: TableRef, schema: Schema, location: str) -> Table:
    for depth in (1, 2):
        # Another process that makes it at the same moment shows as a broken unique key.
        with suppress(NamespaceAlreadyExistsError, IntegrityError):
            catalog.create_namespace(ref.namespace[:depth])
    try:
        return catalog.create_table(ref.identifier, schema, location=location)
    except TableAlreadyExistsError:
        return catalog.load_table(ref.identifier)


def drop_ref(name: str) -> RemoveSnapshotRefUpdate:
    """The update that removes a branch."""
    # pyiceberg's models take Python's names; type checkers see only the aliases.
    return RemoveSnapshotRefUpdate(ref_name=name)  # type: ignore[call-arg]


def drop_branch(catalog: SqlCatalog, ref: TableRef, branch: str, *, attempts: int) -> None:
    """Remove a branch where it is; its snapshots expire later."""

    def commit() -> None:
        table = load_table(catalog, ref)
        if table is not None and branch in table.refs():
            commit_together(catalog, [TableCommit(table, (drop_ref(branch),))])

    with_retries(catalog, [ref], commit, attempts=attempts, what=f"cannot drop branch {branch!r} of {ref.dotted!r}")


def metadata_locations(catalog: SqlCatalog) -> dict[str, str]:
    """Where the newest metadata of each table of the lake is, whoever's it is and however it is named."""
    query = select(IcebergTables.table_namespace, IcebergTables.table_name, IcebergTables.metadata_location).where(
        IcebergTables.catalog_name == catalog.name
    )
    with Session(catalog.engine) as session:
        return {f"{namespace}.{name}": str(place) for namespace, name, place in session.execute(query)}


def list_tables(catalog: SqlCatalog, project: str | None = None) -> list[TableRef]:
    """All tables of the lake, or of one project, sorted; others' names are passed over."""
    query = select(IcebergTables.table_namespace, IcebergTables.table_name).where(
        IcebergTables.catalog_name == catalog.name
    )
    with Session(catalog.engine) as session:
        names = session.execute(query).all()
    refs = []
    for namespace, name in names:
        with suppress(ConfigError):  # another tool's table
            refs.append(TableRef.parse(f"{namespace}.{name}"))
    return sorted(r for r in refs if project in (None, r.project))


def with_retries(
    catalog: SqlCatalog, refs: Iterable[TableRef], commit: Callable[[], _T], *, attempts: int, what: str
) -> _T:
    """Run a commit to some tables, again while other writers are faster.

    The platform's own writers queue; whoever does not is met by the compare-and-swap of the commit.

    Raises:
        RetryableError: still beaten, or the catalogue is still locked, after the last attempt.
        PermanentError: the catalogue cannot be written, or a table is another project's.
    """
    refs = list(refs)
    with _refuse_readers(catalog, what):
        refuse_foreign(catalog, refs, what=what)
    for attempt in range(attempts + 1):
        try:
            with _queue(catalog, refs), _refuse_readers(catalog, what):
                return commit()
        except CommitFailedException as error:
            cause: Exception = error
            reason = f"other writers were faster {attempt + 1} times"
        except OperationalError as error:
            cause, reason = error, _first_line(error)
            if not _is_transient(error):
                raise PermanentError(
                    what, reason, "Check that the catalogue can be written and that its disk is not full."
                ) from error
        except NoSuchTableError as error:
            raise PermanentError(what, f"{error}; it was dropped meanwhile", "Run the step again.") from error
        if attempt < attempts:
            time.sleep(random.uniform(0, min(_MAX_PAUSE_S, 0.05 * 2**attempt)))
    raise RetryableError(what, reason, "Run it again.") from cause


@contextmanager
def _refuse_readers(catalog: SqlCatalog, what: str) -> Iterator[None]:
    try:
        yield
    except ProgrammingError as error:
        if getattr(error.orig, "pgcode", None) != "42501":  # insufficient_privilege
            raise
        raise PermanentError(
            what,
            f"this process works as {catalog.engine.url.username!r}, which may only read the lake",
            "Work as the project's own role; one that 'dml infra reader' made is for comparing.",
        ) from error


@contextmanager
def _queue(catalog: SqlCatalog, refs: Iterable[TableRef]) -> Iterator[None]:
    """Wait for one's turn with the tables, so that no writer is beaten for ever: 8 appending at once were.

    Only politeness: who waited long enough goes on without. The locks end with their process, however it ends.
    """
    names = sorted(ref.dotted for ref in refs)  # one order for all, so that nobody waits in a circle
    with ExitStack() as stack:
        with suppress(Timeout):
            if catalog.engine.dialect.name == "postgresql":
                stack.enter_context(_postgres_locks(catalog, names))
            elif catalog.engine.url.database:
                folder = Path(catalog.engine.url.database).parent / "locks"
                folder.mkdir(exist_ok=True)
                for name in names:
                    stack.enter_context(FileLock(folder / f"{name}.lock", timeout=_MAX_QUEUE_S))
        yield


@contextmanager
def _postgres_locks(catalog: SqlCatalog, names: Sequence[str]) -> Iterator[None]:
    with catalog.engine.connect() as connection:
        try:
            connection.execute(text(f"SET LOCAL lock_timeout = {round(_MAX_QUEUE_S * 1000) or 1}"))
            for name in names:
                key = {"key": f"{catalog.name}.{name}"}
                connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), key)
        except OperationalError:
            connection.rollback()
        yield


def _is_transient(error: OperationalError) -> bool:
    """Locked (SQLite), or a cut connection, deadlock or serialization failure (Postgres)."""
    code = getattr(error.orig, "pgcode", None) or ""
    return (
        error.connection_invalidated
        or "locked" in str(error.orig)
        or code.startswith(("08", "40", "57P"))
        or (type(error.orig).__module__.startswith("psycopg2") and not code)
    )


def _first_line(error: OperationalError) -> str:
    return str(error.orig or error).strip().splitlines()[0]


@dataclass(frozen=True)
class TableCommit:
    """Updates of one table, valid only on the metadata that ``table`` was loaded with."""

    table: Table
    updates: tuple[TableUpdate, ...]


def commit_together(catalog: SqlCatalog, commits: Sequence[TableCommit]) -> None:
    """Commit the updates of several tables in one catalogue transaction: all or none; ``table`` is then the new one.

    The SQL catalogue keeps each table's metadata pointer in a row: this is one SQL transaction that checks every row.
    Not ``Transaction.commit_transaction``: its own retry forgets the branches that it made (pyiceberg 0.12).

    Raises:
        CommitFailedException: a table was committed to since it was loaded; nothing changed.
    """
    staged = []
    for commit in commits:
        new = catalog._update_and_stage_table(  # pyiceberg has no public multi-table commit yet
            commit.table, commit.table.name(), (), commit.updates
        )
        catalog._write_metadata(metadata=new.metadata, io=new.io, metadata_path=new.metadata_location)
        staged.append((commit.table, new))
    with Session(catalog.engine) as session, session.begin():
        # One order for all writers, so that two publishing runs cannot deadlock.
        for old, new in sorted(staged, key=lambda pair: pair[0].name()):
            *namespace, name = old.name()
            result = session.execute(
                update(IcebergTables)
                .where(
                    IcebergTables.catalog_name == catalog.name,
                    IcebergTables.table_namespace == ".".join(namespace),
                    IcebergTables.table_name == name,
                    IcebergTables.metadata_location == old.metadata_location,
                )
                .values(
                    metadata_location=new.metadata_location,
                    previous_metadata_location=old.metadata_location,
                )
            )
            if result.rowcount != 1:  # type: ignore[attr-defined]
                raise CommitFailedException(f"{'.'.join(old.name())} was committed to by another process")
    for old, new in staged:
        old.metadata, old.metadata_location = new.metadata, new.metadata_location
