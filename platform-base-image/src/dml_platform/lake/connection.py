"""Open the Iceberg catalogue: its address, and credentials that may be replaced while the process lives.

What is done with an open catalogue is in ``catalog``.
"""

from __future__ import annotations

import time
from typing import Any

from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.io import FileIO
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.typedef import EMPTY_DICT, Properties
from sqlalchemy import event
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
)

from dml_platform.core.errors import ConfigError
from dml_platform.core.settings import Settings

_SIGN_IN_ATTEMPTS = 5
# By folder the newest metadata file that this process has read, and what it says: such a file never changes, and a
# check of a pull request asks for the same tables several times. One for each table, so that it does not grow.
_read: dict[str, tuple[str, TableMetadata]] = {}


class LakeCatalog(SqlCatalog):
    """Takes the object store's key anew for each table that it loads: it may be replaced while a process lives."""

    def __init__(self, settings: Settings, **properties: str) -> None:
        self._settings = settings
        super().__init__(settings.lake.catalog_name, **properties)

    def _load_file_io(self, properties: Properties = EMPTY_DICT, location: str | None = None) -> FileIO:
        self._take_key()
        return super()._load_file_io(properties, location)

    def _convert_orm_to_iceberg(self, orm_table: IcebergTables) -> Table:
        self._take_key()
        table = super()._convert_orm_to_iceberg(orm_table)
        _read[table.metadata_location.rpartition("/")[0]] = table.metadata_location, table.metadata
        return table

    def recall(self, orm_table: IcebergTables) -> Table | None:
        """A table as this process has read it before, if it is still the one; that its file is whole nobody checks."""
        location = orm_table.metadata_location or ""
        known, metadata = _read.get(location.rpartition("/")[0], ("", None))
        if metadata is None or known != location:
            return None
        return Table(
            identifier=(*self.identifier_to_tuple(orm_table.table_namespace), orm_table.table_name),
            metadata=metadata,
            metadata_location=location,
            io=self._load_file_io(metadata.properties, location),
            catalog=self,
        )

    def _take_key(self) -> None:
        if self._settings.is_s3:
            self.properties |= _s3_properties(self._settings)


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
                return _open(settings, properties)
            except (IntegrityError, OperationalError, ProgrammingError):  # another process makes the tables right now
                time.sleep(0.2)
        return _open(settings, properties)
    except (DatabaseError, OSError) as error:  # also a damaged file
        reason = getattr(error, "orig", None) or error
        raise ConfigError(
            "cannot open the lake's catalogue",
            (str(reason).strip() or repr(reason)).splitlines()[0],
            _fix(settings, getattr(reason, "pgcode", None)),
        ) from error
    except (ArgumentError, NoSuchModuleError, ImportError):  # their text may hold the address, thus the password
        raise ConfigError(
            "cannot open the lake's catalogue",
            "DML_LAKE__CATALOG_URI is not an SQLAlchemy URL for SQLite or Postgres",
            "Write it as postgresql+psycopg2://user:password@host:5432/database.",  # pragma: allowlist secret
        ) from None


def _open(settings: Settings, properties: dict[str, str]) -> SqlCatalog:
    catalog = LakeCatalog(settings, **properties)
    if catalog.engine.dialect.name == "postgresql":
        event.listen(catalog.engine, "do_connect", _sign_in)
    return catalog


def _sign_in(dialect: Any, _record: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Connect, again while the password is being replaced: between server and ``PGPASSFILE`` lie some milliseconds."""
    for attempt in range(1, _SIGN_IN_ATTEMPTS):
        try:
            return dialect.connect(*args, **kwargs)
        except dialect.loaded_dbapi.OperationalError as error:
            if "password authentication failed" not in str(error):
                raise
            time.sleep(0.1 * attempt)
    return dialect.connect(*args, **kwargs)


def _fix(settings: Settings, pgcode: str | None) -> str:
    if pgcode == "42501":  # insufficient_privilege
        return "The database is not prepared for this role: ask whoever runs the server to provision it."
    if settings.lake.catalog_uri:
        return "Check DML_LAKE__CATALOG_URI and that the folder or database can be written."
    return f"Check the free space and the permissions of {settings.home / 'lake'} and that its catalog.db is whole."


def _s3_properties(settings: Settings) -> dict[str, str]:
    key = settings.read_s3_key()
    named = {
        "s3.endpoint": settings.lake.s3_endpoint,
        "s3.region": settings.lake.s3_region,
        "s3.access-key-id": key.access_key_id if key else None,
        "s3.secret-access-key": key.secret_access_key.get_secret_value() if key else None,
        "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
    }
    return {name: value for name, value in named.items() if value}
