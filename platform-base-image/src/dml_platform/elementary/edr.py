"""Runs ``edr``, Elementary's program, on the history in the lake.

``edr`` runs dbt itself, so it gets a DuckDB file with the whole history, offline copies of the dbt packages and a
profile. It lives in an environment of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from dml_platform.core.environments import ensure_environment
from dml_platform.core.errors import ConfigError, PermanentError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.settings import Settings
from dml_platform.dbt.packages import ELEMENTARY, FOLDER, PACKAGES, absence, are_installed
from dml_platform.dbt.runner import build_history
from dml_platform.lake import Lake

_TIMEOUT_S = 900.0


def ensure_edr(settings: Settings, project: Project, progress: Callable[[str], None] | None = None) -> Path:
    """Find ``edr``, installing it on first use, with the project's copies of the dbt packages in its own dbt project.

    Raises:
        RetryableError: the package index cannot be reached.
        ConfigError: there is no such version.
    """
    label = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = settings.elementary.cache_dir / f"edr-{ELEMENTARY.version}-py{label}"
    pins = [f"{name}=={version(name)}" for name in ("dbt-core", "dbt-duckdb", "duckdb")]
    programs = ensure_environment(
        folder,
        [f"elementary-data=={ELEMENTARY.version}", *pins],
        python=sys.executable,
        label=f"edr {ELEMENTARY.version} (once; it needs an environment of its own)",
        setting="DML_ELEMENTARY__CACHE_DIR",
        progress=progress,
    )
    for inside in folder.glob("lib/python*/site-packages/elementary/monitor/dbt_project"):
        for package in PACKAGES:
            place = inside / FOLDER / package.name
            if not place.is_dir():
                shutil.copytree(project.dbt_dir / FOLDER / package.name, place)
                if package is ELEMENTARY:
                    _use_own_schema(place / "dbt_project.yml")
    return programs / "edr"


def _use_own_schema(path: Path) -> None:
    """In ``edr``'s project the profile names the schema, which the package's own setting would be appended to."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document.pop("models", None)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


@dataclass(frozen=True)
class Workplace:
    """What one call of ``edr`` works in. ``loaded`` are the snapshots of the history that is in ``database``."""

    program: Path
    folder: Path
    database: Path
    loaded: Mapping[TableRef, int]


@contextmanager
def workplace(
    project: Project,
    lake: Lake,
    *,
    what: str,
    database: Path | None = None,
    config: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Workplace]:
    """A folder, gone afterwards, with the whole history and what ``edr`` wants to know.

    Args:
        what: what is tried, for messages.
        database: a file with Elementary's tables and views, which is copied; default: the lake's history.
        config: more of ``edr``'s own config file, which nobody else may read: it may hold a secret.
    Raises:
        ConfigError: the dbt package is not installed.
        PermanentError: dbt could not put the history together.
    """
    if not are_installed(project.dbt_dir):
        raise ConfigError(what, absence(project.dbt_dir) or "the project has no tests of Elementary", "Install it.")
    program = ensure_edr(lake.settings, project, progress)
    lake.settings.temp_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edr-", dir=lake.settings.temp_dir) as temporary:
        folder = Path(temporary)
        place = folder / f"{project.name}.duckdb"  # the views name it
        if database is not None:
            shutil.copyfile(database, place)
        loaded = build_history(project, lake, place) if database is None else {}
        outputs = {"default": {"type": "duckdb", "path": str(place), "schema": "elementary", "threads": 2}}
        profile = {"elementary": {"target": "default", "outputs": outputs}}
        (folder / "profiles.yml").write_text(yaml.safe_dump(profile), encoding="utf-8")
        settings = {"anonymous_usage_tracking": False, "run_dbt_deps_if_needed": False, **(config or {})}
        (folder / "config.yml").touch(mode=0o600)
        (folder / "config.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        yield Workplace(program, folder, place, loaded)


def run_edr(place: Workplace, command: str, *options: str, what: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ``edr``; whether it did what it should is the caller's to see.

    Raises:
        PermanentError: it took too long.
    """
    folders = [f"--{name}={place.folder}" for name in ("profiles-dir", "config-dir", "target-path")]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # What dbt would write beside its project, which an image holds read-only.
    environment |= {"EDR_INTERNAL_TARGET_PATH": str(place.folder / "target"), "DBT_LOG_PATH": str(place.folder)}
    try:
        return subprocess.run(
            [str(place.program), command, *folders, "--disable-samples=true", *options],
            cwd=place.folder,
            env=environment | {"DO_NOT_TRACK": "1", "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PermanentError(what, f"edr took longer than {_TIMEOUT_S:.0f} s", "Run it again.") from None


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """The end of what ``edr`` said, in one line."""
    return " ".join((done.stdout + done.stderr).split())[-500:]
