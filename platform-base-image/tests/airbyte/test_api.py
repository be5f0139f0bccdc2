"""Airbyte's API on good and bad days: jobs, tokens, faults, cancelling; and that no secret is ever shown."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_server import CLIENT_SECRET, FakeAirbyte, Fault

from dml_platform.airbyte import AirbyteSource, parse_source
from dml_platform.airbyte.sync import SyncResult, run_sync
from dml_platform.core.errors import ConfigError, PermanentError, PlatformError, RetryableError, SourceError
from dml_platform.core.settings import Settings


def make_source(airbyte: FakeAirbyte, mode: str = "incremental", **options: Any) -> AirbyteSource:
    return parse_source(
        "shop",
        {
            "connector": {"package": "airbyte-source-faker", "version": "7.2.1"},
            "connection_id": airbyte.connection["connectionId"],
            "streams": {"users": {"sync_mode": mode}},
            **options,
        },
    )


def with_settings(settings: Settings, **options: Any) -> Settings:
    return settings.model_copy(update={"airbyte": settings.airbyte.model_copy(update=options)})


def sync(airbyte: FakeAirbyte, settings: Settings, said: list[str] | None = None, **options: Any) -> SyncResult:
    return run_sync(settings, "shop", make_source(airbyte, **options), progress=(said or []).append)


def test_a_job_is_run_to_its_end(airbyte: FakeAirbyte, api_settings: Settings) -> None:
    airbyte.script = ["pending", "queued", "running", "running", "succeeded"]
    airbyte.deliver = lambda: (1234, 56789)
    said: list[str] = []
    done = run_sync(api_settings, "shop", make_source(airbyte), progress=said.append)
    assert (done.job_id, done.adopted, done.attempts_seen) == (100, False, 1)
    assert (done.rows_synced, done.bytes_synced) == (1234, 56789)
    assert "Airbyte job 100 is running" in said
    assert said[-1] == "Airbyte job 100 is succeeded: 1,234 rows, 56,789 bytes"
    assert airbyte.count("post", "/applications/token") == 1


def test_incomplete_is_an_attempt_that_airbyte_makes_again(airbyte: FakeAirbyte, api_settings: Settings) -> None:
    airbyte.script = ["running", "incomplete", "running", "incomplete", "running", "succeeded"]
    assert sync(airbyte, api_settings).attempts_seen == 3


def test_a_job_that_runs_already_is_adopted(airbyte: FakeAirbyte, api_settings: Settings) -> None:
    job = airbyte.start_job()
    done = sync(airbyte, api_settings)
    assert (done.job_id, done.adopted) == (job.job_id, True)
    assert len(airbyte.jobs) == 1


def test_a_job_that_ends_between_refusal_and_look_is_followed_by_one_of_ours(
    airbyte: FakeAirbyte, api_settings: Settings
) -> None:
    airbyte.faults.append(Fault("post", "/jobs", 409))
    assert not sync(airbyte, api_settings).adopted


def test_a_job_that_is_said_to_run_but_never_listed_is_given_up(airbyte: FakeAirbyte, api_settings: Settings) -> None:
    airbyte.faults.append(Fault("post", "/jobs", 409, times=99))
    with pytest.raises(RetryableError, match="a job of the connection runs, but lists none"):
        sync(airbyte, api_settings)


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        ("failed", SourceError, "job 100 failed after 1 attempt"),
        ("cancelled", RetryableError, "somebody cancelled job"),
    ],
)
def test_a_job_that_does_not_succeed(
    airbyte: FakeAirbyte, api_settings: Settings, status: str, kind: type[PlatformError], message: str
) -> None:
    airbyte.script = ["running", status]
    with pytest.raises(kind, match=message):
        sync(airbyte, api_settings)


def test_a_token_that_ends_is_fetched_again(airbyte: FakeAirbyte, api_settings: Settings) -> None:
    airbyte.token_uses = 3  # less than its 900 s
    airbyte.script = [*["running"] * 6, "succeeded"]
    assert sync(airbyte, api_settings).job_id == 100
    assert airbyte.count("post", "/applications/token") == 3
    assert [status for _, _, status in airbyte.requests].count(401) == 2


def test_a_token_is_fetched_before_it_ends(airbyte: FakeAirbyte, api_settings: Settings) -> None:
    airbyte.token_lives_s, airbyte.token_says_s = 60.0, 0
    airbyte.script = ["running", "running", "succeeded"]
    sync(airbyte, api_settings)
    assert airbyte.count("post", "/applications/token") > 1
    assert 401 not in [status for _, _, status in airbyte.requests]


def test_a_token_that_is_always_refused_is_a_wrong_client(airbyte: FakeAirbyte, api_settings: Settings) -> None:
    airbyte.faults.append(Fault("get", "/connections", 401, times=99))
    with pytest.raises(ConfigError, match="the token that it just gave"):
        sync(airbyte, api_settings)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_client_that_airbyte_does_not_know(airbyte: FakeAirbyte, api_settings: Settings, status: int) -> None:
    airbyte.faults.append(Fault("post", "/applications/token", status, times=99))
    with pytest.raises(ConfigError, match=rf"does not know the client or its secret \({status}\)"):
        sync(airbyte, api_settings)
    assert len(airbyte.requests) == 1, "asked once"


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (400, PermanentError, r"refuses the request for connection .* \(400: A planted 400\)"),
        (403, PermanentError, "does not let this client use connection"),
        (404, ConfigError, "Airbyte has no connection"),
    ],
)
def test_a_refusal_is_told_and_not_tried_again(
    airbyte: FakeAirbyte, api_settings: Settings, status: int, kind: type[PlatformError], message: str
) -> None:
    airbyte.faults.append(Fault("get", "/connections", status, times=99))
    with pytest.raises(kind, match=message) as caught:
        sync(airbyte, api_settings)
    assert not caught.value.allow_retries
    assert airbyte.count("get", "/connections") == 1


@pytest.mark.parametrize("status", [0, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("where", ["post /applications/token", "get /connections", "post /jobs", "get /jobs/"])
def test_a_fault_that_passes_is_waited_out(
    airbyte: FakeAirbyte, api_settings: Settings, status: int, where: str
) -> None:
    method, path = where.split()
    airbyte.faults.append(Fault(method, path, status, times=2))
    assert sync(airbyte, api_settings).job_id == 100


def test_a_job_whose_start_was_answered_into_a_cut_connection_is_not_started_twice(
    airbyte: FakeAirbyte, api_settings: Settings
) -> None:
    job = airbyte.start_job()  # it went through; the answer did not
    airbyte.faults.append(Fault("post", "/jobs", 0))
    assert sync(airbyte, api_settings).job_id == job.job_id


@pytest.mark.parametrize("status", [0, 429, 503])
def test_a_fault_that_stays_can_be_retried_later(airbyte: FakeAirbyte, api_settings: Settings, status: int) -> None:
    airbyte.faults.append(Fault("get", "/connections", status, times=99))
    with pytest.raises(RetryableError) as caught:
        sync(airbyte, api_settings)
    assert caught.value.allow_retries
    assert airbyte.count("get", "/connections") == api_settings.airbyte.request_attempts


def test_retry_after_is_waited_for(airbyte: FakeAirbyte, api_settings: Settings) -> None:
    airbyte.faults.append(Fault("get", "/connections", 429, headers={"Retry-After": "1"}))
    started, said = time.monotonic(), []
    run_sync(api_settings, "shop", make_source(airbyte), progress=said.append)
    assert time.monotonic() - started >= 1
    assert "Airbyte is busy (429: A planted 429); trying again in 1 s" in said


def test_a_slow_server_is_retried_then_given_up(airbyte: FakeAirbyte, api_settings: Settings) -> None:
    airbyte.delay_s = 0.3
    settings = with_settings(api_settings, request_timeout_s=0.1, request_attempts=2)
    with pytest.raises(RetryableError, match="does not answer in time"):
        sync(airbyte, settings)
    airbyte.delay_s = 0.0


def test_nobody_listening_is_retryable(airbyte: FakeAirbyte, api_settings: Settings) -> None:
    with pytest.raises(RetryableError, match=r"is not reached \(ConnectError\)"):
        sync(airbyte, with_settings(api_settings, server_url="http://127.0.0.1:1", request_attempts=2))


@pytest.mark.parametrize("where", ["post /applications/token", "get /connections"])
def test_an_address_of_something_else_is_named(airbyte: FakeAirbyte, api_settings: Settings, where: str) -> None:
    method, path = where.split()
    airbyte.faults.append(Fault(method, path, 200, times=99, body="<html>Welcome</html>"))
    with pytest.raises(ConfigError, match="does not answer as Airbyte's public API"):
        sync(airbyte, api_settings)


def test_a_job_over_its_time_is_cancelled(airbyte: FakeAirbyte, api_settings: Settings) -> None:
    airbyte.script = ["running"]
    with pytest.raises(RetryableError, match=r"is running after 0 s\.\nRun it again, or raise DML_AIRBYTE"):
        sync(airbyte, with_settings(api_settings, job_timeout_s=0.2))
    assert airbyte.jobs[0].status == "cancelled"


@pytest.mark.parametrize("adopted", [False, True])
def test_a_cancelled_run_cancels_the_job_that_it_began(
    airbyte: FakeAirbyte, api_settings: Settings, monkeypatch: pytest.MonkeyPatch, adopted: bool
) -> None:
    airbyte.script = ["running"]
    if adopted:
        airbyte.start_job()
    real, naps = time.sleep, iter(range(100))

    def interrupt(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread() and next(naps) == 2:
            raise KeyboardInterrupt
        real(seconds)

    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sync(airbyte, api_settings)
    assert airbyte.jobs[0].status == ("running" if adopted else "cancelled")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "inactive"}, "the connection is inactive"),
        ({"configurations": {"streams": []}}, "'users' is not among its streams"),
        (
            {"configurations": {"streams": [{"name": "users", "syncMode": "full_refresh_overwrite"}]}},
            "'users' is full_refresh_overwrite, not incremental_append",
        ),
    ],
)
def test_a_connection_that_does_something_else_is_not_run(
    airbyte: FakeAirbyte, api_settings: Settings, change: dict[str, Any], message: str
) -> None:
    airbyte.connection |= change
    with pytest.raises(ConfigError, match=message):
        sync(airbyte, api_settings)
    assert airbyte.jobs == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"server_url": None}, "DML_AIRBYTE__SERVER_URL is not set"),
        ({"server_url": "airbyte.example.com"}, "DML_AIRBYTE__SERVER_URL is no address"),
        ({"client_id": None}, "DML_AIRBYTE__CLIENT_ID is not set"),
        ({"client_secret": None}, "DML_AIRBYTE__CLIENT_SECRET_FILE is not set"),
        ({"client_secret_file": Path("/nowhere/secret")}, "secret cannot be read from /nowhere/secret"),
    ],
)
def test_what_is_not_set_is_named(
    airbyte: FakeAirbyte, api_settings: Settings, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sync(airbyte, with_settings(api_settings, **change))


def test_a_secret_in_a_file_may_be_replaced_meanwhile(
    airbyte: FakeAirbyte, api_settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{CLIENT_SECRET}\n")
    assert sync(airbyte, with_settings(api_settings, client_secret=None, client_secret_file=file)).job_id == 100


@pytest.mark.parametrize(
    "fault",
    [
        None,
        Fault("post", "/applications/token", 401, times=99),
        Fault("post", "/applications/token", 200, times=99, body='{"access_token": 1'),
        Fault("get", "/connections", 403, times=99, body={"type": "x", "title": f"no {CLIENT_SECRET} here"}),
        Fault("get", "/connections", 500, times=99, body={"type": "x", "title": f"no {CLIENT_SECRET} here"}),
        Fault("get", "/connections", 0, times=99),
        Fault("get", "/jobs/", 401, times=99),
    ],
)
@pytest.mark.parametrize("in_file", [False, True])
def test_no_line_and_no_error_has_a_secret(
    airbyte: FakeAirbyte,
    api_settings: Settings,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    fault: Fault | None,
    in_file: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    if in_file:
        (tmp_path / "secret").write_text(CLIENT_SECRET)
        api_settings = with_settings(api_settings, client_secret=None, client_secret_file=tmp_path / "secret")
    # Each parameter's fault counts down: a second test must not find it used up.
    fault = replace(fault, times=99) if fault else None
    airbyte.faults += [fault] if fault else []
    said: list[str] = []
    try:
        run_sync(api_settings, "shop", make_source(airbyte), progress=said.append)
    except PlatformError as error:
        said += traceback.format_exception(error)
        said.append(repr(error))
    else:
        assert fault is None
    shown = "\n".join([*said, caplog.text, repr(api_settings)])
    assert caplog.text, "the libraries' own lines are looked at too"
    for secret in [CLIENT_SECRET, *airbyte.tokens]:
        assert secret not in shown
