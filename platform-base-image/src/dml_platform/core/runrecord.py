"""The run record: what a step read, wrote and ran on, kept for good beside the tables.

One JSON file per run and step; ``dml history`` lists them. On a laptop ``<home>/runs/<project>/<run>/<step>.json``,
in an object store ``<warehouse>/<project>/_runs/<day>/<time>-<run>-<step>.json``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from dml_platform.core.errors import ConfigError, PermanentError, RetryableError
from dml_platform.core.settings import Settings
from dml_platform.core.storage import FolderStorage, ObjectStorage, Storage, open_storage

AREA = "runs"
FILES_AREA = f"{AREA}/files"
_READERS = 8
_BLOCK = 256


@dataclass(frozen=True)
class RunRecord:
    """One step of one run.

    ``inputs`` and ``outputs`` map table names to snapshot ids; ``rows`` counts what was written per table;
    ``started_at`` is ISO 8601 in UTC; ``dvc`` maps the files that DVC tracks to their hashes; ``platform`` is the
    version of this package.
    """

    project: str
    run_id: str
    step: str
    status: str
    started_at: str
    duration_s: float
    git_commit: str
    image: str | None = None
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    dvc: dict[str, str] = field(default_factory=dict)
    platform: str | None = None


def write_record(settings: Settings, record: RunRecord) -> str:
    """Keep a record; a repeated step of the same run replaces its record.

    Returns: where it is.
    Raises:
        PermanentError: it cannot be written. What the step published stays published.
    """
    storage = open_storage(settings, record.project, AREA)
    content = json.dumps(asdict(record), indent=2, sort_keys=True, default=str) + "\n"
    try:
        return storage.write(_record_name(storage, record), content.encode())
    except OSError as error:
        raise PermanentError(
            f"cannot keep the run record of step {record.step!r}",
            f"{error}; what the step published stays published",
            f"Check the free space and the permissions of {storage.address('')}, then run it again.",
        ) from error


def read_records(settings: Settings, project: str | None = None, run_id: str | None = None) -> Iterator[RunRecord]:
    """All records, of one project or run if given, newest first; what is no record is passed over.

    Reads only as many as are asked for.

    Args:
        project: which; None for all of this machine. In an object store every project has a key of its own, so there
            it must be said.
    Raises:
        RetryableError: the object store does not answer, or does not let this process's key read them.
    """
    try:
        yield from _read_records(settings, project, run_id)
    except OSError as error:
        raise RetryableError(
            "cannot read the run records", " ".join(str(error).split()), "Check the object store, then run it again."
        ) from error


def _read_records(settings: Settings, project: str | None, run_id: str | None) -> Iterator[RunRecord]:
    if project is not None:
        storage = open_storage(settings, project, AREA)
        names = _dated_names(storage, run_id) if isinstance(storage, ObjectStorage) else _names(storage, run_id)
    elif settings.is_s3:
        raise ConfigError(
            "cannot list the runs of all projects",
            "each keeps its own in the object store",
            "Change into a project's folder, or name one with --project.",
        )
    else:
        storage = FolderStorage(settings.home / AREA)
        names = _names(storage, run_id, depth=3)
    seen = set()
    is_remote = isinstance(storage, ObjectStorage)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="dml-records") as pool:
        while block := list(islice(names, _READERS if is_remote else _BLOCK)):
            read = (pool.map if is_remote else map)(lambda name: _read(storage, name), block)
            found = [record for record in read if record is not None]
            for record in sorted(found, key=lambda r: str(r.started_at), reverse=True):
                # A step that was tried again on the next day has a record of each.
                if (step := (record.project, record.run_id, record.step)) not in seen:
                    seen.add(step)
                    yield record


def run_files(settings: Settings, project: str, run_id: str) -> Storage:
    """Where a run's other files are kept: reports of rejected rows, a failed step's DuckDB file."""
    if settings.is_s3:
        return ObjectStorage(settings, f"{settings.warehouse}/{project}/_{FILES_AREA}/{run_id}")
    return FolderStorage(settings.home / AREA / project / run_id)


def _record_name(storage: Storage, record: RunRecord) -> str:
    if not isinstance(storage, ObjectStorage):
        return f"{record.run_id}/{record.step}.json"
    # An object store lists names in their order only, so they begin with the time: the newest are found at once.
    day, clock = (
        datetime.fromisoformat(record.started_at).astimezone(timezone.utc).isoformat(" ", "milliseconds").split()
    )
    return f"{day}/{re.sub(r'[^0-9]', '', clock[:12])}-{record.run_id}-{record.step}.json"


def _dated_names(storage: Storage, run_id: str | None) -> Iterator[str]:
    days = [entry.name for entry in storage.list() if entry.is_folder and entry.name[:1].isdigit()]
    found = False
    for day in reversed(days):
        names = [entry.name for entry in storage.list(day) if entry.name.endswith(".json")]
        chosen = [name for name in names if run_id is None or name.rpartition("/")[2].split("-")[1:2] == [run_id]]
        yield from reversed(chosen)
        if found and not chosen:  # a run may begin before midnight, but it does not stop for a day
            return
        found = run_id is not None and (found or bool(chosen))


def _names(storage: FolderStorage | Storage, run_id: str | None, depth: int = 2) -> Iterator[str]:
    """Newest first by when they were written, which costs no reading."""
    assert isinstance(storage, FolderStorage)
    times = {}
    for path in storage.root.glob("/".join([*["*"] * (depth - 2), run_id or "*", "*.json"])):
        with suppress(OSError):
            times[path.relative_to(storage.root).as_posix()] = path.stat().st_mtime_ns
    return iter(sorted(times, key=lambda name: times[name], reverse=True))


def _read(storage: Storage, name: str) -> RunRecord | None:
    # Another version's, or damaged: it must not hide the others.
    with suppress(FileNotFoundError, PermissionError, ValueError, TypeError):
        return RunRecord(**json.loads(storage.read(name) or b""))
    return None


def utc_now() -> str:
    """Now, as records write it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


@lru_cache(maxsize=8)
def git_commit(folder: Path | None = None) -> str:
    """The checkout's commit, with ``-dirty`` if it was changed; ``DML_GIT_COMMIT`` in an image; else ``unknown``."""
    if commit := os.environ.get("DML_GIT_COMMIT"):
        return commit
    command = ["git", "-C", str(folder or Path.cwd()), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
