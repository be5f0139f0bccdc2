"""Folders for one run's files, which may hold secrets: private, and removed even after their process was killed."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import filelock

from dml_platform.core.errors import ConfigError
from dml_platform.core.settings import Settings

_PREFIX = "scratch-"
_LOCK = ".lock"


@contextlib.contextmanager
def scratch_folder(settings: Settings) -> Iterator[Path]:
    """A new folder in the platform's temporary folder that only this user can enter, gone afterwards.

    Its process holds a lock beside it, so that the next run can tell what a killed one left behind, in any container.

    Raises:
        ConfigError: the temporary folder cannot be written.
    """
    folder = settings.temp_dir / f"{_PREFIX}{uuid.uuid4().hex}"
    try:
        settings.temp_dir.mkdir(parents=True, exist_ok=True)
        _remove_left_overs(settings.temp_dir)
        lock = filelock.FileLock(folder.with_suffix(_LOCK)).acquire()
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"cannot use the temporary folder {settings.temp_dir}",
            error.strerror or str(error),
            "Correct its rights, make space, or name another one with DML_DUCKDB__TEMP_DIR.",
        ) from error
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(_LOCK).unlink(missing_ok=True)


def _remove_left_overs(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*{_LOCK}"):
        with contextlib.suppress(filelock.Timeout, OSError), filelock.FileLock(path).acquire(timeout=0):
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink(missing_ok=True)
