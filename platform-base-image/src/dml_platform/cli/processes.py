"""Which process a written-down id means: ids are used again, so its start time is written down with it."""

from __future__ import annotations

import psutil


def find_process(pid: int, started_at: float) -> psutil.Process | None:
    """The process, if it still is the one that was started then."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - started_at) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except psutil.NoSuchProcess:
        pass
    return None
