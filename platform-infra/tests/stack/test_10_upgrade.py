"""The previous release with data, then this one over it, as the runbook says: the same checks hold. Long.

Where nothing was released before, the "previous release" is a commit of this repository's history.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stack import engine as engines
from stack.engine import FOLDER, build, docker, inspect, sh, wait
from stack.server import Server

# Before the first release: files, state and images as they were on 2026-11-23.
FIRST = "ee0319c"

pytestmark = [pytest.mark.timeout(1800), pytest.mark.long]


@pytest.fixture(scope="module")
def previous(folder: Path) -> Path:
    """This folder as the previous release had it."""
    git = ("git", "-C", str(FOLDER))
    named = sh(*git, "describe", "--tags", "--abbrev=0", "--match=v*", "HEAD^", check=False)
    commit = os.environ.get("TEST_PREVIOUS_RELEASE") or (FIRST if named.returncode else named.stdout.strip())
    if sh(*git, "cat-file", "-e", f"{commit}^{{commit}}", check=False).returncode:
        pytest.skip(f"this checkout's history has no {commit}: fetch it whole, or set TEST_PREVIOUS_RELEASE to a tag")
    place = folder / "previous"
    place.mkdir()
    sh("bash", "-euo", "pipefail", "-c", f"git -C '{FOLDER}' archive {commit} . | tar -x -C '{place}'")
    return place


@pytest.fixture(scope="module")
def old(
    new_server: Callable[..., Server], previous: Path, core_images: dict[str, str], orders: Callable[..., str]
) -> Server:
    """The previous release's server, with a project that has done some work."""
    tag = "dml-dagster:stack-test-previous"
    build(previous, tag, f"--build-arg=PYTHON_IMAGE={engines.python_image()}", file="images/dagster/Dockerfile")
    server = new_server(source=previous, images=core_images | {"DML_DAGSTER_IMAGE": tag})
    server.dml("up", timeout_s=600)
    server.register("orders", orders(1), "--memory", "768m")
    done = server.batch()
    assert server.wait_for_runs(done) == {done: "SUCCESS"}, server.reason(done)
    return server


def test_the_next_release_takes_over_what_is_there(
    old: Server, core_images: dict[str, str], folder: Path, figures: dict[str, Any]
) -> None:
    states, password = old.locations()["orders"]["states"], old.admin[1]
    tables = old.tables("orders")
    history = {run["runId"]: run["status"] for run in old.runs()}
    deploys = old.dml("deploys").stdout
    target = folder / "before-upgrade"
    target.mkdir()
    old.dml("backup", "--to", str(target), "--new-identity", str(folder / "upgrade-identity"), timeout_s=600)
    going = old.batch(wait_s=60)
    wait(lambda: old.status(going) == "STARTED", seconds=120, what="a run goes on")

    new = Server(old.root, old.name, core_images, old.port, old.http_port, old.subnet)
    new.copy_files(but=("registry",))
    settings = (new.root / ".env").read_text(encoding="utf-8")
    image = {**old.images, **core_images}["DML_DAGSTER_IMAGE"]
    (new.root / ".env").write_text(
        settings.replace(f"DML_DAGSTER_IMAGE={old.images['DML_DAGSTER_IMAGE']}", f"DML_DAGSTER_IMAGE={image}"),
        encoding="utf-8",
    )
    started = time.monotonic()
    new.dml("preflight")
    new.dml("up", timeout_s=600)
    read_at_start = ("socket-proxy", "proxy", "daemon", "webserver", "webserver-viewer")
    docker("restart", *(new.service(name) for name in read_at_start))
    new.dml("up", timeout_s=600)
    figures["upgrade: from 'preflight' to ready, s"] = round(time.monotonic() - started, 1)

    assert image in {inspect(new.service(name))["Config"]["Image"] for name in ("daemon", "webserver")}
    wait(lambda: new.locations()["orders"]["error"] is None, seconds=180, what="the location is loaded")
    assert new.locations()["orders"]["states"] == states
    assert new.admin[1] == password
    assert new.wait_for_runs(going) == {going: "SUCCESS"}, new.reason(going)
    now = {run["runId"]: run["status"] for run in new.runs()}
    ended = {run: status for run, status in history.items() if status in ("SUCCESS", "FAILURE", "CANCELED")}
    assert {run: now.get(run) for run in ended} == ended
    kept = new.tables("orders")
    for name, table in tables.items():
        if "batches" in table:
            assert {b: kept[name]["batches"].get(b) for b in table["batches"]} == table["batches"]
    assert next(line for line in deploys.splitlines() if "orders" in line).split()[0] in new.dml("deploys").stdout
    new.dml("status")


def test_the_upgraded_server_deploys_runs_and_rolls_back(
    old: Server, core_images: dict[str, str], orders: Callable[..., str]
) -> None:
    new = Server(old.root, old.name, core_images, old.port, old.http_port, old.subnet)
    before = new.locations()["orders"]["image"]
    new.dml("deploy", "orders", "--image", orders(2))
    assert new.locations()["orders"]["image"] != before
    done = new.batch()
    assert new.wait_for_runs(done) == {done: "SUCCESS"}, new.reason(done)
    new.dml("rollback", "orders")
    assert new.locations()["orders"]["image"] == before
