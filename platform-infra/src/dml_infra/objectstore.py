"""The object store: buckets, a policy and a user per service and per project, through a MinIO-compatible admin API."""

from __future__ import annotations

from collections.abc import Iterable

from dml_infra.installation import Installation


def provision(installation: Installation, projects: Iterable[str]) -> None:
    """Bring the object store to the wanted state, idempotently; nothing is removed."""
    raise NotImplementedError


def drop_project(installation: Installation, name: str) -> None:
    """Remove a project's keys and policy; its objects stay."""
    raise NotImplementedError
