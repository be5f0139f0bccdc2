"""Backup while runs go on, a wiped host, restore: the same history, the same tables, the same schedules."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from stack.engine import docker, wait
from stack.server import Server, remove_stacks

pytestmark = pytest.mark.timeout(1800)


def test_a_wiped_host_is_restored_as_it_was(projects: Server, folder: Path, figures: dict[str, Any]) -> None:
    target = folder / "backup"
    target.mkdir()
    states = projects.locations()["orders"]["states"]
    done = projects.batch()
    assert projects.wait_for_runs(done) == {done: "SUCCESS"}
    tables = {project: projects.tables(project) for project in projects.locations()}
    history = {run["runId"]: run["status"] for run in projects.runs(limit=1000)}
    finished = {i: s for i, s in history.items() if s in ("SUCCESS", "FAILURE", "CANCELED")}
    going = projects.batch(wait_s=30)
    wait(lambda: projects.status(going) == "STARTED", seconds=120, what="a run goes on")
    identity = folder / "age-identity"

    started = time.monotonic()
    projects.dml("backup", "--to", str(target), "--new-identity", str(identity), timeout_s=600)
    figures["backup: while runs go on, s"] = round(time.monotonic() - started, 1)
    figures["backup: size, MB"] = round(sum(f.stat().st_size for f in target.rglob("*") if f.is_file()) / 1e6, 1)
    secret = projects.admin[1]
    assert not [f for f in target.rglob("*") if f.is_file() and secret.encode() in f.read_bytes()]
    projects.wait_for_runs(going)

    # What a lost disk takes: containers, volumes, networks, the state folder.
    remove_stacks(projects.name)
    docker("run", "--rm", f"--volume={projects.root}:/root-of-it", "--entrypoint=rm", "--user=0:0",
           projects.images["DML_POSTGRES_IMAGE"], "-rf", "/root-of-it/state")  # fmt: skip
    assert not projects.state.exists()

    started = time.monotonic()
    projects.dml("restore", "--from", str(target), "--identity", str(identity), timeout_s=900)
    figures["restore: on a wiped host, s"] = round(time.monotonic() - started, 1)

    wait(
        lambda: all(location["error"] is None for location in projects.locations().values()),
        seconds=180,
        what="every location is loaded",
    )
    assert secret == projects.admin[1]
    assert projects.locations()["orders"]["states"] == states
    restored = {run["runId"]: run["status"] for run in projects.runs(limit=1000)}
    assert {i: restored.get(i) for i in finished} == finished
    for project, before in tables.items():
        after = projects.tables(project)
        for name, table in before.items():
            if name == "orders.raw.till__orders":  # the schedule goes on writing
                assert {b: after[name]["batches"].get(b) for b in table["batches"]} == table["batches"]
            elif not name.startswith("orders."):
                assert after[name]["content"] == table["content"], name
                assert after[name]["rows"] == table["rows"], name
    since = time.time()
    wait(
        lambda: any(t["status"] == "SKIPPED" for t in projects.ticks("orders", "pulse", since)),
        seconds=120,
        what="the sensor ticks",
    )
    after_run = projects.batch()
    assert projects.wait_for_runs(after_run) == {after_run: "SUCCESS"}, projects.reason(after_run)
