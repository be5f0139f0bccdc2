"""Deploys of code locations: the new beside the old, checked, switched, checked again; or everything as it was.

These are the commands' functions: one at a time for a project, recorded, repaired after a kill. The steps are in
``rollout``, the order of them in ``command``.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.markup import escape

from dml_infra.command import Command, Deployed
from dml_infra.core import Core
from dml_infra.drivers import StackDriver, get_driver
from dml_infra.errors import CheckFailedError, ConfigError, InfraError
from dml_infra.installation import Installation
from dml_infra.names import check_image
from dml_infra.offers import DeployError
from dml_infra.registry import CodeLocation, find_location, load_registry
from dml_infra.rollout import Rollout
from dml_infra.workspace import deployed_projects, load_state, project_lock

__all__ = ["DeployError", "Deployed", "deploy", "deploy_all", "remove", "repair", "rollback"]

AT_ONCE = 3


def deploy(
    installation: Installation,
    project: str,
    image: str | None = None,
    *,
    driver: StackDriver | None = None,
    who: str | None = None,
    console: Console | None = None,
    allow_removed: bool = False,
    core: Core | None = None,
) -> Deployed:
    """Bring a project's image live.

    Args:
        installation: where.
        project: its name in the registry.
        image: ``repository@sha256:…``; default: the registry's. On success the registry has it.
        driver: how stacks are applied; default: as the installation says.
        who: for the record.
        console: for progress.
        allow_removed: schedules and sensors that are there now may be gone afterwards.
        core: the running core.

    Raises:
        DeployError: the image is bad; what was live before is live again.
        RetryableError: somebody else deploys the project, or Dagster does not answer; nothing was changed.
        InfraError: something else failed; what was live before is live again.
    """
    command = Command(installation, project, "deploy", driver, who, console, core)
    location = _with_image(find_location(installation, project), image)
    with project_lock(installation, project):
        command.repair()
        return command.deploy(location, allow_removed=allow_removed)


def deploy_all(
    installation: Installation,
    *,
    driver: StackDriver | None = None,
    who: str | None = None,
    console: Console | None = None,
    core: Core | None = None,
) -> list[Deployed]:
    """Deploy every project whose registered image or settings are not what runs; a bad one does not stop the others.

    Raises:
        CheckFailedError: at the end, with the names of those that did not go live.
    """
    console, core = console or Console(), core or Core(installation)
    locations = load_registry(installation)
    registered = {location.name for location in locations}
    for project in deployed_projects(installation):
        if project not in registered:
            console.print(f"{project} runs and is no longer in the registry; to end it: dml infra remove {project}")
    failed: list[str] = []
    # After `down` or a restart all are there before Dagster looks for the first.
    for state in (load_state(installation, name) for name in deployed_projects(installation)):
        if state.live and state.phase == "idle" and state.project in registered:
            Rollout(core, driver or get_driver(installation), console.print).wake(state)

    def one(location: CodeLocation) -> Deployed | None:
        try:
            return deploy(installation, location.name, driver=driver, who=who, console=console, core=core)
        except InfraError as error:
            console.print(escape(str(error)), style="red")
            failed.append(location.name)
            return None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = [result for result in pool.map(one, locations) if result]
    if failed:
        raise CheckFailedError(
            "cannot deploy every project",
            f"{len(failed)} of {len(locations)} did not go live: {', '.join(sorted(failed))}",
            "Correct each as it says above; the others are live.",
        )
    return done


def rollback(
    installation: Installation,
    project: str,
    *,
    driver: StackDriver | None = None,
    who: str | None = None,
    console: Console | None = None,
    core: Core | None = None,
) -> Deployed:
    """Deploy the image that was live before the present one, with all checks; it may lack newer schedules.

    Raises:
        ConfigError: there was none before.
        DeployError: that image does not work either; the present one stays live.
    """
    command = Command(installation, project, "rollback", driver, who, console, core)
    location = find_location(installation, project)
    with project_lock(installation, project):
        command.repair()
        previous = load_state(installation, project).previous
        if not previous:
            raise ConfigError(
                f"cannot roll back {project!r}",
                "no other image was live before",
                f"Name one: dml infra deploy {project} --image {location.repository}@sha256:DIGEST.",
            )
        return command.deploy(_with_image(location, previous[0]), allow_removed=True)


def repair(
    installation: Installation,
    *,
    driver: StackDriver | None = None,
    console: Console | None = None,
    core: Core | None = None,
) -> list[str]:
    """Finish or undo what killed commands left, in every project. Returns: the projects that needed it."""
    repaired = []
    for project in deployed_projects(installation):
        if load_state(installation, project).phase != "idle":
            with project_lock(installation, project):
                command = Command(installation, project, "deploy", driver, None, console, core)
                if command.repair():
                    repaired.append(project)
    return repaired


def remove(
    installation: Installation,
    project: str,
    *,
    driver: StackDriver | None = None,
    who: str | None = None,
    console: Console | None = None,
    force: bool = False,
    core: Core | None = None,
) -> None:
    """Stop a project's containers and take it off Dagster and the list. Its tables, files, role and run history stay.

    Raises:
        PermanentError: runs of it are going on and `force` is not given.
    """
    command = Command(installation, project, "remove", driver, who, console, core)
    with project_lock(installation, project):
        command.remove(force=force)


def _with_image(location: CodeLocation, image: str | None) -> CodeLocation:
    if image is None:
        return location
    what = f"cannot deploy {location.name!r}"
    try:
        chosen = location.model_copy(update={"image": check_image(image)})
    except ValueError as error:
        raise ConfigError(what, str(error), "Give --image REPOSITORY@sha256:DIGEST.") from error
    if chosen.repository != location.repository:
        raise ConfigError(
            what,
            f"{image!r} is not of its registered repository {location.repository!r}",
            "Deploy an image of that repository, or change the entry in registry/code-locations.yaml first.",
        )
    return chosen
