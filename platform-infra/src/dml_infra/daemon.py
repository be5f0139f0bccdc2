"""Dagster's daemon as this server runs it: `python -m dml_infra.daemon --workspace FILE`, and `--migrate` before it.

Three things are different from `dagster-daemon run`: a changed workspace file is read within seconds and not a minute,
a project's limit of concurrent runs is the one in the registry, and containers of runs that ended long ago are removed.
Not here: purging old runs. Dagster keeps them, and they are the lineage; deleting them is a decision, not a routine.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import dagster._daemon.controller as controller
import dagster._daemon.run_coordinator.queued_run_coordinator_daemon as queue
import yaml
from dagster import DagsterInstance
from dagster._core.instance.config import ConcurrencyConfig
from dagster._core.instance.ref import InstanceRef
from dagster._daemon.cli import create_dagster_daemon_cli
from dagster_shared.record import replace
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from dml_infra.launcher import ProjectRunLauncher

LOCATION_TAG = "dagster/code_location"
_LOG = logging.getLogger("dml_infra.daemon")
# How soon a location that failed to load is tried again.
_RETRY_S = 10.0
_CLEAN_EVERY_S = 600.0


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon until it is told to stop."""
    parser = argparse.ArgumentParser(prog="dml_infra.daemon")
    parser.add_argument("--workspace", type=Path, help="the rendered workspace.yaml")
    parser.add_argument("--migrate", action="store_true", help="create or migrate Dagster's tables, then exit")
    parser.add_argument("--wait", type=float, default=120.0, metavar="SECONDS", help="for the database, with --migrate")
    options = parser.parse_args(arguments)
    # Only this module's: Dagster sets up its own, and a root handler would print each of its lines twice.
    _LOG.setLevel(logging.INFO)
    _LOG.addHandler(logging.StreamHandler())
    if options.migrate:
        migrate(Path(os.environ["DAGSTER_HOME"]), wait_s=options.wait)
        return 0
    if options.workspace is None:
        parser.error("--workspace is missing")
    watch_workspace(options.workspace)
    limit_projects(options.workspace.parent / "locations.json")
    threading.Thread(target=_clean_up, daemon=True, name="clean-up").start()
    create_dagster_daemon_cli()(["run", "--workspace", str(options.workspace)])
    return 0


def migrate(home: Path, *, wait_s: float) -> None:
    """Create Dagster's tables where there are none, else bring them to this version. The instance itself may not.

    Args:
        home: folder of dagster.yaml.
        wait_s: how long the database and its role may take to be there: `dml infra up` makes them.
    """
    storage = yaml.safe_load((home / "dagster.yaml").read_text(encoding="utf-8"))["storage"]["postgres"]
    deadline = time.monotonic() + wait_s
    while True:
        try:
            create_engine(storage["postgres_url"]).connect().close()
            break
        except OperationalError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"Dagster's database is not there: {error.orig}") from error
            time.sleep(1)
    overrides = {"storage": {"postgres": {**storage, "should_autocreate_tables": True}}}
    with DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=overrides)) as instance:
        instance.upgrade(print_fn=_LOG.info)


def watch_workspace(path: Path) -> None:
    """Read the workspace again when its file changed, or a while after a location failed to load; else each minute."""
    seen = [_stamp(path)]
    plain = controller.DagsterDaemonController.check_workspace_freshness

    def check(self: Any, last_s: float) -> float:
        stamp = _stamp(path)
        failed = time.time() - last_s > _RETRY_S and _has_failed(self)
        if stamp == seen[0] and not failed:
            return plain(self, last_s)
        # As if a minute had passed, and not more: an error is logged, and ends the daemon only when it lasts.
        asked_s = min(last_s, time.time() - controller.RELOAD_WORKSPACE_INTERVAL - 1)
        refreshed_s = plain(self, asked_s)
        if refreshed_s != asked_s:
            seen[0] = stamp
        return max(refreshed_s, last_s)

    controller.DagsterDaemonController.check_workspace_freshness = check  # type: ignore[method-assign,assignment]


def limit_projects(path: Path) -> None:
    """Let the queue apply each project's own limit of concurrent runs (`max_runs` in the registry)."""
    plain = queue.QueuedRunCoordinatorDaemon._get_runs_to_dequeue

    def get_runs(self: Any, instance: Any, concurrency_config: ConcurrencyConfig, **options: Any) -> Any:
        return plain(self, instance, with_limits(concurrency_config, path), **options)

    queue.QueuedRunCoordinatorDaemon._get_runs_to_dequeue = get_runs  # type: ignore[method-assign,assignment]


def with_limits(config: ConcurrencyConfig, path: Path) -> ConcurrencyConfig:
    """The queue's limits, where a location's `max_runs` takes the place of the one that dagster.yaml has for all."""
    run_queue = config.run_queue_config
    try:
        locations = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return config
    if run_queue is None:
        return config
    per_location = [limit for limit in run_queue.tag_concurrency_limits if limit["key"] == LOCATION_TAG]
    others = [limit for limit in run_queue.tag_concurrency_limits if limit["key"] != LOCATION_TAG]
    default = min((int(limit["limit"]) for limit in per_location), default=0)
    own = [
        {"key": LOCATION_TAG, "value": name, "limit": int(limit)}
        for name, entry in sorted(locations.items())
        if (limit := entry.get("max_runs") or default)
    ]
    return replace(config, run_queue_config=run_queue._replace(tag_concurrency_limits=[*others, *own]))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_ino, found.st_mtime_ns)


def _has_failed(daemon: Any) -> bool:
    entries = daemon._workspace_process_context.create_request_context().get_code_location_entries()
    return any(entry.load_error for entry in entries.values())


def _clean_up() -> None:
    """Remove containers of runs that ended long ago. A failure is logged and waits for the next time."""
    keep_s = float(os.environ.get("DML_RUN_CONTAINER_KEEP_HOURS", "24")) * 3600
    launcher = ProjectRunLauncher()
    while True:
        try:
            for name in launcher.remove_ended(keep_s=keep_s, now_s=time.time()):
                _LOG.info("removed %s", name)
        except Exception:  # noqa: BLE001 - a thread's edge: cleaning up must not end the daemon
            _LOG.exception("cannot remove ended run containers")
        time.sleep(_CLEAN_EVERY_S)


if __name__ == "__main__":
    sys.exit(main())
