"""People who sign in at the proxy: two Caddy snippets, `(users)` with bcrypt hashes and `(roles)`.

With OIDC the company's identity provider decides, and this file is not asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

import bcrypt

from dml_infra import engine
from dml_infra.errors import ConfigError
from dml_infra.installation import Installation
from dml_infra.secrets import PYTHON_UID, credentials_lock, new_password, read_secret, write_secret

Role = Literal["admin", "viewer"]
FILE = "proxy_users"
FIRST_USER = "admin"
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,62}")
_USER = re.compile(r"^\t(\S+) (\S+)$", re.MULTILINE)
_SNIPPET = re.compile(r"^\((users|roles)\) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
# Caddy checks a password with each request and keeps what it saw in memory.
_ROUNDS = 12


@dataclass(frozen=True)
class _User:
    hash: str
    role: Role


def list_users(installation: Installation) -> dict[str, Role]:
    """Everybody who can sign in, with the role."""
    return {name: user.role for name, user in _read(installation).items()}


def add_user(installation: Installation, name: str, role: Role, password: str | None = None) -> str:
    """Let a person sign in. Returns: the password, made up when none is given.

    Raises:
        ConfigError: the name is taken or cannot be one.
    """
    with credentials_lock(installation):
        users = _read(installation)
        if name in users:
            fix = f"To change the password: dml infra users password {name}."
            raise _refused("add", name, "there is such a user", fix)
        if not _NAME.fullmatch(name):
            raise _refused("add", name, "it is not a name", "Use lower-case letters, digits, and . _ @ - between them.")
        password = _checked("add", name, password or new_password())
        _write(installation, {**users, name: _User(_hash(password), role)})
    return password


def remove_user(installation: Installation, name: str) -> None:
    """Let a person no longer sign in.

    Raises:
        ConfigError: there is no such user, or nobody could administrate any more.
    """
    with credentials_lock(installation):
        users = _read(installation)
        _find("remove", name, users)
        rest = {other: user for other, user in users.items() if other != name}
        if not any(user.role == "admin" for user in rest.values()):
            raise _refused("remove", name, "no administrator would be left", "Add another administrator first.")
        _write(installation, rest)


def set_password(installation: Installation, name: str, password: str | None = None) -> str:
    """Give a person another password. Returns: it, made up when none is given.

    Raises:
        ConfigError: there is no such user, or the password is too short or too long.
    """
    with credentials_lock(installation):
        users = _read(installation)
        user = _find("change", name, users)
        password = _checked("change", name, password or new_password())
        if name == FIRST_USER and (installation.secrets / "admin_password").is_file():
            # Before the proxy knows it: a crash between the two is repaired by setting it again.
            write_secret(installation.secrets / "admin_password", password, uid=0)
        _write(installation, {**users, name: replace(user, hash=_hash(password))})
    return password


def ensure_first_user(installation: Installation) -> list[str]:
    """Make the file with the user `admin`, where there is none. Returns: names of the files that were made."""
    path = installation.secrets / FILE
    if path.is_file() and path.stat().st_size:
        return []
    password = read_secret(installation, "admin_password")
    write_secret(path, _render({FIRST_USER: _User(_hash(password), "admin")}), uid=PYTHON_UID)
    return [FILE]


def reload_proxy(installation: Installation) -> None:
    """Let the running proxy read its files again, without cutting a connection; nothing when it does not run."""
    label = ["--filter=label=com.docker.compose.service=proxy"]
    label.append(f"--filter=label=com.docker.compose.project={installation.stack}")
    for name in engine.docker("ps", "--format", "{{.Names}}", *label).split():
        command = ["caddy", "reload", "--force", "--adapter", "caddyfile", "--config", "/etc/caddy/Caddyfile"]
        engine.docker("exec", name, *command, timeout_s=60)


def _read(installation: Installation) -> dict[str, _User]:
    snippets = {name: dict(_USER.findall(body)) for name, body in _SNIPPET.findall(read_secret(installation, FILE))}
    roles = snippets.get("roles", {})
    return {
        name: _User(hashed, "admin" if roles.get(name) == "admin" else "viewer")
        for name, hashed in snippets.get("users", {}).items()
    }


def _write(installation: Installation, users: dict[str, _User]) -> None:
    write_secret(installation.secrets / FILE, _render(users), uid=PYTHON_UID)
    reload_proxy(installation)


def _render(users: dict[str, _User]) -> str:
    names = sorted(users)
    lines = ["# Made by `dml infra users`.", "(users) {", *(f"\t{n} {users[n].hash}" for n in names), "}"]
    lines += ["(roles) {", *(f"\t{n} {users[n].role}" for n in names), "}"]
    return "\n".join(lines) + "\n"


def _hash(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(_ROUNDS)).decode()


def _find(verb: str, name: str, users: dict[str, _User]) -> _User:
    if name not in users:
        raise _refused(
            verb, name, f"there is no such user (there are: {', '.join(sorted(users))})", "Correct the name."
        )
    return users[name]


def _checked(verb: str, name: str, password: str) -> str:
    size = len(password.encode())
    if not 12 <= size <= 72:
        raise _refused(verb, name, f"the password has {size} bytes", "Take 12 to 72; bcrypt does not look at more.")
    return password


def _refused(verb: str, name: str, why: str, fix: str) -> ConfigError:
    return ConfigError(f"cannot {verb} user {name!r}", why, fix)
