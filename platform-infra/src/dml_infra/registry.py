"""The one list of code locations, `registry/code-locations.yaml`: reading it with clear errors, changing it in place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from dml_infra.installation import Installation


class CodeLocation(BaseModel):
    """A project of the list.

    ``memory`` and ``cpus`` limit its code server, ``run_memory`` and ``run_cpus`` each of its runs, of which ``max_runs``
    go at once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str
    image: str
    owner: str
    alerts: str
    memory: str = "512m"
    cpus: float = 1.0
    run_memory: str = "2g"
    run_cpus: float = 1.0
    max_runs: int = 2
    environment: dict[str, str] = Field(default_factory=dict)
    schedules: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()
    line: Annotated[int, Field(exclude=True)] = 0

    @property
    def repository(self) -> str:
        """The image without its digest."""
        return self.image.partition("@")[0]

    @property
    def digest(self) -> str:
        """``sha256:…``."""
        return self.image.partition("@")[2]


def load_registry(installation: Installation) -> list[CodeLocation]:
    """Read and check the list, in the order of the file."""
    raise NotImplementedError


def register(installation: Installation, location: CodeLocation) -> str:
    """Add a project to the list. Returns: the change as a unified diff."""
    raise NotImplementedError


def set_image(installation: Installation, project: str, image: str) -> None:
    """Write the deployed image into the list; everything else in the file stays as it is."""
    raise NotImplementedError


def unregister(installation: Installation, project: str) -> str:
    """Take a project off the list. Returns: the change as a unified diff."""
    raise NotImplementedError


def registry_path(installation: Installation) -> Path:
    """Where the list is."""
    return installation.registry_file
