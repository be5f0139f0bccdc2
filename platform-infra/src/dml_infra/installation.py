"""Where an installation is and what its `.env` says: the one place that reads it.

An installation is a folder with `compose.yaml`, `.env.example`, `.env`, `config/` and `registry/`: a checkout of this
repository or a copy. `.env` is the only configuration; `.env.example` lists every name and gives the defaults, so
`.env` needs only what differs. Compose is always called with the values read here, so that both agree.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dml_infra.errors import ConfigError

ROOT_VARIABLE = "DML_INFRA__ROOT"
_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_QUOTED = re.compile(r"""("((?:[^"\\]|\\.)*)"|'([^']*)')\s*(?:#.*)?""")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::?-([^}]*))?\}")
_OFFERED = re.compile(r"^#\s?(DML_[A-Z0-9_]+)=", re.MULTILINE)
_USED = re.compile(r"\$\{(DML_[A-Z0-9_]+)")
_STACK = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


@dataclass(frozen=True)
class Installation:
    """One server's folder and settings.

    Args:
        root: folder of compose.yaml.
        env: all values of `.env` over the defaults of `.env.example`.
        state: absolute folder of secrets, workspace and records (``DML_STATE``).
        stack: Compose project name (``DML_STACK``), the first part of every container's, network's and volume's name.
    """

    root: Path
    env: Mapping[str, str]
    state: Path
    stack: str

    @property
    def compose_file(self) -> Path:
        """The stack's file."""
        return self.root / "compose.yaml"

    @property
    def env_file(self) -> Path:
        """The installation's settings."""
        return self.root / ".env"

    @property
    def registry_file(self) -> Path:
        """The one list of code locations."""
        return self.root / "registry" / "code-locations.yaml"

    @property
    def secrets(self) -> Path:
        """Folder of the secret files."""
        return self.state / "secrets"

    @property
    def profiles(self) -> tuple[str, ...]:
        """The optional parts that are switched on (``COMPOSE_PROFILES``)."""
        return tuple(p.strip() for p in self.env.get("COMPOSE_PROFILES", "").split(",") if p.strip())

    @property
    def first_site(self) -> str:
        """The first of the proxy's addresses, with its scheme (``DML_SITE``)."""
        site = self.env.get("DML_SITE", "localhost").replace(",", " ").split()[0]
        return site if "://" in site else f"https://{site}"

    @property
    def address(self) -> str:
        """What people type, with the port where it is not the usual one."""
        site = urlsplit(self.first_site)
        secure = site.scheme != "http"
        port = self.number(*(("DML_HTTPS_PORT", 443) if secure else ("DML_HTTP_PORT", 80)))
        usual = 443 if secure else 80
        return f"{'https' if secure else 'http'}://{site.hostname}{'' if port == usual else f':{port}'}/"

    def network(self, name: str) -> str:
        """Full name of a network, e.g. ``network('edge')``."""
        return f"{self.stack}_{name}"

    def project_network(self, project: str) -> str:
        """Full name of a project's own network."""
        return f"{self.stack}_project_{project}"

    def config_sums(self) -> dict[str, str]:
        """For Compose: ``DML_SUM_<FOLDER>``, a checksum of the files in each folder below `config/`."""
        folder = Path(self.env.get("DML_CONFIG") or self.root / "config")
        sums = {}
        for part in sorted(path for path in (self.root / folder).glob("*") if path.is_dir()):
            digest = hashlib.sha256()
            for path in sorted(path for path in part.rglob("*") if path.is_file()):
                digest.update(str(path.relative_to(part)).encode() + b"\0" + path.read_bytes() + b"\0")
            sums[f"DML_SUM_{part.name.upper().replace('-', '_')}"] = digest.hexdigest()[:16]
        return sums

    def number(self, name: str, default: int) -> int:
        """An integer setting.

        Raises:
            ConfigError: it is not a whole number.
        """
        text = self.env.get(name, "") or str(default)
        if not re.fullmatch(r"-?\d+", text):
            raise _wrong(self.env_file, f"{name}={text!r} is not a whole number", f"Correct {name}.")
        return int(text)


def find_installation(root: Path | str | None = None, *, cwd: Path | None = None) -> Installation:
    """Find and read an installation.

    Args:
        root: its folder; default: ``DML_INFRA__ROOT``, else the current folder or one above it that is
            one, or has one as `platform-infra`.
        cwd: the current folder, where it is another one than the process's.

    Raises:
        ConfigError: there is none, or its settings are wrong; every mistake is named.
    """
    folder = _find_root(root, cwd or Path.cwd())
    env = read_settings(folder)
    state = Path(env.get("DML_STATE", ""))
    if not state.is_absolute():
        raise _wrong(
            folder / ".env",
            f"DML_STATE={str(env.get('DML_STATE', ''))!r} is not an absolute path",
            "Set DML_STATE to the folder for secrets and state, e.g. /srv/dml.",
        )
    stack = env.get("DML_STACK", "dml")
    if not _STACK.fullmatch(stack):
        raise _wrong(
            folder / ".env",
            f"DML_STACK={stack!r} is not a Compose project name",
            "Use up to 31 lower-case letters, digits and hyphens, beginning with a letter or digit.",
        )
    return Installation(root=folder, env=env, state=state, stack=stack)


def read_settings(folder: Path) -> dict[str, str]:
    """Values of `.env` over the defaults of `.env.example`; refuses ``DML_`` names that nothing reads."""
    example = folder / ".env.example"
    defaults = parse_env(example) if example.is_file() else {}
    given = parse_env(folder / ".env", base=defaults) if (folder / ".env").is_file() else {}
    known = set(defaults) | _offered_names(folder)
    unknown = sorted(name for name in given if name.startswith("DML_") and name not in known)
    if unknown:
        raise _wrong(
            folder / ".env",
            f"unknown name {', '.join(_hint(name, known) for name in unknown)}",
            f"Correct or remove it; {example} lists all that are read.",
        )
    return {**defaults, **given}


def parse_env(path: Path, *, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Read a Compose env file: comments, quotes, ``${NAME}`` and ``${NAME:-default}``.

    Args:
        path: the file.
        base: values that references may name besides the file's own.

    Raises:
        ConfigError: a line is no assignment, a quote is open, a name is set twice or a reference leads nowhere.
    """
    values: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(path, str(error), "Make it a readable text file.") from error
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(text)
        if not match:
            raise _wrong(path, f"line {number} is not NAME=value", "Correct the line, or begin it with '#'.")
        name, raw = match.groups()
        if name in values:
            raise _wrong(path, f"line {number} sets {name} a second time", "Keep one of the two lines.")
        values[name] = _parse_value(path, number, name, raw, {**(base or {}), **values})
    return values


def _parse_value(path: Path, number: int, name: str, raw: str, known: Mapping[str, str]) -> str:
    if raw[:1] in {"'", '"'}:
        quoted = _QUOTED.fullmatch(raw)
        if not quoted:
            raise _wrong(path, f"line {number}: the quotes of {name} do not close", "Close or remove them.")
        if quoted[3] is not None:
            return quoted[3]
        raw = re.sub(r"\\(.)", r"\1", quoted[2])
    else:
        raw = re.split(r"(?:^|\s)#", raw, maxsplit=1)[0].strip()

    def resolve(reference: re.Match[str]) -> str:
        value = known.get(reference[1], "") or reference[2]
        if value is None:
            raise _wrong(
                path, f"line {number}: {name} refers to {reference[1]}, which is not set above", "Set it first."
            )
        return value

    return _REFERENCE.sub(resolve, raw)


def _offered_names(folder: Path) -> set[str]:
    """Names that `.env.example` offers as comments, or that compose.yaml reads."""
    names: set[str] = set()
    for file, pattern in ((".env.example", _OFFERED), ("compose.yaml", _USED)):
        if (folder / file).is_file():
            names |= set(pattern.findall((folder / file).read_text(encoding="utf-8")))
    return names


def _find_root(root: Path | str | None, cwd: Path) -> Path:
    given = root or os.environ.get(ROOT_VARIABLE)
    if given:
        folder = Path(given).expanduser().absolute()
        if _is_installation(folder):
            return folder
        raise ConfigError(
            "cannot find the installation",
            f"{str(folder)!r} has no compose.yaml beside a registry folder",
            "Give the folder of compose.yaml to --root or DML_INFRA__ROOT.",
        )
    for folder in (cwd, *cwd.parents):
        for candidate in (folder, folder / "platform-infra"):
            if _is_installation(candidate):
                return candidate.absolute()
    raise ConfigError(
        "cannot find the installation",
        f"neither {str(cwd)!r} nor a folder above it has compose.yaml and registry/",
        "Go to its folder, or name it with --root or DML_INFRA__ROOT.",
    )


def _is_installation(folder: Path) -> bool:
    return (folder / "compose.yaml").is_file() and (folder / "registry").is_dir()


def _hint(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"{name!r}" + (f" (did you mean {close[0]}?)" if close else "")


def _wrong(path: Path, why: str, fix: str) -> ConfigError:
    return ConfigError(f"cannot read {path}", why, fix)
