"""Elementary's report, one page, made by ``edr`` from the history in the lake.

``edr`` runs dbt itself, so it gets a DuckDB file with the whole history, offline copies of the dbt packages and a
profile.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import yaml

from dml_platform.core.environments import ensure_environment
from dml_platform.core.errors import ConfigError, PermanentError
from dml_platform.core.project import Project
from dml_platform.core.settings import Settings
from dml_platform.core.storage import open_storage
from dml_platform.dbt.packages import ELEMENTARY, FOLDER, PACKAGES, absence, are_installed
from dml_platform.dbt.runner import build_history
from dml_platform.lake import Lake

AREA = "elementary"
REPORT = "report.html"
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


def make_report(project: Project, lake: Lake, progress: Callable[[str], None] | None = None) -> str:
    """Make the page and keep it beside the project's tables.

    Returns: its address.
    Raises:
        ConfigError: the dbt package is not installed.
        PermanentError: ``edr`` failed; its last words.
    """
    what = f"cannot make Elementary's report of project {project.name!r}"
    if not are_installed(project.dbt_dir):
        raise ConfigError(what, absence(project.dbt_dir) or "the project has no tests of Elementary", "Install it.")
    edr = ensure_edr(lake.settings, project, progress)
    lake.settings.temp_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edr-", dir=lake.settings.temp_dir) as temporary:
        folder = Path(temporary)
        database, page = folder / f"{project.name}.duckdb", folder / REPORT
        build_history(project, lake, database)
        outputs = {"default": {"type": "duckdb", "path": str(database), "schema": "elementary", "threads": 2}}
        profile = {"elementary": {"target": "default", "outputs": outputs}}
        (folder / "profiles.yml").write_text(yaml.safe_dump(profile), encoding="utf-8")
        config = {"anonymous_usage_tracking": False, "run_dbt_deps_if_needed": False}
        (folder / "config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        command = [
            *(str(edr), "report", "--profiles-dir", temporary, "--config-dir", temporary, "--target-path", temporary),
            *("--file-path", str(page), "--open-browser", "false", "--project-name", project.name),
            *("--env", lake.settings.profile, "--disable-samples", "true"),
        ]
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment | {"DO_NOT_TRACK": "1", "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise PermanentError(what, f"edr took longer than {_TIMEOUT_S:.0f} s", "Run it again.") from None
        if done.returncode != 0 or not page.is_file():
            said = " ".join((done.stdout + done.stderr).split())[-500:]
            raise PermanentError(what, f"edr ended with {done.returncode}: {said}", "Correct it and run it again.")
        return open_storage(lake.settings, project.name, AREA).upload(REPORT, page)
