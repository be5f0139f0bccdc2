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
from dml_platform.cli.faults import explain
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


def _projects(here: Path) -> str:
    projects = find_projects(here)
    if not projects:
        raise ConfigError("projects", f"none in or below {here}", "Change into the tree or a project's folder.")
    return ", ".join(f"{p.name} ({p.root})" for p in projects)
