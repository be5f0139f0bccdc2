"""``params.yaml``: what a person turns, for the stages of ``dvc.yaml`` and for Dagster's asset alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml
from dml_platform.core.errors import ConfigError

PARAMS = Path(__file__).parents[1] / "params.yaml"


@dataclass(frozen=True)
class ForecastParams:
    """How far to look ahead, how many weeks the checked model sees, and from which error the check warns."""

    horizon_weeks: int
    calibration_weeks: int
    max_total_error_pct: float


@dataclass(frozen=True)
class ExportParams:
    """How many customers the exported sample has, and the seed that draws them."""

    sample_customers: int
    sample_seed: int


@dataclass(frozen=True)
class Params:
    """The whole file."""

    forecast: ForecastParams
    export: ExportParams


def read_params(path: Path = PARAMS) -> Params:
    """Read the file.

    Raises: ConfigError: a value is missing, unknown or not above zero.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        params = Params(ForecastParams(**content["forecast"]), ExportParams(**content["export"]))
        too_small = {
            name: value
            for section in (params.forecast, params.export)
            for name, value in vars(section).items()
            if value <= 0 and name != "sample_seed"
        }
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"cannot read {path}", str(error), "Compare it with the file in git.") from error
    if too_small:
        raise ConfigError(f"cannot read {path}", f"not above zero: {too_small}", "Correct the values.")
    return params
