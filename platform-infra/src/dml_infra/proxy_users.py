"""People who sign in at the proxy: a Caddy snippet with bcrypt hashes, one line a person and role."""

from __future__ import annotations

from typing import Literal

from dml_infra.installation import Installation

Role = Literal["admin", "viewer"]


def list_users(installation: Installation) -> dict[str, Role]:
    """Everybody who can sign in, with the role."""
    raise NotImplementedError


def add_user(installation: Installation, name: str, role: Role, password: str | None = None) -> str:
    """Let a person sign in. Returns: the password, made up when none is given."""
    raise NotImplementedError


def remove_user(installation: Installation, name: str) -> None:
    """Let a person no longer sign in."""
    raise NotImplementedError


def set_password(installation: Installation, name: str, password: str | None = None) -> str:
    """Give a person another password. Returns: it, made up when none is given."""
    raise NotImplementedError
