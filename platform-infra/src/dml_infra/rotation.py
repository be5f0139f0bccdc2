"""Replace a credential while everything keeps running; a run that was cut short is finished by running it again."""

from __future__ import annotations

from collections.abc import Iterable

from dml_infra.installation import Installation


def rotatable(installation: Installation, projects: Iterable[str] = ()) -> list[str]:
    """Every name that :func:`rotate` takes, such as ``postgres/sales`` and ``object-store/sales``."""
    raise NotImplementedError


def rotate(installation: Installation, name: str) -> None:
    """Give a credential a new value at the service and in its files, in place.

    A Postgres password is replaced at once. An object-store key keeps working beside the new one until :func:`retire`.
    """
    raise NotImplementedError


def retire(installation: Installation, name: str) -> list[str]:
    """Remove the object-store keys that a rotation left valid. Returns: the keys that were removed."""
    raise NotImplementedError
