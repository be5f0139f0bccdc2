"""The record of deploys: one JSON line each in the state folder's `deploys.jsonl`, never changed afterwards."""

from __future__ import annotations

import getpass
import json
import os
import socket
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from dml_infra.installation import Installation

Outcome = Literal["live", "failed", "rolled back", "interrupted", "removed"]


@dataclass(frozen=True)
class Record:
    """One deploy, rollback or removal.

    Args:
        what: which of the three.
        outcome: ``live``: the new image runs. ``failed``: nothing ran before and nothing does now. ``rolled back``: the
            old image runs as before. ``interrupted``: the command was killed and a later one put the old state back.
        seconds: from the command's start to the outcome.
        error: why it is not live, as it was shown.
    """

    what: Literal["deploy", "rollback", "remove"]
    who: str
    project: str
    from_image: str | None
    to_image: str | None
    seconds: float
    outcome: Outcome
    error: str = ""
    when: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def to_json(self) -> dict[str, Any]:
        """With the field names of the file."""
        values = asdict(self)
        renamed = {"from": values.pop("from_image"), "to": values.pop("to_image")}
        return {"when": values.pop("when"), "what": values.pop("what"), **values, **renamed}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Record:
        """Read a line of the file."""
        known = {k: v for k, v in values.items() if k in cls.__dataclass_fields__}
        return cls(**known, from_image=values.get("from"), to_image=values.get("to"))


def records_file(installation: Installation) -> Path:
    """Where the lines are."""
    return installation.state / "deploys.jsonl"


def add_record(installation: Installation, record: Record) -> None:
    """Append a line that is on the disk when this returns."""
    path = records_file(installation)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(record.to_json(), ensure_ascii=False) + "\n").encode()
    # One write to a file opened for appending: lines of two processes do not mix.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_records(installation: Installation, project: str | None = None) -> list[Record]:
    """All records, oldest first; a line that a full disk cut short is left out."""
    path = records_file(installation)
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = Record.from_json(json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue
        if project in (None, record.project):
            found.append(record)
    return found


def whoami() -> str:
    """The person behind this process, also under sudo, and the machine."""
    return f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{socket.gethostname()}"
