"""What runs: every core service and code location with its digest, age, memory, health and last error."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from rich.console import Console
from rich.table import Table

from dml_infra import engine
from dml_infra.checks.host import services
from dml_infra.errors import InfraError
from dml_infra.installation import Installation

ERROR_WIDTH = 90


@dataclass(frozen=True)
class Row:
    """One container, or one that should be there.

    Args:
        kind: ``service`` (the core's), ``location`` (a code server) or ``run``.
        name: the role, the project, or the run's identifier.
        health: ``healthy``, ``unhealthy``, ``starting``, ``running`` (no check), ``done``, ``failed``, ``missing``.
        image: as it was asked for.
        digest: what the image is, short.
        started: UTC.
        memory_mb: in use now.
        memory_limit_mb: the most that it may use.
        restarts: how often the engine started it again.
        error: the last one: of the container, of loading the location, of its last deploy.
    """

    kind: str
    name: str
    health: str
    image: str = ""
    digest: str = ""
    started: str = ""
    memory_mb: int | None = None
    memory_limit_mb: int | None = None
    restarts: int = 0
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def read_status(installation: Installation) -> list[Row]:
    """Core services, then code locations, then containers of runs that go on."""
    core = engine.containers(f"com.docker.compose.project={installation.stack}")
    own = engine.containers(f"dml.stack={installation.stack}")
    memory = _memory([c["Id"] for c in [*core, *own] if c["State"]["Running"]])
    digests = _digests({c["Image"] for c in [*core, *own]})
    by_service = {c["Config"]["Labels"].get("com.docker.compose.service"): c for c in core}
    rows = []
    for name, wanted in services(installation).items():
        once = wanted.get("restart", "no") != "unless-stopped"
        if name in by_service:
            rows.append(_row("service", name, by_service[name], memory, digests, once=once))
        else:
            rows.append(Row("service", name, "missing", wanted["image"]))
    rows += _locations(installation, own, memory, digests)
    for container in own:
        labels = container["Config"]["Labels"]
        if labels.get("dml.role") == "run" and container["State"]["Running"]:
            name = f"{labels.get('dml.project')}/{labels.get('dagster/run_id', container['Name'])[:8]}"
            rows.append(_row("run", name, container, memory, digests, once=True))
    return rows


def show_status(console: Console, rows: list[Row]) -> None:
    """Print the rows as a table."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for column in ("", "name", "health", "image", "digest", "age", "memory MB", "restarts", "last error"):
        table.add_column(column, overflow="fold", justify="right" if column in {"memory MB", "restarts"} else "left")
    now = datetime.now(timezone.utc)
    for row in rows:
        used = "" if row.memory_mb is None else f"{row.memory_mb} / {row.memory_limit_mb or '-'}"
        style = {"unhealthy": "red", "failed": "red", "missing": "red", "starting": "yellow"}.get(row.health)
        image = row.image.partition("@")[0].rpartition("/")[2]
        cells = (
            row.kind,
            row.name,
            row.health,
            image,
            row.digest,
            _age(row.started, now),
            used,
            str(row.restarts or ""),
        )
        table.add_row(*cells, row.error[:ERROR_WIDTH].replace("\n", " "), style=style)
    console.print(table, markup=False, highlight=False)


def is_well(rows: list[Row]) -> bool:
    """Is everything there and none of it broken?"""
    return all(row.health in {"healthy", "running", "done", "starting"} for row in rows)


def _locations(
    installation: Installation, containers: list[Any], memory: dict[str, tuple[int, int]], digests: dict[str, str]
) -> list[Row]:
    from dml_infra import ready
    from dml_infra.records import read_records
    from dml_infra.registry import load_registry

    try:
        loads = ready.load_states(installation)
        unknown = ""
    except (InfraError, OSError, KeyError, ValueError, TypeError) as error:
        loads, unknown = {}, f"Dagster was not asked: {error}".splitlines()[0]
    last = {record.project: record for record in read_records(installation)}
    rows: list[Row] = []
    for location in load_registry(installation, check_budget=False):
        mine = [
            c
            for c in containers
            if c["Config"]["Labels"].get("dml.project") == location.name
            and c["Config"]["Labels"].get("dml.role") == "code-location"
        ]
        record = last.get(location.name)
        failure = f"{record.what} {record.outcome}: {record.error}" if record and record.outcome != "live" else ""
        for container in mine:
            row = _row("location", location.name, container, memory, digests)
            load_error = loads.get(location.name, unknown or "not in the workspace")
            rows.append(Row(**{**row.to_json(), "error": row.error or _last_line(load_error) or failure}))
        if not mine:
            rows.append(Row("location", location.name, "missing", location.image, error=failure or "not deployed"))
    return rows


def _row(
    kind: str,
    name: str,
    details: dict[str, Any],
    memory: dict[str, tuple[int, int]],
    digests: dict[str, str],
    *,
    once: bool = False,
) -> Row:
    from dml_infra import ready

    state = details["State"]
    health = (state.get("Health") or {}).get("Status")
    if not state["Running"]:
        health = "done" if once and state["ExitCode"] == 0 else "failed"
    error = ""
    if health in {"failed", "unhealthy"}:
        cause = "out of memory" if state.get("OOMKilled") else f"exit code {state['ExitCode']}"
        error = f"{cause if health == 'failed' else 'health check'}: {ready.last_words(details)}"
    elif details.get("RestartCount"):
        error = f"was started again {details['RestartCount']} times"
    used, limit = memory.get(details["Id"][:12], (None, None))
    return Row(
        kind,
        name,
        health if health and health != "none" else "running",
        details["Config"]["Image"],
        digests.get(details["Image"], ""),
        state["StartedAt"],
        used,
        limit or (details["HostConfig"].get("Memory") or 0) // 2**20 or None,
        details.get("RestartCount", 0),
        error,
    )


def _memory(ids: list[str]) -> dict[str, tuple[int, int]]:
    """Used and allowed MB by short identifier."""
    if not ids:
        return {}
    found = {}
    for line in engine.docker(
        "stats", "--no-stream", "--format", "{{.ID}} {{.MemUsage}}", *ids, check=False
    ).splitlines():
        identifier, _, usage = line.partition(" ")
        used, _, limit = usage.partition(" / ")
        found[identifier[:12]] = (_megabytes(used), _megabytes(limit))
    return found


def _megabytes(text: str) -> int:
    match = re.fullmatch(r"([\d.]+)\s*([KMGT]?)i?B", text.strip(), re.IGNORECASE)
    if not match:
        return 0
    return round(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ") / 2**20)


def _digests(images: set[str]) -> dict[str, str]:
    """By the engine's identifier: the digest in its registry, else the identifier itself; 12 digits."""
    found = {}
    for image in images:
        for details in engine.inspect("image", image):
            digest = (details.get("RepoDigests") or [details["Id"]])[0].rpartition("sha256:")[2]
            found[image] = digest[:12]
    return found


def _age(started: str, now: datetime) -> str:
    if not started or started.startswith("0001"):
        return ""
    text = re.sub(r"(\.\d{6})\d+", r"\1", started).replace("Z", "+00:00")
    seconds = int((now - datetime.fromisoformat(text)).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
