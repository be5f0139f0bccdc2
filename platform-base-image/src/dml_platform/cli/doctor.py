"""``dml doctor``: check what the platform stands on, one line each, with the fix where something is wrong."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dml_platform import __version__
from dml_platform.api import PUBLIC
from dml_platform.cli.faults import explain
from dml_platform.core.compat import foreign_imports, require_base
from dml_platform.core.errors import ConfigError
from dml_platform.core.project import find_projects
from dml_platform.core.settings import Settings, known_variables, load_settings
from dml_platform.lake import Lake, engine

_FREE_GB = 2.0
_SHOWN = ("dagster", "dbt-core", "dbt-duckdb", "duckdb", "pyiceberg")


def check(console: Console, here: Path) -> bool:
    """Run all checks.

    Returns: whether everything is as it should be.
    """
    good = _line(console, "python", lambda: f"{platform.python_version()} at {sys.prefix}")
    good &= _line(console, "packages", _versions)
    settings: list[Settings] = []

    def read_settings() -> str:
        settings.append(load_settings())
        return f"profile {settings[0].profile}, state in {settings[0].home}"

    if not _line(console, "settings", read_settings):
        return False
    lake = Lake(settings[0])
    good &= _line(console, "disk", lambda: _disk(settings[0].home))
    good &= _line(console, "duckdb extensions", _extensions)
    good &= _line(console, "lake", lambda: f"{len(lake.tables())} tables in {settings[0].warehouse}")
    good &= _line(console, "projects", lambda: _projects(here))
    good &= _line(console, "base", lambda: _base(here))
    good &= _line(console, "catalogue", lambda: _catalogue(here, settings[0]))
    good &= _line(console, "services", lambda: _services(settings[0]))
    good &= _line(console, "elementary", lambda: _elementary(here))
    return good


def list_settings(console: Console) -> None:
    """Print every variable that settings read, and whether it is set; never its value."""
    table = Table("variable", "set", "what it is", box=None, padding=(0, 2, 0, 0))
    for name, description in sorted(known_variables().items()):
        table.add_row(name, "yes" if name in os.environ else "", escape(description))
    console.print(table)


def _line(console: Console, name: str, probe: Callable[[], str]) -> bool:
    try:
        found = probe()
    except Exception as error:  # noqa: BLE001 - whatever is wrong, the other checks still help
        known = explain(error)
        found = f"{known.why}. {known.fix}" if known else f"{type(error).__name__}: {error}"
        console.print(f"[red]wrong[/] {name}: {escape(found)}", highlight=False, soft_wrap=True)
        return False
    console.print(f"[green]ok[/]    {name}: {escape(found)}", highlight=False, soft_wrap=True)
    return True


def _catalogue(here: Path, settings: Settings) -> str:
    from dml_platform.catalog.store import read_document

    found = []
    for project in find_projects(here):
        document = read_document(settings, project.name)
        written = f"written {document.generated_at[:16].replace('T', ' ')}" if document else "none yet, a run writes it"
        found.append(f"{project.name} {written}")
    return "; ".join(found) or "no project here"


def _services(settings: Settings) -> str:
    """What else is spoken to, by the setting that says where it is; without it the platform does as well as it can."""
    places = {
        "Airbyte (DML_AIRBYTE__SERVER_URL)": settings.airbyte.server_url,
        "Dagster for links (DML_DAGSTER_URL)": settings.dagster_url,
        "pages for links (DML_REPORTS_URL)": settings.reports_url,
        "OpenMetadata (DML_OPENMETADATA__URL)": settings.openmetadata.url,
    }
    return ", ".join(f"{name}: {place or 'not set'}" for name, place in places.items())


def _versions() -> str:
    return ", ".join([f"dml-platform {__version__}", *(f"{n} {importlib.metadata.version(n)}" for n in _SHOWN)])


def _disk(home: Path) -> str:
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {home}", str(error), "Set DML_HOME to a folder that can be written.") from error
    if not os.access(home, os.W_OK):
        raise ConfigError(f"cannot use {home}", "it cannot be written", "Set DML_HOME to a folder that can.")
    free = shutil.disk_usage(home).free / 1e9
    if free < _FREE_GB:
        raise ConfigError(
            "disk", f"only {free:.1f} GB are free below {home}", f"Free some: runs want {_FREE_GB:.0f} GB."
        )
    return f"{free:.0f} GB free"


def _extensions() -> str:
    import duckdb

    names = ("httpfs", "avro", "iceberg")
    with duckdb.connect() as connection:
        for name in names:
            engine.load_extension(connection, name)
    return f"{', '.join(names)} load without network"


def _elementary(here: Path) -> str:
    """Its absence is said and is no fault: dbt's own tests are all there."""
    from dml_platform.dbt.packages import absence, are_installed

    said = [f"{p.name}: {absence(p.dbt_dir)}" for p in find_projects(here) if absence(p.dbt_dir)]
    there = [p.name for p in find_projects(here) if are_installed(p.dbt_dir)]
    return ". ".join([*([f"part of {', '.join(there)}"] if there else []), *said]) or "no project has tests of it"


def _projects(here: Path) -> str:
    projects = find_projects(here)
    if not projects:
        raise ConfigError("projects", f"none in or below {here}", "Change into the tree or a project's folder.")
    return ", ".join(f"{p.name} ({p.root})" for p in projects)


def _base(here: Path) -> str:
    projects = find_projects(here)
    said = [require_base(project) for project in projects]
    if foreign := [f"{p.name}: {use}" for p in projects for use in foreign_imports(p, PUBLIC)]:
        raise ConfigError(
            "imports",
            f"not for projects: {'; '.join(foreign)}",
            "Any release may change it: use what docs/api.md lists.",
        )
    return "; ".join(said) or "no project here"
