"""``dml elementary``: bring Elementary's dbt package into a project."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from dml_platform.core.errors import ConfigError
from dml_platform.core.project import get_project
from dml_platform.core.settings import load_settings
from dml_platform.dbt.packages import install_packages
from dml_platform.elementary.report import make_report
from dml_platform.lake import Lake


def install(project_name: str | None, console: Console) -> None:
    """Install the packages, if they are not there.

    Raises:
        ConfigError: no mirror is set, or it does not have them.
    """
    project = get_project(project_name)
    mirror = load_settings(project.root).dbt_packages_mirror
    if mirror is None:
        raise ConfigError(
            "cannot install Elementary's dbt package",
            "DML_DBT_PACKAGES_MIRROR is not set",
            "Set it to 'hub', to a git server that mirrors the repositories, or to a folder that has them.",
        )
    versions = install_packages(project, mirror, lambda text: console.print(escape(text)))
    console.print(", ".join(f"{escape(name)} {version}" for name, version in sorted(versions.items())))


def report(project_name: str | None, console: Console) -> None:
    """Make the page, and say where it is.

    Raises:
        ConfigError: the dbt package is not installed.
    """
    project = get_project(project_name)
    lake = Lake(load_settings(project.root), project.root)
    place = make_report(project, lake, lambda text: console.print(escape(text)))
    console.print(escape(place), soft_wrap=True)
