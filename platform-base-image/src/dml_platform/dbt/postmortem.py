"""The private DuckDB files of failed runs: kept for a look with ``dml sql --run``, the last few of a project only."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import duckdb

from dml_platform.core.errors import PlatformError
from dml_platform.core.project import Project
from dml_platform.core.runrecord import FILES_AREA, run_files
from dml_platform.core.storage import open_storage
from dml_platform.dbt.results import NodeResult
from dml_platform.lake import Lake

logger = logging.getLogger(__name__)

TRIAL = "ci"  # what the ids of checks begin with; other runs' are hexadecimal
_HAS_FAILED = "has_failed"
_DAY_S = 86_400.0
QUERIES = "main._dml_tests"  # a table of the run's file


def keep_database(lake: Lake, project: Project, *, run_id: str, database: Path, error: PlatformError) -> PlatformError:
    """Put a failed run's file where it outlives the run's container: beside the run records in the object store.

    Returns: the error, which now says where the file is or why it is not kept.
    """
    settings = lake.settings
    if not settings.is_s3:  # it stays where it is
        return error
    try:
        with contextlib.closing(duckdb.connect(str(database))):  # what is in its log comes into the file
            pass
        size_mb = database.stat().st_size / 1e6
        if size_mb > settings.dbt.keep_failed_mb:
            limit = f"DML_DBT__KEEP_FAILED_MB is {settings.dbt.keep_failed_mb}"
            return _without_file(error, f"it has {size_mb:,.0f} MB and {limit}")
        place = run_files(settings, project.name, run_id).upload(database.name, database)
    except (OSError, duckdb.Error) as problem:
        return _without_file(error, " ".join(str(problem).split()))
    finally:
        database.unlink(missing_ok=True)
    return type(error)(error.what, error.why, f"{error.fix}\nThat reads {place} and needs the server's settings.")


def keep_queries(database: Path, nodes: Iterable[NodeResult]) -> None:
    """Put the queries of tests that found rows into the run's file, for ``dml sql --run … --test …``."""
    found = [(n.name, n.sql) for n in nodes if n.resource_type == "test" and n.sql and n.status in ("fail", "warn")]
    if not found or not database.is_file():
        return
    try:
        with contextlib.closing(duckdb.connect(str(database))) as connection:
            connection.execute(f"CREATE OR REPLACE TABLE {QUERIES} (name VARCHAR, query VARCHAR)")
            connection.executemany(f"INSERT INTO {QUERIES} VALUES (?, ?)", found)
    except duckdb.Error as error:  # the run has failed already, and for another reason
        logger.warning("the queries of the failed tests are not in %s: %s", database, error)


def forget_old_files(lake: Lake, project: Project, *, run_id: str) -> None:
    """Keep the private files of the last failed runs only. A run without a record is still going, or was killed."""
    count = lake.settings.dbt.keep_failed_runs
    if lake.settings.is_s3:
        files = open_storage(lake.settings, project.name, FILES_AREA)
        try:
            found = [entry for entry in files.list(recursive=True) if entry.name.endswith(".duckdb")]
            # This run's first: an object store's times may be whole seconds.
            found.sort(key=lambda e: (e.name.startswith(f"{run_id}/"), e.modified_at or 0), reverse=True)
            for entry in found[count:]:
                files.delete(entry.name)
        except OSError as error:  # the next failed run tries again
            logger.warning("old DuckDB files of failed runs are still there: %s", error)
        return
    records = (lake.settings.home / "runs" / project.name).glob("*/*.json")
    finished = [record for record in records if record.with_suffix(".duckdb").exists()]
    finished.sort(key=lambda record: record.stat().st_mtime, reverse=True)
    for record in finished[count:]:
        for suffix in (".duckdb", ".duckdb.wal"):
            record.with_suffix(suffix).unlink(missing_ok=True)
        shutil.rmtree(record.with_suffix(".dbt"), ignore_errors=True)


def forget_trials(lake: Lake, project: Project, *, run_id: str, has_failed: bool) -> None:
    """Keep the files of the last checks that failed, for a look; a good one, and one that was killed, leaves nothing.

    Args:
        run_id: of the check that has just ended.
    """
    runs = lake.settings.home / "runs" / project.name
    if has_failed and (runs / run_id).is_dir():
        (runs / run_id / _HAS_FAILED).touch()
    else:
        shutil.rmtree(runs / run_id, ignore_errors=True)
    marks = sorted(runs.glob(f"{TRIAL}*/{_HAS_FAILED}"), key=lambda mark: mark.stat().st_mtime, reverse=True)
    kept = {mark.parent for mark in marks[: lake.settings.dbt.keep_failed_runs]}
    for folder in set(runs.glob(f"{TRIAL}*")) - kept:
        # Without a mark it is another check that is going on, or one that was killed: nobody builds for a day.
        if (folder / _HAS_FAILED).exists() or time.time() - folder.stat().st_mtime > _DAY_S:
            shutil.rmtree(folder, ignore_errors=True)


def _without_file(error: PlatformError, reason: str) -> PlatformError:
    return type(error)(
        error.what, error.why, f"Correct it and run again; the run's DuckDB file could not be kept: {reason}."
    )
