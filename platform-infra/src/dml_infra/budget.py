"""Does what the registry asks for fit: Postgres connections and the host's memory, at the busiest moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dml_infra import database
from dml_infra.errors import ConfigError
from dml_infra.installation import Installation
from dml_infra.names import megabytes

if TYPE_CHECKING:
    from dml_infra.registry import CodeLocation

# The names of `.env` that this reads. Without the first, the host's memory is not checked here (preflight looks at it).
HOST_MEMORY = "DML_HOST_MEMORY"
RUNS_AT_ONCE = "DML_MAX_CONCURRENT_RUNS"
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
    at_once = installation.number(RUNS_AT_ONCE, 20)
    return MemoryBudget(_core_mb(installation), sum(servers) + max(servers, default=0), sum(runs[:at_once]))


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
    host = installation.env.get(HOST_MEMORY, "")
    if not host:
        return
    try:
        host_mb = megabytes(host)
    except ValueError as error:
        raise ConfigError(f"cannot read {installation.env_file}", f"{HOST_MEMORY}: {error}", "Correct it.") from error
    memory = memory_budget(installation, locations)
    if memory.total_mb > host_mb:
        raise ConfigError(
            what,
            f"everything at its limit is {memory.total_mb} MB (system {SYSTEM_MB}, core {memory.core_mb}, code servers "
            f"{memory.code_servers_mb}, runs at once {memory.runs_mb}), {HOST_MEMORY} is {host_mb} MB",
            f"Lower memory, run_memory or max_runs of a project, or {RUNS_AT_ONCE} in .env; or give the host more "
            f"memory and correct {HOST_MEMORY}.",
        )


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
    for name, value in installation.env.items():
        if name.startswith("DML_") and name.endswith("_MEMORY") and name not in off and name != HOST_MEMORY:
            total += megabytes(value)
            # Two webservers have the same limit: people's and viewers'.
            total += megabytes(value) if name == "DML_WEBSERVER_MEMORY" else 0
    return total
