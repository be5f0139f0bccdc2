"""What is wrong with a project right now, and what of it was told: one message for one cause.

A fault is told when it begins, again when it goes on for long, and when it is over. Kept as one file a fault, so that
code locations that come and go remember. Sends nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from dml_platform.alerts.message import Message
from dml_platform.core.storage import Storage

_FOLDER = "faults"


@dataclass(frozen=True)
class Fault:
    """Something that is wrong. ``key`` names its cause; ``scope`` is what tells when it is over."""

    key: str
    topic: str
    label: str
    text: str
    scope: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenFault:
    """A fault that was told and is not over. Times are ISO 8601 in UTC."""

    key: str
    topic: str
    label: str
    since: str
    told_at: str
    times: int = 1
    scope: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its file."""
        return f"{_FOLDER}/{hashlib.sha256(self.key.encode()).hexdigest()[:24]}.json"


@dataclass(frozen=True)
class Occasion:
    """Where faults were seen or found to be over: ``title`` without the project, e.g. ``"run 'daily' failed"``."""

    title: str
    at: str
    url: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


class Ledger:
    """The open faults of one project.

    Args:
        post: keeps a message until it is delivered. Called before a fault counts as told: a crash between repeats a
            message, and loses none.
    """

    def __init__(
        self,
        storage: Storage,
        post: Callable[[Message], None],
        *,
        project: str,
        owner: str | None,
        repeat_after_hours: float,
    ) -> None:
        self._storage = storage
        self._post = post
        self._project = project
        self._owner = owner
        self._repeat_after = timedelta(hours=repeat_after_hours)

    def open_faults(self) -> list[OpenFault]:
        """All that is wrong, the longest first; what cannot be read is passed over."""
        found = []
        for entry in self._storage.list(_FOLDER):
            if not entry.name.endswith(".json"):
                continue
            try:
                found.append(OpenFault(**json.loads(self._storage.read(entry.name) or b"")))
            except (ValueError, TypeError):
                continue
        return sorted(found, key=lambda fault: (fault.since, fault.label))

    def report(self, faults: Sequence[Fault], occasion: Occasion) -> Message | None:
        """Tell what is new or goes on for long among faults seen on one occasion, in one message.

        Returns: the message, or None where all of it was told already.
        """
        known = {fault.key: fault for fault in self.open_faults()}
        now = datetime.fromisoformat(occasion.at)
        kept, told = [], []
        for fault in faults:
            before = known.get(fault.key)
            is_due = before is None or now - datetime.fromisoformat(before.told_at) >= self._repeat_after
            since = before.since if before else occasion.at
            times = before.times + 1 if before else 1
            told_at = occasion.at if before is None or is_due else before.told_at
            now_open = OpenFault(fault.key, fault.topic, fault.label, since, told_at, times, dict(fault.scope))
            kept.append(now_open)
            if is_due:
                told.append((fault, now_open))
        message = self._problem(told, len(faults), occasion) if told else None
        if message:
            self._post(message)
        for now_open in kept:
            self._storage.write(now_open.name, json.dumps(asdict(now_open), sort_keys=True).encode())
        return message

    def settle(self, is_over: Callable[[OpenFault], bool], occasion: Occasion) -> Message | None:
        """Tell which open faults are over, in one message."""
        over = [fault for fault in self.open_faults() if is_over(fault)]
        if not over:
            return None
        message = Message(
            project=self._project,
            topic=over[0].topic,
            status="recovered",
            title=f"{self._project}: well again: {_join(fault.label for fault in over)}",
            text="\n".join(
                f"{fault.label}: after {_lasted(fault.since, occasion.at)}"
                + (f", seen {fault.times} times" if fault.times > 1 else "")
                for fault in over
            ),
            at=occasion.at,
            owner=self._owner,
            url=occasion.url,
            facts=occasion.facts,
        )
        self._post(message)
        for fault in over:
            self._storage.delete(fault.name)
        return message

    def _problem(self, told: Sequence[tuple[Fault, OpenFault]], seen: int, occasion: Occasion) -> Message:
        lines = []
        for fault, now_open in told:
            lines.append(fault.text)
            if now_open.times > 1:
                lasted = _lasted(now_open.since, occasion.at)
                lines.append(f"It goes on: seen {now_open.times} times in {lasted}.")
        if (others := seen - len(told)) > 0:
            lines.append(f"Told before and still so: {others} more.")
        return Message(
            project=self._project,
            topic=told[0][0].topic,
            status="problem",
            title=f"{self._project}: {occasion.title}",
            text="\n".join(lines),
            at=occasion.at,
            owner=self._owner,
            url=occasion.url,
            facts=occasion.facts,
        )


def _join(labels: Iterable[str]) -> str:
    found = list(labels)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _lasted(since: str, until: str) -> str:
    seconds = (datetime.fromisoformat(until) - datetime.fromisoformat(since)).total_seconds()
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return "a minute or two"
