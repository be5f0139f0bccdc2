"""Replace a credential while everything keeps running; a rotation that was cut short is finished by running it again.

The new value is written to a journal first, then to the service, then to the files that containers have mounted, in
place. A Postgres password has one value only: who signs in during the milliseconds between server and file is turned
away once, and both Dagster and the platform's library try again. Of an object-store key the old one stays valid beside
the new one until `retire`, because a run holds what it read when it began.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from dml_infra import database, engine, objectstore
from dml_infra.errors import ConfigError
from dml_infra.installation import Installation
from dml_infra.objectstore import Store
from dml_infra.psql import Psql, container_psql
from dml_infra.secrets import (
    PYTHON_UID,
    S3Key,
    core_secrets,
    credentials_lock,
    new_password,
    new_s3_key,
    pgpass_text,
    read_s3_key,
    s3_text,
    write_secret,
)

JOURNAL = ".rotating"
# Programs that read their secret only when they start.
_RESTARTED = {
    "postgres/postgres_exporter": ("postgres-exporter",),
    "postgres/openmetadata": ("openmetadata",),
    "object-store/root": ("object-store",),
}
# Dagster holds the key of its compute logs as long as it lives.
_RESTARTED_TO_RETIRE = {"object-store/dagster": ("webserver", "webserver-viewer", "daemon")}
Restart = Callable[[tuple[str, ...]], None]


@dataclass(frozen=True)
class Services:
    """How the services of an installation are reached; tests put other ways here."""

    psql: Callable[[], Psql]
    store: Callable[[], Store]
    restart: Restart

    @classmethod
    def of(cls, installation: Installation) -> Services:
        """Through the installation's own containers."""
        return cls(
            psql=lambda: container_psql(installation),
            store=lambda: objectstore.container_store(installation),
            restart=lambda names: _restart(installation, names),
        )


def rotatable(installation: Installation, projects: Iterable[str] = ()) -> list[str]:
    """Every name that :func:`rotate` takes, such as ``postgres/sales`` and ``object-store/sales``."""
    projects = sorted(projects)
    core = [f"postgres/{role}" for role, (f, _) in database.CORE_ROLES.items() if (installation.secrets / f).is_file()]
    return [
        "postgres/postgres",
        *core,
        *(f"postgres/{name}" for name in projects),
        "object-store/root",
        "object-store/dagster",
        *(f"object-store/{name}" for name in projects),
    ]


def rotate(installation: Installation, name: str, *, services: Services | None = None) -> None:
    """Give a credential a new value at the service and in its files, in place.

    Args:
        installation: whose.
        name: one of :func:`rotatable`; for people at the proxy see ``proxy_users.set_password``.
        services: how to reach the services, where it is not through the containers.

    Raises:
        InfraError: there is no such credential, or a step failed; run it again, and it goes on with the same new value.
    """
    services = services or Services.of(installation)
    kind, owner = _parse(installation, name)
    with credentials_lock(installation):
        if kind == "postgres":
            _rotate_password(installation, name, owner, services)
        elif owner == "root":
            _rotate_root(installation, name, services)
        else:
            _rotate_key(installation, name, owner, services)


def retire(installation: Installation, name: str, *, services: Services | None = None) -> list[str]:
    """Remove the object-store keys that a rotation left valid; call it when runs that began before it have ended.

    Returns: the keys that were removed.
    """
    services = services or Services.of(installation)
    kind, owner = _parse(installation, name)
    if kind != "object-store" or owner == "root":
        return []
    if _journal(installation, name).is_file():
        raise ConfigError(
            f"cannot retire the old keys of {name!r}",
            "its rotation did not end",
            f"Run: dml infra rotate {name}.",
        )
    services.restart(_RESTARTED_TO_RETIRE.get(name, ()))
    with credentials_lock(installation):
        keep = read_s3_key(installation, _key_file(owner)).access_key
        return objectstore.remove_keys(installation, _policy_name(owner), keep=keep, store=services.store())


def unfinished(installation: Installation) -> list[str]:
    """Names whose rotation was cut short."""
    folder = installation.secrets / JOURNAL
    return sorted(f.name.replace("--", "/") for f in folder.iterdir()) if folder.is_dir() else []


def _rotate_password(installation: Installation, name: str, role: str, services: Services) -> None:
    file, uid = _password_file(installation, role)
    new = _pending(installation, name, lambda: {"password": new_password()})["password"]
    text = pgpass_text(role, new) if file.endswith("pgpass") else new
    psql = services.psql()
    database.set_password(role, new, psql)
    write_secret(installation.secrets / file, text, uid=uid)
    _forget(installation, name)
    services.restart(_RESTARTED.get(name, ()))


def _rotate_key(installation: Installation, name: str, owner: str, services: Services) -> None:
    pending = _pending(
        installation,
        name,
        lambda: {"old": read_s3_key(installation, _key_file(owner)).access_key, **vars(new_s3_key(owner))},
    )
    key = S3Key(pending["access_key"], pending["secret_key"])
    store = services.store()
    # At most two keys at a time: one of an earlier rotation goes now.
    policy = _policy_name(owner)
    if read_s3_key(installation, _key_file(owner)).access_key == pending["old"]:
        objectstore.remove_keys(installation, policy, keep=pending["old"], store=store)
    objectstore.add_key(installation, policy, key, store=store)
    write_secret(installation.secrets / _key_file(owner), s3_text(key), uid=PYTHON_UID)
    _forget(installation, name)


def _rotate_root(installation: Installation, name: str, services: Services) -> None:
    """Only this command and `provision` use it; the store reads it when it starts, so it is away for some seconds."""
    new = _pending(installation, name, lambda: {"password": new_password()})["password"]
    write_secret(installation.secrets / "object_store_root_password", new, uid=PYTHON_UID)
    services.restart(_RESTARTED[name])
    objectstore.ask(installation, {"do": "check"}, store=services.store())
    _forget(installation, name)


def _parse(installation: Installation, name: str) -> tuple[str, str]:
    folder = installation.secrets / "projects"
    projects = [f.name for f in folder.iterdir() if f.is_dir()] if folder.is_dir() else []
    known = rotatable(installation, projects)
    if name not in known:
        raise ConfigError(f"cannot rotate {name!r}", "there is no such credential", f"Use one of: {', '.join(known)}.")
    kind, _, owner = name.partition("/")
    return kind, owner


def _password_file(installation: Installation, role: str) -> tuple[str, int]:
    if role == "postgres":
        return "postgres_superuser", _uid("postgres_superuser")
    if role in database.CORE_ROLES:
        file = database.CORE_ROLES[role][0]
        return file, _uid(file)
    return f"projects/{role}/pgpass", PYTHON_UID


def _uid(file: str) -> int:
    return next(secret.uid for secret in core_secrets() if secret.name == file)


def _key_file(owner: str) -> str:
    return "dagster_aws_credentials" if owner == "dagster" else f"projects/{owner}/aws_credentials"


def _policy_name(owner: str) -> str:
    return "dagster" if owner == "dagster" else f"project-{owner}"


def _journal(installation: Installation, name: str) -> Any:
    return installation.secrets / JOURNAL / name.replace("/", "--")


def _pending(installation: Installation, name: str, make: Callable[[], dict[str, str]]) -> dict[str, str]:
    """The new value: of a rotation that was cut short, else a fresh one, on disk before anything is changed."""
    journal = _journal(installation, name)
    if not journal.is_file():
        write_secret(journal, json.dumps(make()), uid=os.geteuid())
    content: dict[str, str] = json.loads(journal.read_text(encoding="utf-8"))
    return content


def _forget(installation: Installation, name: str) -> None:
    _journal(installation, name).unlink(missing_ok=True)


def _restart(installation: Installation, names: tuple[str, ...]) -> None:
    for service in names:
        filters = [
            f"label=com.docker.compose.project={installation.stack}",
            f"label=com.docker.compose.service={service}",
        ]
        for container in engine.docker("ps", "-q", *(f"--filter={f}" for f in filters)).split():
            engine.docker("restart", container, timeout_s=180)
            _wait_until_healthy(container)


def _wait_until_healthy(container: str) -> None:
    script = "{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}"
    deadline = time.monotonic() + 180
    while engine.docker("inspect", "--format", script, container).strip() not in ("healthy", "running"):
        if time.monotonic() > deadline:
            raise ConfigError(
                f"cannot restart container {container}",
                "it is not healthy after 180 s",
                "See docker logs; then run the rotation again.",
            )
        time.sleep(0.5)


def add_reader(installation: Installation, project: str, *, services: Services | None = None) -> dict[str, str]:
    """Make a role and a key that read what a project reads and change nothing; those that there were end.

    Returns: what a workflow is given, by the names that the workflows of ci-templates have for it. It is kept nowhere.
    """
    services = services or Services.of(installation)
    password, key = new_password(), new_s3_key(f"reader-{project}")
    with credentials_lock(installation):
        role = database.set_reader(project, password, services.psql())
        objectstore.set_reader(installation, project, key, store=services.store())
    return {
        "LAKE_CATALOG_URI": f"postgresql+psycopg2://{role}:{password}@postgres:5432/lake",
        "LAKE_WAREHOUSE": "s3://lake",
        "LAKE_ENDPOINT": objectstore.ENDPOINT,
        "LAKE_ACCESS_KEY_ID": key.access_key,
        "LAKE_SECRET_ACCESS_KEY": key.secret_key,
    }


def end_reader(installation: Installation, project: str, *, services: Services | None = None) -> None:
    """Take them away. Running it again does no harm."""
    services = services or Services.of(installation)
    with credentials_lock(installation):
        database.drop_reader(project, services.psql())
        objectstore.drop_reader(installation, project, store=services.store())


def revoke_project(installation: Installation, project: str, *, services: Services | None = None) -> None:
    """Take a project's role, keys and secret files away; its tables and objects stay. Running it again does no harm."""
    services = services or Services.of(installation)
    with credentials_lock(installation):
        database.drop_reader(project, services.psql())
        objectstore.drop_reader(installation, project, store=services.store())
        database.drop_project(installation, project, psql=services.psql())
        objectstore.drop_project(installation, project, store=services.store())
        shutil.rmtree(installation.secrets / "projects" / project, ignore_errors=True)
