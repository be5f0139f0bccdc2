"""``dml up`` and ``dml down``: Dagster's webserver and daemon and one code server per project, each its own process.

The supervisor that started them stops them; its state file lets ``down`` do the same from elsewhere,
also after the supervisor was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from rich.console import Console
from rich.markup import escape

from dml_platform.cli.dagster_home import ensure_home, open_instance
from dml_platform.cli.processes import find_process
from dml_platform.core.errors import ConfigError, PermanentError
from dml_platform.core.project import Project, find_projects
from dml_platform.core.settings import Settings, load_settings

_HOST = "127.0.0.1"
_READY_S = 180.0
_STOP_S = 15.0
_LOCATIONS = (
    "{workspaceOrError{... on Workspace{locationEntries{name loadStatus "
    "locationOrLoadError{__typename ... on PythonError{message}}}}}}"
)


@dataclass(frozen=True)
class Service:
    """A started process; its start time tells it from a later process with the same id."""

    name: str
    pid: int
    started_at: float
    log: str

    def process(self) -> psutil.Process | None:
        """The process, if it still is the one that was started."""
        return find_process(self.pid, self.started_at)


def up(console: Console, *, port: int, detach: bool) -> None:
    """Start everything, say where when it is really ready, and stop it on Ctrl-C.

    Raises:
        ConfigError: it already runs, the port is taken, or there is no project.
        PermanentError: a process ended or a location did not load; the end of its log is in the message.
    """
    settings = load_settings()
    state = settings.home / "up" / "state.json"
    if any(service.process() for service in _read_state(state)):
        raise ConfigError("cannot start", "it is already running", "Stop it with 'dml down' first.")
    projects = find_projects()
    if not projects:
        raise ConfigError("cannot start", f"there is no project in {Path.cwd()}", "Change into the tree or a project.")
    if not _is_free(port):
        raise ConfigError("cannot start", f"port {port} is taken", f"Choose another: dml up --port {port + 1}.")
    if detach:
        _detach(console, state, port=port)
        return
    with open_instance(settings.home):
        pass  # runs that were killed must not hold places in the queue
    with _terminating():
        _supervise(console, settings, projects, state, port=port)


def down(console: Console) -> None:
    """Stop what ``up`` started; fine if nothing runs."""
    state = load_settings().home / "up" / "state.json"
    services = _read_state(state)
    running = [service for service in services if service.process()]
    # The supervisor first: it would otherwise report its children as dying.
    _stop(sorted(running, key=lambda s: s.name != "supervisor"))
    state.unlink(missing_ok=True)
    (state.parent / "ready").unlink(missing_ok=True)
    console.print(f"stopped {', '.join(s.name for s in running)}" if running else "nothing was running")


def _supervise(console: Console, settings: Settings, projects: list[Project], state: Path, *, port: int) -> None:
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    state.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"DAGSTER_HOME": str(ensure_home(settings.home)), "DML_HOME": str(settings.home)}
    ports = {project.name: _free_port() for project in projects}
    workspace = state.parent / "workspace.yaml"
    locations = [{"grpc_server": {"host": _HOST, "port": ports[name], "location_name": name}} for name in ports]
    workspace.write_text(yaml.safe_dump({"load_from": locations}), encoding="utf-8")
    services = [Service("supervisor", os.getpid(), psutil.Process().create_time(), "")]

    def start(name: str, command: list[str]) -> None:
        services.append(_start(name, command, environment, logs / f"{name}.log"))
        _write_state(state, services)

    try:
        url = f"http://{_HOST}:{port}"
        with console.status("loading the projects") as status:
            for project in projects:
                start(project.name, _code_server(project, ports[project.name]))
            # Dagster's UI shows an error for a code server that it asks too early.
            _wait(services, lambda: all(_answers(number) for number in ports.values()))
            status.update("starting Dagster")
            start("webserver", [_script("dagster-webserver"), "-h", _HOST, "-p", str(port), "-w", str(workspace)])
            start("daemon", [_script("dagster-daemon"), "run", "-w", str(workspace)])
            _wait(services, lambda: _are_loaded(url, set(ports)))
        (state.parent / "ready").write_text(url, encoding="utf-8")
        console.print(f"[bold green]ready[/] [link={url}]{url}[/link]   logs: {escape(str(logs))}")
        console.print("[dim]Ctrl-C stops it, or 'dml down' from another terminal[/]")
        _watch(services, console)
    finally:
        (state.parent / "ready").unlink(missing_ok=True)
        _stop(services[1:])
        state.unlink(missing_ok=True)
        console.print("stopped")


def _code_server(project: Project, port: int) -> list[str]:
    return [
        _script("dagster"), "api", "grpc", "--module-name", project.module, "--working-directory", str(project.root),
        "--host", _HOST, "--port", str(port), "--location-name", project.name,
    ]  # fmt: skip


def _start(name: str, command: list[str], environment: dict[str, str], log: Path) -> Service:
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor alone
            preexec_fn=_die_with_parent,
        )
    return Service(name, process.pid, psutil.Process(process.pid).create_time(), str(log))


def _die_with_parent() -> None:
    """In the child, before it runs: end when the supervisor is killed (Linux), and heed Ctrl-C again.

    A process started in the background of a shell ignores SIGINT, and its children would inherit that.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _wait(services: list[Service], is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_S
    while not is_ready():
        for service in services[1:]:
            if service.process() is None:
                raise PermanentError(
                    f"cannot start {service.name!r}", "it ended:\n" + _tail(service.log), f"See {service.log}."
                )
        if time.monotonic() > deadline:
            raise PermanentError(
                "cannot start Dagster", f"it was not ready after {_READY_S:.0f} s", f"See {services[-1].log}."
            )
        time.sleep(0.3)


def _are_loaded(url: str, names: set[str]) -> bool:
    entries = _location_entries(url)
    for entry in entries:
        if message := (entry["locationOrLoadError"] or {}).get("message"):
            raise PermanentError(f"cannot load project {entry['name']!r}", message.strip(), "Correct it, start again.")
    return {e["name"] for e in entries if e["loadStatus"] == "LOADED" and e["locationOrLoadError"]} >= names


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((_HOST, port)) == 0


def _location_entries(url: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"{url}/graphql", json.dumps({"query": _LOCATIONS}).encode(), {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as response:
            return json.load(response)["data"]["workspaceOrError"].get("locationEntries", [])
    except (OSError, urllib.error.URLError, ValueError, KeyError, TypeError):
        return []


def _watch(services: list[Service], console: Console) -> None:
    """Stay until interrupted; say once when a process ends, and go on with the rest.

    Raises:
        PermanentError: nothing is left that runs.
    """
    reported: set[str] = set()
    while True:
        for service in services[1:]:
            if service.name not in reported and service.process() is None:
                reported.add(service.name)
                console.print(f"[red]{escape(service.name)} ended[/]; see {escape(service.log)}")
        if len(reported) == len(services) - 1:
            raise PermanentError(
                "cannot go on",
                f"{', '.join(s.name for s in services[1:])} have all ended",
                f"See the logs in {Path(services[-1].log).parent}, then run 'dml up' again.",
            )
        time.sleep(1)


def _detach(console: Console, state: Path, *, port: int) -> None:
    state.parent.mkdir(parents=True, exist_ok=True)
    log = state.parent / "supervisor.log"
    ready = state.parent / "ready"
    ready.unlink(missing_ok=True)  # a killed supervisor leaves it behind
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "dml_platform.cli", "up", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with console.status("starting Dagster"):
        while not ready.is_file():
            if process.poll() is not None:
                raise PermanentError("cannot start Dagster", _tail(str(log)), f"See {log}.")
            time.sleep(0.3)
    console.print(f"[bold green]ready[/] {ready.read_text(encoding='utf-8')}   'dml down' stops it")


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block as a normal return, with everything cleaned up."""

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(services: list[Service]) -> None:
    """End processes and all that they started: ask first, then kill."""
    doomed: list[psutil.Process] = []
    for service in services:
        process = service.process()
        if process is None:
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            doomed += [*process.children(recursive=True), process]
            process.terminate()
    _, alive = psutil.wait_procs(doomed, timeout=_STOP_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def _write_state(state: Path, services: list[Service]) -> None:
    partial = state.with_suffix(".part")
    partial.write_text(json.dumps([asdict(s) for s in services]), encoding="utf-8")
    partial.replace(state)


def _read_state(state: Path) -> list[Service]:
    try:
        return [Service(**entry) for entry in json.loads(state.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _tail(path: str, lines: int = 8) -> str:
    try:
        return "\n".join(Path(path).read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "it left no log"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True
