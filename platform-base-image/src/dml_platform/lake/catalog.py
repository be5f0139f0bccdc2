"""The Iceberg catalogue: open it, load and create tables, retry commits, swing many tables at once.

The only module that knows which catalogue it is (pyiceberg's SQL catalogue), so that a REST catalogue can follow.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.update import TableRequirement, TableUpdate
from sqlalchemy import update
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from dml_platform.core.errors import ConfigError, RetryableError
from dml_platform.core.naming import TableRef
from dml_platform.core.settings import Settings

_T = TypeVar("_T")
_MAX_PAUSE_S = 2.0


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
            except (OperationalError, ProgrammingError):  # another process makes the tables right now
                time.sleep(0.2)
        return SqlCatalog(settings.lake.catalog_name, **properties)
    except (OperationalError, OSError) as error:
        reason = getattr(error, "orig", None) or error
        raise ConfigError(
            "cannot open the lake's catalogue",
            str(reason).splitlines()[0],
            "Check DML_LAKE__CATALOG_URI and that the folder or database can be written.",
        ) from error


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
    try:
        return catalog.load_table(ref.identifier)
    except NoSuchTableError:
        return None


def create_table(catalog: SqlCatalog, ref: TableRef, schema: Schema, *, location: str) -> Table:
    """Create an empty, unpublished table; when another writer was faster, take theirs."""
    for depth in (1, 2):
        try:
            catalog.create_namespace(ref.namespace[:depth])
        except NamespaceAlreadyExistsError:
            pass
    try:
        return catalog.create_table(ref.identifier, schema, location=location)
    except TableAlreadyExistsError:
        return catalog.load_table(ref.identifier)


def list_tables(catalog: SqlCatalog, project: str | None = None) -> list[TableRef]:
    """All tables of the lake, or of one project, sorted; others' namespaces are passed over."""
    refs = []
    projects = [(project,)] if project else catalog.list_namespaces()
    for outer in projects:
        try:
            layers = catalog.list_namespaces(outer)
        except NoSuchNamespaceError:
            continue
        for namespace in layers:
            if len(namespace) == 2:
                refs += [TableRef(*identifier) for identifier in catalog.list_tables(namespace)]
    return sorted(refs)


def with_retries(commit: Callable[[], _T], *, attempts: int, what: str) -> _T:
    """Run a commit again while other writers are faster.

    Raises:
        RetryableError: still beaten, or the catalogue is still locked, after the last attempt.
    """
    for attempt in range(attempts + 1):
        try:
            return commit()
        except (CommitFailedException, OperationalError) as error:
            if attempt == attempts:
                raise RetryableError(
                    what, f"other writers were faster {attempts} times ({error})", "Run it again."
                ) from error
            time.sleep(random.uniform(0, min(_MAX_PAUSE_S, 0.05 * 2**attempt)))
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class TableCommit:
    """Updates of one table, valid only while its requirements hold."""

    table: Table
    updates: tuple[TableUpdate, ...]
    requirements: tuple[TableRequirement, ...]


def commit_together(catalog: SqlCatalog, commits: Sequence[TableCommit]) -> None:
    """Commit the updates of several tables in one catalogue transaction: all or none.

    The SQL catalogue keeps each table's metadata pointer in a row, so this is one SQL transaction that checks every row.

    Raises:
        CommitFailedException: a requirement does not hold, or a table was committed to meanwhile; nothing changed.
    """
    staged = []
    for commit in commits:
        new = catalog._update_and_stage_table(  # pyiceberg has no public multi-table commit yet
            commit.table, commit.table.name(), commit.requirements, commit.updates
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
