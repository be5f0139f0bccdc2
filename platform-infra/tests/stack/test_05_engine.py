"""The machine is switched off and on: everything is back without a hand."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from stack.engine import ENGINE_LOCK, engine_answers, sh, wait
from stack.server import Server

PID_FILE = Path("/var/run/docker.pid")
# Kept, because it outlives the tests: Python warns of a process that is forgotten while it runs.
_engines: list[subprocess.Popen[bytes]] = []

pytestmark = pytest.mark.timeout(1200)


def has_ended(process: int) -> bool:
    """Whether a process does nothing any more, be it that its parent has not asked how it ended.

    .ci/run starts the engine and then becomes another program, which asks only after children of its own.
    """
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def restart_engine() -> None:
    """Stop the engine and start it again, the way it was started."""
    command = os.environ.get("TEST_DOCKERD", "")
    if command == "systemd":
        sh("systemctl", "stop", "docker.socket", "docker.service")
        sh("systemctl", "start", "docker.service")
    elif command:
        process = int(PID_FILE.read_text(encoding="utf-8"))
        os.kill(process, signal.SIGTERM)
        wait(lambda: has_ended(process), seconds=90, what="the engine ends", every_s=0.1)
        with Path(os.environ.get("TEST_DOCKERD_LOG", "/dev/null")).open("ab") as log:
            _engines.append(
                subprocess.Popen(
                    shlex.split(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            )
    else:
        pytest.skip(
            "restarting the engine would stop other people's containers: TEST_DOCKERD is the command that starts it "
            "('dockerd …', or 'systemd'); .ci/run sets it where it started the engine itself"
        )
    wait(engine_answers, seconds=90, what="the engine answers")


def test_everything_is_back_after_the_engine_was_stopped(projects: Server, figures: dict[str, Any]) -> None:
    assert shutil.which("docker")
    states = projects.locations()["orders"]["states"]
    before = projects.tables("orders")
    history = {run["runId"] for run in projects.runs(limit=1000)}
    running = projects.batch(wait_s=60, retries=1)
    wait(lambda: projects.status(running) == "STARTED", seconds=120, what="the run works")
    with ENGINE_LOCK:
        moment, began = time.monotonic(), time.time()
        restart_engine()
    figures["engine restart: engine answers after, s"] = round(time.monotonic() - moment, 1)

    def back() -> bool:
        found = projects.locations()
        return all(location["error"] is None and location["status"] == "LOADED" for location in found.values())

    wait(back, seconds=300, what="every location is loaded, and a person can sign in")
    figures["engine restart: everything loaded after, s"] = round(time.monotonic() - moment, 1)
    wait(
        lambda: any(t["status"] == "SKIPPED" for t in projects.ticks("orders", "pulse", began + 1)),
        seconds=180,
        what="the sensor ticks",
    )
    figures["engine restart: sensor ticks after, s"] = round(time.monotonic() - moment, 1)
    assert projects.locations()["orders"]["states"] == states
    assert history <= {run["runId"] for run in projects.runs(limit=1000)}
    [status] = projects.wait_for_runs(running, seconds=300).values()
    assert status == "SUCCESS" or projects.reason(running)
    after = projects.batch()
    assert projects.wait_for_runs(after) == {after: "SUCCESS"}, projects.reason(after)
    found = projects.tables("orders")
    for batch, rows in before["orders.raw.till__orders"]["batches"].items():
        assert found["orders.raw.till__orders"]["batches"][batch] == rows
    printed = projects.dml("status").stdout
    assert "unhealthy" not in printed, printed
