"""The core stack as a whole: up and down."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from dml_infra import engine
from dml_infra.errors import RetryableError
from dml_infra.installation import Installation
from dml_infra.networks import attach_core, remove_network
from dml_infra.render import DATA_SERVICES as DATA

UP_TIMEOUT_S = 900.0
STOP_TIMEOUT_S = 60
# What `down --delete-data` leaves of the state folder.
KEPT = {"backups"}


def up(installation: Installation, console: Console, *, timeout_s: float = UP_TIMEOUT_S, check: bool = True) -> None:
    """Start everything and return when it is ready to be used; running again changes only what differs.

    Args:
        installation: what to start.
        console: where the steps are shown, and a first password once.
        timeout_s: how long the services may take to get ready.
        check: run the preflight first.

    Raises:
        InfraError: a check failed before anything was changed, or a step failed; running again goes on from there.
    """
    # Only what this command needs is imported, when it needs it: `dml --help` loads this module's caller.
    from dml_infra import database, objectstore, ready
    from dml_infra.budget import roles
    from dml_infra.deploy import deploy_all
    from dml_infra.preflight import preflight
    from dml_infra.registry import load_registry
    from dml_infra.secrets import ensure_secrets

    if check:
        preflight(installation, console)
    locations = load_registry(installation)
    names = [location.name for location in locations]
    deadline = time.monotonic() + timeout_s
    with change_lock(installation):
        with _step(console, "secrets"):
            ensure_secrets(installation, names)
            prepare_workspace(installation)
        with _step(console, "Postgres and object store"):
            engine.compose(installation, "up", "--detach", *DATA)
            _wait_for(installation, DATA, deadline)
        with _step(console, "databases, roles, buckets, policies"):
            database.provision(installation, roles(locations))
            objectstore.provision(installation, names)
        with _step(console, "code servers that ran before"):
            _wake_locations(installation, names)
        with _step(console, "all services"):
            engine.compose(installation, "up", "--detach", "--remove-orphans", timeout_s=timeout_s)
            for name in names:
                attach_core(installation, name)
        with _step(console, "waiting until the proxy lets a signed-in person through to Dagster"):
            ready.wait_until_ready(installation, deadline=deadline)
            # Again, for the rights on the tables that Dagster has made or migrated meanwhile.
            database.provision(installation, roles(locations))
    if names:
        deploy_all(installation, console=console)
    console.print(f"Ready: {installation.address}", markup=False, highlight=False)
    if first := first_sign_in(installation):
        console.print(first, markup=False, highlight=False, soft_wrap=True)


def down(installation: Installation, console: Console, *, delete_data: bool = False) -> None:
    """Stop and remove all containers and networks of the server, code locations and runs included.

    Args:
        installation: what to stop.
        console: where the steps are shown.
        delete_data: remove volumes, secrets and records too; backups below the state folder stay.
    """
    with change_lock(installation):
        # First what would start runs, so that nothing new begins meanwhile.
        with _step(console, "daemon and webservers"):
            engine.compose(installation, "stop", "daemon", "webserver", "webserver-viewer")
        with _step(console, "runs and code locations"):
            found = [c["Id"] for c in engine.containers(f"dml.stack={installation.stack}")]
            if found:
                engine.docker("stop", "--time", str(STOP_TIMEOUT_S), *found)
                engine.docker("rm", "--force", "--volumes", *found)
        with _step(console, "core services"):
            volumes = ["--volumes"] if delete_data else []
            engine.compose(installation, "--profile", "*", "down", "--remove-orphans", *volumes)
            names = engine.docker("network", "ls", "-q", f"--filter=label=dml.stack={installation.stack}").split()
            for network in names:
                remove_network(network)
        if delete_data:
            with _step(console, "state"):
                for path in installation.state.iterdir():
                    if path.name not in KEPT | {"locks"}:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
    kept = "Data and secrets are gone." if delete_data else f"Data stay in volumes and in {installation.state}."
    console.print(kept, markup=False, highlight=False, soft_wrap=True)


def first_sign_in(installation: Installation) -> str:
    """How to sign in the first time; told once, afterwards and where a company signs people in it is empty."""
    told = installation.state / "first-sign-in-told"
    password = installation.secrets / "admin_password"
    if told.exists() or not password.is_file() or installation.env.get("DML_SIGN_IN", "local") != "local":
        return ""
    told.touch()
    return (
        f"Sign in as 'admin' with the password {password.read_text().strip()}\n"
        f"It is shown this once and kept in {password}."
    )


@contextmanager
def change_lock(installation: Installation) -> Iterator[None]:
    """Only one command at a time changes the core.

    Raises:
        RetryableError: another one is at it.
    """
    folder = installation.state / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "stack.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RetryableError(
            "cannot change the server", "another 'dml infra' command does", "Wait for it and run this again."
        ) from error
    try:
        yield
    finally:
        lock.release()


def prepare_workspace(installation: Installation) -> None:
    """Make the workspace's folder, with a list of nothing where there is none yet. Everybody may read it."""
    from dml_infra.render import Routes, render_aliases, render_locations, render_workspace

    folder = installation.state / "workspace"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name, text in (("workspace.yaml", render_workspace(Routes())), ("locations.json", render_locations(Routes()))):
        if not (folder / name).exists():
            write_atomically(folder / name, text)
    write_atomically(folder / "hosts", render_aliases(installation.network("control")))


def write_atomically(path: Path, text: str) -> None:
    """Put a file everybody may read in place in one step."""
    draft = path.with_name(f".{path.name}.next")
    draft.write_text(text, encoding="utf-8")
    draft.chmod(0o644)
    os.replace(draft, path)


def _wake_locations(installation: Installation, names: list[str]) -> None:
    """Start deployed code servers before Dagster looks for them: it waits long for each that is not there."""
    from dml_infra.core import Core
    from dml_infra.drivers import get_driver
    from dml_infra.rollout import Rollout
    from dml_infra.workspace import load_state

    for name in names:
        state = load_state(installation, name)
        if state.live and state.phase == "idle":
            attach_core(installation, name)
            Rollout(Core(installation), get_driver(installation), lambda _: None).wake(state)


def _wait_for(installation: Installation, names: tuple[str, ...], deadline: float) -> None:
    from dml_infra import ready

    while True:
        reasons = {name: reason for name, reason in ready.not_ready(installation).items() if name in names}
        if not reasons:
            return
        if time.monotonic() > deadline:
            raise RetryableError(
                f"cannot start {' and '.join(names)}",
                "; ".join(f"{name}: {reason}" for name, reason in reasons.items()),
                "Look at 'dml infra logs', mend it and run this again.",
            )
        time.sleep(ready.POLL_S)


@contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    """Show a step while it goes on, and how long it took."""
    begin = time.monotonic()
    with console.status(what):
        yield
    console.print(f"{time.monotonic() - begin:6.1f} s  {what}", markup=False, highlight=False)
