"""The Iceberg catalogue: open it, load and create tables, retry commits, swing many tables at once.

The only module that knows which catalogue it is (pyiceberg's SQL catalogue), so that a REST catalogue can follow.
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
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.orm import Session

from dml_platform.core.errors import ConfigError, PermanentError, RetryableError
from dml_platform.core.naming import TableRef
from dml_platform.core.settings import Settings

_T = TypeVar("_T")
_MAX_PAUSE_S = 2.0
_MAX_QUEUE_S = 60.0


def open_catalog(settings: Settings) -> SqlCatalog:
    """Open the catalogue of the profile; a local one is made when it is not there yet.

    Raises:
        ConfigError: the folder or the database cannot be opened.
    """
    properties = {
        "uri": settings.catalog_uri,
        "warehouse": settings.warehouse,
        "pool_pre_ping": "true",
    }
    if settings.is_s3:
        properties |= _s3_properties(settings)
    try:
        if settings.catalog_uri.startswith("sqlite"):
            (settings.home / "lake").mkdir(parents=True, exist_ok=True)
        for _ in range(3):
            try:
                return SqlCatalog(settings.lake.catalog_name, **properties)
            except (IntegrityError, OperationalError, ProgrammingError):  # another process makes the tables right now
                time.sleep(0.2)
        return SqlCatalog(settings.lake.catalog_name, **properties)
    except (DatabaseError, OSError) as error:  # also a damaged file
        reason = getattr(error, "orig", None) or error
        raise ConfigError(
            "cannot open the lake's catalogue",
            (str(reason).strip() or repr(reason)).splitlines()[0],
            _catalog_fix(settings),
        ) from error
    except (ArgumentError, NoSuchModuleError, ImportError):  # their text may hold the address, thus the password
        raise ConfigError(
            "cannot open the lake's catalogue",
            "DML_LAKE__CATALOG_URI is not an SQLAlchemy URL for SQLite or Postgres",
            "Write it as postgresql+psycopg2://user:password@host:5432/database.",  # pragma: allowlist secret
        ) from None


def _catalog_fix(settings: Settings) -> str:
    if settings.lake.catalog_uri:
        return "Check DML_LAKE__CATALOG_URI and that the folder or database can be written."
    return f"Check the free space and the permissions of {settings.home / 'lake'} and that its catalog.db is whole."


def _s3_properties(settings: Settings) -> dict[str, str]:
    lake = settings.lake
    secret = lake.s3_secret_access_key
    named = {
        "s3.endpoint": lake.s3_endpoint,
        "s3.region": lake.s3_region,
        "s3.access-key-id": lake.s3_access_key_id,
        "s3.secret-access-key": secret.get_secret_value() if secret else None,
        "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
    }
    return {key: value for key, value in named.items() if value}


def load_table(catalog: SqlCatalog, ref: TableRef) -> Table | None:
    """Load a table's current metadata, or None when the catalogue does not have it."""
    return load_tables(catalog, [ref])[ref]


def load_tables(catalog: SqlCatalog, refs: Iterable[TableRef]) -> dict[TableRef, Table | None]:
    """Load several tables as of one moment: all of what a step published, or nothing of it.

    One SELECT reads every pointer; the metadata files behind the pointers never change.
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
        loaded = pool.map(catalog._convert_orm_to_iceberg, rows)
    for row, table in zip(rows, loaded, strict=True):
        tables[names[row.table_namespace, row.table_name]] = table
    return tables


def create_table(catalog: SqlCatalog, ref: TableRef, schema: Schema, *, location: str) -> Table:
    """Create an empty, unpublished table; when another writer was faster, take theirs."""
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
        PermanentError: the catalogue cannot be written.
    """
    for attempt in range(attempts + 1):
        try:
            with _queue(catalog, refs):
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
