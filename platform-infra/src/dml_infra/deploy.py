"""Deploys of code locations: the new beside the old, checked, switched, checked again; or everything as it was."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from dml_infra.drivers import StackDriver
from dml_infra.installation import Installation


@dataclass(frozen=True)
class Deployed:
    """What a deploy left behind. ``seconds`` until live; ``changed`` is false when the image was live already."""

    project: str
    image: str
    previous: str | None
    seconds: float
    changed: bool


def deploy(
    installation: Installation,
    project: str,
    image: str | None = None,
    *,
    driver: StackDriver | None = None,
    who: str | None = None,
    console: Console | None = None,
    allow_removed: bool = False,
) -> Deployed:
    """Bring a project's image live, default: the registry's."""
    raise NotImplementedError


def deploy_all(
    installation: Installation,
    *,
    driver: StackDriver | None = None,
    who: str | None = None,
    console: Console | None = None,
) -> list[Deployed]:
    """Deploy every project whose registered image or settings are not what runs."""
    raise NotImplementedError


def rollback(
    installation: Installation,
    project: str,
    *,
    driver: StackDriver | None = None,
    who: str | None = None,
    console: Console | None = None,
) -> Deployed:
    """Deploy the image that was live before the present one."""
    raise NotImplementedError


def repair(
    installation: Installation, *, driver: StackDriver | None = None, console: Console | None = None
) -> list[str]:
    """Finish or undo what killed commands left. Returns: one line on each."""
    raise NotImplementedError


def remove(
    installation: Installation, project: str, *, driver: StackDriver | None = None, who: str | None = None
) -> None:
    """Stop a project's containers and take it off the workspace and the list; its data stay."""
    raise NotImplementedError
