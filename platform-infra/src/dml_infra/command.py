"""One command on one project: deploy, roll back, repair, remove; with its progress and its record.

The caller holds the project's lock. The steps are in ``rollout``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape

from dml_infra import networks, registry_edit
from dml_infra.core import Core
from dml_infra.drivers import StackDriver, get_driver
from dml_infra.errors import InfraError, PermanentError
from dml_infra.installation import Installation
from dml_infra.offers import Baseline, DeployError
from dml_infra.records import Outcome, Record, add_record, whoami
from dml_infra.registry import CodeLocation, load_registry
from dml_infra.render import plan_server, same_server
from dml_infra.rollout import Rollout
from dml_infra.workspace import ProjectState, load_state, save_state

What = Literal["deploy", "rollback", "remove"]
# Of a load error or of logs, in the record.
DETAIL_CHARACTERS = 8000
_UNFINISHED = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")


@dataclass(frozen=True)
class Deployed:
    """What a deploy left behind. ``seconds`` until live; ``changed`` is false when the image was live already."""

    project: str
    image: str
    previous: str | None
    seconds: float
    changed: bool


class Command:
    """One command on one project."""

    def __init__(
        self,
        installation: Installation,
        project: str,
        what: What,
        driver: StackDriver | None,
        who: str | None,
        console: Console | None,
        core: Core | None,
    ) -> None:
        self._installation = installation
        self._project = project
        self._what: What = what
        self._who = who or whoami()
        self._console = console or Console()
        self._core = core or Core(installation)
        self._rollout = Rollout(self._core, driver or get_driver(installation), self._say)
        self._began = time.monotonic()

    def deploy(self, location: CodeLocation, *, allow_removed: bool) -> Deployed:
        """Bring an image live, or everything back as it was."""
        state = load_state(self._installation, self._project)
        before = state.live.image if state.live else None
        wanted = plan_server(self._installation, location, beside=[state.live] if state.live else [])
        # Asked first: without Dagster nothing can be verified, so nothing is changed.
        baseline = self._rollout.baseline(state)
        if state.live and same_server(state.live, wanted):
            if not self._rollout.is_live(state.live):
                self._core.ensure_image(location.image)
                self._core.prepare(location)
                self._say(f"{state.live.host} is registered and not well: starting it again")
                self._rollout.revive(state)
            self._write_registry(location.image)
            self._say("live already with this image and these settings")
            return Deployed(self._project, location.image, before, self._seconds(), changed=False)
        try:
            if self._core.ensure_image(location.image):
                self._say(f"fetched {location.image}")
            self._core.prepare(location)
        except InfraError as error:
            self._record(before, location.image, "rolled back" if before else "failed", error)
            raise
        return self._go(state, location, before, baseline, allow_removed)

    def _go(
        self, state: ProjectState, location: CodeLocation, before: str | None, baseline: Baseline, allow_removed: bool
    ) -> Deployed:
        rollout = self._rollout
        try:
            journal = {"what": self._what, "who": self._who, "from": before, "to": location.image, "began": time.time()}
            state = rollout.start(state, location, journal)
            assert state.next is not None
            self._say("healthy; asking what it offers")
            rollout.examine(state.next, location, baseline, allow_removed=allow_removed)
            server = state.next
            state = rollout.switch(state)
            self._say("switched; checking what Dagster has loaded")
            server = rollout.verify(server, location, baseline, allow_removed=allow_removed)
        except BaseException as error:
            self._take_back(before, location.image, error)
            raise
        state = state.with_live(server)
        save_state(self._installation, state)
        seconds = self._seconds()
        self._console.print(f"[green]{self._project} is live after {seconds:.1f} s[/green] with {location.image}")
        self._record(before, location.image, "live")
        self._write_registry(location.image)
        self._retire(state)
        return Deployed(self._project, location.image, before, seconds, changed=True)

    def _retire(self, state: ProjectState) -> None:
        """The old code server goes; where the new one breaks down before, the old one is taken back."""
        old, new = state.retiring, state.live
        try:
            state = self._rollout.retire(state)
        except DeployError as error:
            if old is None or new is None:
                raise
            self._say(f"going back: {error.why}")
            self._rollout.go_back(state)
            self._write_registry(old.image)
            self._record(old.image, new.image, "rolled back", error)
            raise
        except InfraError as error:
            # It is live: what is left to do is no reason to say that the deploy failed.
            self._say(f"the old code server is not stopped ({error.why}); the next deploy does it")
            return
        if state.phase == "idle" and old:
            self._say("the old code server is stopped")

    def _take_back(self, before: str | None, image: str, error: BaseException) -> None:
        # By what is on the disk: an interruption may have come between a step and this process's knowledge of it.
        state = load_state(self._installation, self._project)
        if state.phase not in ("starting", "switched"):
            return
        self._say("going back to what was live" if before else "removing it")
        try:
            self._rollout.undo(state)
        except InfraError as second:
            self._record(before, image, "interrupted", error)
            raise InfraError(
                f"cannot go back after a failed deploy of {self._project!r}",
                f"{second.what}: {second.why}; the deploy failed because {getattr(error, 'why', error)!r}",
                f"When that is well again: dml infra deploy {self._project}",
            ) from error
        self._record(before, image, "rolled back" if before else "failed", error)
        self._say(f"back to {before}" if before else "nothing of it is left")

    def repair(self) -> bool:
        """Finish or undo what a killed command left. Returns: whether there was something."""
        state = load_state(self._installation, self._project)
        if state.phase == "idle":
            return False
        journal = state.deploy or {}
        # On a restored server not even the old one is there.
        self._rollout.wake(state)
        if state.phase in ("starting", "switched"):
            self._say(f"an earlier deploy of {journal.get('to')} was cut short: going back first")
            self._rollout.undo(state)
            ended = InfraError(f"cannot deploy {self._project!r}", "the command was killed", "Run it again.")
            self._record(journal.get("from"), journal.get("to"), "interrupted", ended)
        elif state.phase == "retiring" and state.live:
            self._say("an earlier deploy went live and was cut short: finishing it first")
            self._write_registry(state.live.image)
            self._retire(state)
        elif state.phase == "removing":
            self._rollout.withdraw(state)
        return True

    def remove(self, *, force: bool) -> None:
        """Take the project off this server."""
        runs = [run for run in self._core.api.runs(statuses=_UNFINISHED) if run.location == self._project]
        if runs and not force:
            raise PermanentError(
                f"cannot remove {self._project!r}",
                f"{len(runs)} of its runs are going on or queued",
                "Wait for them or end them in the UI; with --force they go on and nothing watches them.",
            )
        state = load_state(self._installation, self._project)
        image = state.live.image if state.live else None
        self._rollout.withdraw(state)
        self._record(image, None, "removed")
        if any(location.name == self._project for location in load_registry(self._installation, check_budget=False)):
            registry_edit.unregister(self._installation, self._project)
        networks.detach_core(self._installation, self._project)
        self._say("removed; its data, secrets and run history stay")

    def _write_registry(self, image: str) -> None:
        """Write what is live into the list. It is live whatever becomes of the file, so that is only told."""
        try:
            registry_edit.set_image(self._installation, self._project, image)
        except (InfraError, OSError) as error:
            self._say(f"{self._installation.registry_file} could not be changed ({error}); write there: image: {image}")

    def _record(
        self, before: str | None, image: str | None, outcome: Outcome, error: BaseException | None = None
    ) -> None:
        why = ""
        if error is not None:
            why = f"{getattr(error, 'why', '') or type(error).__name__}\n{getattr(error, 'detail', '')}".strip()
        record = Record(
            self._what, self._who, self._project, before, image, self._seconds(), outcome, why[-DETAIL_CHARACTERS:]
        )
        add_record(self._installation, record)

    def _seconds(self) -> float:
        return round(time.monotonic() - self._began, 1)

    def _say(self, text: str) -> None:
        self._console.print(f"{self._seconds():6.1f} s  {self._project}: {escape(text)}", highlight=False)
