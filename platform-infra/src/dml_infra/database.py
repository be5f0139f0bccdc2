"""Postgres: the databases, roles and rights of the core and of each project, and how many connections they need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dml_infra.installation import Installation


@dataclass(frozen=True)
class ProjectRole:
    """A project as Postgres sees it. ``concurrent_runs`` is how many of its runs the queue lets go at once."""

    name: str
    concurrent_runs: int = 2


@dataclass(frozen=True)
class Budget:
    """Connections that Postgres has to allow, and how many of them each project may hold at most."""

    core: int
    per_project: dict[str, int]
    reserve: int

    @property
    def total(self) -> int:
        """What ``max_connections`` has to be at least."""
        return self.core + sum(self.per_project.values()) + self.reserve


def connection_budget(projects: Iterable[ProjectRole]) -> Budget:
    """How many connections the core and these projects need at their busiest."""
    raise NotImplementedError


def provision(installation: Installation, projects: Iterable[ProjectRole]) -> None:
    """Bring Postgres to the wanted state, idempotently; nothing is dropped. Wants `ensure_secrets` and a running Postgres."""
    raise NotImplementedError


def drop_project(installation: Installation, name: str) -> None:
    """Remove a project's role; its rows in the catalogue stay, for the platform team to keep or delete."""
    raise NotImplementedError
