"""Dagster's own storage on a laptop: one instance for all projects of the workspace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil

from dml_platform.catalog.lost import COMMAND_TAG, KILLED_TAG, PROJECT_TAG
from dml_platform.cli.processes import find_process

_CONFIG = """\
# Written by `dml`; delete the file to have it written anew.
telemetry: {enabled: false}
nux: {enabled: false}
run_queue: {max_concurrent_runs: 2}
run_monitoring: {enabled: false}
retention:
  schedule: {purge_after_days: 90}
  sensor: {purge_after_days: {skipped: 7, failure: 30, success: -1}}
"""
_PID, _STARTED = "dml/pid", "dml/process_started"
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def ensure_home(home: Path) -> Path:
    """Make the instance's folder below the state folder, with its configuration."""
    folder = home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "dagster.yaml"
    if not config.is_file():
        config.write_text(_CONFIG, encoding="utf-8")
    return folder


def run_tags(project: str) -> dict[str, str]:
    """The tags that say whose run it is and which process it is in."""
    process = psutil.Process()
    return {
        COMMAND_TAG: "run",
        PROJECT_TAG: project,
        _PID: str(process.pid),
        _STARTED: str(process.create_time()),
    }


@contextmanager
def open_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """Open the workspace's Dagster instance; runs whose process was killed are failed first."""
    folder = ensure_home(home)
    os.environ["DAGSTER_HOME"] = str(folder)
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        _fail_dead_runs(instance)
        yield instance


def _fail_dead_runs(instance: dg.DagsterInstance) -> None:
    """A killed process cannot say so itself, and its run would hold a place in the queue for ever."""
    for run in instance.get_runs(filters=dg.RunsFilter(tags={COMMAND_TAG: "run"}, statuses=_UNFINISHED)):
        if find_process(int(run.tags.get(_PID, 0)), float(run.tags.get(_STARTED, 0))) is None:
            instance.add_run_tags(run.run_id, {KILLED_TAG: "true"})
            instance.report_run_failed(run, "The process of 'dml run' was killed.")
