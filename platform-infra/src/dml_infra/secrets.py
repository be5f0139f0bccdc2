"""The secret files of an installation: which there are, who reads each, and making those that are missing.

Files only: what a service has to be told of a new value is in ``rotation``, people's sign-ins in ``proxy_users``.
"""

from __future__ import annotations

import base64
import configparser
import os
import secrets as random
import string
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from dml_infra.errors import ConfigError, RetryableError
from dml_infra.installation import Installation

PYTHON_UID = 10001
_ALPHABET = string.ascii_letters + string.digits
# Equal lengths: a file that is replaced in place is never seen half old, half new (see `write_secret`).
_PASSWORD_LENGTH = 40
_KEY_LENGTH = 8
_LOCK_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Secret:
    """A file: its name, the uid that reads it, what it is for, and how its first content is made."""

    name: str
    uid: int
    purpose: str
    make: Callable[[], str]


@dataclass(frozen=True)
class S3Key:
    """A key of the object store. ``access_key`` is ``<owner>-<random>``, so that an owner can have two for a while."""

    access_key: str
    secret_key: str


def new_password() -> str:
    """A random password of letters and digits: 238 bits."""
    return "".join(random.choice(_ALPHABET) for _ in range(_PASSWORD_LENGTH))


def new_s3_key(owner: str) -> S3Key:
    """A random key for an owner."""
    return S3Key(
        f"{owner}-{''.join(random.choice(string.ascii_lowercase + string.digits) for _ in range(_KEY_LENGTH))}",
        new_password(),
    )


def pgpass_text(role: str, password: str) -> str:
    """A libpq password file of one role, for any host."""
    return f"*:*:*:{role}:{password}\n"


def s3_text(key: S3Key) -> str:
    """An AWS-style credentials file."""
    return f"[default]\naws_access_key_id = {key.access_key}\naws_secret_access_key = {key.secret_key}\n"


def core_secrets() -> list[Secret]:
    """All that the core has. Compose mounts each as it is, so the owner is who reads it in the container."""
    return [
        Secret("postgres_superuser", 999, "password of Postgres' superuser", new_password),
        Secret("dagster_pgpass", PYTHON_UID, "Dagster's role in Postgres", _pgpass("dagster")),
        Secret("dagster_aws_credentials", PYTHON_UID, "Dagster's compute logs", _s3("dagster")),
        Secret("object_store_root_user", PYTHON_UID, "administrator of the object store", lambda: "dml-root"),
        Secret("object_store_root_password", PYTHON_UID, "the administrator's password", new_password),
        Secret("postgres_exporter_password", 65534, "metrics of Postgres", new_password),
        Secret("grafana_admin_password", PYTHON_UID, "Grafana's own administrator", new_password),
        Secret("openmetadata_db_password", 1000, "OpenMetadata's role in Postgres", new_password),
        Secret("openmetadata_fernet_key", 1000, "what OpenMetadata encrypts with", _fernet_key),
        Secret("portainer_admin_password", 0, "Portainer's administrator", new_password),
        Secret("oidc_cookie_secret", 65532, "cookies of the sign-in by OIDC", lambda: new_password()[:32]),
        Secret("admin_password", 0, "first person who signs in at the proxy, user 'admin'", new_password),
    ]


def project_secrets(project: str) -> list[Secret]:
    """What the platform makes for a project; its own further files lie beside them."""
    folder = f"projects/{project}"
    return [
        Secret(f"{folder}/pgpass", PYTHON_UID, f"role of {project} in Postgres", _pgpass(project)),
        Secret(f"{folder}/aws_credentials", PYTHON_UID, f"key of {project} in the object store", _s3(project)),
    ]


@contextmanager
def credentials_lock(installation: Installation) -> Iterator[None]:
    """One change of credentials at a time: telling a service an old value while another command replaces it undoes it.

    Raises:
        RetryableError: another command holds it for minutes.
    """
    folder = installation.state / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "credentials.lock", timeout=_LOCK_TIMEOUT_S):
            yield
    except Timeout as error:
        raise RetryableError(
            "cannot change credentials",
            f"another command has been changing them for {_LOCK_TIMEOUT_S:g} s",
            "Wait for it to end, then run this again.",
        ) from error


def ensure_secrets(installation: Installation, projects: Iterable[str] = ()) -> list[str]:
    """Make every secret file that is missing, for the core and for each project; never change one that is there.

    Returns: names of the files that were made, relative to the folder of secrets, e.g. ``projects/sales/pgpass``.

    Raises:
        ConfigError: a file cannot be made, or cannot be given to the user that reads it.
    """
    from dml_infra.proxy_users import ensure_first_user

    made = []
    _ensure_folder(installation.secrets)
    for secret in [*core_secrets(), *(s for name in projects for s in project_secrets(name))]:
        path = installation.secrets / secret.name
        if path.is_file() and path.stat().st_size:
            continue
        if path.is_dir() and not any(path.iterdir()):  # made by Docker for a bind mount that was not there yet
            path.rmdir()
        write_secret(path, secret.make(), uid=secret.uid)
        made.append(secret.name)
    return made + ensure_first_user(installation)


def write_secret(path: Path, text: str, *, uid: int) -> None:
    """Write a secret file, in place where it exists: a single file that is mounted is known by its inode.

    One write of equal length over the old bytes: a reader sees the old or the new content. A new file appears whole.

    Raises:
        ConfigError: it cannot be written or given to ``uid``.
    """
    try:
        _ensure_folder(path.parent)
        if path.is_file():
            with path.open("r+b", buffering=0) as file:
                file.write(text.encode())
                file.truncate(len(text.encode()))
                os.fsync(file.fileno())
        else:
            fresh = path.with_name(f".{path.name}.new")
            fresh.unlink(missing_ok=True)
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            _give(fresh, uid)
            fresh.replace(path)
        path.chmod(0o600)
        _give(path, uid)
    except OSError as error:
        raise ConfigError(
            f"cannot write the secret {path}",
            error.strerror or type(error).__name__,
            "Run it as root (sudo), and check the disk; files that exist are kept.",
        ) from error


def read_secret(installation: Installation, name: str) -> str:
    """The content of a secret file without the last line break.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return (installation.secrets / name).read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise ConfigError(
            f"cannot read the secret {name!r}", error.strerror or type(error).__name__, "Run: dml infra secrets."
        ) from error


def read_password(installation: Installation, name: str) -> str:
    """The password in a secret file, plain or a libpq password file of one role."""
    return read_secret(installation, name).rpartition(":")[2]


def read_s3_key(installation: Installation, name: str) -> S3Key:
    """The key in an AWS-style credentials file.

    Raises:
        ConfigError: the file has none.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_secret(installation, name))
        section = parser["default"]
        return S3Key(section["aws_access_key_id"], section["aws_secret_access_key"])
    except (configparser.Error, KeyError):  # their text may hold the secret
        raise ConfigError(
            f"cannot read the secret {name!r}",
            "it is not an AWS-style credentials file",
            "Remove it and run: dml infra secrets.",
        ) from None


def _pgpass(role: str) -> Callable[[], str]:
    return lambda: pgpass_text(role, new_password())


def _s3(owner: str) -> Callable[[], str]:
    return lambda: s3_text(new_s3_key(owner))


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(random.token_bytes(32)).decode()


def _ensure_folder(folder: Path) -> None:
    # Others may pass through, to the one file that is mounted for them, but not list.
    folder.mkdir(parents=True, exist_ok=True, mode=0o711)


def _give(path: Path, uid: int) -> None:
    if path.stat().st_uid != uid:
        os.chown(path, uid, uid)
