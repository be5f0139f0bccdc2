"""What an image has to offer to go live: its project's own code, and no schedule or sensor fewer than there were.

Nothing here asks anybody: what a code server offers and what Dagster has are arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dml_infra.dagster_api import Location
from dml_infra.errors import CheckFailedError
from dml_infra.registry import CodeLocation
from dml_infra.render import Server


class DeployError(CheckFailedError):
    """A deploy did not go live. ``detail`` is the load error as Dagster shows it, or the container's last lines."""

    def __init__(self, what: str, why: str, fix: str, detail: str = "") -> None:
        super().__init__(what, why, fix)
        self.detail = detail

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.detail}\n\n{text}" if self.detail else text


@dataclass(frozen=True)
class Baseline:
    """What was there before, in Dagster's eyes: a deploy may add to it and takes nothing away by accident."""

    schedules: frozenset[str] = frozenset()
    sensors: frozenset[str] = frozenset()
    states: Mapping[str, tuple[str, str]] | None = None


def bad_image(project: str, why: str, detail: str = "", fix: str = "") -> DeployError:
    """The error of an image that must not stay."""
    return DeployError(f"cannot deploy {project!r}", why, fix or "Correct the project and deploy a new image.", detail)


def baseline_of(location: Location | None, server: Server | None) -> Baseline:
    """What is there now: as Dagster has it; where it cannot load it, as the last deploy saw it."""
    if location and location.loaded:
        return Baseline(
            frozenset(location.keys("schedule")),
            frozenset(location.keys("sensor")),
            {f"{i.kind} {i.key}": (i.status, i.default_status) for i in location.instigators},
        )
    return Baseline(frozenset(server.schedules), frozenset(server.sensors)) if server else Baseline()


def check_offer(
    offer: Mapping[str, Any], server: Server, location: CodeLocation, baseline: Baseline, *, allow_removed: bool
) -> None:
    """Check what a new code server says of itself; see :mod:`dml_infra.probe`.

    Raises:
        DeployError: it must not go live.
    """
    name = location.name
    if "error" in offer:
        raise bad_image(name, "its code does not load", detail=str(offer["error"]))
    if offer["image"] != server.image:
        raise bad_image(name, f"it says that its image is {offer['image']!r}, not {server.image!r}")
    repositories: Mapping[str, Any] = offer["repositories"]
    for repository in repositories.values():
        project = repository["metadata"].get("project")
        if project not in (None, name):
            raise bad_image(name, f"the image has the code of project {project!r}")
        assets = repository["assets"]
        if assets and not any(asset.split("/")[0] == name for asset in assets):
            raise bad_image(name, f"none of its {len(assets)} assets is below {name!r} (one is {assets[0]!r})")
    schedules = {f"{r}/{n}" for r, content in repositories.items() for n in content["schedules"]}
    sensors = {f"{r}/{n}" for r, content in repositories.items() for n in content["sensors"]}
    _check_names(location, baseline, schedules, sensors, allow_removed=allow_removed)


def check_loaded(found: Location, location: CodeLocation, baseline: Baseline, *, allow_removed: bool) -> list[str]:
    """Check what Dagster has loaded. Returns: a line for every schedule or sensor whose default the code changed.

    Raises:
        DeployError: it must not stay.
    """
    schedules, sensors = set(found.keys("schedule")), set(found.keys("sensor"))
    _check_names(location, baseline, schedules, sensors, allow_removed=allow_removed)
    notes = []
    for instigator in found.instigators:
        name = f"{instigator.kind} {instigator.key}"
        before, default_before = (baseline.states or {}).get(name, (None, None))
        # A state that got lost is the default again; another one was set by somebody in these seconds.
        if before in (None, instigator.status) or instigator.status != instigator.default_status:
            continue
        if default_before == instigator.default_status:
            raise bad_image(location.name, f"{name} was {before} before and is {instigator.status} now")
        notes.append(f"{name} is {instigator.status} now: the code's own default changed")
    return notes


def _check_names(
    location: CodeLocation, baseline: Baseline, schedules: set[str], sensors: set[str], *, allow_removed: bool
) -> None:
    for kind, declared, before, found in (
        ("schedule", location.schedules, baseline.schedules, schedules),
        ("sensor", location.sensors, baseline.sensors, sensors),
    ):
        absent = sorted(set(declared) - {key.partition("/")[2] for key in found})
        if absent:
            raise bad_image(location.name, f"{kind} {absent[0]!r}, which the registry declares, is not in the image")
        lost = sorted(before - found)
        if lost and not allow_removed:
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            raise bad_image(
                location.name,
                f"{kind} {lost[0].partition('/')[2]!r}, which is there now, is not in the image{more}",
                fix="Bring it back, or deploy with --allow-removed if it is meant to go.",
            )
