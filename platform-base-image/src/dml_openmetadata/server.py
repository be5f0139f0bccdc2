"""OpenMetadata's REST interface by its own client: retries, and one sentence for each way in which it fails.

The client's own retrying drops the answer of an error, so it is switched off and done here.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from metadata.generated.schema.entity.services.connections.metadata.openMetadataConnection import (
    OpenMetadataConnection,
)
from metadata.generated.schema.security.client.openMetadataJWTClientConfig import OpenMetadataJWTClientConfig
from metadata.ingestion.ometa.client import RestTransportError
from metadata.ingestion.ometa.ometa_api import OpenMetadata

from dml_openmetadata.errors import Fault, Refused

MAJOR = 2
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_PATCH = {"Content-type": "application/json-patch+json"}
_PAGE = 500


@dataclass(frozen=True)
class Access:
    """Where the server is, and how patient we are: all in seconds but ``attempts``."""

    url: str
    token: str
    attempts: int = 5
    wait_s: float = 0.5
    longest_wait_s: float = 15.0
    request_timeout_s: float = 30.0
    timeout_s: float = 600.0


class Server:
    """Calls of one push. ``writes`` counts the requests that may have changed something."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._ends = time.monotonic() + access.timeout_s
        self.writes = 0
        logging.getLogger("metadata").setLevel(logging.CRITICAL)
        logging.getLogger("urllib3").setLevel(logging.CRITICAL)
        connection = OpenMetadataConnection(
            hostPort=_api(access.url),
            authProvider="openmetadata",
            securityConfig=OpenMetadataJWTClientConfig.model_validate({"jwtToken": access.token}),
            enableVersionValidation=False,
        )
        seconds = max(1, round(access.request_timeout_s))
        arguments = {"retry": 0, "retry_codes": [], "limit_codes": [], "timeout": (min(10, seconds), seconds)}
        self._client = OpenMetadata(connection, additional_client_config_arguments=arguments).client

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def check_version(self) -> str:
        """The server's version.

        Raises:
            Fault: it is of another generation, or no OpenMetadata.
        """
        found = self.get("/system/version")
        version = str((found or {}).get("version") or "")
        if version.split(".")[0] != str(MAJOR):
            raise self._fault(
                f"it is version {version or 'unknown'}, and this publisher speaks {MAJOR}.x",
                "Take the publisher that goes with the server, or update the server.",
                is_passing=False,
            )
        return version

    def get(self, path: str, **query: Any) -> dict[str, Any] | None:
        """A thing; None where there is none.

        Raises:
            Fault: the server cannot be reached, or takes no more requests.
            Refused: it does not like this one.
        """
        try:
            return self._call("GET", path + _query(query))
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def by_name(self, route: str, fqn: str, *, fields: Sequence[str] = (), include: str = "all") -> Any:
        """An entity by its fully qualified name, deleted ones too; None where there is none."""
        return self.get(f"{route}/name/{quote(fqn, safe='')}", fields=",".join(fields), include=include)

    def pages(self, route: str, **query: Any) -> Iterator[dict[str, Any]]:
        """All entities of a list."""
        after = None
        while True:
            page = self.get(route, limit=_PAGE, after=after, **query) or {}
            yield from page.get("data", ())
            after = (page.get("paging") or {}).get("after")
            if not after:
                return

    def put(self, path: str, body: Any) -> Any:
        """Create or update."""
        return self._call("PUT", path, body)

    def post(self, path: str, body: Any) -> Any:
        """Add."""
        return self._call("POST", path, body)

    def patch(self, path: str, operations: Sequence[Mapping[str, Any]]) -> Any:
        """Change fields (RFC 6902)."""
        return self._call("PATCH", path, operations, headers=_PATCH)

    def delete(self, path: str, **query: Any) -> None:
        """Remove; what is gone already is fine."""
        try:
            self._call("DELETE", path + _query(query))
        except Refused as error:
            if error.status != 404:
                raise

    def _call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        data = None if body is None else json.dumps(body)
        self.writes += method != "GET"
        for attempt in range(1, self._access.attempts + 1):
            try:
                answer = self._client._request(method, path, data=data, headers=dict(headers or {}) or None, raw=True)
            except RestTransportError as error:
                why, wait = f"it cannot be reached ({_root(error)})", None
            else:
                if answer.status_code < 300:
                    return _decode(answer) if answer.text else None
                if answer.status_code not in _PASSING:
                    raise self._refusal(answer)
                why = f"it answers {answer.status_code} to {method} {path.partition('?')[0]} ({_said(answer)})"
                wait = answer.headers.get("Retry-After")
            if attempt < self._access.attempts and not self._sleep(attempt, wait):
                break
        raise self._fault(why, "What waits is sent by the next push; check the server.", is_passing=True)

    def _sleep(self, attempt: int, asked: str | None) -> bool:
        """Wait before another attempt. Returns: whether there is time for it."""
        pause = min(self._access.longest_wait_s, self._access.wait_s * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
        if asked and asked.isdigit():
            pause = max(pause, min(float(asked), self._access.longest_wait_s))
        if time.monotonic() + pause > self._ends:
            return False
        time.sleep(pause)
        return True

    def _refusal(self, answer: Any) -> Exception:
        if answer.status_code == 401:
            return self._fault(
                f"it does not accept the token ({_said(answer)})",
                "Put a valid token of a bot into the file that DML_OPENMETADATA__TOKEN_FILE names.",
                is_passing=False,
            )
        if answer.status_code == 403:
            return self._fault(
                f"the token's bot may not do this ({_said(answer)})",
                "Give the bot a role that may create, edit and delete entities and lineage.",
                is_passing=False,
            )
        if answer.status_code < 400:
            return self._fault("it redirects", "Set DML_OPENMETADATA__URL to where it leads.", is_passing=False)
        return Refused(answer.status_code, _said(answer))

    def _fault(self, why: str, fix: str, *, is_passing: bool) -> Fault:
        return Fault(f"cannot push to OpenMetadata at {self._access.url}", why, fix, is_passing=is_passing)


def _api(url: str) -> str:
    base = url.rstrip("/")
    return base if base.endswith("/api") else f"{base}/api"


def _query(values: Mapping[str, Any]) -> str:
    given = {name: value for name, value in values.items() if value not in (None, "")}
    return f"?{urlencode(given)}" if given else ""


def _decode(answer: Any) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise Refused(answer.status_code, "the answer is no JSON: is this address OpenMetadata's?") from None


def _said(answer: Any) -> str:
    try:
        found = answer.json()
        text = str(found.get("message") or found) if isinstance(found, dict) else str(found)
    except ValueError:
        text = answer.text
    return " ".join(text.split())[:300] or answer.reason or "no reason given"


def _root(error: BaseException) -> str:
    """The innermost of the errors that the client's libraries wrap into each other."""
    inner: BaseException | None = error
    while inner is not None:
        error = inner
        held = (error.__cause__, getattr(error, "reason", None), *error.args)
        inner = next((one for one in held if isinstance(one, BaseException)), None)
    return " ".join(str(error).split()).rpartition(": ")[2][:200] or type(error).__name__
