"""DuckDB connections: limits, offline extensions, object-store credentials.

DuckDB only computes; nothing here knows tables.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from urllib.parse import urlparse

import duckdb

from dml_platform.core.errors import ConfigError
from dml_platform.core.settings import Settings
from dml_platform.lake.spill import spill_folder


def connect(settings: Settings, path: str | Path = ":memory:") -> duckdb.DuckDBPyConnection:
    """Open a DuckDB database with the platform's limits.

    Args:
        path: a file, private to the caller, or ``":memory:"``.
    Raises:
        ConfigError: the warehouse is on S3 and DuckDB's httpfs extension is not installed.
    """
    connection = duckdb.connect(str(path))
    configure(connection, settings)
    return connection


def configure(connection: duckdb.DuckDBPyConnection, settings: Settings) -> None:
    """Set the limits and load what the warehouse needs on a connection that somebody else opened."""
    threads = settings.duckdb.threads or os.cpu_count() or 1
    for statement in (
        f"SET memory_limit='{settings.duckdb.memory_limit_mb}MiB'",
        f"SET threads={threads}",
        f"SET temp_directory={quote(str(spill_folder(settings.temp_dir)))}",
        f"SET extension_directory={quote(str(settings.home / 'duckdb-extensions'))}",
        "SET autoinstall_known_extensions=false",
        "SET preserve_insertion_order=false",
        "SET GLOBAL TimeZone='UTC'",  # for every cursor that follows too
    ):
        connection.execute(statement)
    # The bar goes to stdout, into whoever reads a pipe. In Jupyter it is off, and naming it asks for ipywidgets.
    shown = connection.execute("SELECT current_setting('enable_progress_bar')").fetchone()
    if shown and shown[0]:
        connection.execute("SET enable_progress_bar=false")
    if settings.is_s3:
        load_extension(connection, "httpfs")
        connection.execute(_s3_secret(settings))


def load_extension(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load a DuckDB extension from its wheel, without any network.

    Raises:
        ConfigError: the wheel ``duckdb-extension-<name>`` is not installed for this DuckDB version.
    """
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    version = f"v{duckdb.__version__}"
    file = (
        Path(spec.submodule_search_locations[0]) / "extensions" / version / f"{name}.duckdb_extension"
        if spec and spec.submodule_search_locations
        else None
    )
    if file is None or not file.is_file():
        raise ConfigError(
            f"cannot load DuckDB's extension {name!r}",
            f"no wheel of it for DuckDB {version} is installed",
            f"Install duckdb-extension-{name}=={duckdb.__version__}.",
        )
    # By its path: INSTALL would copy it into a folder first, which may be read-only.
    connection.execute(f"LOAD {quote(str(file))}")


def _s3_secret(settings: Settings) -> str:
    lake = settings.lake
    parts = ["TYPE s3", f"REGION {quote(lake.s3_region)}", f"SCOPE {quote(settings.warehouse)}"]
    if key := settings.read_s3_key():
        parts.append(f"KEY_ID {quote(key.access_key_id)}")
        parts.append(f"SECRET {quote(key.secret_access_key.get_secret_value())}")
    if lake.s3_endpoint:
        endpoint = urlparse(lake.s3_endpoint)
        parts.append(f"ENDPOINT {quote(endpoint.netloc + endpoint.path.rstrip('/'))}")
        parts.append("URL_STYLE 'path'")
        parts.append(f"USE_SSL {'true' if endpoint.scheme == 'https' else 'false'}")
    return f"CREATE OR REPLACE SECRET dml_lake ({', '.join(parts)})"


def quote(text: str) -> str:
    """Quote a string literal for SQL."""
    return "'" + text.replace("'", "''") + "'"


def constant(text: str) -> str:
    """One text for every row, for SQL: a column of it costs nothing to write, that of a plain literal a tenth."""
    return f"{quote(text)}::ENUM({quote(text)})"


def quote_name(name: str) -> str:
    """Quote an identifier for SQL."""
    return '"' + name.replace('"', '""') + '"'
