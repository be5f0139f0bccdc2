"""Deploys on a real engine: good images go live beside the old, bad ones leave everything as it was."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from deploys.conftest import Build, SmallCore, wait_for
from rich.console import Console

from dml_infra import engine
from dml_infra.core import Core
from dml_infra.deploy import deploy, remove, repair, rollback
from dml_infra.errors import ConfigError, EngineError, RetryableError
from dml_infra.installation import Installation
from dml_infra.offers import DeployError
from dml_infra.records import read_records
from dml_infra.registry import find_location
from dml_infra.workspace import load_state, project_lock

TESTS = Path(__file__).parents[1]

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


def hosts(server: Installation, project: str = "orders") -> list[str]:
    text = engine.docker("ps", "-a", "--format={{.Names}}", f"--filter=label=dml.stack={server.stack}")
    return sorted(name for name in text.split() if name.startswith(f"{server.stack}-{project}-"))


def test_first_deploy_goes_live(server: Installation, core: Core, good: str, console: Console) -> None:
    done = deploy(server, "orders", core=core, console=console, who="ada")
    assert done.changed
    assert done.previous is None
    location = core.api.location("orders")
    assert location is not None
    assert location.loaded
    assert location.image == good
    assert "orders is live after" in console.export_text()
    record = read_records(server)[-1]
    assert (record.who, record.outcome, record.from_image, record.to_image) == ("ada", "live", None, good)
    assert load_state(server, "orders").phase == "idle"


def test_deploying_what_is_live_changes_nothing(server: Installation, core: Core, console: Console) -> None:
    before, records = hosts(server), read_records(server)
    assert not deploy(server, "orders", core=core, console=console).changed
    assert hosts(server) == before
    assert read_records(server) == records


def viewer_host(server: Installation, core: Core) -> str | None:
    viewer = Core(server)
    viewer.role = "webserver-viewer"
    location = viewer.api.location("orders")
    return location.host if location else None


def test_new_version_replaces_the_old_without_a_failed_tick(
    server: Installation, core: Core, build: Build, console: Console
) -> None:
    before = core.api.location("orders")
    assert before is not None
    sensor = next(i for i in before.instigators if i.kind == "sensor")
    schedule = next(i for i in before.instigators if i.kind == "schedule")
    core.api.start("orders", schedule)
    old = hosts(server)
    began = time.time()
    image = build(version="2")
    deploy(server, "orders", image, core=core, console=console)
    after = core.api.location("orders")
    assert after is not None
    assert after.image == image
    assert {i.key: i.status for i in after.instigators} == {sensor.key: "RUNNING", schedule.key: "RUNNING"}
    assert find_location(server, "orders").image == image
    assert (server.registry_file).read_text().startswith("# The list.\n")
    # The old container has gone and nothing had asked for it: neither the viewers' webserver nor the daemon.
    assert hosts(server) != old
    assert len(hosts(server)) == 1
    wait_for(lambda: viewer_host(server, core) == after.host)
    wait_for(lambda: core.api.ticks("orders", sensor, limit=1)[0].timestamp > time.time() - 10)
    ticks = [t for t in core.api.ticks("orders", sensor, limit=500) if t.timestamp >= began]
    assert ticks
    assert [t.error for t in ticks if t.status == "FAILURE"] == []


BAD = {
    "import error": ({"break": "import"}, "a_package_that_is_not_there"),
    "import error that Dagster shows": (
        {
            "break": "import",
            "command": "exec dagster api grpc --lazy-load-user-code --python-file /code/defs.py -h 0.0.0.0 -p 4000",
        },
        "a_package_that_is_not_there",
    ),
    "crash loop": ({"command": "echo going down; exit 7"}, "going down"),
    "wrong package": ({"project": "people"}, "none of its 1 assets is below 'orders'"),
    "never healthy": ({"command": "exec sleep 1000"}, "after 15 s"),
    "lost schedule": ({"schedules": "another"}, "schedule 'daily_schedule', which is there now, is not in the image"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_image_leaves_everything_as_it_was(
    kind: str, server: Installation, core: Core, build: Build, console: Console
) -> None:
    arguments, reason = BAD[kind]
    before, location = hosts(server), core.api.location("orders")
    registry, workspace = server.registry_file.read_text(), (server.state / "workspace" / "workspace.yaml").read_text()
    image = build(version=kind, **arguments)
    began = time.monotonic()
    with pytest.raises(DeployError) as raised:
        deploy(
            server,
            "orders",
            image,
            core=SmallCore(quick(server) if kind == "never healthy" else server),
            console=console,
        )
    assert time.monotonic() - began < 60
    assert reason in str(raised.value)
    assert raised.value.exit_code == 3
    assert hosts(server) == before
    assert core.api.location("orders") == location
    assert server.registry_file.read_text() == registry
    assert (server.state / "workspace" / "workspace.yaml").read_text() == workspace
    record = read_records(server)[-1]
    assert (record.outcome, record.to_image) == ("rolled back", image)
    assert reason in record.error
    assert load_state(server, "orders").phase == "idle"


def quick(server: Installation) -> Installation:
    """The same server, less patient."""
    return replace(server, env={**server.env, "DML_DEPLOY_TIMEOUT_S": "15"})


def test_image_that_cannot_be_fetched_changes_nothing(server: Installation, core: Core, good: str) -> None:
    before = hosts(server)
    image = good.partition("@")[0] + "@sha256:" + "0" * 64
    with pytest.raises(EngineError, match="cannot fetch the image"):
        deploy(server, "orders", image, core=core)
    assert hosts(server) == before


def test_image_of_another_repository_is_refused(server: Installation, core: Core) -> None:
    with pytest.raises(ConfigError, match="not of its registered repository"):
        deploy(server, "orders", "elsewhere/people@sha256:" + "0" * 64, core=core)


def test_rollback_returns_to_the_image_before(server: Installation, core: Core, good: str, console: Console) -> None:
    now = find_location(server, "orders").image
    rollback(server, "orders", core=core, console=console)
    location = core.api.location("orders")
    assert location is not None
    assert location.image == good
    assert (read_records(server)[-1].what, read_records(server)[-1].to_image) == ("rollback", good)
    rollback(server, "orders", core=core, console=console)
    assert find_location(server, "orders").image == now


@pytest.mark.parametrize("phase", ["starting", "switched", "retiring"])
def test_killed_deploy_is_repaired_by_the_next_command(
    phase: str, server: Installation, core: Core, build: Build, console: Console
) -> None:
    image, live = build(version=f"killed while {phase}"), find_location(server, "orders").image
    program = "import sys; from deploys.deploys_child import main; main(*sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(server.root), server.stack, image],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: load_state(server, "orders").phase == phase, seconds=90)
    finally:
        process.kill()
        process.wait(10)
    assert repair(server, core=core, console=console) == ["orders"]
    state = load_state(server, "orders")
    expected = image if phase == "retiring" else live
    assert (state.phase, state.live and state.live.image) == ("idle", expected)
    location = core.api.location("orders")
    assert location is not None
    assert (location.loaded, location.image) == (True, expected)
    assert find_location(server, "orders").image == expected
    assert len(hosts(server)) == 1


def test_only_one_deploy_of_a_project_at_a_time(server: Installation, core: Core) -> None:
    with project_lock(server, "orders"), pytest.raises(RetryableError, match="is deploying it now"):
        deploy(server, "orders", core=core)


def test_removed_project_is_gone_and_may_come_back(
    server: Installation, core: Core, good: str, console: Console
) -> None:
    remove(server, "orders", core=core, console=console)
    assert core.api.location("orders") is None
    assert hosts(server) == []
    assert engine.inspect("network", server.project_network("orders")) == []
    assert "orders" not in server.registry_file.read_text()
    assert read_records(server)[-1].outcome == "removed"
