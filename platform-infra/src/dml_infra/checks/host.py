"""The machine: engine, rights, memory, disk, clock."""

from __future__ import annotations

import email.utils
import functools
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import requests

from dml_infra import engine
from dml_infra.checks import Finding, failed, ok, unchecked, warning
from dml_infra.installation import Installation

# Health checks with `start_interval` need Engine 25; `!reset`-free merging and `--wait` as used here Compose 2.24.
ENGINE_AT_LEAST = (25, 0)
COMPOSE_AT_LEAST = (2, 24)
DOCKER_FREE_GB = 10
STATE_FREE_GB = 1
CLOCK_WARN_S, CLOCK_FAIL_S = 5.0, 60.0
GIB = 1024**3


@functools.lru_cache(maxsize=1)
def engine_info() -> dict[str, Any]:
    """What the engine says of itself, asked once per process."""
    info: dict[str, Any] = json.loads(engine.docker("info", "--format", "{{json .}}", timeout_s=30))
    return info


def check_engine(installation: Installation) -> Iterator[Finding]:
    """Docker and Compose are there, reached, new enough, and limit memory."""
    version = json.loads(engine.docker("version", "--format", "{{json .}}", timeout_s=30))
    compose = engine.docker("compose", "version", "--short", timeout_s=30).strip().lstrip("v")
    found = f"Docker Engine {version['Server']['Version']}, Compose {compose}"
    if _numbers(version["Server"]["Version"]) < ENGINE_AT_LEAST:
        yield failed(found, f"Install Docker Engine {'.'.join(map(str, ENGINE_AT_LEAST))} or newer.")
    elif _numbers(compose) < COMPOSE_AT_LEAST:
        yield failed(found, f"Install Docker Compose {'.'.join(map(str, COMPOSE_AT_LEAST))} or newer.")
    else:
        yield ok(found)
    info = engine_info()
    if info.get("OSType") != "linux":
        yield failed(f"the engine runs {info.get('OSType')} containers", "Switch it to Linux containers.")
    if not info.get("MemoryLimit"):
        yield failed("the engine cannot limit memory", "Switch on the kernel's memory cgroup (cgroup_enable=memory).")
    # Also the one thing that tells whether compose.yaml and .env fit together.
    engine.compose(installation, "config", "--quiet", timeout_s=60)


def check_rights(installation: Installation) -> Iterator[Finding]:
    """Secrets are handed to other users' ids, and the filtering proxy reads the socket by its group."""
    if os.geteuid() != 0:
        yield failed(
            f"this is user {os.geteuid()}, and secret files have to belong to the containers' users",
            "Run it as root: sudo dml infra …",
        )
    elif not _nearest(installation.state).is_dir():
        yield failed(f"{_nearest(installation.state)} is a file", "Set DML_STATE to a folder.")
    elif not os.access(_nearest(installation.state), os.W_OK):
        yield failed(f"{installation.state} cannot be written", "Correct DML_STATE or mount it for writing.")
    else:
        yield ok(f"root; state in {installation.state}")
    socket = Path(installation.env.get("DML_DOCKER_SOCKET") or "/var/run/docker.sock")
    if not socket.exists():
        yield failed(f"there is no socket {socket}", "Set DML_DOCKER_SOCKET to the engine's socket.")
        return
    found = socket.stat()
    group = installation.env.get("DML_DOCKER_GID", "")
    if not stat.S_ISSOCK(found.st_mode):
        yield failed(f"{socket} is not a socket", "Set DML_DOCKER_SOCKET to the engine's socket.")
    elif str(found.st_gid) != group:
        yield failed(
            f"{socket} belongs to group {found.st_gid}, DML_DOCKER_GID is {group or 'not set'}",
            f"Set DML_DOCKER_GID={found.st_gid}.",
        )


def check_memory(installation: Installation) -> Iterator[Finding]:
    """The limits of everything that runs all the time, against the machine. Limits are rarely reached all at once."""
    have = int(engine_info()["MemTotal"]) / GIB
    core = sum(int(s.get("mem_limit", 0)) for s in services(installation).values()) / GIB
    from dml_infra.names import megabytes
    from dml_infra.registry import load_registry

    projects = sum(megabytes(location.memory) for location in load_registry(installation, check_budget=False)) / 1024
    text = f"{have:.1f} GiB; limits of the core {core:.1f} and of code servers {projects:.1f} GiB, runs besides"
    if have < 0.5 * (core + projects):
        yield failed(text, "Use a larger machine, or lower the sizes in .env and the registry.")
    elif have < core + projects:
        yield warning(text, "Lower the sizes or watch the memory: the limits together are more than there is.")
    else:
        yield ok(text)


def check_disk(installation: Installation) -> Iterator[Finding]:
    """Free space where images and volumes are, and where secrets and state are."""
    for name, folder, least in (
        (
            "images and data",
            Path(engine_info()["DockerRootDir"]),
            installation.number("DML_MIN_FREE_GB", DOCKER_FREE_GB),
        ),
        ("state", installation.state, STATE_FREE_GB),
    ):
        if not _nearest(folder).exists() or (name != "state" and not folder.exists()):
            yield unchecked(f"{folder} ({name}) is not on this machine")
            continue
        usage = shutil.disk_usage(_nearest(folder))
        text = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free for {name} ({folder})"
        if usage.free < least * GIB:
            yield failed(text, f"Free some: at least {least} GiB are needed there.")
        elif usage.free < 0.1 * usage.total:
            yield warning(text, "Free some: less than a tenth is left.")
        else:
            yield ok(text)


def check_clock(installation: Installation) -> Iterator[Finding]:
    """This clock against a registry's or another server's, and the engine's. Sign-in, TLS and S3 need it right."""
    ours = datetime.now(timezone.utc)
    theirs = re.sub(r"(\.\d{6})\d+", r"\1", str(engine_info().get("SystemTime", "")))
    if theirs:
        # `docker info` may have been asked seconds ago.
        drift = (datetime.fromisoformat(theirs.replace("Z", "+00:00")) - ours).total_seconds()
        if abs(drift) > CLOCK_FAIL_S:
            yield failed(f"the engine's clock is {drift:+.0f} s from this one", "Set both by NTP.")
    for address in _time_sources(installation):
        try:
            before = time.time()
            answer = requests.head(address, timeout=3, allow_redirects=False)
            half = (time.time() - before) / 2
            there = email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except (requests.RequestException, KeyError, ValueError, TypeError):
            continue
        # The header has whole seconds.
        drift = before + half - there - 0.5
        text = f"{abs(drift):.0f} s {'before' if drift > 0 else 'behind'} {address}"
        if abs(drift) > CLOCK_FAIL_S:
            yield failed(text, "Set this machine's clock by NTP (systemd-timesyncd or chrony).")
        elif abs(drift) > CLOCK_WARN_S:
            yield warning(text, "Set this machine's clock by NTP (systemd-timesyncd or chrony).")
        else:
            yield ok(f"within {max(1, abs(drift)):.0f} s of {address}")
        return
    yield unchecked("no registry or other server answered with its time")


def services(installation: Installation) -> dict[str, Any]:
    """The services of the switched-on profiles, as Compose understands them."""
    text = engine.compose(installation, "config", "--format", "json", timeout_s=60)
    found: dict[str, Any] = json.loads(text)["services"]
    return found


def registry_of(image: str) -> str | None:
    """Host of an image's registry; None for an image that only exists here, such as ``dml-dagster:0.1.0``."""
    first, _, rest = image.partition("/")
    return first if rest and ("." in first or ":" in first or first == "localhost") else None


def _time_sources(installation: Installation) -> list[str]:
    hosts = [registry_of(value) for name, value in installation.env.items() if name.endswith("_IMAGE") and value]
    scheme = {host: "http" if host.startswith(("localhost", "127.")) else "https" for host in hosts if host}
    others = [value for name, value in installation.env.items() if name.endswith("_URL") and "://" in value]
    return [*others, *(f"{scheme[host]}://{host}/v2/" for host in sorted(scheme))][:4]


def _nearest(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:2])
