"""Deploys with every step made to fail or be killed in turn, over an engine and a Dagster that only remember."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml
from rich.console import Console

from dml_infra import networks, registry_edit, rollout
from dml_infra.command import Command
from dml_infra.core import ContainerState, Core, Traffic
from dml_infra.dagster_api import Instigator, Location
from dml_infra.deploy import deploy, deploy_all, remove, repair, rollback
from dml_infra.drivers import StackStatus
from dml_infra.errors import CheckFailedError, ConfigError, EngineError, InfraError, PermanentError, RetryableError
from dml_infra.installation import Installation
from dml_infra.offers import DeployError
from dml_infra.records import read_records
from dml_infra.registry import CodeLocation, find_location
from dml_infra.workspace import load_state

OLD, NEW = (f"registry.example.com/project-sales@sha256:{digit * 64}" for digit in "ab")
UP = ContainerState(exists=True, status="running", health="healthy")
ENTRY = {"name": "sales", "image": OLD, "owner": "team:sales", "alerts": "#sales"}


class World(Core):
    """An engine and a Dagster. ``faults`` maps a step to what it raises; ``code`` changes what an image offers."""

    name = "remembering"

    def __init__(self, installation: Installation) -> None:
        super().__init__(installation)
        self.api = self  # type: ignore[assignment]
        self.stacks: dict[str, dict[str, Any]] = {}
        self.workspace: dict[str, str] = {}
        self.containers: dict[str, ContainerState] = {}
        self.faults: dict[str, BaseException] = {}
        self.code: dict[str, dict[str, Any]] = {}
        self.states: dict[str, str] = {}
        self.retired: list[str] = []

    def _step(self, name: str) -> None:
        if name in self.faults:
            raise self.faults.pop(name)

    # The driver.
    def apply(self, stack: str, compose_text: str, env: Mapping[str, str]) -> None:
        self._step("apply")
        self.stacks[stack] = yaml.safe_load(compose_text)["services"]

    def remove(self, stack: str) -> None:
        self.stacks.pop(stack, None)

    def status(self, stack: str) -> StackStatus:
        return StackStatus(stack in self.stacks, True, {})

    # The engine.
    def services(self) -> dict[str, str]:
        return {s["container_name"]: s["image"] for services in self.stacks.values() for s in services.values()}

    def prepare(self, location: CodeLocation) -> None:
        self._step("prepare")

    def ensure_image(self, image: str) -> bool:
        self._step("pull")
        return False

    def container(self, host: str) -> ContainerState:
        return self.containers.get(host, UP) if host in self.services() else ContainerState(exists=False)

    def logs(self, host: str, lines: int = 40) -> str:
        return f"last lines of {host}"

    def traffic(self, host: str) -> Traffic | None:
        self._step("traffic")
        self.retired.append(host)
        return Traffic(0, 0) if host in self.services() else None

    # Dagster.
    def reload(self) -> None:
        self._step("reload")
        document = yaml.safe_load((self.installation.state / "workspace" / "workspace.yaml").read_text())
        self.workspace = {s["grpc_server"]["location_name"]: s["grpc_server"]["host"] for s in document["load_from"]}

    def offer(self, image: str) -> dict[str, Any]:
        return {
            "schedules": ["daily"],
            "sensors": [],
            "assets": ["sales/marts/x"],
            "metadata": {},
            **self.code.get(image, {}),
        }

    def probe(self, host: str) -> Mapping[str, Any]:
        self._step("probe")
        image = self.services()[host]
        return {"image": image, "repositories": {"r": self.offer(image)}}

    def location(self, name: str) -> Location | None:
        host = self.workspace.get(name)
        if host is None:
            return None
        image = self.services().get(host)
        error = "" if image else "not reachable"
        if image:
            try:
                self._step("load")
            except InfraError as fault:
                error = str(fault)
        schedules = self.offer(image)["schedules"] if image and not error else []
        status = self.states.get(image or "", "RUNNING")
        found = tuple(Instigator("schedule", "r", s, status, "STOPPED", "x") for s in schedules)
        return Location(name, not error, False, error, image, host, 0.0, found)

    def runs(self, **_: Any) -> list[Any]:
        return []


@pytest.fixture
def world(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> World:
    """A server on which the old image of `sales` is live."""
    for name in ("POLL_S", "QUIET_WINDOW_S", "VERIFY_TIMEOUT_S"):
        monkeypatch.setattr(rollout, name, 0.0)
    monkeypatch.setattr(networks, "detach_core", lambda *_: None)
    registry_edit.register(installation, ENTRY)
    world = World(installation)
    deploy(installation, "sales", **by(world))
    return world


def by(world: World) -> dict[str, Any]:
    return {"core": world, "driver": world, "console": Console(quiet=True), "who": "ada"}


def is_live(world: World, image: str) -> bool:
    """Is this image, and nothing else, what the engine runs, Dagster loads, the registry and the state name?"""
    state = load_state(world.installation, "sales")
    location = world.location("sales")
    return (
        list(world.services().values()) == [image]
        and location is not None
        and location.image == image
        and find_location(world.installation, "sales").image == image
        and state.phase == "idle"
        and state.live is not None
        and state.live.image == image
        and (state.next, state.retiring) == (None, None)
    )


def test_good_image_replaces_the_old_one_and_is_recorded(world: World) -> None:
    done = deploy(world.installation, "sales", NEW, **by(world))
    assert (done.changed, done.previous) == (True, OLD)
    assert is_live(world, NEW)
    record = read_records(world.installation)[-1]
    assert (record.who, record.from_image, record.to_image, record.outcome) == ("ada", OLD, NEW, "live")


@pytest.mark.parametrize(
    ("step", "outcome"),
    [(s, "rolled back") for s in ("pull", "prepare", "apply", "probe", "reload", "load")],
)
def test_failure_of_any_step_leaves_the_old_image_live(world: World, step: str, outcome: str) -> None:
    fault = EngineError(f"cannot {step}", "the engine is busy", "Wait.")
    if step == "load":
        # Asked before, too: only what is asked about the new one fails.
        world.probe = lambda host: (world.faults.update(load=fault), World.probe(world, host))[1]  # type: ignore[method-assign]
    else:
        world.faults[step] = fault
    with pytest.raises(InfraError):
        deploy(world.installation, "sales", NEW, **by(world))
    assert is_live(world, OLD)
    assert read_records(world.installation)[-1].outcome == outcome


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ({"schedules": []}, "schedule 'daily', which is there now, is not in the image"),
        ({"assets": ["people/marts/x"]}, "none of its 1 assets is below 'sales'"),
        ({"metadata": {"project": "people"}}, "the image has the code of project 'people'"),
    ],
)
def test_image_with_less_or_other_code_never_reaches_dagster(world: World, code: dict[str, Any], reason: str) -> None:
    world.code[NEW] = code
    world.faults["reload"] = AssertionError("Dagster was sent there")
    with pytest.raises(DeployError, match=reason):
        deploy(world.installation, "sales", NEW, **by(world))
    world.faults.clear()
    assert is_live(world, OLD)


def test_removed_schedule_may_go_when_it_is_meant_and_a_declared_one_never(world: World) -> None:
    world.code[NEW] = {"schedules": []}
    text = world.installation.registry_file.read_text()
    world.installation.registry_file.write_text(text + "    schedules: [daily]\n")
    with pytest.raises(DeployError, match="schedule 'daily', which the registry declares, is not in the image"):
        deploy(world.installation, "sales", NEW, allow_removed=True, **by(world))
    world.installation.registry_file.write_text(text)
    deploy(world.installation, "sales", NEW, allow_removed=True, **by(world))
    assert is_live(world, NEW)


def test_lost_state_of_a_schedule_is_a_failure(world: World) -> None:
    world.states[NEW] = "STOPPED"
    with pytest.raises(DeployError, match="schedule r/daily was RUNNING before and is STOPPED now"):
        deploy(world.installation, "sales", NEW, **by(world))
    assert is_live(world, OLD)


def test_container_that_ends_is_a_failure_with_its_last_lines(world: World) -> None:
    host = "dml-sales-" + "b" * 12
    world.containers[host] = ContainerState(exists=True, status="exited", exit_code=7)
    with pytest.raises(DeployError, match=f"last lines of {host}") as raised:
        deploy(world.installation, "sales", NEW, **by(world))
    assert raised.value.why == "its container ended with exit code 7"
    assert is_live(world, OLD)


def test_image_that_breaks_down_after_going_live_is_taken_back(world: World) -> None:
    host = "dml-sales-" + "b" * 12

    def traffic(asked: str) -> Traffic | None:
        world.containers[host] = ContainerState(exists=True, status="restarting", exit_code=1, restarts=1)
        return World.traffic(world, asked)

    world.traffic = traffic  # type: ignore[method-assign]
    with pytest.raises(DeployError, match="after it went live"):
        deploy(world.installation, "sales", NEW, **by(world))
    assert is_live(world, OLD)
    assert [r.outcome for r in read_records(world.installation)] == ["live", "live", "rolled back"]


def test_interruption_puts_everything_back(world: World) -> None:
    world.faults["probe"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        deploy(world.installation, "sales", NEW, **by(world))
    assert is_live(world, OLD)


@pytest.mark.parametrize(("step", "image"), [("apply", OLD), ("probe", OLD), ("reload", OLD), ("traffic", NEW)])
def test_killed_deploy_is_put_right_by_the_next_command(
    world: World, step: str, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Command, "_take_back", lambda *_: None)
        world.faults[step] = SystemExit(137)
        with pytest.raises(SystemExit):
            deploy(world.installation, "sales", NEW, **by(world))
    assert not is_live(world, image)
    options = {k: v for k, v in by(world).items() if k != "who"}
    assert repair(world.installation, **options) == ["sales"]
    assert is_live(world, image)
    assert repair(world.installation, **options) == []


def test_rollback_goes_to_the_image_before_and_back_again(world: World) -> None:
    with pytest.raises(ConfigError, match="no other image was live before"):
        rollback(world.installation, "sales", **by(world))
    deploy(world.installation, "sales", NEW, **by(world))
    rollback(world.installation, "sales", **by(world))
    assert is_live(world, OLD)
    assert read_records(world.installation)[-1].what == "rollback"
    rollback(world.installation, "sales", **by(world))
    assert is_live(world, NEW)


def test_failed_first_deploy_leaves_nothing(installation: Installation, world: World) -> None:
    people = {**ENTRY, "name": "people", "image": f"registry.example.com/people@sha256:{'c' * 64}"}
    registry_edit.register(installation, people)
    world.faults["probe"] = EngineError("cannot probe", "x", "y")
    with pytest.raises(EngineError):
        deploy(installation, "people", **by(world))
    assert is_live(world, OLD)
    assert "people" not in world.workspace
    assert not (installation.state / "projects" / "people.json").exists()
    assert read_records(installation)[-1].outcome == "failed"


def test_deploy_all_goes_on_after_a_bad_one_and_names_it(installation: Installation, world: World) -> None:
    for name, digit in (("people", "c"), ("shop", "d")):
        image = f"registry.example.com/{name}@sha256:{digit * 64}"
        registry_edit.register(installation, {**ENTRY, "name": name, "image": image})
        world.code[image] = {"assets": [f"{'sales' if name == 'people' else name}/marts/x"]}
    with pytest.raises(CheckFailedError, match="1 of 3 did not go live: people"):
        deploy_all(installation, **by(world))
    assert set(world.workspace) == {"sales", "shop"}


def test_code_servers_that_are_gone_come_back_with_deploy_all(world: World) -> None:
    world.stacks.clear()
    (done,) = deploy_all(world.installation, **by(world))
    assert not done.changed
    assert is_live(world, OLD)


def test_changed_settings_are_deployed_beside_the_old_ones(world: World) -> None:
    path = world.installation.registry_file
    path.write_text(path.read_text() + "    memory: 1g\n")
    (done,) = deploy_all(world.installation, **by(world))
    assert done.changed
    assert is_live(world, OLD)
    (service,) = world.stacks["dml-sales"].values()
    assert service["mem_limit"] == "1024m"


def test_removed_project_is_off_dagster_and_the_list(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = type("Run", (), {"location": "sales"})()
    monkeypatch.setattr(world, "runs", lambda **_: [run])
    options = {**by(world)}
    with pytest.raises(PermanentError, match="1 of its runs are going on or queued"):
        remove(world.installation, "sales", **options)
    remove(world.installation, "sales", force=True, **options)
    assert (world.workspace, world.stacks) == ({}, {})
    assert "sales" not in world.installation.registry_file.read_text()
    assert read_records(world.installation)[-1].outcome == "removed"


def test_nothing_is_changed_while_dagster_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_: str) -> None:
        raise RetryableError("cannot ask Dagster", "no webserver", "Run: dml infra up")

    before = dict(world.stacks)
    with monkeypatch.context() as patch:
        patch.setattr(world, "location", silent)
        with pytest.raises(RetryableError):
            deploy(world.installation, "sales", NEW, **by(world))
    assert world.stacks == before
    assert is_live(world, OLD)


def test_wrong_repository_and_tag_are_refused_before_anything(world: World) -> None:
    with pytest.raises(ConfigError, match="not of its registered repository"):
        deploy(world.installation, "sales", "elsewhere/sales@sha256:" + "0" * 64, **by(world))
    with pytest.raises(ConfigError, match="has tag '2' and no digest"):
        deploy(world.installation, "sales", "registry.example.com/project-sales:2", **by(world))


def test_never_healthy_is_a_failure_in_time(world: World) -> None:
    world.containers["dml-sales-" + "b" * 12] = ContainerState(exists=True, status="running", health="starting")
    impatient = replace(world.installation, env={**world.installation.env, "DML_DEPLOY_TIMEOUT_S": "1"})
    world.installation = impatient
    with pytest.raises(DeployError, match="after 1 s"):
        deploy(impatient, "sales", NEW, **by(world))
    assert is_live(world, OLD)


def test_registry_that_cannot_be_written_is_told_and_the_deploy_is_live(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> str:
        raise PermissionError("read-only")

    options = {**by(world), "console": Console(record=True, width=300, quiet=False, file=io.StringIO())}
    with monkeypatch.context() as patch:
        patch.setattr(registry_edit, "set_image", refuse)
        assert deploy(world.installation, "sales", NEW, **options).changed
    assert f"could not be changed (read-only); write there: image: {NEW}" in options["console"].export_text()
    assert list(world.services().values()) == [NEW]


def test_webserver_that_starts_again_meanwhile_is_waited_for_on_the_way_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = [RetryableError("cannot ask Dagster", "it starts", "Wait.") for _ in range(3)]

    def reload(self: World) -> None:
        if silent:
            raise silent.pop()
        World.reload(self)

    monkeypatch.setattr(world, "reload", lambda: reload(world))
    with pytest.raises(RetryableError):
        deploy(world.installation, "sales", NEW, **by(world))
    assert silent == []
    assert is_live(world, OLD)


def test_old_server_whose_connections_cannot_be_counted_is_given_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "BLIND_S", 0.01)
    monkeypatch.setattr(world, "traffic", lambda _: None)
    options = {**by(world), "console": Console(record=True, width=300, file=io.StringIO())}
    deploy(world.installation, "sales", NEW, **options)
    assert "does not let its connections be counted: waiting 0.01 s" in options["console"].export_text()
    assert is_live(world, NEW)


def test_deploy_that_was_cut_short_by_a_lost_server_is_put_right_on_the_restored_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Command, "_take_back", lambda *_: None)
        world.faults["reload"] = SystemExit(137)
        with pytest.raises(SystemExit):
            deploy(world.installation, "sales", NEW, **by(world))
    world.stacks.clear()
    pulled: list[str] = []
    monkeypatch.setattr(world, "ensure_image", lambda image: pulled.append(image))
    deploy_all(world.installation, **by(world))
    assert is_live(world, OLD)
    assert OLD in pulled
