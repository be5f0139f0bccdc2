"""The dbt-duckdb plugin: puts the lake into dbt's DuckDB connection and dbt's models into the lake.

Named in ``profiles.yml`` as ``{module: dml_platform.dbt.plugin, alias: lake}``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import duckdb
from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.adapters.duckdb.utils import TargetConfig
from dbt.adapters.events.logging import AdapterLogger
from dbt_common.exceptions import DbtRuntimeError

from dml_platform import __version__
from dml_platform.core.dvcfiles import read_hashes
from dml_platform.core.errors import PlatformError
from dml_platform.core.naming import LAYERS, TableRef
from dml_platform.core.runrecord import RunRecord, git_commit, write_record
from dml_platform.dbt import session as sessions
from dml_platform.dbt.history import LAYER, load_history
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
        for layer in (layer for layer in LAYERS if layer != LAYER):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {engine.quote_name(session.project)}.{layer}")
        for ref, pinned in session.step.pin_all(sessions.readable_tables(session.lake, session.project)).items():
            if pinned is not None and pinned.snapshot_id is not None:
                create_view(connection, pinned)
                session.pinned[ref] = pinned.snapshot_id
        if session.with_history:
            session.history = load_history(connection, session.lake, session.project, whole=session.with_whole_history)

    def _attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        session = self._session
        session.database.parent.mkdir(parents=True, exist_ok=True)
        name = engine.quote_name(session.project)
        try:
            connection.execute(f"ATTACH {engine.quote(str(session.database))} AS {name}")
        except duckdb.IOException as error:
            if "lock" not in str(error):
                raise
            # Another terminal has the kept file: this invocation gets one of its own.
            self._folder = tempfile.TemporaryDirectory(prefix="dbt-", dir=session.lake.settings.temp_dir)
            session.database = Path(self._folder.name) / session.database.name
            connection.execute(f"ATTACH {engine.quote(str(session.database))} AS {name}")

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
        elif config["is_untested"]:
            session.held_back = "tests are excluded by their resource type"
        elif config["failed"]:
            failed = ", ".join(unique_id.split(".", 2)[-1] for unique_id in config["failed"][:5])
            session.held_back = f"{len(config['failed'])} nodes failed or were skipped: {failed}"
        if session.held_back:
            session.step.abandon()
            logger.info(f"Nothing is published ({names}): {session.held_back}.")
        else:
            session.published = session.step.publish()
            for staged in session.published:
                logger.info(f"Published {staged.ref}: {staged.rows_total:,} rows, snapshot {staged.snapshot_id}")
        if session.root is not None and config["command"] == "build":
            write_record(session.lake.settings, _record(session, session.root))


def _record(session: sessions.Session, root: Path) -> RunRecord:
    started = datetime.fromisoformat(session.started_at)
    published = session.published or []
    return RunRecord(
        project=session.project,
        run_id=session.step.run_id,
        step=session.step.name,
        status="failed" if session.held_back else "success",
        started_at=session.started_at,
        duration_s=round((datetime.now(timezone.utc) - started).total_seconds(), 3),
        git_commit=git_commit(root),
        image=session.lake.settings.image,
        inputs={ref.dotted: snapshot for ref, snapshot in sorted(session.pinned.items())},
        outputs={s.ref.dotted: s.snapshot_id for s in published},
        rows={s.ref.dotted: s.rows_total for s in published},
        error=session.held_back,
        dvc=read_hashes(root),
        platform=__version__,
    )


def _translated(call: Callable[[], _T]) -> _T:
    """Give dbt our errors in its own type, and keep the original for the caller of the invocation."""
    try:
        return call()
    except PlatformError as error:
        if sessions._active is not None:
            sessions._active.error = error
        raise DbtRuntimeError(str(error)) from error
