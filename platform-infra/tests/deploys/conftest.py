"""A small server for deploys: Dagster's three processes with SQLite, a registry on loopback, images of a tiny project.

No Postgres, object store or proxy: what deploys do to those is in the tests of the whole stack. Everything has names of
its own and is removed at the end.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from dml_infra import engine, networks, registry_edit, workspace
from dml_infra.core import Core
from dml_infra.installation import Installation
from dml_infra.registry import CodeLocation

HERE = Path(__file__).parent
BASE_IMAGE = os.environ.get("TEST_BASE_IMAGE", "dml-platform-base:0.1.0")
Build = Callable[..., str]


class SmallCore(Core):
    """A core without Postgres and object store: their files are there and hold nothing."""

    def prepare(self, location: CodeLocation) -> None:
        folder = self.installation.secrets / "projects" / location.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("pgpass", "aws_credentials"):
            (folder / name).write_text("")
        networks.attach_core(self.installation, location.name)


def wait_for(what: Callable[[], object], *, seconds: float = 60) -> object:
    """Poll to a deadline. Returns: what was waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            found = what()
        except Exception as error:  # noqa: BLE001 -- the reason of a timeout
            last: object = error
        else:
            last = found
            if found:
                return found
        time.sleep(0.25)
    raise TimeoutError(f"not within {seconds} s: {last!r}")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a registry on loopback."""
    program = shutil.which("docker-registry")
    if not program:
        pytest.skip("the program docker-registry is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    folder = tmp_path_factory.mktemp("registry")
    (folder / "config.yml").write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {folder}/data\nhttp:\n  addr: {address}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        wait_for(lambda: urllib.request.urlopen(f"http://{address}/v2/", timeout=2).status == 200)
        yield address
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def build(registry: str) -> Iterator[Build]:
    """Builds and pushes an image of the tiny project. Returns: ``repository@sha256:…``."""
    made: list[str] = []

    def make(repository: str = "project-orders", **arguments: str) -> str:
        tag = f"{registry}/{repository}:{len(made)}"
        options = [f"--build-arg=CODE_{name.upper()}={value}" for name, value in arguments.items()]
        engine.docker(
            "build", "--quiet", f"--build-arg=BASE_IMAGE={BASE_IMAGE}", *options, "-t", tag, str(HERE / "code")
        )
        engine.docker("push", "--quiet", tag)
        digests = engine.inspect("image", tag)[0]["RepoDigests"]
        made.append(tag)
        return next(str(d) for d in digests if d.startswith(f"{registry}/{repository}@"))

    yield make
    for tag in made:
        engine.docker("image", "rm", "--force", tag, check=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A running core without projects."""
    if not engine.docker("image", "inspect", BASE_IMAGE, check=False):
        pytest.skip(f"no Docker engine here, or no image {BASE_IMAGE} in it")
    root = tmp_path_factory.mktemp("server")
    for folder in (root, *root.parents[:2]):
        folder.chmod(0o755)
    (root / "registry").mkdir()
    (root / "registry" / "code-locations.yaml").write_text("# The list.\ncode_locations: []\n")
    (root / "compose.yaml").write_text((HERE / "compose.yaml").read_text())
    home = root / "home"
    home.mkdir()
    home.chmod(0o777)
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    source = Path(engine.__file__).parents[1]
    env = {"BASE_IMAGE": BASE_IMAGE, "SOURCE": str(source), "HOME_FOLDER": str(home), "DML_STATE": str(root / "state")}
    installation = Installation(root=root, env=env, state=root / "state", stack=f"dmldeploys{os.getpid()}")
    workspace.write_workspace(installation)
    (root / "state" / "workspace").chmod(0o755)
    try:
        engine.compose(installation, "up", "--detach")
        wait_for(lambda: Core(installation).api.locations() == {}, seconds=90)
        yield installation
    finally:
        if not os.environ.get("TEST_STACK_KEEP"):
            remove(installation)


def remove(installation: Installation) -> None:
    """Remove what a server and its projects have on the engine."""
    ids = engine.docker("ps", "-aq", f"--filter=label=dml.stack={installation.stack}").split()
    if ids:
        engine.docker("rm", "--force", *ids)
    engine.compose(installation, "down", "--volumes", "--timeout", "2")
    for network in engine.docker("network", "ls", "-q", f"--filter=label=dml.stack={installation.stack}").split():
        engine.docker("network", "rm", network)


@pytest.fixture
def core(server: Installation) -> SmallCore:
    """The core as deploys see it."""
    return SmallCore(server)


@pytest.fixture
def console() -> Console:
    """Keeps what is printed."""
    return Console(record=True, width=200, force_terminal=False)


@pytest.fixture(scope="module")
def good(build: Build, server: Installation) -> str:
    """The first image, registered."""
    image = build(version="1")
    registry_edit.register(server, {"name": "orders", "image": image, "owner": "team:orders", "alerts": "#orders"})
    return image
