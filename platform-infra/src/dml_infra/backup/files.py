"""The files of an installation in a backup: settings, registry, rendered state and, encrypted, the secrets."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyrage

from dml_infra.errors import CheckFailedError, ConfigError
from dml_infra.installation import Installation

INSTALLATION = "installation.tar.gz"
STATE = "state.tar.gz"
SECRETS = "secrets.tar.age"  # pragma: allowlist secret
# What is looked at in a backup and, `.env` and registry excepted, not put back: it belongs to the release.
_ROOT = (".env", ".env.example", "compose.yaml", "registry", "config")
_STATE = ("projects", "workspace", "stacks", "deploys.jsonl", "told.json", "first-sign-in-told")


def parse_recipient(text: str) -> Any:
    """An age public key.

    Raises:
        ConfigError: it is none.
    """
    try:
        return pyrage.x25519.Recipient.from_str(text.strip())
    except pyrage.RecipientError as error:
        raise ConfigError(
            "cannot encrypt the backup's secrets",
            f"{text.strip()[:12]!r}… is no age public key ({error})",
            "Give the line 'age1…' of a key pair; 'dml infra backup --new-key FILE' makes one.",
        ) from error


def new_identity(file: Path) -> str:
    """Write a new private key to a file that is not there yet. Returns: its public key."""
    identity = pyrage.x25519.Identity.generate()
    public = str(identity.to_public())
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.write(f"# public key: {public}\n{identity}\n")
    except OSError as error:
        raise ConfigError(
            "cannot make a key", str(error), "Name a new file in a folder that can be written."
        ) from error
    return public


def read_identity(file: Path) -> Any:
    """The private key of a file as age-keygen writes it.

    Raises:
        ConfigError: the file has none.
    """
    what, fix = "cannot decrypt the backup's secrets", "Give the private key's file: it has a line 'AGE-SECRET-KEY-1…'."
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(what, f"cannot read {file} ({error})", fix) from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    try:
        return pyrage.x25519.Identity.from_str(keys[0] if len(keys) == 1 else "")
    except pyrage.IdentityError as error:
        raise ConfigError(what, f"{file} does not hold one private key", fix) from error


def decrypt(data: bytes, identity: Any, name: str) -> bytes:
    """A part's content.

    Raises:
        ConfigError: it was encrypted to another key.
    """
    try:
        return bytes(pyrage.decrypt(data, [identity]))
    except pyrage.DecryptError as error:
        raise ConfigError(
            "cannot decrypt the backup's secrets",
            f"{name}: {error}",
            "Give the private key that belongs to the --recipient of the backup.",
        ) from error


def pack_installation(installation: Installation) -> bytes:
    """Settings, registry, and the release's files for reference."""
    return gzip.compress(_pack(installation.root, _ROOT), mtime=0)


def pack_state(installation: Installation) -> bytes:
    """What was rendered and recorded."""
    return gzip.compress(_pack(installation.state, _STATE), mtime=0)


def pack_secrets(installation: Installation, recipient: Any) -> bytes:
    """All secret files with their owners, encrypted."""
    if not installation.secrets.is_dir():
        raise ConfigError("cannot back up", f"there is no {installation.secrets}", "Run 'dml infra up' first.")
    return bytes(pyrage.encrypt(_pack(installation.secrets, (".",)), [recipient]))


def require_no_secrets(installation: Installation) -> None:
    """Raise where secrets are there that a restore would replace."""
    if installation.secrets.is_dir() and any(installation.secrets.iterdir()):
        raise ConfigError(
            "cannot restore",
            f"{installation.secrets} has secrets already",
            "Remove them with 'dml infra down --delete-data' if they may go, or restore into another installation.",
        )


def unpack_installation(installation: Installation, data: bytes) -> list[str]:
    """Put the registry back, and `.env` where there is none. Returns: what is different in the `.env` that was kept."""
    packed = _read(data)
    registry = {name: entry for name, entry in packed.items() if name.startswith("registry/")}
    _unpack(installation.root, registry)
    if installation.env_file.exists():
        old = _lines(packed[".env"][1].decode()) if ".env" in packed else {}
        new = _lines(installation.env_file.read_text(encoding="utf-8"))
        return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    _unpack(installation.root, {".env": packed[".env"]} if ".env" in packed else {})
    return []


def unpack_state(installation: Installation, data: bytes) -> None:
    """Put back what was rendered and recorded."""
    _unpack(installation.state, _read(data))


def unpack_secrets(installation: Installation, data: bytes) -> None:
    """Put the secret files back with their owners."""
    installation.secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    _unpack(installation.secrets, _read(data))


def _lines(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _pack(folder: Path, names: Iterable[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            if (folder / name).exists():
                tar.add(folder / name, name, filter=lambda entry: entry if entry.isfile() or entry.isdir() else None)
    return buffer.getvalue()


def _read(data: bytes) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    """Files and folders of a packed folder; every name checked before anything is written."""
    found: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for entry in tar.getmembers():
            name = os.path.normpath(entry.name)
            if name.startswith(("/", "..")) or not (entry.isfile() or entry.isdir()):
                raise CheckFailedError(
                    "cannot use the backup", f"it has a file named {entry.name!r}", "Use another one."
                )
            file = tar.extractfile(entry) if entry.isfile() else None
            found[name] = (entry, file.read() if file else b"")
    return found


def _unpack(folder: Path, entries: dict[str, tuple[tarfile.TarInfo, bytes]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (entry, content) in sorted(entries.items()):
        path = folder / name
        if entry.isdir():
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.restored")
            draft.unlink(missing_ok=True)
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                out.write(content)
            os.replace(draft, path)
        if os.geteuid() == 0:
            os.chown(path, entry.uid, entry.gid)
        path.chmod(entry.mode)
