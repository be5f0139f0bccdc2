"""A folder of its own for what each DuckDB connection spills.

DuckDB names its spill files alike in every process and opens what is there: two that share a folder read each other's
bytes (seen in 1.5.5: INTERNAL errors, absurd allocations). It makes the folder when it first spills and removes it on
close; what a killed process left is removed by the next process.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import uuid
from pathlib import Path

_claimed: dict[Path, Path] = {}


def spill_folder(temp_dir: Path) -> Path:
    """Name a folder that no other connection has. DuckDB makes it, and only removes what it made itself.

    A caller's own files may stand beside it, under names that begin with the folder's.
    """
    return _process_folder(temp_dir / "spill") / uuid.uuid4().hex


def _process_folder(parent: Path) -> Path:
    """This process's folder, locked as long as it lives, so that others can tell it from a killed one's."""
    folder = _claimed.get(parent)
    if folder is not None and folder.is_dir():
        return folder
    folder = parent / uuid.uuid4().hex
    with contextlib.suppress(OSError):  # a lake that is only read from: DuckDB says so if it has to spill there
        parent.mkdir(parents=True, exist_ok=True)
        for other in parent.iterdir():
            _remove_left_over(other)
        folder.mkdir(mode=0o700)
        _lock(folder)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _claimed[parent] = folder
    return folder


def _remove_left_over(folder: Path) -> None:
    with contextlib.suppress(OSError):  # of a process that lives, or just gone
        lock = _lock(folder)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path) -> int:
    """Lock a folder itself: opened to be read, so that the file system can still be made read-only."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        raise
    return opened
