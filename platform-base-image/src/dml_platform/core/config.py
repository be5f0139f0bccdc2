"""``config/project.yaml``: who owns a project, what it is, and its defaults for settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dml_platform.core.errors import ConfigError


class SettingsDefaults(BaseModel):
    """A project's defaults of ``DML_<SECTION>__<FIELD>``; addresses and credentials come from the environment only."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    duckdb: dict[str, Any] = {}
    airbyte: dict[str, Any] = {}
    dbt: dict[str, Any] = {}
    dvc: dict[str, Any] = {}


class FigureConfig(BaseModel):
    """A key figure of a published table: ``x`` and ``y`` are SQL, ``y`` may aggregate, e.g. ``sum(revenue_cents)``."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    table: str
    x: str
    y: str
    title: str
    unit: str = ""


class MaintenanceConfig(BaseModel):
    """How long the lake keeps what is not published any more, and how often a server looks.

    ``keep_days`` counts from when a state stopped being published; the last ``keep_snapshots`` states, and what the
    newest ``keep_runs`` runs read and published, stay longer. ``branch_days`` without a write make a run's branch
    dead, and a file that nothing names is deleted when it is older than ``orphan_days``: both must be longer than the
    longest step. Files of a table that are small are made one when there are ``compact_files`` of them; null for never.
    ``schedule`` is a cron line in UTC; null for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    keep_days: float = Field(default=30.0, ge=1, le=36_500)
    keep_snapshots: int = Field(default=10, ge=1)
    keep_runs: int = Field(default=20, ge=0)
    branch_days: float = Field(default=7.0, ge=1, le=36_500)
    orphan_days: float = Field(default=3.0, ge=1, le=36_500)
    compact_files: int | None = Field(default=50, ge=2)
    schedule: str | None = "30 3 * * 0"


class ProjectConfig(BaseModel):
    """One project's own words about itself. ``owner`` is an e-mail address or ``team:<name>``.

    ``alerts`` is read by the package of that name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    owner: str | None = None
    description: str | None = None
    settings: SettingsDefaults = SettingsDefaults()
    figures: tuple[FigureConfig, ...] = ()
    alerts: dict[str, Any] | None = None
    maintenance: MaintenanceConfig = MaintenanceConfig()


def load_project_config(project_root: Path) -> ProjectConfig:
    """Read ``config/project.yaml``; a project without one has no owner and no defaults.

    Raises:
        ConfigError: the file does not parse, or a key is unknown or wrong; the message names each.
    """
    path = project_root / "config" / "project.yaml"
    if not path.is_file():
        return ProjectConfig()
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}", str(error), "Correct the YAML; it is UTF-8 text.") from error
    try:
        return ProjectConfig.model_validate(document)
    except ValidationError as error:
        problems = (
            f"{'.'.join(str(part) for part in found['loc']) or 'the file'}: {found['msg']}"
            for found in error.errors(include_input=False, include_url=False)
        )
        raise ConfigError(f"cannot read {path}", "; ".join(problems), "Correct it.") from None
