"""Keeps messages until they are delivered, each channel's in its own order.

A channel that does not answer is tried again after longer and longer pauses, and holds up no other. A message is
removed after it was taken, so a process that is killed between may deliver it twice, with the same id.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone

from filelock import FileLock

from dml_platform.alerts.channels import BusyReceiverError, RefusedMessageError, deliver
from dml_platform.alerts.config import Channel
from dml_platform.alerts.message import Message
from dml_platform.core.errors import PlatformError
from dml_platform.core.storage import FolderStorage, Storage

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 30.0, 3600.0
_REFUSALS = 3
# A sensor's tick has 60 s.
_BUDGET_S = 30.0


@dataclass(frozen=True)
class ChannelState:
    """How a channel did: ``not_before`` is in seconds since 1970; ``refused`` counts by message."""

    failures: int = 0
    not_before: float = 0.0
    error: str | None = None
    refused: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Delivery:
    """What became of one channel's turn."""

    sent: int = 0
    waiting: int = 0
    error: str | None = None


class Outbox:
    """The messages of one project that wait, by channel."""

    def __init__(self, storage: Storage, channels: Mapping[str, Channel], *, owner: str | None) -> None:
        self._storage = storage
        self._channels = channels
        self._owner = owner

    def post(self, message: Message) -> None:
        """Keep a message for each channel that wants its topic."""
        moment = datetime.fromisoformat(message.at).astimezone(timezone.utc).strftime("%Y%m%dT%H%M%S%f")
        order = "0" if message.status == "problem" else "1"
        for name, channel in self._channels.items():
            if message.topic in channel.send or message.status == "test":
                self._storage.write(f"{name}/waiting/{moment}-{order}-{message.id}.json", message.to_json().encode())

    def flush(self, now: float | None = None) -> dict[str, Delivery]:
        """Deliver what waits, oldest first. Raises nothing about a channel: what fails stays.

        Args:
            now: seconds since 1970; to try channels in their pause as well, ``float("inf")``.
        """
        ends, outcome = time.monotonic() + _BUDGET_S, {}
        with self._alone():
            for name, channel in self._channels.items():
                outcome[name] = self._flush_channel(name, channel, time.time() if now is None else now, ends)
        return outcome

    def waiting(self, channel: str) -> list[Message]:
        """What a channel has not taken yet, oldest first."""
        found = [(name, self._storage.read(name)) for name in self._names(channel)]
        return [Message.from_json(content) for _, content in found if content]

    def set_aside(self, channel: str) -> int:
        """How many messages a channel's receiver would not take; they are kept, and not tried again."""
        return len(self._storage.list(f"{channel}/refused"))

    def state(self, channel: str) -> ChannelState:
        """How a channel did the last time."""
        content = self._storage.read(f"{channel}/state.json")
        try:
            return ChannelState(**json.loads(content)) if content else ChannelState()
        except (ValueError, TypeError):  # another version's
            return ChannelState()

    def _flush_channel(self, name: str, channel: Channel, now: float, ends: float) -> Delivery:
        names, state, sent = self._names(name), self.state(name), 0
        if not names or now < state.not_before:
            return Delivery(0, len(names), state.error if names else None)
        for waiting in names:
            if time.monotonic() > ends:
                break
            content = self._storage.read(waiting)
            if content is None:
                continue
            try:
                remark = deliver(name, channel, Message.from_json(content), owner=self._owner)
            except PlatformError as error:
                refused = state.refused.get(waiting, 0) + 1
                if isinstance(error, RefusedMessageError) and refused >= _REFUSALS:
                    self._storage.write(f"{name}/refused/{waiting.rpartition('/')[2]}", content)
                    self._storage.delete(waiting)
                    logger.error("%s; the message is set aside: %s", error.what, error.why)
                    continue
                counts = {waiting: refused} if isinstance(error, RefusedMessageError) else {}
                state = self._failed(name, state, error, counts)
                return Delivery(sent, len(names) - sent, state.error)
            self._storage.delete(waiting)
            sent += 1
            if remark:
                logger.warning("channel %r: %s", name, remark)
        if state != ChannelState():
            self._storage.delete(f"{name}/state.json")
        return Delivery(sent, len(self._names(name)))

    def _failed(self, name: str, state: ChannelState, error: PlatformError, refused: Mapping[str, int]) -> ChannelState:
        pause = min(_FIRST_PAUSE_S * 2 ** min(state.failures, 10), _LONGEST_PAUSE_S)
        if isinstance(error, BusyReceiverError) and error.retry_after_s is not None:
            pause = min(error.retry_after_s, _LONGEST_PAUSE_S)
        failed = ChannelState(state.failures + 1, time.time() + pause, error.why, refused)
        self._storage.write(f"{name}/state.json", json.dumps(asdict(failed)).encode())
        logger.warning("%s: %s; tried again in %.0f s", error.what, error.why, pause)
        return failed

    def _names(self, channel: str) -> list[str]:
        return [e.name for e in self._storage.list(f"{channel}/waiting") if e.name.endswith(".json")]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """On a laptop `dml run --alert` and the sensor may deliver at once; on a server only the sensor does."""
        if isinstance(self._storage, FolderStorage):
            self._storage.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self._storage.root / "deliver.lock"):
                yield
        else:
            yield
