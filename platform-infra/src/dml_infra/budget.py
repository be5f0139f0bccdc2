"""Does what the registry asks for fit: Postgres connections and the host's memory, at the busiest moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from dml_infra import database
from dml_infra.errors import ConfigError
from dml_infra.installation import Installation
from dml_infra.names import megabytes

if TYPE_CHECKING:
    from dml_infra.registry import CodeLocation

# The names of `.env` that this reads. Without the first, the host's memory is not checked here (preflight looks at it).
HOST_MEMORY = "DML_HOST_MEMORY"
RUN_MEMORY_MAX = "DML_RUN_MEMORY_MAX"
RUNS_AT_ONCE = "concurrency.runs.max_concurrent_runs"
CONNECTIONS = "DML_POSTGRES_MAX_CONNECTIONS"
# For the engine, the kernel and who is signed in.
SYSTEM_MB = 1024


@dataclass(frozen=True)
class MemoryBudget:
    """Limits in MiB: the core's services, the code servers with one deploy going on, the largest runs at once."""

    core_mb: int
    code_servers_mb: int
    runs_mb: int

    @property
    def total_mb(self) -> int:
        """What the host has to have for everything at its limit."""
        return SYSTEM_MB + self.core_mb + self.code_servers_mb + self.runs_mb


def memory_budget(installation: Installation, locations: Sequence[CodeLocation]) -> MemoryBudget:
    """Memory at the busiest moment: a deploy of the largest project while the run queue is full of the largest runs."""
    servers = [megabytes(location.memory) for location in locations]
    runs = sorted((megabytes(loc.run_memory) for loc in locations for _ in range(loc.max_runs)), reverse=True)
    most = sum(runs[: _runs_at_once(installation)])
    return MemoryBudget(_core_mb(installation), sum(servers) + max(servers, default=0), most)


def roles(locations: Sequence[CodeLocation]) -> list[database.ProjectRole]:
    """The projects as Postgres sees them."""
    return [database.ProjectRole(location.name, concurrent_runs=location.max_runs) for location in locations]


def check_budgets(installation: Installation, locations: Sequence[CodeLocation]) -> None:
    """Refuse a list that does not fit.

    Raises:
        ConfigError: with what is asked for, what there is, and which settings decide.
    """
    what = f"cannot use {installation.registry_file}"
    allowed = installation.number(CONNECTIONS, 0)
    connections = database.connection_budget(roles(locations))
    if allowed and connections.total > allowed:
        most = ", ".join(
            f"{name} {count}" for name, count in sorted(connections.per_project.items(), key=lambda i: -i[1])[:3]
        )
        raise ConfigError(
            what,
            f"{len(locations)} code locations need {connections.total} Postgres connections (core {connections.core}, "
            f"reserve {connections.reserve}, most for {most}), {CONNECTIONS} allows {allowed}",
            f"Set {CONNECTIONS}={connections.total} or more in .env (about 10 MB of memory each 100) and run "
            "dml infra up, or lower max_runs.",
        )
    most_mb = _size(installation, RUN_MEMORY_MAX)
    for location in locations:
        if most_mb and megabytes(location.run_memory) > most_mb:
            raise ConfigError(
                what,
                f"{location.name}.run_memory is {location.run_memory}, {RUN_MEMORY_MAX} allows {most_mb} MB",
                f"Lower it, or raise {RUN_MEMORY_MAX} in .env and run dml infra up.",
            )
    host_mb = _size(installation, HOST_MEMORY)
    memory = memory_budget(installation, locations)
    if host_mb and memory.total_mb > host_mb:
        raise ConfigError(
            what,
            f"everything at its limit is {memory.total_mb} MB (system {SYSTEM_MB}, core {memory.core_mb}, code servers "
            f"{memory.code_servers_mb}, runs at once {memory.runs_mb}), {HOST_MEMORY} is {host_mb} MB",
            f"Lower memory, run_memory or max_runs of a project, or {RUNS_AT_ONCE} in config/dagster/dagster.yaml; "
            f"or give the host more memory and correct {HOST_MEMORY}.",
        )


def _size(installation: Installation, name: str) -> int:
    value = installation.env.get(name, "")
    try:
        return megabytes(value) if value else 0
    except ValueError as error:
        raise ConfigError(f"cannot read {installation.env_file}", f"{name}: {error}", "Correct it.") from error


def _runs_at_once(installation: Installation) -> int | None:
    """How many runs the queue lets go at once; no limit where the file of Dagster's settings is not there."""
    file = installation.root / installation.env.get("DML_CONFIG", "config") / "dagster" / "dagster.yaml"
    if not file.is_file():
        return None
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    limit = ((settings.get("concurrency") or {}).get("runs") or {}).get("max_concurrent_runs")
    return int(limit) if limit is not None else None


def _core_mb(installation: Installation) -> int:
    """Sum of the core's limits; the optional parts only where their profile is on."""
    optional = {
        "metrics": ("EXPORTER", "PROMETHEUS", "GRAFANA"),
        "catalog": ("OPENMETADATA", "OPENSEARCH"),
        "ops": ("PORTAINER",),
    }
    off = {
        f"DML_{n}_MEMORY" for profile, names in optional.items() if profile not in installation.profiles for n in names
    }
    total = 0
    for name in installation.env:
        if name.startswith("DML_") and name.endswith("_MEMORY") and name not in off and name != HOST_MEMORY:
            total += _size(installation, name)
            # Two webservers have the same limit: people's and viewers'.
            total += _size(installation, name) if name == "DML_WEBSERVER_MEMORY" else 0
    return total
