"""``dml run`` and ``dml demo``: the project's assets in this process, with progress, then what came out."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dml_platform import after_run
from dml_platform.catalog.runs import STEP as CATALOG_STEP
from dml_platform.cli.dagster_home import open_instance, run_tags
from dml_platform.core import errors
from dml_platform.core.errors import ConfigError, PermanentError, PlatformError
from dml_platform.core.project import Project, get_project
from dml_platform.core.runrecord import read_records
from dml_platform.core.settings import Settings, load_settings
from dml_platform.lake.reporting import RunEndedError, short_run_id

_JOB = "dml_run"


def run(
    project_name: str | None,
    console: Console,
    *,
    select: str = "*",
    force: bool = False,
    full_refresh: bool = False,
    alert: bool = False,
) -> None:
    """Run a selection of a project's assets.

    Args:
        alert: send the project's alerts; a person in a terminal sees for themselves.
    Raises:
        PlatformError: a step failed; its sentence, and the exit code that goes with it.
    """
    project = get_project(project_name)
    _execute(project, console, select=select, force=force, full_refresh=full_refresh, alert=alert)


def demo(project_name: str | None, console: Console) -> None:
    """Run everything and show the result."""
    project = get_project(project_name)
    console.print(f"[bold]Running project {escape(project.name)!r}[/]: ingest → land → transform → test → publish\n")
    _execute(project, console)
    _show_highlights(project, console)
    console.print(
        "\n[bold]Look at it[/]\n"
        "  ./dml up                      Dagster's UI: lineage, checks, previews, plots\n"
        "  ./dml sql                     SQL over the published tables\n"
        "  ./dml tables                  what the lake holds\n"
        f"  {escape(project.root.name)}/notebooks/       the same tables in a notebook"
    )


def load_project_definitions(project: Project) -> dg.Definitions:
    """Import the project's module and take its ``defs``.

    Raises:
        ConfigError: the module cannot be imported, or has no ``defs``.
    """
    if str(project.root) not in sys.path:
        sys.path.insert(0, str(project.root))
    try:
        module = importlib.import_module(project.module)
    except ImportError as error:
        raise ConfigError(
            f"cannot load project {project.name!r}",
            f"importing {project.module} failed: {error}",
            "Correct the import, or [tool.dml] module in its pyproject.toml.",
        ) from error
    defs = getattr(module, "defs", None)
    if not isinstance(defs, dg.Definitions):
        raise ConfigError(
            f"cannot load project {project.name!r}",
            f"{project.module} has no 'defs'",
            "Assign build_definitions(...) to 'defs' there.",
        )
    return defs


def _execute(
    project: Project,
    console: Console,
    *,
    select: str = "*",
    force: bool = False,
    full_refresh: bool = False,
    alert: bool = False,
) -> None:
    started = time.monotonic()
    settings = load_settings(project.root)
    with console.status(f"loading project {escape(project.name)!r}"):
        defs = load_project_definitions(project)
        selection = dg.AssetSelection.all() if select == "*" else select
        try:
            job = dg.Definitions.merge(
                defs, dg.Definitions(jobs=[dg.define_asset_job(_JOB, selection=selection)])
            ).resolve_job_def(_JOB)
        except dg.DagsterError as error:
            raise _wrong_selection(select, str(error.__cause__ or error).splitlines()[0]) from error
        if not job.graph.node_dict:
            raise _wrong_selection(select, "it selects no asset")
    config = {"ops": _op_config(project, job, is_selected=select != "*", force=force, full_refresh=full_refresh)}
    threading.Thread(target=_warm_up, daemon=True).start()
    with open_instance(settings.home) as instance, _progress(instance, console) as failed_steps:
        try:
            result = job.execute_in_process(
                instance=instance,
                raise_on_error=False,
                run_config={**config, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                tags=run_tags(project.name),
            )
        except dg.DagsterExecutionInterruptedError as error:
            raise KeyboardInterrupt from error
        if any(_is_interruption(event.step_failure_data) for event in result.get_step_failure_events()):
            raise KeyboardInterrupt
        if alert:
            from dml_platform.cli.alerts import tell

            tell(project, instance, result.run_id, console)
        # Dagster's own executor for such runs does not do it.
        failed = after_run.failed_steps(result.get_step_failure_events())
        for text in after_run.finish_run(
            project, instance=instance, dagster_run_id=result.run_id, failed=failed, defs=defs
        ):
            console.print(f"[dim]{escape(text)}[/]", soft_wrap=True, highlight=False)
    run_id = short_run_id(result.run_id)
    if not result.success:
        raise _failure_of(result, failed_steps, run_id)
    _show_outputs(project, console, run_id, settings)
    console.print(f"[green]done[/] in {time.monotonic() - started:.1f} s · run {run_id}")


def _op_config(
    project: Project, job: dg.JobDefinition, *, is_selected: bool, force: bool, full_refresh: bool
) -> dict[str, Any]:
    """Config for the dbt step, and for sources that are read anew: only those that somebody selects."""
    # What somebody selects is built in any case.
    dbt = {"full_refresh": full_refresh, "if_changed": not is_selected and not force}
    config: dict[str, Any] = {}
    for name, node in job.graph.node_dict.items():
        if name == f"{project.name}_dbt":
            config[name] = {"config": dbt}
        elif full_refresh and is_selected and isinstance(node.definition, dg.OpDefinition):
            taken = node.definition.config_schema.config_type
            if "full_refresh" in getattr(taken, "fields", {}):
                config[name] = {"config": {"full_refresh": True}}
    return config


def _wrong_selection(select: str, why: str) -> ConfigError:
    return ConfigError(f"cannot run {select!r}", why, "Select assets such as 'sales/marts/fct_purchases+'.")


def _warm_up() -> None:
    """Import what the later steps need while the first wait for files and connectors: about two seconds of a run."""
    for name in ("dbt.cli.main", "dbt.task.build", "dbt.adapters.duckdb", "matplotlib.backends.backend_agg"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


@contextmanager
def _progress(instance: dg.DagsterInstance, console: Console) -> Iterator[list[str]]:
    """Show each step as it starts, works and ends. Dagster offers no callback for a run in this process."""
    failed: list[str] = []
    begun: dict[str, float] = {}
    handle = instance.handle_new_event
    # It warns once for each check that a step with nothing new leaves out.
    logging.getLogger("dagster._core.execution.plan.active").setLevel(logging.ERROR)
    with console.status("starting") as status:

        def on_event(event: dg.EventLogEntry, **options: Any) -> None:
            handle(event, **options)
            step, kind = event.step_key, event.dagster_event_type
            if step is None:
                return
            if kind == dg.DagsterEventType.STEP_START:
                begun[step] = time.monotonic()
                status.update(escape(step))
            elif kind == dg.DagsterEventType.STEP_SUCCESS:
                console.print(f"  [green]✓[/] {escape(step)}  [dim]{time.monotonic() - begun[step]:.1f} s[/]")
            elif kind == dg.DagsterEventType.STEP_UP_FOR_RETRY:
                console.print(f"  [yellow]↻[/] {escape(step)}: trying again")
            elif kind == dg.DagsterEventType.STEP_FAILURE:
                failed.append(step)
                console.print(f"  [red]✗[/] {escape(step)}")
            elif kind is None and event.user_message:
                status.update(escape(f"{step}: {event.user_message.splitlines()[0][:100]}"))

        instance.handle_new_event = on_event  # type: ignore[method-assign]
        try:
            yield failed
        finally:
            del instance.handle_new_event


def _is_interruption(data: Any) -> bool:
    """Dagster makes Ctrl-C in a step an error of the step."""
    found = (data.error, data.error.cause) if data.error else ()
    names = {dg.DagsterExecutionInterruptedError.__name__, RunEndedError.__name__}
    return any(error and error.cls_name in names for error in found)


def _failure_of(result: dg.ExecuteInProcessResult, failed_steps: list[str], run_id: str) -> PlatformError:
    """The first failed step's own error, found below what Dagster wraps around it."""
    for event in result.get_step_failure_events():
        data = event.step_failure_data
        failure = data.user_failure_data
        if failure is not None and {"what", "why", "fix", "exit_code"} <= set(failure.metadata):
            what, why, fix = (str(failure.metadata[key].value) for key in ("what", "why", "fix"))
            error = PlatformError(what, why, fix)
            error.exit_code = int(str(failure.metadata["exit_code"].value))  # type: ignore[misc]
            return error
        cause = data.error.cause if data.error and data.error.cause else data.error
        text = cause.message.strip() if cause else "no reason was given"
        if raised := _raised_in_step(cause.cls_name if cause else None, text):
            return raised
        return PermanentError(
            f"run {run_id} failed in step {event.step_key!r}", text, "'dml up' shows the run with its whole log."
        )
    return PermanentError(f"run {run_id} failed", ", ".join(failed_steps), "'dml up' shows its log.")


def _raised_in_step(class_name: str | None, text: str) -> PlatformError | None:
    """The platform's error that an asset raised, of which Dagster keeps the class's name and the text."""
    cls = getattr(errors, class_name or "", None)
    if not (isinstance(cls, type) and issubclass(cls, PlatformError)):
        return None
    head, _, fix = text.partition(f"{class_name}: ")[2].rpartition("\n")
    what, separator, why = head.partition(": ")
    if not separator:
        return None
    error = PlatformError(what, why, fix)
    error.exit_code = cls.exit_code  # type: ignore[misc]
    return error


def _show_outputs(project: Project, console: Console, run_id: str, settings: Settings) -> None:
    table = Table("table", "rows", "snapshot", box=None, padding=(0, 2, 0, 0))
    unchanged = 0
    for record in reversed(list(read_records(settings, project.name, run_id))):
        unchanged += not record.outputs and record.step != CATALOG_STEP
        for name, snapshot in record.outputs.items():
            table.add_row(name, f"{record.rows.get(name, 0):,}", str(snapshot))
    if table.row_count:
        console.print()
        console.print(table)
    if unchanged:
        console.print(f"{unchanged} {'step' if unchanged == 1 else 'steps'} found nothing new; --force builds anyway")


def _show_highlights(project: Project, console: Console) -> None:
    """A picture of the first mart with a month and an amount, if the project has the usual daily table."""
    from dml_platform.lake import open_lake

    lake = open_lake(load_settings(project.root))
    daily = next((t for t in lake.tables(project.name) if t.name == "fct_daily_revenue"), None)
    if daily is None:
        return
    rows = lake.sql(
        f"SELECT strftime(revenue_date, '%Y-%m') AS month, sum(revenue_cents) / 100 AS dollars "
        f"FROM {daily.dotted} GROUP BY month ORDER BY month"
    ).fetchall()
    rows = [(month, amount) for month, amount in rows if amount]
    if not rows:
        return
    top = max(abs(amount) for _, amount in rows)
    console.print(f"\n[bold]Revenue by month[/] [dim]{daily.dotted}[/]")
    for month, amount in rows:
        console.print(f"  {month} {'█' * max(1, round(40 * amount / top))} {amount:,.0f}", highlight=False)
