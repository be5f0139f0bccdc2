"""The server that the stack tests share: an engine, a registry, the images, an installation; and what was measured.

The tests of a file run in order and build on each other, the files in the order of their names: a server takes minutes
to build, and what a person does with one is a story too. Everything is removed at the end, also after Ctrl-C; what a
killed test run left is removed by the next one. With TEST_STACK_KEEP=<file> nothing is removed, and the next run with
the same file goes on with the same server: for a look, or for one test at a time.

TEST_BASE_IMAGE and TEST_SALES_IMAGE name images of the engine, or of a registry by their digest; TEST_RENDERED_IMAGES
those of projects made from the template (name=image name=image); TEST_PYTHON_IMAGE what ours are built on.
TEST_WORKFLOWS is the folder of a checkout of ci-templates, whose workflows are run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stack import engine as engines
from stack.engine import FOLDER, HERE, Registry, build, docker, has_image, sh
from stack.server import PREFIX, Server, remove_leftovers

ORDERS = HERE / "projects" / "orders"
BAD = ("import-error", "crash-loop", "wrong-package", "missing-manifest")
FIGURES: dict[str, Any] = {}
KEEP = Path(os.environ["TEST_STACK_KEEP"]) if os.environ.get("TEST_STACK_KEEP") else None
KEPT: dict[str, Any] = json.loads(KEEP.read_text(encoding="utf-8")) if KEEP and KEEP.exists() else {}
# Published image → its stand-in of Debian packages, for machines where nothing can be pulled.
STANDINS = {
    "DML_CADDY_IMAGE": "caddy",
    "DML_POSTGRES_IMAGE": "postgres",
    "DML_OBJECT_STORE_IMAGE": "object-store",
    "DML_SOCKET_PROXY_IMAGE": "haproxy",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.stack)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not FIGURES:
        return
    terminalreporter.section("measured")
    for name, value in FIGURES.items():
        terminalreporter.write_line(f"{name:<58} {value}")
    target = Path(os.environ.get("TEST_STACK_FIGURES") or FOLDER / "dist" / "stack-figures.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    target.write_text(json.dumps(known | FIGURES, indent=1) + "\n", encoding="utf-8")
    terminalreporter.write_line(f"as JSON: {target}")


@pytest.fixture(scope="session")
def figures() -> dict[str, Any]:
    """What the tests measure, by name."""
    return FIGURES


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine that answers, without what earlier test runs left."""
    if not engines.engine_answers():
        pytest.skip("no Docker engine with compose and buildx answers here (see .ci/run, or docs.docker.com)")
    # The end of a terminal or a cancelled job shall clean up as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if KEEP is None:
        remove_leftovers()


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Where everything of this test run is; readable by the containers' own users."""
    made = Path(tempfile.mkdtemp(prefix=PREFIX))
    made.chmod(0o755)
    yield made
    if KEEP is None:
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def registry(engine: None, folder: Path) -> Iterator[Registry]:
    """A registry on loopback."""
    if KEPT:
        yield Registry(KEPT["registry"])
        return
    data = folder / "registry"
    data.mkdir()
    started, stop = engines.start_registry(data)
    yield started
    if KEEP is None:
        stop()


@pytest.fixture(scope="session")
def base_image(engine: None) -> str:
    """The image that projects are built on."""
    name = os.environ.get("TEST_BASE_IMAGE", "dml-platform-base:0.1.0")
    if not has_image(name):
        pytest.skip(f"the engine has no image {name}: build it, or name another one with TEST_BASE_IMAGE")
    return name


@pytest.fixture(scope="session")
def core_images(engine: None) -> dict[str, str]:
    """Settings of the images that compose.yaml needs: ours built here, the others pulled or stood in for."""
    dagster = "dml-dagster:stack-test"
    FIGURES["image dml-dagster: build, s"] = round(
        build(FOLDER, dagster, f"--build-arg=PYTHON_IMAGE={engines.python_image()}", file="images/dagster/Dockerfile"),
        1,
    )
    found = {"DML_DAGSTER_IMAGE": dagster}
    text = (FOLDER / ".env.example").read_text(encoding="utf-8")
    wanted = dict(line.split("=", 1) for line in text.splitlines() if line.split("=")[0] in STANDINS)
    for image in wanted.values():
        if not has_image(image) and sh("docker", "pull", "-q", image, check=False, timeout_s=600).returncode:
            break
    else:
        return found
    started = time.monotonic()
    sh(str(HERE / "images" / "build.sh"), *STANDINS.values())
    FIGURES["stand-in images: build, s"] = round(time.monotonic() - started, 1)
    return found | {setting: f"dml-standin-{name}:1" for setting, name in STANDINS.items()}


@pytest.fixture(scope="session")
def orders(base_image: str, registry: Registry) -> Callable[..., str]:
    """Builds and pushes a release of the second project; gives its address by digest."""

    def release(number: int | str, *, target: str | None = None, repository: str = "orders") -> str:
        tag = f"dml-test-orders:{os.getpid()}"
        options = [f"--build-arg=BASE_IMAGE={base_image}", f"--build-arg=RELEASE={number}", "--network=host"]
        options.append(f"--build-arg=PROJECT={repository}")
        if target:
            options.append(f"--target={target}")
        FIGURES["image orders: build, s"] = round(build(ORDERS, tag, *options, file="docker/Dockerfile"), 1)
        started = time.monotonic()
        address = registry.push(tag, repository)
        FIGURES.setdefault("image orders: first push, s", round(time.monotonic() - started, 1))
        docker("image", "rm", tag, check=False)
        return address

    return release


@pytest.fixture(scope="session")
def sales(registry: Registry) -> str | None:
    """The real project's image by digest, where there is one."""
    name = os.environ.get("TEST_SALES_IMAGE", "project-sales:0.1.0")
    if engines.is_published(name):
        return name  # the server pulls it
    if not has_image(name):
        return None
    started = time.monotonic()
    address = registry.push(name, "project-sales")
    FIGURES["image project-sales: first push, s"] = round(time.monotonic() - started, 1)
    return address


@pytest.fixture(scope="session")
def new_server(core_images: dict[str, str], folder: Path) -> Iterator[Callable[..., Server]]:
    """Makes installations; removes each at the end."""
    made: list[Server] = []

    def make(*, source: Path = FOLDER, images: dict[str, str] = core_images, **settings: str) -> Server:
        name = f"{'dmlkept-' if KEEP else PREFIX}{os.getpid()}" + (f"-{len(made)}" if made else "")
        server = Server(folder / name, name, images, settings=settings, source=source)
        server.subnet = 16 + (os.getpid() + len(made)) % 200
        made.append(server)
        server.install()
        return server

    yield make
    for server in made:
        if KEEP is None:
            server.destroy()


@pytest.fixture(scope="session")
def server(
    new_server: Callable[..., Server], registry: Registry, core_images: dict[str, str], figures: dict[str, Any]
) -> Server:
    """The server that most tests share, installed by `dml infra up` on an engine that has nothing of it."""
    if KEPT:
        return Server(Path(KEPT["root"]), KEPT["name"], core_images, KEPT["port"], KEPT["http_port"], KEPT["subnet"])
    made = new_server()
    if KEEP:
        known = {name: getattr(made, name) for name in ("name", "port", "http_port", "subnet")}
        KEEP.write_text(json.dumps(known | {"root": str(made.root), "registry": registry.address}), encoding="utf-8")
    started = time.monotonic()
    made.dml("up", timeout_s=600)
    figures["install: 'dml infra up' on an empty engine, s"] = round(time.monotonic() - started, 1)
    return made


@pytest.fixture(scope="session")
def projects(server: Server, orders: Callable[..., str], sales: str | None, figures: dict[str, Any]) -> Server:
    """The server with both projects registered and live."""
    images = {"orders": orders(1)} | ({"sales": sales} if sales else {})
    for name, image in images.items():
        if KEPT and name in server.locations():
            continue
        started = time.monotonic()
        server.register(name, image, "--memory", "768m")
        figures[f"register and first deploy of {name}, s"] = round(time.monotonic() - started, 1)
    return server
