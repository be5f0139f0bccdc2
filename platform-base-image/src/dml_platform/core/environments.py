"""Programs in environments of their own, for what cannot live beside Dagster: made on first use, with uv.

An environment's marker is written last, so that an interrupted installation is repaired by the next use.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import filelock
import uv

from dml_platform.core.errors import ConfigError, PlatformError, RetryableError

Progress = Callable[[str], None]

_MARKER = ".complete"
_INSTALL_TIMEOUT_S = 1800.0
_OFFLINE = re.compile(
    r"failed to fetch|error sending request|dns error|connect error|connection (refused|reset)|network|timed out"
    r"|certificate|client error",
    re.IGNORECASE,
)


def ensure_environment(
    folder: Path,
    packages: Sequence[str],
    *,
    python: str,
    label: str,
    setting: str,
    progress: Progress | None = None,
) -> Path:
    """Make an environment, unless it is there and whole.

    Args:
        folder: where; its name must tell what is in it.
        packages: arguments of ``uv pip install``.
        python: version or path of the environment's Python.
        label: what is installed, in words.
        setting: the variable that names the parent folder, for the message where that cannot be written.
        progress: told what happens, before each step that takes seconds.
    Returns: the folder of its programs.
    Raises:
        RetryableError: the package index cannot be reached, or another process holds the installation too long.
        ConfigError: there is no such package or version, or the folder cannot be written.
    """
    if is_installed(folder):
        return folder / "bin"
    what = f"cannot install {label}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{folder}.lock", timeout=_INSTALL_TIMEOUT_S):
            if not (folder / _MARKER).is_file():
                if progress:
                    progress(f"installing {label}")
                _install(folder, packages, python=python, what=what)
                (folder / _MARKER).write_text(f"{label}\n", encoding="utf-8")
    except filelock.Timeout as error:
        raise RetryableError(what, f"another process holds {folder}.lock", "Wait for it, then run again.") from error
    except OSError as error:
        raise ConfigError(
            what, f"{folder.parent}: {error.strerror or error}", f"Point {setting} to a folder that can be written."
        ) from error
    return folder / "bin"


def is_installed(folder: Path) -> bool:
    """Whether the environment is there and whole."""
    return (folder / _MARKER).is_file() and (folder / "bin").is_dir()


def _install(folder: Path, packages: Sequence[str], *, python: str, what: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    program = uv.find_uv_bin()
    install = ["pip", "install", "--quiet", "--no-config", "--compile-bytecode"]
    for command in (
        [program, "venv", "--quiet", "--no-project", "--python", python, str(folder)],
        [program, *install, "--python", str(folder / "bin" / "python"), *packages],
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
