"""What Airbyte's answers mean: which a retry can help, and in which words a person is told.

Knows status codes and bodies only; what is done about them is not decided here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dml_platform.core.errors import ConfigError, PermanentError, PlatformError, RetryableError

_RETRYABLE = frozenset({408, 425, 429})


class JobRunsError(RetryableError):
    """Airbyte does not start a job because one of the connection is there already."""


class RefusedTokenError(RetryableError):
    """A request came back with 401."""


class BusyError(RetryableError):
    """The same request may go through soon."""

    retry_after_s: float | None = None


@dataclass(frozen=True)
class Explainer:
    """Words for one client's troubles.

    Args:
        what: what was attempted, as errors begin.
        url: the API's address.
        mask: blanks secrets out of what the server said.
    """

    what: str
    url: str
    mask: Callable[[str], str]

    def refused(self, about: str, status: int, headers: Any, body: str) -> PlatformError:
        """An answer that is none of the expected."""
        reason = self._reason(body)
        said = f": {reason}" if reason else ""
        if status == 401:
            return RefusedTokenError(self.what, "Airbyte refuses the token (401)", "Run it again.")
        if status == 409:
            return JobRunsError(self.what, f"a job of {about} is there already{said}", "Wait for its end.")
        if status == 403:
            return PermanentError(
                self.what,
                f"Airbyte does not let this client use {about} (403{said})",
                "Give the application access to the connection's workspace.",
            )
        if status == 404:
            return ConfigError(
                self.what,
                f"Airbyte has no {about} (404{said})",
                "Correct connection_id in config/sources.yaml, or DML_AIRBYTE__SERVER_URL.",
            )
        if status in _RETRYABLE or status >= 500:
            why = f"Airbyte is busy ({status}{said})" if status == 429 else f"Airbyte has a fault ({status}{said})"
            busy = BusyError(self.what, why, "Wait a little and run it again; Airbyte's own log says more.")
            busy.retry_after_s = _retry_after(headers)
            return busy
        if 400 <= status < 500:
            return PermanentError(
                self.what, f"Airbyte refuses the request for {about} ({status}{said})", "Check the connection there."
            )
        return self.no_api()

    def unauthorized(self, why: str) -> ConfigError:
        """The client is not let in."""
        return ConfigError(
            self.what, why, "Correct DML_AIRBYTE__CLIENT_ID and the client's secret (Airbyte: Settings, Applications)."
        )

    def no_api(self) -> ConfigError:
        """Something else answers."""
        return ConfigError(
            self.what, f"{self.url} does not answer as Airbyte's public API", "Correct DML_AIRBYTE__SERVER_URL."
        )

    def _reason(self, body: str) -> str:
        """The problem's own words, without what must not be shown."""
        try:
            document = json.loads(body)
        except ValueError:
            return ""
        if not isinstance(document, dict):
            return ""
        named = next((str(document[key]) for key in ("detail", "message", "title") if document.get(key)), "")
        return " ".join(self.mask(named).split())[:200].rstrip(".")


def _retry_after(headers: Any) -> float | None:
    """Seconds that the server asks to wait; a date is not read as such."""
    try:
        return max(0.0, float(headers.get("Retry-After", "")))
    except ValueError:
        return None
