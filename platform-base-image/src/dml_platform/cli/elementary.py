"""``dml elementary``: bring Elementary's dbt package into a project, make its page, send its alerts."""

from __future__ import annotations

import uuid

from rich.console import Console
from rich.markup import escape

from dml_platform.core.errors import ConfigError
from dml_platform.core.project import get_project
from dml_platform.core.settings import load_settings
from dml_platform.dbt.packages import are_installed, install_packages
from dml_platform.elementary.alerts import send_alerts
from dml_platform.elementary.edr import ensure_edr
from dml_platform.elementary.report import make_report
from dml_platform.lake import Lake


def install(project_name: str | None, console: Console, *, with_edr: bool = False) -> None:
    """Install the packages, if they are not there.

    Args:
        with_edr: also the program, which is installed on its first use otherwise.
    Raises:
        ConfigError: no mirror is set, or it does not have them.
    """
    project = get_project(project_name)
    settings = load_settings(project.root)

    def tell(text: str) -> None:
        console.print(escape(text))

    if settings.dbt_packages_mirror is None and not are_installed(project.dbt_dir):
        raise ConfigError(
            "cannot install Elementary's dbt package",
            "DML_DBT_PACKAGES_MIRROR is not set",
            "Set it to 'hub', to a git server that mirrors the repositories, or to a folder that has them.",
        )
    versions = install_packages(project, settings.dbt_packages_mirror or "", tell)
    console.print(", ".join(f"{escape(name)} {version}" for name, version in sorted(versions.items())))
    if with_edr:
        console.print(escape(str(ensure_edr(settings, project, tell))), soft_wrap=True)


def report(project_name: str | None, console: Console) -> None:
    """Make the page, and say where it is.

    Raises:
        ConfigError: the dbt package is not installed.
    """
    project = get_project(project_name)
    lake = Lake(load_settings(project.root), project.root)
    place = make_report(project, lake, lambda text: console.print(escape(text)))
    console.print(escape(place), soft_wrap=True)


def alerts(project_name: str | None, console: Console) -> None:
    """Send what nobody was told of.

    Raises:
        ConfigError: no webhook is set, or the dbt package is not installed.
        RetryableError: not all was taken; it waits.
    """
    project = get_project(project_name)
    lake = Lake(load_settings(project.root), project.root)
    run_id = f"edr{uuid.uuid4().hex[:8]}"
    done = send_alerts(project, lake, run_id=run_id, progress=lambda text: console.print(escape(text)))
    console.print(f"{done.sent} sent, {done.waiting} wait")
