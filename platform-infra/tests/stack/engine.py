"""The Docker engine, the registry on loopback and the images of the stack tests: plain calls, no test in here."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

HERE = Path(__file__).parent
FOLDER = HERE.parents[1]
PYTHON_IMAGE = "python:3.11.14-slim-bookworm"
PYTHON_STANDIN = "python-standin:3.11-bookworm"
REGISTRY_IMAGE = "docker.io/library/registry:2.8.3"

T = TypeVar("T")

# Held by the test that stops the engine, and by tests of another session that need it meanwhile (test_portainer).
ENGINE_LOCK = FileLock(Path(tempfile.gettempdir()) / "dml-test-engine.lock")


def sh(*command: str, check: bool = True, timeout_s: float = 900, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program; a failure shows the end of what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
        **options,
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))[:300]} exited {done.returncode}:\n{done.stdout[-6000:]}")
    return done


def docker(*arguments: str, check: bool = True, timeout_s: float = 900) -> str:
    """What a docker command printed."""
    return sh("docker", *arguments, check=check, timeout_s=timeout_s).stdout.strip()


def inspect(name: str, kind: str = "container") -> dict[str, Any]:
    """What the engine knows of one thing; empty when there is none."""
    done = sh("docker", kind, "inspect", name, check=False)
    found: dict[str, Any] = json.loads(done.stdout)[0] if done.returncode == 0 else {}
    return found


def wait(condition: Callable[[], T], *, seconds: float, what: str, every_s: float = 0.5) -> T:
    """Poll until the condition gives something true; an error counts as "not yet" and is shown at the deadline."""
    deadline, last = time.monotonic() + seconds, ""
    while True:
        try:
            value = condition()
            if value:
                return value
            last = repr(value)
        except (OSError, AssertionError, KeyError, ValueError) as error:
            last = f"{type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what} (last: {last[-2000:]})")
        time.sleep(every_s)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def engine_answers() -> bool:
    """Whether a Docker engine with compose and buildx is there."""
    if not shutil.which("docker"):
        return False
    return all(
        sh("docker", *command, check=False, timeout_s=60).returncode == 0
        for command in (("info",), ("compose", "version"), ("buildx", "version"))
    )


def has_image(name: str) -> bool:
    """Whether the engine has an image, or gets one that is named by its digest."""
    if inspect(name, "image"):
        return True
    return is_published(name) and sh("docker", "pull", "--quiet", name, check=False).returncode == 0


def is_published(name: str) -> bool:
    """Whether a name is that of a pushed image: its registry, and its digest."""
    return "@sha256:" in name


def build(folder: Path, tag: str, *options: str, file: str = "Dockerfile") -> float:
    """Build an image with this machine's certificates and index.

    Returns: the seconds that it took.
    """
    started = time.monotonic()
    command = ["build", "--quiet", f"--tag={tag}", f"--file={folder / file}", *options]
    if certificates := os.environ.get("SSL_CERT_FILE"):
        command += ["--network=host", f"--secret=id=ca,src={certificates}"]
    if os.environ.get("UV_DEFAULT_INDEX"):
        command.append("--secret=id=index,env=UV_DEFAULT_INDEX")
    docker(*command, str(folder), timeout_s=1500)
    return time.monotonic() - started


def python_image() -> str:
    """What our images are built on: named by TEST_PYTHON_IMAGE, or the published one, or a Debian of our own."""
    if given := os.environ.get("TEST_PYTHON_IMAGE"):
        return given
    if has_image(PYTHON_IMAGE) or sh("docker", "pull", "-q", PYTHON_IMAGE, check=False, timeout_s=300).returncode == 0:
        return PYTHON_IMAGE
    if not has_image(PYTHON_STANDIN):
        sh(str(HERE / "python-standin"), PYTHON_STANDIN)
    return PYTHON_STANDIN


@dataclass
class Registry:
    """A registry on loopback, where the engine pulls without certificates."""

    address: str

    def push(self, image: str, repository: str) -> str:
        """Push a local image.

        Returns: ``repository@sha256:…``, which is also what the engine now knows it by.
        """
        tag = f"{self.address}/{repository}:pushed"
        docker("tag", image, tag)
        printed = docker("push", tag)
        digest = re.search(r"digest: (sha256:[0-9a-f]{64})", printed)
        assert digest, printed
        docker("image", "rm", tag)
        return f"{self.address}/{repository}@{digest[1]}"


def start_registry(folder: Path) -> tuple[Registry, Callable[[], None]]:
    """Start Debian's docker-registry, or the published image where that is missing.

    Returns: the registry, and what stops it.
    """
    registry = Registry(f"127.0.0.1:{free_port()}")
    if program := shutil.which("docker-registry"):
        config = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder)}, "delete": {"enabled": True}},
            "http": {"addr": registry.address},
        }
        file = Path(tempfile.mkdtemp(dir=folder)) / "config.json"
        file.write_text(json.dumps(config), encoding="utf-8")
        with (file.parent / "log").open("wb") as log:
            process = subprocess.Popen([program, "serve", str(file)], stdout=log, stderr=log, start_new_session=True)

        def stop() -> None:
            process.terminate()
            process.wait(timeout=20)
    else:
        name = f"dmltest-registry-{os.getpid()}"
        port = registry.address.rpartition(":")[2]
        docker("run", "--detach", f"--name={name}", f"--publish=127.0.0.1:{port}:5000", REGISTRY_IMAGE)

        def stop() -> None:
            docker("rm", "--force", "--volumes", name, check=False)

    wait(lambda: _answers(f"http://{registry.address}/v2/"), seconds=30, what="the registry answers")
    return registry, stop


def _answers(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False
