"""The lake as a Dagster resource. A thin wrapper: :class:`dml_platform.lake.Lake` does the work."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import dagster as dg

from dml_platform.core.settings import load_settings
from dml_platform.lake.client import Lake


class LakeResource(dg.ConfigurableResource):
    """Gives ``.lake``, opened on first use with the settings of the process that runs the step.

    ``project_root`` is the folder whose ``config/project.yaml`` holds the project's defaults.
    """

    project_root: str

    @cached_property
    def lake(self) -> Lake:
        """The lake of the profile."""
        root = Path(self.project_root)
        return Lake(load_settings(root), root)
