"""The steps of one deploy: the new code server beside the old, checked, switched to, checked again, the old retired.

Every step is written into the project's state before it is done, so that `undo` and `repair` know what there is to take
back, also after the command was killed. Who may call this and when is in ``deploy``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from dml_infra.core import ContainerState, Core
from dml_infra.dagster_api import Location
from dml_infra.drivers import StackDriver
from dml_infra.errors import EngineError, InfraError, RetryableError
from dml_infra.installation import Installation
from dml_infra.offers import Baseline, bad_image, baseline_of, check_loaded, check_offer
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
UNDO_PUBLISH_TIMEOUT_S = 20
# What uses a code server asks it every second; a health check connects once in 30. Two windows without anybody.
QUIET_WINDOW_S = 3.0
QUIET_WINDOWS = 2
QUIET_CONNECTIONS = 1
# For an image without `cat`: longer than Dagster's processes take to turn away, and most ticks.
BLIND_S = 30.0
POLL_S = 0.5


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
        """What is there before a deploy."""
        return baseline_of(self._core.api.location(state.project), state.live)

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
        check_offer(self._core.probe(server.host), server, location, baseline, allow_removed=allow_removed)

    def switch(self, state: ProjectState) -> ProjectState:
        """Send Dagster to the new code server."""
        state = replace(state, phase="switched")
        save_state(self._installation, state)
        self._publish()
        return state

    def verify(self, server: Server, location: CodeLocation, baseline: Baseline, *, allow_removed: bool) -> Server:
        """Check what Dagster has loaded. Returns: the server with the schedules and sensors that it has."""
        found = self._loaded(location.name, server)
        for note in check_loaded(found, location, baseline, allow_removed=allow_removed):
            self._say(note)
        container = self._core.container(server.host)
        if not container.is_up:
            raise bad_image(location.name, container.describe(), detail=self._core.logs(server.host))
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
                self._publish_patiently()
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

    def _publish_patiently(self) -> None:
        """On the way back: a webserver that is just starting again is waited for."""
        deadline = time.monotonic() + UNDO_PUBLISH_TIMEOUT_S
        while True:
            try:
                return self._publish()
            except RetryableError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S)

    def _apply(self, project: str, *servers: Server) -> None:
        stack = stack_name(self._installation, project)
        unique = {server.key: server for server in servers}
        for server in unique.values():
            # Of what runs already too: an image that lost its name here would stop Compose, also on the way back.
            with contextlib.suppress(EngineError):  # Compose says it again, of the one it needs
                self._core.ensure_image(server.image)
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
        raise bad_image(project_of(server), why, detail=self._core.logs(server.host))

    def _loaded(self, project: str, server: Server) -> Location:
        """Wait until Dagster has loaded the server; an error is one at once, because a reload has just ended."""
        deadline = time.monotonic() + VERIFY_TIMEOUT_S
        why = "Dagster does not have it"
        while True:
            found = self._core.api.location(project)
            if found and found.error:
                raise bad_image(project, "Dagster cannot load it", detail=found.error)
            if found and found.loaded:
                if (found.host, found.image) == (server.host, server.image):
                    return found
                why = f"Dagster has {found.image!r} of {found.host!r}, not {server.image!r} of {server.host!r}"
            if time.monotonic() > deadline:
                raise bad_image(project, why)
            time.sleep(POLL_S)

    def _wait_unused(self, server: Server, limit_s: float, *, watch: Server | None = None) -> bool:
        """Wait until no process asks this server any more: neither new connections nor open ones, for some seconds."""
        deadline = time.monotonic() + limit_s
        quiet = 0
        before = self._core.traffic(server.host)
        if before is None and self._core.container(server.host).status == "running":
            self._say(f"{server.host} does not let its connections be counted: waiting {BLIND_S:g} s instead")
            time.sleep(min(BLIND_S, limit_s))
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
                raise bad_image(
                    project_of(watch), f"{state.describe()} after it went live", self._core.logs(watch.host)
                )
        return True


def project_of(server: Server) -> str:
    """Project of a server, by its labels."""
    return str(server.service["labels"]["dml.project"])


@contextmanager
def _collect(failures: list[InfraError]) -> Iterator[None]:
    try:
        yield
    except InfraError as error:
        failures.append(error)
