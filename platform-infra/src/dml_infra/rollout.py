"""The steps of one deploy: the new code server beside the old, checked, switched to, checked again, the old retired.

Every step is written into the project's state before it is done, so that `undo` and `repair` know what there is to take
back, also after the command was killed. Who may call this and when is in ``deploy``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from dml_infra.core import ContainerState, Core
from dml_infra.dagster_api import Location
from dml_infra.drivers import StackDriver
from dml_infra.errors import CheckFailedError, InfraError
from dml_infra.installation import Installation
from dml_infra.registry import CodeLocation
from dml_infra.render import Server, plan_server, render_stack, stack_name
from dml_infra.workspace import ProjectState, forget_state, save_state, write_workspace

Say = Callable[[str], None]

# `DML_DEPLOY_TIMEOUT_S`: how long a code server may take until it is healthy. With the way back it is under a minute.
HEALTHY_TIMEOUT_S = 45
VERIFY_TIMEOUT_S = 20
# The daemon reads the workspace every 10 s and looks at its clock every 5; then a tick may go on for a minute.
RETIRE_TIMEOUT_S = 180
# After a bad image the old state is back at once; its container stays this long for a daemon that has just met it.
UNDO_QUIET_TIMEOUT_S = 25
# What uses a code server asks it every second; a health check connects once in 30. Two windows without anybody.
QUIET_WINDOW_S = 3.0
QUIET_WINDOWS = 2
QUIET_CONNECTIONS = 1
POLL_S = 0.5


class DeployError(CheckFailedError):
    """A deploy did not go live. ``detail`` is the load error as Dagster shows it, or the container's last lines."""

    def __init__(self, what: str, why: str, fix: str, detail: str = "") -> None:
        super().__init__(what, why, fix)
        self.detail = detail

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.detail}\n\n{text}" if self.detail else text


@dataclass(frozen=True)
class Baseline:
    """What was there before, in Dagster's eyes: a deploy may add to it and takes nothing away by accident."""

    schedules: frozenset[str] = frozenset()
    sensors: frozenset[str] = frozenset()
    states: Mapping[str, tuple[str, str]] | None = None


class Rollout:
    """Brings one project's code server live and takes it back.

    Args:
        core: the running core.
        driver: applies the project's stack.
        say: prints a line of progress.
    """

    def __init__(self, core: Core, driver: StackDriver, say: Say) -> None:
        self._core = core
        self._driver = driver
        self._say = say

    @property
    def _installation(self) -> Installation:
        return self._core.installation

    # ---- Forwards ----------------------------------------------------------------------------------------------------
    def baseline(self, state: ProjectState) -> Baseline:
        """What Dagster has of the project now; where it cannot load it, what the last deploy saw."""
        location = self._core.api.location(state.project)
        if location and location.loaded:
            return Baseline(
                frozenset(location.keys("schedule")),
                frozenset(location.keys("sensor")),
                {f"{i.kind} {i.key}": (i.status, i.default_status) for i in location.instigators},
            )
        if state.live:
            return Baseline(frozenset(state.live.schedules), frozenset(state.live.sensors))
        return Baseline()

    def start(self, state: ProjectState, location: CodeLocation, deploy: dict[str, Any]) -> ProjectState:
        """Start the new code server beside the old one and wait until it answers."""
        old = [server for server in (state.live, state.retiring) if server]
        server = plan_server(self._installation, location, beside=old)
        state = replace(state, next=server, phase="starting", deploy=deploy)
        save_state(self._installation, state)
        self._say(f"starting {server.host}" + (f" beside {state.live.host}" if state.live else ""))
        self._apply(state.project, *([state.live] if state.live else []), server)
        self._wait_healthy(server)
        return state

    def examine(self, server: Server, location: CodeLocation, baseline: Baseline, *, allow_removed: bool) -> None:
        """Ask the new code server what it offers before anybody is sent there."""
        offer = self._core.probe(server.host)
        if "error" in offer:
            raise self._bad(location.name, "its code does not load", detail=str(offer["error"]))
        if offer["image"] != server.image:
            raise self._bad(location.name, f"it says that its image is {offer['image']!r}, not {server.image!r}")
        repositories: Mapping[str, Any] = offer["repositories"]
        for repository in repositories.values():
            project = repository["metadata"].get("project")
            if project not in (None, location.name):
                raise self._bad(location.name, f"the image has the code of project {project!r}")
            assets = repository["assets"]
            if assets and not any(asset.split("/")[0] == location.name for asset in assets):
                raise self._bad(
                    location.name, f"none of its {len(assets)} assets is below {location.name!r} (one is {assets[0]!r})"
                )
        schedules = {f"{r}/{n}" for r, content in repositories.items() for n in content["schedules"]}
        sensors = {f"{r}/{n}" for r, content in repositories.items() for n in content["sensors"]}
        self._check_names(location, baseline, schedules, sensors, allow_removed=allow_removed)

    def switch(self, state: ProjectState) -> ProjectState:
        """Send Dagster to the new code server."""
        state = replace(state, phase="switched")
        save_state(self._installation, state)
        self._publish()
        return state

    def verify(self, server: Server, location: CodeLocation, baseline: Baseline, *, allow_removed: bool) -> Server:
        """Check what Dagster has loaded. Returns: the server with the schedules and sensors that it has."""
        found = self._loaded(location.name, server)
        self._check_names(
            location,
            baseline,
            set(found.keys("schedule")),
            set(found.keys("sensor")),
            allow_removed=allow_removed,
        )
        for instigator in found.instigators:
            name = f"{instigator.kind} {instigator.key}"
            before, default_before = (baseline.states or {}).get(name, (None, None))
            if before is None or before == instigator.status:
                continue
            if default_before != instigator.default_status:
                self._say(f"{name} is {instigator.status} now: the code's own default changed")
                continue
            raise self._bad(location.name, f"{name} was {before} before and is {instigator.status} now")
        container = self._core.container(server.host)
        if not container.is_up:
            raise self._bad(location.name, container.describe(), detail=self._core.logs(server.host))
        return replace(server, schedules=found.keys("schedule"), sensors=found.keys("sensor"))

    def retire(self, state: ProjectState) -> ProjectState:
        """Stop the old code server once nothing uses it; the new one is watched meanwhile."""
        old, new = state.retiring, state.live
        if new is None:
            return state
        if old and not self._wait_unused(old, RETIRE_TIMEOUT_S, watch=new):
            self._say(f"{old.host} is still in use: left running, the next deploy stops it")
            return state
        self._apply(state.project, new)
        state = replace(state, retiring=None, phase="idle", deploy=None)
        save_state(self._installation, state)
        return state

    # ---- Backwards ---------------------------------------------------------------------------------------------------
    def undo(self, state: ProjectState) -> ProjectState:
        """Go back to what was live; whatever fails on the way, the rest is done and the first failure raised then."""
        was_switched, bad = state.phase == "switched", state.next
        state = replace(state, phase="starting")
        save_state(self._installation, state)
        failures: list[InfraError] = []
        if was_switched:
            with _collect(failures):
                self._publish()
            if state.live:
                with _collect(failures):
                    self._loaded(state.project, state.live)
            if state.live and bad and self._core.container(bad.host).is_up:
                # The daemon may have met it; it goes back by itself within seconds.
                self._wait_unused(bad, UNDO_QUIET_TIMEOUT_S)
        with _collect(failures):
            if state.live:
                self._apply(state.project, state.live, *([state.retiring] if state.retiring else []))
            else:
                self._driver.remove(stack_name(self._installation, state.project))
        if failures:
            raise failures[0]
        state = replace(state, next=None, phase="retiring" if state.retiring else "idle", deploy=None)
        if state.live:
            save_state(self._installation, state)
        else:
            forget_state(self._installation, state.project)
        return state

    def go_back(self, state: ProjectState) -> ProjectState:
        """Undo a deploy that was live already: the old code server is still there."""
        old, new = state.retiring, state.live
        images = tuple(i for i in state.previous if old is None or i != old.image)
        return self.undo(replace(state, live=old, next=new, retiring=None, phase="switched", previous=images))

    def revive(self, state: ProjectState) -> None:
        """Bring up the live code server again, as it is."""
        server = state.live
        if server is None:
            return
        began = self._core.container(server.host)
        self._apply(state.project, server, *([state.retiring] if state.retiring else []))
        if began.status == "running" and not began.is_starting:
            self._core.restart(server.host)
        self._wait_healthy(server, began.restarts)
        if not self.is_live(server):
            self._publish()
            self._loaded(state.project, server)

    def wake(self, state: ProjectState) -> None:
        """Start the live code server where it is not running, and wait for nothing."""
        server = state.live
        if server and self._core.container(server.host).status != "running":
            with contextlib.suppress(InfraError):  # told by the deploy that follows
                self._core.ensure_image(server.image)
                self._apply(state.project, server)

    def withdraw(self, state: ProjectState) -> None:
        """Take the project off Dagster and stop its code servers."""
        save_state(self._installation, replace(state, phase="removing"))
        self._publish()
        for server in (state.live, state.next, state.retiring):
            if server:
                self._wait_unused(server, UNDO_QUIET_TIMEOUT_S)
        self._driver.remove(stack_name(self._installation, state.project))
        forget_state(self._installation, state.project)
        write_workspace(self._installation)

    # ---- Looking -----------------------------------------------------------------------------------------------------
    def is_live(self, server: Server) -> bool:
        """Does it run, and has Dagster loaded it?"""
        if not self._core.container(server.host).is_up:
            return False
        location = self._core.api.location(project_of(server))
        return bool(location and location.loaded and location.image == server.image and location.host == server.host)

    def _publish(self) -> None:
        write_workspace(self._installation)
        self._core.reload()

    def _apply(self, project: str, *servers: Server) -> None:
        stack = stack_name(self._installation, project)
        unique = {server.key: server for server in servers}
        self._driver.apply(stack, render_stack(self._installation, project, unique.values()), {})

    def _wait_healthy(self, server: Server, restarts: int = 0) -> None:
        limit_s = self._installation.number("DML_DEPLOY_TIMEOUT_S", HEALTHY_TIMEOUT_S)
        deadline = time.monotonic() + limit_s
        state = ContainerState(exists=False)
        while time.monotonic() < deadline:
            state = self._core.container(server.host)
            if state.is_up:
                return
            if state.has_ended(restarts):
                break
            time.sleep(POLL_S)
        why = state.describe() + ("" if state.has_ended(restarts) else f" after {limit_s} s")
        raise self._bad(project_of(server), why, detail=self._core.logs(server.host))

    def _loaded(self, project: str, server: Server) -> Location:
        """Wait until Dagster has loaded the server; an error is one at once, because a reload has just ended."""
        deadline = time.monotonic() + VERIFY_TIMEOUT_S
        why = "Dagster does not have it"
        while True:
            found = self._core.api.location(project)
            if found and found.error:
                raise self._bad(project, "Dagster cannot load it", detail=found.error)
            if found and found.loaded:
                if (found.host, found.image) == (server.host, server.image):
                    return found
                why = f"Dagster has {found.image!r} of {found.host!r}, not {server.image!r} of {server.host!r}"
            if time.monotonic() > deadline:
                raise self._bad(project, why)
            time.sleep(POLL_S)

    def _wait_unused(self, server: Server, limit_s: float, *, watch: Server | None = None) -> bool:
        """Wait until no process asks this server any more: neither new connections nor open ones, for some seconds."""
        deadline = time.monotonic() + limit_s
        quiet = 0
        before = self._core.traffic(server.host)
        while before is not None and quiet < QUIET_WINDOWS:
            if time.monotonic() > deadline:
                return False
            time.sleep(QUIET_WINDOW_S)
            now = self._core.traffic(server.host)
            if now is None:
                break
            is_quiet = now.open == 0 and now.accepted - before.accepted <= QUIET_CONNECTIONS
            quiet, before = (quiet + 1 if is_quiet else 0), now
            if watch and (state := self._core.container(watch.host)).has_ended():
                raise self._bad(
                    project_of(watch), f"{state.describe()} after it went live", self._core.logs(watch.host)
                )
        return True

    def _check_names(
        self, location: CodeLocation, baseline: Baseline, schedules: set[str], sensors: set[str], *, allow_removed: bool
    ) -> None:
        for kind, declared, before, found in (
            ("schedule", location.schedules, baseline.schedules, schedules),
            ("sensor", location.sensors, baseline.sensors, sensors),
        ):
            names = {key.partition("/")[2] for key in found}
            absent = sorted(set(declared) - names)
            if absent:
                raise self._bad(
                    location.name, f"{kind} {absent[0]!r}, which the registry declares, is not in the image"
                )
            lost = sorted(before - found)
            if lost and not allow_removed:
                raise self._bad(
                    location.name,
                    f"{kind} {lost[0].partition('/')[2]!r}, which is there now, is not in the image"
                    + (f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""),
                    fix="Bring it back, or deploy with --allow-removed if it is meant to go.",
                )

    def _bad(self, project: str, why: str, detail: str = "", fix: str = "") -> DeployError:
        return DeployError(
            f"cannot deploy {project!r}", why, fix or "Correct the project and deploy a new image.", detail
        )


def project_of(server: Server) -> str:
    """Project of a server, by its labels."""
    return str(server.service["labels"]["dml.project"])


@contextmanager
def _collect(failures: list[InfraError]) -> Iterator[None]:
    try:
        yield
    except InfraError as error:
        failures.append(error)
