"""The dbt-duckdb plugin: puts the lake into dbt's DuckDB connection and dbt's models into the lake.

Named in ``profiles.yml`` as ``{module: dml_platform.dbt.plugin, alias: lake}``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import duckdb
from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.adapters.duckdb.utils import TargetConfig
from dbt.adapters.events.logging import AdapterLogger
from dbt_common.exceptions import DbtRuntimeError

from dml_platform.core.errors import PlatformError
from dml_platform.core.naming import TableRef
from dml_platform.dbt import session as sessions
from dml_platform.lake import create_view, engine

logger = AdapterLogger("Lake")
_T = TypeVar("_T")


class Plugin(BasePlugin):
    """One per DuckDB environment, that is, per dbt invocation."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Take the caller's session; nothing is opened yet."""
        assert self.creds is not None
        project = self.creds.database
        self._session = _translated(lambda: sessions.current(project))

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        """Attach the private file as the project's database and pin every published table as a view."""
        _translated(lambda: self._configure(conn))

    def configure_cursor(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Repeat what DuckDB keeps per cursor."""
        cursor.execute("SET TimeZone='UTC'")

    def store(self, target_config: TargetConfig) -> None:
        """Called by the macros: ``write`` stages one model, ``publish`` ends the invocation."""
        assert target_config.location is not None
        action = self._write if target_config.location.format == "write" else self._publish
        _translated(lambda: action(target_config))

    def _configure(self, connection: duckdb.DuckDBPyConnection) -> None:
        session = self._session
        engine.configure(connection, session.lake.settings)
        self._attach(connection)
        self._connection = connection
        for layer in ("raw", "staging", "intermediate", "marts", "seeds"):
            connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{session.project}".{layer}')
        for ref, pinned in session.step.pin_all(session.lake.tables()).items():
            if pinned is not None and pinned.snapshot_id is not None:
                create_view(connection, pinned)
                session.pinned[ref] = pinned.snapshot_id

    def _attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        session = self._session
        session.database.parent.mkdir(parents=True, exist_ok=True)
        try:
            connection.execute(f"ATTACH {engine.quote(str(session.database))} AS {session.project}")
        except duckdb.IOException as error:
            if "lock" not in str(error):
                raise
            # Another terminal has the kept file: this invocation gets one of its own.
            folder = tempfile.mkdtemp(prefix="dbt-", dir=session.lake.settings.temp_dir)
            session.database = Path(folder) / session.database.name
            connection.execute(f"ATTACH {engine.quote(str(session.database))} AS {session.project}")

    def _write(self, target: TargetConfig) -> None:
        relation, config = target.relation, target.config
        assert target.location is not None
        assert relation.schema
        assert relation.identifier
        ref = TableRef(self._session.project, relation.schema, relation.identifier)
        key = config["unique_key"] or []
        cursor = self._connection.cursor()
        try:
            staged = self._session.step.write_query(
                ref,
                cursor,
                f"SELECT * FROM {target.location.path}",
                mode=config["write_mode"],
                key=[key] if isinstance(key, str) else list(key),
                full_refresh=bool(config["full_refresh"]),
            )
            self._session.staged[ref] = staged
            pinned = self._session.step.pin(ref)
            assert pinned is not None
            create_view(cursor, pinned)
        finally:
            cursor.close()
        logger.info(f"{ref}: {staged.rows_written:,} rows on branch {self._session.step.branch}")

    def _publish(self, target: TargetConfig) -> None:
        session, config = self._session, target.config
        if not session.staged:
            session.published = []
            return
        names = ", ".join(ref.name for ref in sorted(session.staged))
        if config["command"] != "build":
            session.held_back = f"'dbt {config['command']}' runs no tests; 'dbt build' tests and publishes"
        elif config["is_sample"]:
            session.held_back = "the rows are a sample (--empty or --sample)"
        elif config["failed"]:
            failed = ", ".join(unique_id.split(".", 2)[-1] for unique_id in config["failed"][:5])
            session.held_back = f"{len(config['failed'])} nodes failed or were skipped: {failed}"
        if session.held_back:
            session.step.abandon()
            logger.info(f"Nothing is published ({names}): {session.held_back}.")
            return
        session.published = session.step.publish()
        for staged in session.published:
            logger.info(f"Published {staged.ref}: {staged.rows_total:,} rows, snapshot {staged.snapshot_id}")


def _translated(call: Callable[[], _T]) -> _T:
    """Give dbt our errors in its own type, and keep the original for the caller of the invocation."""
    try:
        return call()
    except PlatformError as error:
        if sessions._active is not None:
            sessions._active.error = error
        raise DbtRuntimeError(str(error)) from error
