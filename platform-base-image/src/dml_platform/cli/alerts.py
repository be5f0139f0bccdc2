"""``dml alerts``: try the channels, see what is wrong and what waits; and ``dml run --alert``."""

from __future__ import annotations

from datetime import datetime, timezone

import dagster as dg
from rich.console import Console
from rich.markup import escape

from dml_platform.alerts.channels import deliver
from dml_platform.alerts.config import EmailChannel, recipients
from dml_platform.alerts.desk import Desk, open_desk
from dml_platform.alerts.message import Message
from dml_platform.alerts.sensor import tell_of_run
from dml_platform.alerts.watch import read_outcome
from dml_platform.core.errors import ConfigError, PlatformError, RetryableError
from dml_platform.core.project import Project, get_project
from dml_platform.core.runrecord import utc_now
from dml_platform.core.settings import load_settings


def send_test(project_name: str | None, console: Console) -> None:
    """Send a test message to each channel, at once and past what waits, and say what happened.

    Raises:
        RetryableError: a channel did not take it.
    """
    project, desk = _open(project_name)
    message = Message(
        project=project.name,
        topic="failed_runs",
        status="test",
        title=f"{project.name}: a test of alerts",
        text="Somebody ran 'dml alerts test'. Alerts of this project arrive here.",
        at=utc_now(),
        owner=desk.owner,
    )
    failed = []
    for name, channel in desk.config.channels.items():
        label = f"{name} ({channel.kind})"
        if isinstance(channel, EmailChannel):
            label += f" to {', '.join(recipients(channel, desk.owner))}"
        try:
            if name in desk.lacking:
                raise ConfigError(f"cannot send to channel {name!r}", desk.lacking[name], "Set it.")
            with console.status(f"sending to {escape(label)}"):
                remark = deliver(name, channel, message, owner=desk.owner)
        except PlatformError as error:
            failed.append(name)
            console.print(f"[red]failed[/] {escape(label)}: {escape(error.why)}", highlight=False, soft_wrap=True)
        else:
            console.print(f"[green]sent[/]   {escape(label)}" + (f"; {escape(remark)}" if remark else ""))
    if failed:
        raise RetryableError(
            "cannot reach every channel",
            f"{', '.join(failed)} failed",
            "Correct it in config/project.yaml or its secret.",
        )


def show(project_name: str | None, console: Console) -> None:
    """List what is wrong, and what each channel still has to take."""
    project, desk = _open(project_name)
    faults = desk.ledger.open_faults()
    console.print(f"{project.name}: {len(faults)} open" if faults else f"{project.name}: nothing is wrong")
    for fault in faults:
        since = datetime.fromisoformat(fault.since).astimezone(timezone.utc)
        console.print(
            f"  {escape(fault.label)}, since {since:%Y-%m-%d %H:%M} UTC, seen {fault.times} times", soft_wrap=True
        )
    for name in desk.config.channels:
        waiting, aside, state = desk.outbox.waiting(name), desk.outbox.set_aside(name), desk.outbox.state(name)
        text = desk.lacking.get(name) or (f"{len(waiting)} wait" if waiting else "nothing waits")
        if state.error:
            text += f"; {state.error}"
        if aside:
            text += f"; {aside} not taken by the receiver, and kept"
        console.print(f"  channel {escape(name)}: {escape(text)}", soft_wrap=True)


def tell(project: Project, instance: dg.DagsterInstance, run_id: str, console: Console) -> None:
    """Alert of a run that ended in this process. What goes wrong here is shown and changes nothing of the run.

    Raises:
        ConfigError: the project has no alerts.
    """
    _, desk = _open(project.name, project)
    run = instance.get_run_by_id(run_id)
    if run is None:
        return
    try:
        tell_of_run(desk, read_outcome(instance, run), at=utc_now(), job="dml run", facts={})
        for name, delivery in desk.outbox.flush(float("inf")).items():
            if delivery.sent or delivery.waiting:
                console.print(f"alerts: {escape(name)}: {delivery.sent} sent, {delivery.waiting} wait", highlight=False)
    except (OSError, PlatformError) as error:
        console.print(f"[yellow]alerts could not be kept[/]: {escape(str(error))}", highlight=False, soft_wrap=True)


def _open(name: str | None, project: Project | None = None) -> tuple[Project, Desk]:
    project = project or get_project(name)
    desk = open_desk(project, load_settings(project.root))
    if desk is None:
        raise ConfigError(
            f"project {project.name!r} has no alerts",
            "config/project.yaml has no section 'alerts'",
            "Add one: see docs/alerts.md.",
        )
    return project, desk
