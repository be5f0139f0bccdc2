"""What is done when a run has ended, well or not: the catalogue document, what is made from it, Elementary's alerts.

It happens in the run's own process, which has the memory and the rights for it, and after the last step, so that the
document has them all. Nothing of it can fail the run or undo what it published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dagster as dg
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.executor.in_process import InProcessExecutor

from dml_platform.catalog.refresh import refresh
from dml_platform.core.errors import PlatformError
from dml_platform.core.project import Project
from dml_platform.core.runrecord import read_records
from dml_platform.core.settings import load_settings
from dml_platform.elementary.alerts import are_switched_on, send_alerts
from dml_platform.lake import Lake
from dml_platform.lake.reporting import short_run_id
from dml_platform.openmetadata import push_after_run
from dml_platform.report.publish import publish_report

_REPORT = "Report: "


def finish_run(
    project: Project,
    *,
    instance: dg.DagsterInstance,
    dagster_run_id: str,
    failed: Mapping[str, str],
    defs: dg.Definitions | None = None,
) -> list[str]:
    """Do what is to be done after a run.

    Args:
        failed: the errors of failed steps by name.
    Returns: a sentence on each thing, for the run's log.
    """
    lake = Lake(load_settings(project.root), project.root)
    said = _document(project, lake, instance=instance, dagster_run_id=dagster_run_id, failed=failed, defs=defs)
    if are_switched_on(lake.settings):
        said += _elementarys_alerts(project, lake, short_run_id(dagster_run_id))
    return said


def _document(project: Project, lake: Lake, **run: Any) -> list[str]:
    made = refresh(project, lake, **run)
    if isinstance(made, str):
        return [made[:1].upper() + made[1:]]
    document, place = made
    late = sum(" is late: " in notice for notice in document.notices)
    said = [f"Catalogue document: {len(document.tables)} tables, {len(document.tests)} tests, {late} late, in {place}"]
    if lake.settings.profile == "server":  # on a laptop 'dml report' makes it when somebody wants it
        try:
            said.append(f"{_REPORT}{publish_report(lake.settings, document)}")
        except Exception as error:  # noqa: BLE001 - a page; the next run makes it anew
            said.append(f"The report was not published: {error}")
    said += push_after_run(lake.settings, document, short_run_id(run["dagster_run_id"]))
    return said


def _elementarys_alerts(project: Project, lake: Lake, run_id: str) -> list[str]:
    """Only after a build: nothing else adds to what there is to tell."""
    if not any("elementary_rows" in record.details for record in read_records(lake.settings, project.name, run_id)):
        return []
    try:
        done = send_alerts(project, lake, run_id=run_id)
    except PlatformError as error:  # what could not be sent waits in the lake
        return [str(error)]
    return [f"Elementary's alerts: {done.sent} sent"]


def failed_steps(events: Any) -> dict[str, str]:
    """The errors of the steps that failed, by their name."""
    found = {}
    for event in events:
        if isinstance(event, dg.DagsterEvent) and event.is_step_failure:
            data = event.step_failure_data
            said = data.user_failure_data.description if data.user_failure_data else None
            # What the asset raised is below Dagster's own error.
            raised = data.error.cause if data.error and data.error.cause else data.error
            found[str(event.step_key)] = (said or (raised.message if raised else "") or "failed").strip()
    return found


def build_executor(project: Project) -> dg.ExecutorDefinition:
    """Dagster's executor of one process, which goes on to :func:`finish_run`. Other executors leave that out."""

    schema: Any = dg.in_process_executor.config_schema

    @dg.executor(name="in_process", config_schema=schema)
    def in_process(context: dg.InitExecutorContext) -> InProcessExecutor:
        plain = dg.in_process_executor.executor_creation_fn
        assert plain is not None
        made: Any = plain(context)
        return _Executor(lambda *run: _finish(project, *run), made)

    return in_process


class _Executor(InProcessExecutor):
    """Dagster has no hook for the end of a run: a sensor runs in another process, an asset not after a failure."""

    def __init__(self, finish: Callable[[dg.DagsterInstance, str, Mapping[str, str]], list[str]], like: Any) -> None:
        super().__init__(like.retries, like.step_dependency_config, like.marker_to_close)
        self._finish = finish

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        """Run the steps, then finish the run."""
        failed: dict[str, str] = {}
        for event in super().execute(plan_context, execution_plan):
            failed |= failed_steps([event])
            yield event
        run = plan_context.dagster_run
        for text in self._finish(plan_context.instance, run.run_id, failed):
            if text.startswith(f"{_REPORT}http"):  # of texts Dagster's page makes no links
                link = dg.MetadataValue.url(text.removeprefix(_REPORT))
                yield DagsterEvent.engine_event(plan_context, "Report", EngineEventData({"report": link}))
            else:
                plan_context.log.info(text)


def _finish(project: Project, instance: dg.DagsterInstance, run_id: str, failed: Mapping[str, str]) -> list[str]:
    try:
        return finish_run(project, instance=instance, dagster_run_id=run_id, failed=failed)
    except Exception as error:  # noqa: BLE001 - the run is over and its tables are published
        return [f"What follows a run could not be done: {error}"]
