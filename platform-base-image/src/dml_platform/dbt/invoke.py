"""Running a command of dbt in this process.

dbt's own program starts a new process each time; staying in ours saves its start-up, and results come back as objects.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dml_platform.core.project import Project
from dml_platform.dbt.results import NodeResult, from_event


def invoke(
    arguments: list[str],
    project: Project,
    *,
    target: Path,
    on_node: Callable[[NodeResult], None] | None = None,
    manifest: Any = None,
    shows: bool = True,
    tell: Callable[[str], str] = str,
) -> Any:
    """Run a command of dbt.

    Args:
        shows: what it prints is for people, as it is not where a list is the result.
        tell: what of its messages is printed.
    """
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager
    from dbt.cli.main import dbtRunner
    from dbt_common.exceptions import env_secrets, scrub_secrets

    def on_event(event: Any) -> None:
        # What dbt shows with --quiet, as it shows it; the trace of what ends it is the caller's, who raises that.
        if (event.info.level == "error" and event.info.name != "MainStackTrace") or (
            shows and event.info.name == "PrintEvent"
        ):
            print(tell(scrub_secrets(event.info.msg, env_secrets())), flush=True)
        if on_node is not None and event.info.name == "NodeFinished":
            on_node(from_event(event))

    folder = str(project.dbt_dir)
    common = ["--project-dir", folder, "--profiles-dir", folder, "--target-path", str(target)]
    # dbt never closes its log file; what it would hold is in the run's own log and record. Its console logger writes
    # out each of thousands of events before it drops all but the errors.
    quiet = ["--log-level", "none", "--log-level-file", "none"]
    common += ["--no-send-anonymous-usage-stats", "--no-version-check", *quiet]
    # dbt makes millions of objects that live on: collecting as often as Python does takes a tenth of a build.
    thresholds = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)
    # For the same reason Python's last look for cycles would take half a second, on its way out.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    try:
        outcome = dbtRunner(manifest, callbacks=[on_event]).invoke([*arguments, *common])
        if isinstance(outcome.exception, KeyboardInterrupt):  # dbt makes an ordinary failure of it
            raise outcome.exception
        return outcome
    finally:
        gc.set_threshold(*thresholds)
        # dbt-duckdb keeps the connection for the process; the next invocation must not inherit it.
        if DuckDBConnectionManager._ENV is not None:
            DuckDBConnectionManager._ENV.close()
        DuckDBConnectionManager.close_all_connections()
