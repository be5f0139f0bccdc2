"""Connector programs in environments of their own, one for each package, version and Python.

An environment is made on first use. Its marker is written last, so that an interrupted installation is repaired by
the next use.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import filelock
import uv

from dml_platform.core.errors import ConfigError, PlatformError, RetryableError
from dml_platform.core.settings import Settings

Progress = Callable[[str], None]

_MARKER = ".complete"
_INSTALL_TIMEOUT_S = 1800.0
_OFFLINE = re.compile(
    r"failed to fetch|error sending request|dns error|connect error|connection (refused|reset)|network|timed out"
    r"|certificate|client error",
    re.IGNORECASE,
)


def ensure_connector(
    package: str,
    version: str,
    settings: Settings,
    program: str | None = None,
    *,
    python: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Find a connector's program, installing it into the cache when it is not there yet.

    Args:
        package: name on the package index, e.g. ``airbyte-source-faker``.
        version: exact version.
        program: name of the program; default: the package's name without ``airbyte-``.
        python: version or path of the environment's Python; default: the one that runs this.
        progress: told what happens, before each step that takes seconds.
    Raises:
        RetryableError: the package index cannot be reached, or another process holds the installation too long.
        ConfigError: there is no such package, version or program.
    """
    name = program or package.removeprefix("airbyte-")
    label = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    cache = settings.airbyte.cache_dir.expanduser()
    folder = cache / f"{package}-{version}-py{re.sub(r'[^A-Za-z0-9.]+', '_', label).strip('_')}"
    path = folder / "bin" / name
    if (folder / _MARKER).is_file() and path.is_file():
        return path
    what = f"cannot install connector {package}=={version}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{folder}.lock", timeout=_INSTALL_TIMEOUT_S):
            if not (folder / _MARKER).is_file():
                _install(package, version, folder, python=python or sys.executable, what=what, progress=progress)
    except filelock.Timeout as error:
        raise RetryableError(what, f"another process holds {folder}.lock", "Wait for it, then run again.") from error
    except OSError as error:
        raise ConfigError(
            what, f"{cache}: {error.strerror or error}", "Point DML_AIRBYTE__CACHE_DIR to a folder that can be written."
        ) from error
    if not path.is_file():
        offered = sorted(p.name for p in (folder / "bin").iterdir() if p.name.startswith(("source-", "destination-")))
        raise ConfigError(
            f"cannot run connector {package}=={version}",
            f"it has no program {name!r}" + (f", but {', '.join(offered)}" if offered else ""),
            "Name the program in the source's connector settings.",
        )
    return path


def _install(package: str, version: str, folder: Path, *, python: str, what: str, progress: Progress | None) -> None:
    if progress:
        progress(f"installing connector {package}=={version}")
    shutil.rmtree(folder, ignore_errors=True)
    program = uv.find_uv_bin()
    for command in (
        [program, "venv", "--quiet", "--no-project", "--python", python, str(folder)],
        [
            *(program, "pip", "install", "--quiet", "--no-config", "--compile-bytecode"),
            *("--python", str(folder / "bin" / "python"), f"{package}=={version}"),
        ],
    ):
        try:
            done = subprocess.run(
                command,
                env=_index_environment(),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_INSTALL_TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise RetryableError(
                what, f"it took longer than {_INSTALL_TIMEOUT_S:.0f} s", "Check the connection, then run again."
            ) from error
        if done.returncode != 0:
            raise _explain(what, done.stderr)
    (folder / _MARKER).write_text(f"{package}=={version}\n", encoding="utf-8")


def _explain(what: str, output: str) -> PlatformError:
    """One sentence from uv's account of what went wrong."""
    lines = [re.sub(r"^[^\w'`(]+|^error:\s*|^Caused by:\s*", "", line).strip() for line in output.splitlines()]
    # Addresses of an index may carry credentials.
    text = re.sub(r"://[^@/\s]+@", "://***@", " ".join(line for line in lines if line))[:400]
    if _OFFLINE.search(output) and "not found in the package registry" not in output:
        return RetryableError(
            what,
            f"the package index cannot be reached ({text})",
            "Connect, or name a mirror with UV_DEFAULT_INDEX or PIP_INDEX_URL (its certificates: SSL_CERT_FILE), "
            "then run again.",
        )
    return ConfigError(what, text or "uv gave no reason", "Check the package, its version and the Python it asks for.")


def _index_environment() -> dict[str, str]:
    """Our environment, with what was set for pip where uv's own variable is not set."""
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")}
    for ours, pips in (
        ("UV_DEFAULT_INDEX", ("UV_INDEX_URL", "PIP_INDEX_URL")),
        ("SSL_CERT_FILE", ("PIP_CERT", "REQUESTS_CA_BUNDLE")),
    ):
        if ours not in environment:
            found = [environment[p] for p in pips if environment.get(p)]
            environment |= {ours: found[0]} if found else {}
    return environment
