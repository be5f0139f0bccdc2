"""Dagster's own storage on a laptop: one instance for all projects of the workspace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

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


def ensure_home(home: Path) -> Path:
    """Make the instance's folder below the state folder, with its configuration."""
    folder = home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "dagster.yaml"
    if not config.is_file():
        config.write_text(_CONFIG, encoding="utf-8")
    return folder


@contextmanager
def open_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """Open the workspace's Dagster instance."""
    folder = ensure_home(home)
    os.environ["DAGSTER_HOME"] = str(folder)
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        yield instance
