"""A self-hosted Airbyte's public API: tokens, connections, jobs; and which of its failures a retry can help.

Only asks and tells; what a job's success means for the lake is not decided here. Knows no Dagster.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from dml_platform.airbyte.api_errors import BusyError, Explainer, RefusedTokenError
from dml_platform.core.errors import ConfigError, RetryableError
from dml_platform.core.settings import AirbyteSettings

if TYPE_CHECKING:
    from airbyte_api.models import ConnectionResponse, JobResponse

_T = TypeVar("_T")
_EARLY_S = 30.0  # a token is not used in the last seconds of its life
_MAX_WAIT_S = 60.0
# A job that waits for its next attempt is "incomplete"; only these are its end.
FINAL = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class Job:
    """One Airbyte job as the API tells of it."""

    job_id: int
    status: str
    bytes_synced: int | None = None
    rows_synced: int | None = None

    @property
    def is_final(self) -> bool:
        """Whether Airbyte will not do more."""
        return self.status in FINAL


class AirbyteApi:
    """A client that signs in, and tries again where that can help. Close it after use.

    Args:
        what: what all of it is for, as errors begin.
        progress: told before each wait for another try.
    Raises:
        ConfigError: the server's address or the client's id or secret is not set.
    """

    def __init__(self, settings: AirbyteSettings, *, what: str, progress: Callable[[str], None] | None = None) -> None:
        import httpx  # here, as the SDK below: together half a second, which a laptop need not wait

        self._settings = settings
        self._what = what
        self._say = progress or (lambda _: None)
        self._url = _base_url(settings, what)
        self._explain = Explainer(what, self._url, self._mask)
        self._secrets: set[str] = set()
        self._token: SecretStr | None = None
        self._token_ends = 0.0
        self._read_secret()
        # Redirects are not followed: the client's secret goes to the server that was named only.
        self._http = httpx.Client(timeout=settings.request_timeout_s, follow_redirects=False)

    def __enter__(self) -> AirbyteApi:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get_connection(self, connection_id: str) -> ConnectionResponse:
        """What a connection reads and how."""
        from airbyte_api import api

        request = api.GetConnectionRequest(connection_id=connection_id)
        found = self._call(
            f"connection {connection_id!r}",
            lambda sdk: sdk.connections.get_connection(request=request).connection_response,
        )
        return _present(found, self._what)

    def start_sync(self, connection_id: str) -> Job:
        """Begin a job.

        Raises:
            JobRunsError: there is one already.
        """
        from airbyte_api.models import JobCreateRequest, JobTypeEnum

        request = JobCreateRequest(connection_id=connection_id, job_type=JobTypeEnum.SYNC)
        # An answer that was lost is no harm: the next try hears that a job runs.
        return _job(
            self._call(f"connection {connection_id!r}", lambda sdk: sdk.jobs.create_job(request=request).job_response),
            self._what,
        )

    def find_running(self, connection_id: str) -> Job | None:
        """The connection's job that is not at its end, the newest first."""
        from airbyte_api import api

        request = api.ListJobsRequest(connection_id=connection_id, limit=20, order_by="createdAt|DESC")
        listed = self._call(
            f"connection {connection_id!r}", lambda sdk: sdk.jobs.list_jobs(request=request).jobs_response
        )
        jobs = [_job(found, self._what) for found in _present(listed, self._what).data]
        return next((job for job in jobs if not job.is_final), None)

    def get_job(self, job_id: int) -> Job:
        """How far a job is."""
        from airbyte_api import api

        request = api.GetJobRequest(job_id=job_id)
        return _job(self._call(f"job {job_id}", lambda sdk: sdk.jobs.get_job(request=request).job_response), self._what)

    def cancel_job(self, job_id: int) -> None:
        """End a job; tried once, because somebody waits for the end of the run."""
        from airbyte_api import api

        request = api.CancelJobRequest(job_id=job_id)
        self._call(f"job {job_id}", lambda sdk: sdk.jobs.cancel_job(request=request), attempts=2)

    def _call(self, about: str, call: Callable[[Any], _T], *, attempts: int | None = None) -> _T:
        """Call the SDK with a token that holds.

        Raises:
            RetryableError: Airbyte is not reached, busy or broken, also after all attempts.
            PermanentError: it refuses.
        """
        attempts = attempts or self._settings.request_attempts
        signed_in_again = False
        attempt = 0
        while True:
            attempt += 1
            try:
                with self._explained(about):
                    return call(self._sdk())
            except RefusedTokenError:
                # The token was revoked or lived shorter than was said; once, or it is not the token.
                if signed_in_again:
                    raise self._explain.unauthorized("Airbyte refuses (401) the token that it just gave") from None
                signed_in_again, self._token = True, None
                attempt -= 1
            except BusyError as error:
                if attempt >= attempts:
                    raise
                wait = self._wait(attempt, error.retry_after_s)
                self._say(f"{error.why}; trying again in {wait:.0f} s")
                time.sleep(wait)

    def _wait(self, attempt: int, asked_s: float | None) -> float:
        """What the server asked for, else twice as long each time."""
        first = min(1.0, self._settings.poll_s)
        return min(_MAX_WAIT_S, asked_s if asked_s is not None else first * 2 ** (attempt - 1))

    def _sdk(self) -> Any:
        from airbyte_api import AirbyteAPI
        from airbyte_api.models import Security

        token = self._current_token().get_secret_value()
        return AirbyteAPI(
            server_url=self._url,
            client=self._http,
            async_client=_NoAsync(),
            security=Security(bearer_auth=token),
            timeout_ms=int(self._settings.request_timeout_s * 1000),
        )

    def _current_token(self) -> SecretStr:
        if self._token is None or time.monotonic() >= self._token_ends:
            self._fetch_token()
        assert self._token is not None
        return self._token

    def _fetch_token(self) -> None:
        """Sign in.

        Source: Airbyte's API description, "/applications/token": it requires ``grant_type`` and knows ``grant-type``.
        """
        asked = time.monotonic()
        answer = self._http.post(
            f"{self._url}/applications/token",
            json={
                "client_id": self._settings.client_id,
                "client_secret": self._read_secret().get_secret_value(),
                "grant_type": "client_credentials",
                "grant-type": "client_credentials",
            },
            headers={"Accept": "application/json"},
        )
        if answer.status_code in (400, 401, 403):
            raise self._explain.unauthorized(f"Airbyte does not know the client or its secret ({answer.status_code})")
        if answer.status_code != 200:
            raise self._explain.refused("the token", answer.status_code, answer.headers, "")
        try:
            document = answer.json()
            self._token = self._remember(str(document["access_token"]))
            lives_s = float(document.get("expires_in", 180))
        except (ValueError, KeyError, TypeError, AttributeError):  # their text may hold the token
            raise self._explain.no_api() from None
        self._token_ends = asked + max(lives_s - _EARLY_S, lives_s / 2)

    def _read_secret(self) -> SecretStr:
        settings = self._settings
        if settings.client_secret_file is None:
            if settings.client_secret is None:
                raise _not_set(self._what, "DML_AIRBYTE__CLIENT_SECRET_FILE")
            return self._remember(settings.client_secret.get_secret_value())
        try:
            secret = settings.client_secret_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ConfigError(
                self._what,
                f"the client's secret cannot be read from {settings.client_secret_file} ({reason})",
                "Correct DML_AIRBYTE__CLIENT_SECRET_FILE.",
            ) from None
        return self._remember(secret)

    def _remember(self, secret: str) -> SecretStr:
        """From now on it is blanked out of what the server says."""
        self._secrets |= {secret} - {""}
        return SecretStr(secret)

    def _mask(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    @contextlib.contextmanager
    def _explained(self, about: str) -> Iterator[None]:
        """Turn the SDK's and httpx's errors into the platform's; their texts and causes may hold the token."""
        import httpx
        from airbyte_api import errors

        found: Exception
        try:
            yield
            return
        except errors.ResponseValidationError:
            found = self._explain.no_api()
        except errors.AirbyteAPIError as error:
            found = self._explain.refused(about, error.status_code, error.headers, error.body)
        except (errors.NoResponseError, httpx.TransportError) as error:
            kind = "does not answer in time" if isinstance(error, httpx.TimeoutException) else "is not reached"
            found = BusyError(
                self._what, f"Airbyte {kind} ({type(error).__name__})", "Check DML_AIRBYTE__SERVER_URL and the server."
            )
        except httpx.HTTPError as error:
            found = RetryableError(self._what, f"Airbyte's answer broke off ({type(error).__name__})", "Run it again.")
        raise found from None


class _NoAsync:
    """Stands where the SDK would make an asynchronous client; nothing here calls it, so it only refuses."""

    async def send(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def build_request(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing is open."""


def _base_url(settings: AirbyteSettings, what: str) -> str:
    if settings.server_url is None:
        raise _not_set(what, "DML_AIRBYTE__SERVER_URL")
    if settings.client_id is None:
        raise _not_set(what, "DML_AIRBYTE__CLIENT_ID")
    url = settings.server_url.rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise ConfigError(
            what, "DML_AIRBYTE__SERVER_URL is no address", "Write it as https://airbyte.example.com, without a user."
        )
    return url if parts.path.endswith("/v1") else f"{url}/api/public/v1"


def _not_set(what: str, name: str) -> ConfigError:
    return ConfigError(
        what, f"it has a connection_id, but {name} is not set", "Set it, or connection_id: null to run the program."
    )


def _present(found: _T | None, what: str) -> _T:
    if found is None:
        raise RetryableError(what, "Airbyte's answer was empty", "Run it again.")
    return found


def _job(found: JobResponse | None, what: str) -> Job:
    job = _present(found, what)
    return Job(int(job.job_id), str(job.status.value), job.bytes_synced, job.rows_synced)
