"""Connector programs in environments of their own, one for each package, version and Python."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from dml_platform.core.environments import Progress, ensure_environment
from dml_platform.core.errors import ConfigError
from dml_platform.core.settings import Settings


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
    programs = ensure_environment(
        cache / f"{package}-{version}-py{re.sub(r'[^A-Za-z0-9.]+', '_', label).strip('_')}",
        [f"{package}=={version}"],
        python=python or sys.executable,
        label=f"connector {package}=={version}",
        setting="DML_AIRBYTE__CACHE_DIR",
        progress=progress,
    )
    if not (programs / name).is_file():
        offered = sorted(p.name for p in programs.iterdir() if p.name.startswith(("source-", "destination-")))
        raise ConfigError(
            f"cannot run connector {package}=={version}",
            f"it has no program {name!r}" + (f", but {', '.join(offered)}" if offered else ""),
            "Name the program in the source's connector settings.",
        )
    return programs / name
