"""What is deployed: a state file for each project, and the workspace folder that Dagster reads, rendered from them.

A project's state file is the journal of its deploy. Both are replaced in one step, so a killed command leaves the old
or the new content, and the next command can tell how far it came.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from dml_infra.errors import ConfigError, RetryableError
from dml_infra.installation import Installation
from dml_infra.records import whoami
from dml_infra.render import Routes, Server, render_locations, render_workspace

# starting: `next` is made, nobody was sent to it. switched: the workspace names it. retiring: it is `live` and proven,
# `retiring` may still be in use. removing: the project goes.
Phase = Literal["idle", "starting", "switched", "retiring", "removing"]
KEEP_IMAGES = 10


@dataclass(frozen=True)
class ProjectState:
    """A project on this server.

    Args:
        live: the code server that the last successful deploy left.
        next: the one that a deploy is bringing up.
        retiring: the one that the last deploy replaced and that may still be running.
        previous: images that were live before, newest first.
        deploy: of the deploy that is going on: who, what, from, to, began (seconds since the epoch).
    """

    project: str
    live: Server | None = None
    next: Server | None = None
    retiring: Server | None = None
    phase: Phase = "idle"
    previous: tuple[str, ...] = ()
    deploy: dict[str, Any] | None = None

    @property
    def routed(self) -> Server | None:
        """The code server that the workspace names."""
        if self.phase == "removing":
            return None
        return self.next if self.phase == "switched" else self.live

    def with_live(self, server: Server) -> ProjectState:
        """After a deploy: the server is live and the one before it may go."""
        old = self.live
        images = [old.image] if old else []
        images += [image for image in self.previous if image not in images]
        kept = tuple(image for image in images if image != server.image)[:KEEP_IMAGES]
        return replace(self, live=server, next=None, retiring=old, phase="retiring", previous=kept)


def load_state(installation: Installation, project: str) -> ProjectState:
    """A project's state; an empty one where it was never deployed."""
    path = _state_file(installation, project)
    if not path.is_file():
        return ProjectState(project)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        servers = {n: Server.from_json(values[n]) if values.get(n) else None for n in ("live", "next", "retiring")}
        return ProjectState(**{**values, **servers, "previous": tuple(values.get("previous", ()))})
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"cannot read {path}",
            str(error),
            "Move it away and deploy the project again; its containers are then replaced.",
        ) from error


def save_state(installation: Installation, state: ProjectState) -> None:
    """Write a project's state; it is on the disk when this returns."""
    servers = {n: s.to_json() if (s := getattr(state, n)) else None for n in ("live", "next", "retiring")}
    content = {**vars(state), **servers, "previous": list(state.previous)}
    _replace(_state_file(installation, state.project), json.dumps(content, indent=1))


def forget_state(installation: Installation, project: str) -> None:
    """The project is no longer on this server."""
    _state_file(installation, project).unlink(missing_ok=True)


def deployed_projects(installation: Installation) -> list[str]:
    """Names of all projects with a state."""
    return sorted(path.stem for path in (installation.state / "projects").glob("*.json"))


def load_routes(installation: Installation) -> Routes:
    """Where the projects' code is, by their states."""
    states = [load_state(installation, project) for project in deployed_projects(installation)]
    servers = {state.project: state.routed for state in states}
    return Routes(
        servers={project: server for project, server in servers.items() if server},
        previous={state.project: _images(state) for state in states},
    )


def write_workspace(installation: Installation) -> None:
    """Render the workspace folder from the projects' states. `up` calls it before Dagster starts for the first time."""
    folder = installation.state / "workspace"
    with swap_lock(installation):
        routes = load_routes(installation)
        # What a run gets comes first: nobody asks for a new server's runs before the workspace names it.
        _replace(folder / "locations.json", render_locations(routes))
        _replace(folder / "workspace.yaml", render_workspace(routes))


@contextmanager
def project_lock(installation: Installation, project: str) -> Iterator[None]:
    """One deploy of a project at a time; the engine of the lock is the kernel's, so a killed process holds none.

    Raises:
        RetryableError: somebody is at it.
    """
    path = _lock_file(installation, f"deploy-{project}")
    lock = FileLock(str(path), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        holder = path.with_suffix(".who").read_text() if path.with_suffix(".who").is_file() else "somebody"
        raise RetryableError(
            f"cannot deploy {project!r}", f"{holder} is deploying it now", "Run this again when that has ended."
        ) from error
    try:
        path.with_suffix(".who").write_text(f"{whoami()} (process {os.getpid()})")
        yield
    finally:
        lock.release()


def swap_lock(installation: Installation) -> FileLock:
    """One change of the workspace folder at a time."""
    return FileLock(str(_lock_file(installation, "workspace")), timeout=60)


def _images(state: ProjectState) -> tuple[str, ...]:
    """Images besides the routed one of which runs may still be queued."""
    images = [*(s.image for s in (state.live, state.next, state.retiring) if s), *state.previous]
    routed = state.routed.image if state.routed else None
    return tuple(dict.fromkeys(image for image in images if image != routed))


def _state_file(installation: Installation, project: str) -> Path:
    return installation.state / "projects" / f"{project}.json"


def _lock_file(installation: Installation, name: str) -> Path:
    path = installation.state / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".new")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        # Read by the containers' user.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
