"""Assembles a project: its sources, dbt models and own assets become one Dagster code location.

The only module that puts the services together; a project's ``definitions.py`` calls it and is about 30 lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from dml_platform.after_run import build_executor
from dml_platform.alerts.config import load_alerts
from dml_platform.alerts.desk import open_desk
from dml_platform.alerts.sensor import build_alert_sensor
from dml_platform.alerts.watch import Freshness
from dml_platform.core.compat import require_base
from dml_platform.core.config import load_project_config
from dml_platform.core.errors import ConfigError
from dml_platform.core.project import Project, read_project
from dml_platform.core.settings import load_settings
from dml_platform.lake.io_manager import LakeIOManager
from dml_platform.lake.maintain_job import build_maintenance
from dml_platform.lake.reporting import Plot
from dml_platform.lake.resource import LakeResource
from dml_platform.sources import build_source_assets, load_sources


def build_definitions(
    root: Path,
    *,
    assets: Sequence[Any] = (),
    asset_checks: Sequence[dg.AssetChecksDefinition] = (),
    jobs: Sequence[Any] = (),
    schedules: Sequence[Any] = (),
    sensors: Sequence[Any] = (),
    plots: Mapping[str, Plot] | None = None,
    resource_overrides: Mapping[str, Any] | None = None,
) -> dg.Definitions:
    """All of a project's Dagster definitions.

    Args:
        root: the project's folder, with ``pyproject.toml``, ``config/`` and ``dbt/``.
        assets: the project's own assets, beside those made from ``config/sources.yaml`` and ``dbt/``.
        plots: functions from a published table's frame to a matplotlib figure, by table name.
        resource_overrides: replace a default resource (``lake``, ``io_manager``), or add one.
    Raises:
        ConfigError: the folder is no project, a file of it is wrong, or it is made for another release of this library.
    """
    project = require_project(root)
    require_base(project)
    config, settings = load_project_config(project.root), load_settings(project.root)
    made: list[Any] = build_source_assets(project, load_sources(project), owner=config.owner)
    if project.dbt_dir.is_dir():
        from dml_platform.dbt.assets import build_dbt_assets
        from dml_platform.elementary.assets import build_report_assets

        models = build_dbt_assets(project, plots=plots)
        made += [models, *build_report_assets(project, sorted(models.keys), owner=config.owner)]
    open_desk(project, settings)  # a server without a channel's secret does not load, so that nobody waits for alerts
    maintenance = build_maintenance(project, config.maintenance, profile=settings.profile)
    all_schedules = [*schedules, *(found.schedule for found in maintenance)]
    alerts = build_alert_sensor(
        project, load_alerts(config), limits=lambda: _freshness_limits(project), schedules=all_schedules
    )
    return dg.Definitions(
        assets=[*made, *assets],
        asset_checks=list(asset_checks),
        jobs=[*jobs, *(found.job for found in maintenance)],
        schedules=all_schedules,
        sensors=[*sensors, *alerts],
        executor=build_executor(project),
        resources={
            "lake": LakeResource(project_root=str(project.root)),
            "io_manager": LakeIOManager(project_root=str(project.root)),
            **(resource_overrides or {}),
        },
        metadata={
            "project": project.name,
            "description": config.description or "",
            "owner": config.owner or "",
            "profile": settings.profile,
        },
    )


def _freshness_limits(project: Project) -> list[Freshness]:
    if not project.dbt_dir.is_dir():
        return []
    from dml_platform.dbt.freshness import source_limits
    from dml_platform.dbt.manifest import ensure_manifest

    return [Freshness(*limit) for limit in source_limits(ensure_manifest(project))]


def require_project(root: Path) -> Project:
    """The project in a folder.

    Raises:
        ConfigError: there is none.
    """
    project = read_project(root)
    if project is None:
        raise ConfigError(
            f"cannot load the project in {root}",
            "its pyproject.toml has no [tool.dml]",
            'Add [tool.dml] with project = "<name>".',
        )
    return project
