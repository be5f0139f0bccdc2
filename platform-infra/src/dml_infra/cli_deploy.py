"""The commands that change which code runs: register, deploy, rollback, remove, deploys. The work is ``deploy``'s."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from dml_infra.installation import Installation

Project = Annotated[str, typer.Argument(help="Name of the project in the registry.", show_default=False)]
Image = Annotated[str | None, typer.Option(help="REPOSITORY@sha256:DIGEST; default: the registry's.")]
Who = Annotated[str | None, typer.Option(help="For the record; default: the user of this terminal.")]
Driver = Annotated[str | None, typer.Option(help="compose or portainer; default: DML_DRIVER of .env.")]


def add_commands(app: typer.Typer, installation: Callable[[], Installation], console: Console) -> None:
    """Add the commands to a Typer application.

    Args:
        app: of `dml infra`.
        installation: finds the installation that the command line names.
        console: for output.
    """

    @app.command()
    def register(
        project: Project,
        image: Annotated[str, typer.Option(help="REPOSITORY@sha256:DIGEST.")],
        owner: Annotated[str, typer.Option(help="Who answers for it, e.g. team:sales.")],
        alerts: Annotated[str, typer.Option(help="Where alarms go: an address or a channel.")],
        memory: Annotated[str | None, typer.Option(help="Limit of its code server, e.g. 512m.")] = None,
        cpus: Annotated[float | None, typer.Option(help="Processors of its code server.")] = None,
        run_memory: Annotated[str | None, typer.Option(help="Limit of each of its runs, e.g. 2g.")] = None,
        run_cpus: Annotated[float | None, typer.Option(help="Processors of each of its runs.")] = None,
        max_runs: Annotated[int | None, typer.Option(help="Its runs at once.")] = None,
        environment: Annotated[list[str] | None, typer.Option("--env", help="NAME=VALUE, plain; repeat it.")] = None,
        secret: Annotated[list[str] | None, typer.Option(help="Name of a secret file of its own; repeat it.")] = None,
        schedule: Annotated[list[str] | None, typer.Option(help="One that an image must have; repeat it.")] = None,
        sensor: Annotated[list[str] | None, typer.Option(help="One that an image must have; repeat it.")] = None,
    ) -> None:
        """Add a project to the registry: a change of one file, for a pull request. Nothing else changes."""
        from dml_infra import registry_edit

        found = installation()
        entry: dict[str, Any] = {
            "name": project, "image": image, "owner": owner, "alerts": alerts, "memory": memory, "cpus": cpus,
            "run_memory": run_memory, "run_cpus": run_cpus, "max_runs": max_runs, "environment": _pairs(environment),
            "secrets": secret, "schedules": schedule, "sensors": sensor,
        }  # fmt: skip
        change = registry_edit.register(found, entry)
        _print(console, f"changed {found.registry_file}; a pull request would contain:\n\n{change}")
        _print(console, f"When it is merged, on the server: dml infra sync, then dml infra deploy {project}")

    @app.command()
    def deploy(
        project: Annotated[str | None, typer.Argument(help="Name of the project.", show_default=False)] = None,
        image: Image = None,
        everything: Annotated[
            bool, typer.Option("--all", help="Every project whose registered image or settings do not run.")
        ] = False,
        allow_removed: Annotated[
            bool, typer.Option("--allow-removed", help="Schedules and sensors may be gone afterwards.")
        ] = False,
        who: Who = None,
        driver: Driver = None,
    ) -> None:
        """Bring an image live beside the old one; a bad one leaves everything as it was, and exit code 3."""
        from dml_infra import deploy as deploys
        from dml_infra.drivers import get_driver

        if everything == bool(project) or (everything and image):
            raise typer.BadParameter("give a project (and --image), or --all")
        found = installation()
        with interruptible():
            chosen = get_driver(found, driver)
            if project is None:
                deploys.deploy_all(found, driver=chosen, who=who, console=console)
            else:
                deploys.deploy(
                    found, project, image, driver=chosen, who=who, console=console, allow_removed=allow_removed
                )

    @app.command()
    def rollback(project: Project, who: Who = None, driver: Driver = None) -> None:
        """Bring the image live that was before the present one, with the same checks."""
        from dml_infra import deploy as deploys
        from dml_infra.drivers import get_driver

        found = installation()
        with interruptible():
            deploys.rollback(found, project, driver=get_driver(found, driver), who=who, console=console)

    @app.command()
    def remove(
        project: Project,
        force: Annotated[bool, typer.Option("--force", help="Also while runs of it are going on.")] = False,
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
        who: Who = None,
        driver: Driver = None,
    ) -> None:
        """End a project: its containers, its place in Dagster and the registry, its role and keys. Its data stay."""
        from dml_infra import deploy as deploys
        from dml_infra.drivers import get_driver
        from dml_infra.rotation import revoke_project

        found = installation()
        if not yes and typer.prompt(f"This ends project {project}. Type its name to go on") != project:
            _print(console, "Nothing was changed.")
            raise typer.Exit(1)
        with interruptible():
            deploys.remove(found, project, driver=get_driver(found, driver), who=who, console=console, force=force)
            revoke_project(found, project)

    @app.command()
    def sync(
        project: Annotated[
            str | None, typer.Argument(help="One that has to be on main's list, else exit code 3.", show_default=False)
        ] = None,
        check: Annotated[bool, typer.Option("--check", help="Change nothing; exit code 3 where they differ.")] = False,
    ) -> None:
        """Commit to the repository's main branch what went live or was ended here, then take over its list."""
        from dml_infra.errors import CheckFailedError
        from dml_infra.registry_sync import sync as synchronise

        found = installation()
        done = synchronise(found, check=check)
        for line in done.sent:
            _print(console, f"{'main does not have' if check else 'main now has'}: {line}")
        if done.brought:
            _print(console, f"{'it would change' if check else 'changed'} {found.registry_file}:\n\n{done.brought}")
        for name, is_live in done.unlisted.items():
            end = f", or end it: dml infra remove {name}" if is_live else ""
            state = "is live and" if is_live else "is not live and"
            _print(console, f"{name} {state} not on main's list: merge the pull request that adds it{end}")
        if not done.differs:
            _print(console, "the list is main's")
        what = "cannot say that the list is main's"
        if check and done.differs:
            raise CheckFailedError(what, "they differ, as above", "Bring them together: dml infra sync.")
        if project in done.unlisted:
            fix = (
                f"Merge the pull request that adds it to registry/code-locations.yaml; then: dml infra sync {project}."
            )
            raise CheckFailedError(what, f"main does not list {project!r}", fix)

    @app.command("deploys")
    def history(
        project: Annotated[str | None, typer.Argument(help="Only this project's.", show_default=False)] = None,
        limit: Annotated[int, typer.Option("--lines", "-n", help="Only the last ones.", min=1)] = 20,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the whole errors.")] = False,
    ) -> None:
        """Show who deployed what, when, and how it ended."""
        from dml_infra.records import read_records

        records = read_records(installation(), project)[-limit:]
        if as_json:
            _print(console, json.dumps([record.to_json() for record in records], indent=2))
            return
        table = Table("when (UTC)", "project", "what", "from", "to", "seconds", "outcome", "who", box=None)
        for r in records:
            short = [(image or "-").rpartition("sha256:")[2][:12] for image in (r.from_image, r.to_image)]
            outcome = f"{r.outcome}: {r.error.splitlines()[0]}" if r.error else r.outcome
            table.add_row(r.when[:19].replace("T", " "), r.project, r.what, *short, f"{r.seconds:.1f}", outcome, r.who)
        console.print(table, markup=False)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end a command as Ctrl-C does: with everything put back."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pairs(texts: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--env {text!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
