"""The Airbyte protocol's messages, as far as a destination has to understand them.

Pure functions and one listener; starts no program and knows no lake.
Source: Airbyte protocol, ``airbyte_protocol.yaml``.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dml_platform.core.errors import PlatformError, RetryableError, SourceError

logger = logging.getLogger(__name__)

_LEVELS = {
    "FATAL": logging.CRITICAL,
    "ERROR": logging.ERROR,
    "WARN": logging.WARNING,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
    "TRACE": logging.DEBUG,
}
_TYPES = frozenset(
    {"RECORD", "STATE", "LOG", "SPEC", "CONNECTION_STATUS", "CATALOG", "TRACE", "CONTROL", "DESTINATION_CATALOG"}
)
_KEPT_LINES = 5
_SHOWN = 300

Mask = Callable[[str], str]


def make_mask(secrets: Iterable[str]) -> Mask:
    """A function that blanks the secrets out of a text, also where JSON escaped them."""
    ordered = sorted({s for secret in secrets for s in (secret, json.dumps(secret)[1:-1])}, key=len, reverse=True)

    def mask(text: str) -> str:
        for secret in ordered:
            text = text.replace(secret, "***")
        return text

    return mask


def parse_message(line: bytes) -> dict[str, Any] | None:
    """A line as a protocol message, or None when it is something else."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and message.get("type") in _TYPES else None


def read_state(state: Any) -> tuple[str | None, dict[str, Any]] | None:
    """A STATE message's content: the stream that it is about (None: all) and what to send back.

    Returns: None when it has no known form.
    """
    if not isinstance(state, Mapping):
        return None
    kind = state.get("type", "LEGACY")
    if kind == "STREAM" and isinstance(state.get("stream"), Mapping):
        stream = state["stream"]
        descriptor = stream.get("stream_descriptor")
        name = descriptor.get("name") if isinstance(descriptor, Mapping) else None
        return (name, {"type": "STREAM", "stream": dict(stream)}) if isinstance(name, str) else None
    if kind == "GLOBAL" and isinstance(state.get("global"), Mapping):
        return None, {"type": "GLOBAL", "global": dict(state["global"])}
    if kind == "LEGACY" and isinstance(state.get("data"), Mapping):
        return None, {"type": "LEGACY", "data": dict(state["data"])}
    return None


def state_document(states: Iterable[Mapping[str, Any]]) -> Any:
    """What a connector's ``--state`` file holds for the states that were stored."""
    unique: list[Mapping[str, Any]] = []
    for state in states:
        if state not in unique:
            unique.append(state)
    if len(unique) == 1 and unique[0]["type"] == "LEGACY":
        return unique[0]["data"]
    return unique


class Listener:
    """Takes what is no RECORD and no STATE, and says in the end whether the connector did its work.

    Args:
        what: what was attempted, for error messages.
        source: name of the source; messages go to the logger of that name below this package's.
        mask: blanks secrets out.
    """

    def __init__(self, what: str, source: str, mask: Mask) -> None:
        self.what = what
        self.mask = mask
        self.understood = 0
        self.incomplete: set[str] = set()
        self._logger = logging.getLogger(f"dml_platform.airbyte.{source}")
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        self._first_garbage: str | None = None
        self._error: tuple[str, str] | None = None

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take one message."""
        self.understood += 1
        kind = message["type"]
        content = message.get(kind.lower())
        if not isinstance(content, Mapping):
            return
        if kind == "LOG":
            text = self.mask(str(content.get("message", "")))
            self._logger.log(_LEVELS.get(str(content.get("level")), logging.INFO), "%s", text)
            self._last.append(text)
        elif kind == "TRACE":
            self._hear_trace(content)
        elif kind == "CONTROL":
            self._logger.warning("the connector asked to change its own config; the platform does not keep that")

    def _hear_trace(self, trace: Mapping[str, Any]) -> None:
        if isinstance(error := trace.get("error"), Mapping):
            text = str(error.get("message") or error.get("internal_message") or "an error without a message")
            self._error = self._error or (self.mask(text), str(error.get("failure_type", "")))
            if detail := error.get("internal_message"):
                self._logger.error("%s", self.mask(str(detail)))
        elif isinstance(status := trace.get("stream_status"), Mapping):
            name = str((status.get("stream_descriptor") or {}).get("name"))
            self.incomplete.discard(name)
            if status.get("status") == "INCOMPLETE":
                self.incomplete.add(name)

    def hear_garbage(self, line: bytes) -> None:
        """Take a line that is no message."""
        text = self.mask(line.decode("utf-8", "replace").strip())
        if text:
            self._logger.info("%s", text[:_SHOWN])
            self._last.append(text)
            self._first_garbage = self._first_garbage or text

    def failure(self, exit_code: int) -> PlatformError | None:
        """The error that the connector ended with, or None when it did its work."""
        if self._error is not None:
            message, failure_type = self._error
            if failure_type == "transient_error":
                return RetryableError(self.what, f"the connector says: {_one_line(message)}", "Run it again later.")
            fix = (
                "Correct the source's config."
                if failure_type == "config_error"
                else "See the connector's log above; if its message does not help, try another version of it."
            )
            return SourceError(self.what, f"the connector says: {_one_line(message)}", fix)
        if exit_code != 0:
            how = f"ended with exit code {exit_code}" if exit_code > 0 else f"was killed by signal {-exit_code}"
            last = f"; its last words: {_one_line(' | '.join(self._last))}" if self._last else " without a word"
            return SourceError(self.what, f"the connector {how}{last}", "Correct what it complains about.")
        if self.incomplete:
            return SourceError(
                self.what,
                f"the connector did not complete {', '.join(sorted(self.incomplete))}",
                "See its log above, then run again.",
            )
        if not self.understood:
            found = f"first line {self._first_garbage[:80]!r}" if self._first_garbage else "it printed nothing"
            return SourceError(
                self.what,
                f"the connector printed no Airbyte message ({found})",
                "Check that the program is an Airbyte source.",
            )
        return None


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
