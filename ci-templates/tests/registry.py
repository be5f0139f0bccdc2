"""A registry of images on this machine's loopback address, where a Docker engine pushes without certificates."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

IMAGE = "docker.io/library/registry:2.8.3"
MANIFESTS = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True)
class Registry:
    """Where it is, and what it has."""

    address: str

    def ask(self, path: str) -> tuple[dict[str, str], bytes]:
        """The headers and the body of an answer; both are empty where there is no such thing."""
        request = urllib.request.Request(f"http://{self.address}/v2/{path}", headers={"Accept": MANIFESTS})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as answer:
                return dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return {}, b""

    def digest(self, repository: str, tag: str) -> str:
        return self.ask(f"{repository}/manifests/{tag}")[0]["Docker-Content-Digest"]

    def tags(self, repository: str) -> list[str]:
        _, body = self.ask(f"{repository}/tags/list")
        return sorted(json.loads(body or "{}").get("tags") or [])


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


@contextmanager
def serve(folder: Path) -> Iterator[Registry]:
    """An empty registry: Debian's docker-registry, or the published image where that is missing."""
    if not shutil.which("docker") or docker("info").returncode:
        pytest.skip("no Docker engine answers here, and an image is built and pushed")
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    registry = Registry(f"127.0.0.1:{port}")
    program, name = shutil.which("docker-registry"), f"ci-templates-registry-{port}"
    with (folder / "log").open("w") as log:
        process = _start(program, registry, folder, log) if program else None
        if process is None:
            started = docker("run", "--detach", f"--name={name}", f"--publish={registry.address}:5000", IMAGE)
            assert started.returncode == 0, started.stderr
        try:
            _wait(registry, folder / "log")
            yield registry
        finally:
            if process is None:
                docker("rm", "--force", "--volumes", name)
            else:
                process.terminate()
                process.wait(timeout=20)
            _forget(registry)


def _start(program: str, registry: Registry, folder: Path, log: IO[str]) -> subprocess.Popen[str]:
    config = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": registry.address},
    }
    (folder / "config.json").write_text(json.dumps(config))
    command = [program, "serve", str(folder / "config.json")]
    return subprocess.Popen(command, stdout=log, stderr=log, text=True, start_new_session=True)


def _wait(registry: Registry, log: Path) -> None:
    deadline, last = time.monotonic() + 30, ""
    while True:
        try:
            if registry.ask("")[0]:
                return
        except OSError as error:
            last = str(error)
        assert time.monotonic() < deadline, f"the registry does not answer: {last}\n{log.read_text()}"
        time.sleep(0.1)


def _forget(registry: Registry) -> None:
    """Remove from the engine what it knows by this address."""
    listed = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    if names := [name for name in listed if name.startswith(f"{registry.address}/")]:
        docker("image", "rm", *names)
