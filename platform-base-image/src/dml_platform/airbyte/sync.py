"""Runs a connection of a self-hosted Airbyte to its end: start or adopt a job, watch it, cancel it.

What the job delivered is landed by the file landing; nothing here touches the lake.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dml_platform.airbyte.api import AirbyteApi, Job
from dml_platform.airbyte.api_errors import JobRunsError
from dml_platform.airbyte.config import AirbyteSource
from dml_platform.airbyte.environment import Progress
from dml_platform.core.errors import ConfigError, PlatformError, RetryableError, SourceError
from dml_platform.core.settings import Settings

logger = logging.getLogger(__name__)

_SAY_S = 30.0
_STARTS = 3
_MODES = {
    "incremental": ("incremental_append",),
    "full_refresh": ("full_refresh_overwrite",),
}


@dataclass(frozen=True)
class SyncResult:
    """A job that succeeded.

    ``attempts_seen`` counts the attempts that were seen to begin: the public API does not tell their number.
    """

    job_id: int
    adopted: bool
    attempts_seen: int
    bytes_synced: int | None
    rows_synced: int | None
    seconds: float


def uses_api(settings: Settings, source: AirbyteSource) -> bool:
    """Whether a source runs through Airbyte's API; otherwise its connector runs as a program."""
    return settings.profile == "server" and source.connection_id is not None


def run_sync(
    settings: Settings,
    source_name: str,
    source: AirbyteSource,
    *,
    progress: Progress | None = None,
) -> SyncResult:
    """Run the source's connection once, or wait for the job of it that runs already.

    A run that is cancelled cancels the job, unless somebody else began it.

    Raises:
        ConfigError: Airbyte is not set up for it, does not know the connection, or the connection reads otherwise.
        RetryableError: Airbyte is not reached or busy, somebody cancelled the job, or it took longer than allowed.
        SourceError: the job failed.
        PermanentError: Airbyte refuses.
    """
    assert source.connection_id is not None
    say = progress or (lambda _: None)
    what = f"cannot sync source {source_name!r} through Airbyte"
    with AirbyteApi(settings.airbyte, what=what, progress=say) as api:
        _check_connection(api, source, what, say)
        job, adopted = _start(api, source.connection_id, what)
        say(f"Airbyte job {job.job_id} {'runs already: waiting for its end' if adopted else 'began'}")
        watch = _Watch(api, job, adopted, settings.airbyte.poll_s, settings.airbyte.job_timeout_s, what, say)
        return watch.until_done()


def _check_connection(api: AirbyteApi, source: AirbyteSource, what: str, say: Progress) -> None:
    """The connection must be switched on and read the streams as the source says."""
    assert source.connection_id is not None
    found = api.get_connection(source.connection_id)
    if found.status.value != "active":
        raise ConfigError(what, f"the connection is {found.status.value}", "Enable it in Airbyte.")
    modes = {s.name: s.sync_mode.value if s.sync_mode else None for s in found.configurations.streams or []}
    wrong = [f"{name!r} is not among its streams" for name in source.streams if name not in modes]
    for name, wanted in source.streams.items():
        mode = modes.get(name)
        if mode is not None and mode not in _MODES[wanted.sync_mode]:
            wrong.append(f"{name!r} is {mode}, not {' or '.join(_MODES[wanted.sync_mode])}")
    if wrong:
        raise ConfigError(
            what,
            "of the connection " + "; ".join(wrong),
            "Correct the connection, or 'streams' in config/sources.yaml.",
        )
    if found.schedule.schedule_type.value != "manual":
        say("the connection has a schedule of its own in Airbyte; set it to manual, so that only this platform runs it")


def _start(api: AirbyteApi, connection_id: str, what: str) -> tuple[Job, bool]:
    """Begin a job, or find the one that runs."""
    for _ in range(_STARTS):
        try:
            return api.start_sync(connection_id), False
        except JobRunsError:
            if running := api.find_running(connection_id):
                return running, True
            # It ended in between.
    raise RetryableError(
        what, "Airbyte says that a job of the connection runs, but lists none", "Look at the connection in Airbyte."
    )


@dataclass
class _Watch:
    """Looks at a job until its end."""

    api: AirbyteApi
    job: Job
    adopted: bool
    poll_s: float
    timeout_s: float
    what: str
    say: Progress

    def until_done(self) -> SyncResult:
        """Wait; whatever ends the wait ends the job, if it is ours."""
        started = time.monotonic()
        try:
            attempts = self._poll(started)
        except PlatformError:
            raise
        except BaseException:  # KeyboardInterrupt, and what Dagster raises where a run is terminated
            self._cancel("the run was cancelled")
            raise
        if self.job.status == "failed":
            raise SourceError(
                self.what,
                f"job {self.job.job_id} failed after {attempts} attempt(s) that were seen",
                "The job's log in Airbyte says why; correct it there and run it again.",
            )
        if self.job.status == "cancelled":
            raise RetryableError(self.what, f"somebody cancelled job {self.job.job_id} in Airbyte", "Run it again.")
        seconds = time.monotonic() - started
        return SyncResult(self.job.job_id, self.adopted, attempts, self.job.bytes_synced, self.job.rows_synced, seconds)

    def _poll(self, started: float) -> int:
        wait, said_at, attempts, status = min(1.0, self.poll_s), started, 0, ""
        while True:
            if self.job.status != status:
                # Begins as running, or again after an attempt that did not come to its end.
                attempts += self.job.status == "running"
                status = self.job.status
                self.say(self._describe())
                said_at, wait = time.monotonic(), min(1.0, self.poll_s)
            elif time.monotonic() - said_at >= _SAY_S:
                self.say(self._describe())
                said_at = time.monotonic()
            if self.job.is_final:
                return max(attempts, 1)
            left = self.timeout_s - (time.monotonic() - started)
            if left <= 0:
                self._cancel(f"it took longer than {self.timeout_s:.0f} s")
                raise RetryableError(
                    self.what,
                    f"job {self.job.job_id} is {self.job.status} after {self.timeout_s:.0f} s",
                    "Run it again, or raise DML_AIRBYTE__JOB_TIMEOUT_S.",
                )
            time.sleep(min(wait, left))
            wait = min(wait * 1.5, self.poll_s)
            self.job = self.api.get_job(self.job.job_id)

    def _describe(self) -> str:
        counted: Sequence[tuple[Any, str]] = ((self.job.rows_synced, "rows"), (self.job.bytes_synced, "bytes"))
        done = ", ".join(f"{number:,} {name}" for number, name in counted if number is not None)
        waits = " (an attempt did not come to its end; Airbyte tries again)" if self.job.status == "incomplete" else ""
        return f"Airbyte job {self.job.job_id} is {self.job.status}{waits}{f': {done}' if done else ''}"

    def _cancel(self, why: str) -> None:
        """End the job; the reason to do so is what the caller tells."""
        if self.adopted:
            self.say(f"{why}; Airbyte job {self.job.job_id} goes on, as this run did not begin it")
            return
        try:
            self.api.cancel_job(self.job.job_id)
            self.say(f"{why}; Airbyte job {self.job.job_id} is cancelled")
        except PlatformError as error:
            logger.warning("Airbyte job %s could not be cancelled: %s", self.job.job_id, error.why)
