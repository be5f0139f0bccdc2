"""kill -9 of each part while work goes on: it comes back, every run ends with a reason, the lake is whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from stack.engine import docker, inspect, wait
from stack.server import Server, clock

# The three minutes until anybody knows of a run that was killed early go by during the other tests.
pytestmark = [pytest.mark.timeout(1200), pytest.mark.usefixtures("killed_early")]

VICTIMS: dict[str, Callable[[Server], str]] = {
    "daemon": lambda s: s.service("daemon"),
    "webserver": lambda s: s.service("webserver"),
    "code location": lambda s: s.location("orders"),
    "postgres": lambda s: s.service("postgres"),
    "object-store": lambda s: s.service("object-store"),
    "socket-proxy": lambda s: s.service("socket-proxy"),
    "proxy": lambda s: s.service("proxy"),
}


def check_lake(server: Server, *runs: str) -> dict[str, Any]:
    """Every table can be read whole; a batch is there completely or not at all; a run that succeeded left its batch."""
    tables = server.tables("orders")
    batches = tables["orders.raw.till__orders"]["batches"]
    assert {(rows, distinct) for rows, distinct in batches.values()} <= {(100, 100)}, batches
    for run_id in runs:
        if server.status(run_id) == "SUCCESS":
            assert run_id in batches, f"run {run_id} succeeded and its rows are not there"
    return tables


def end_with_a_reason(server: Server, *runs: str) -> dict[str, str]:
    """Wait for runs and for what was retried in their place; every failed one says why and has a successor."""
    statuses = server.wait_for_runs(*runs, seconds=420)
    for run_id, status in list(statuses.items()):
        if status == "SUCCESS":
            continue
        # Asked again: a webserver's pooled connections do not survive a killed Postgres, and each fails once.
        wait(lambda run=run_id: server.reason(run).strip(" |"), seconds=30, what=f"run {run_id} failed with a reason")

        def successor(parent: str = run_id) -> str:
            children = [r for r in server.runs(limit=100) if r["tags"].get("dagster/parent_run_id") == parent]
            return children[0]["runId"] if children else ""

        child = wait(successor, seconds=180, what=f"run {run_id[:8]} ({server.reason(run_id)[:200]}) is retried")
        statuses |= end_with_a_reason(server, child)
    return statuses


@pytest.fixture(scope="module")
def killed_early(projects: Server) -> tuple[str, float]:
    """A run whose container was killed before it started, and when."""
    for _ in range(5):  # it may start before it can be killed
        run_id = projects.batch(wait_s=5)
        container = projects.run_container(run_id)
        if projects.status(run_id) == "STARTING":
            projects.kill(container)
            return run_id, time.time()
    return "", 0.0  # for its own test to complain of


@pytest.mark.parametrize("victim", VICTIMS)
def test_what_is_killed_comes_back_and_no_run_hangs(projects: Server, figures: dict[str, Any], victim: str) -> None:
    # One run that works, and one that is about to start, when it happens.
    working = projects.batch(wait_s=12, retries=2)
    wait(lambda: projects.status(working) == "STARTED", seconds=120, what="the run works")
    starting = projects.batch(wait_s=5, retries=2)
    container = VICTIMS[victim](projects)
    began, moment, restarts = time.time(), time.monotonic(), inspect(container)["RestartCount"]
    projects.kill(container)

    wait(lambda: inspect(container)["RestartCount"] > restarts, seconds=60, what=f"{victim} is started again")
    wait(lambda: projects.health(container) == "healthy", seconds=180, what=f"{victim} is healthy")
    wait(lambda: projects.locations()["orders"]["error"] is None, seconds=120, what="the location is loaded")
    figures[f"kill -9 {victim}: healthy and loaded after, s"] = round(time.monotonic() - moment, 1)
    statuses = end_with_a_reason(projects, working, starting)
    figures[f"kill -9 {victim}: runs"] = ", ".join(sorted(statuses.values()))

    wait(
        lambda: any(t["status"] != "FAILURE" for t in projects.ticks("orders", "pulse", time.time() - 12)),
        seconds=90,
        what=f"the sensor ticks again (killed at {clock(began)})",
    )
    # Of a killed Postgres each pooled connection of the webserver fails once: a person would press the button again.
    after = wait(projects.batch, seconds=60, what="a run is launched")
    assert projects.wait_for_runs(after) == {after: "SUCCESS"}, projects.reason(after)
    check_lake(projects, *statuses, after)


def test_a_killed_run_is_failed_with_the_reason_and_retried(projects: Server, figures: dict[str, Any]) -> None:
    run_id = projects.batch(wait_s=20, retries=1)
    container = projects.run_container(run_id)
    wait(lambda: projects.status(run_id) == "STARTED", seconds=120, what="the run works")
    moment = time.monotonic()
    projects.kill(container)
    statuses = end_with_a_reason(projects, run_id)
    figures["kill -9 run container: failed and retried with success after, s"] = round(time.monotonic() - moment, 1)
    assert statuses[run_id] == "FAILURE"
    assert sorted(statuses.values()) == ["FAILURE", "SUCCESS"]
    check_lake(projects, *statuses)


def test_a_run_that_asks_for_too_much_memory_hurts_no_neighbour(projects: Server) -> None:
    neighbours = {n: projects.location(n) for n in projects.locations()}
    run_id = projects.batch(wait_s=30)
    container = projects.run_container(run_id)
    wait(lambda: projects.status(run_id) == "STARTED", seconds=120, what="the run works")
    # A step that asks for more than the run may have: the kernel ends the biggest, which is that process.
    docker(
        "exec",
        "--detach",
        container,
        "python",
        "-c",
        "x = bytearray(8 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1",
    )
    ended = projects.wait_for_runs(run_id, seconds=240)
    if ended[run_id] != "SUCCESS":
        assert projects.reason(run_id)
    assert {n: projects.location(n) for n in projects.locations()} == neighbours


def test_a_run_killed_before_it_starts_does_not_hang(
    projects: Server, killed_early: tuple[str, float], figures: dict[str, Any]
) -> None:
    run_id, killed_at = killed_early
    assert run_id, "five runs had started before they could be killed"
    [status] = projects.wait_for_runs(run_id, seconds=300).values()
    ended_at = projects.runs(run_id)[0]["endTime"]
    figures["kill -9 run container while STARTING: ended after, s"] = round(ended_at - killed_at, 1)
    assert status == "FAILURE"
    assert projects.reason(run_id)
    assert ended_at - killed_at <= 300


def test_nothing_is_left_in_progress(projects: Server) -> None:
    recent = [r for r in projects.runs(limit=200) if r["startTime"] or r["creationTime"] < time.time() - 240]
    hanging = [r for r in recent if r["status"] in ("STARTING", "NOT_STARTED", "CANCELING")]
    assert hanging == []
