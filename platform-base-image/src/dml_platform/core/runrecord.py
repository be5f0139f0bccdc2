"""The run record: what a step read, wrote and ran on, kept for good beside the tables.

One JSON file per run and step below the state folder's ``runs``; ``dml history`` lists them.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunRecord:
    """One step of one run.

    ``inputs`` and ``outputs`` map table names to snapshot ids; ``rows`` counts what was written per table;
    ``started_at`` is ISO 8601 in UTC.
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


def write_record(home: Path, record: RunRecord) -> Path:
    """Keep a record; a repeated step of the same run replaces its record."""
    folder = home / "runs" / record.project / record.run_id
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.step}.json"
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(asdict(record), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def read_records(home: Path, project: str | None = None, run_id: str | None = None) -> Iterator[RunRecord]:
    """All records, of one project or run if given, newest first; what is no record is passed over."""
    found = []
    for path in (home / "runs").glob(f"{project or '*'}/{run_id or '*'}/*.json"):
        # Another version's, or damaged: it must not hide the others.
        with suppress(OSError, ValueError, TypeError):
            found.append(RunRecord(**json.loads(path.read_text(encoding="utf-8"))))
    return iter(sorted(found, key=lambda r: str(r.started_at), reverse=True))


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
