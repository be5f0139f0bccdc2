"""Write the document at the end of a run. Whatever goes wrong with it is logged: it neither fails nor undoes a run."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import dagster as dg

from dml_platform.catalog.builder import build_document
from dml_platform.catalog.lost import record_lost_runs
from dml_platform.catalog.orchestration import check_outcomes
from dml_platform.catalog.runs import STEP, outcomes_of
from dml_platform.catalog.store import write_document
from dml_platform.core.document import Document
from dml_platform.core.project import Project
from dml_platform.core.runrecord import RunRecord, git_commit, read_records, utc_now, write_record
from dml_platform.lake import Lake
from dml_platform.lake.reporting import short_run_id

logger = logging.getLogger(__name__)


def refresh(
    project: Project,
    lake: Lake,
    *,
    instance: dg.DagsterInstance,
    dagster_run_id: str,
    failed: Mapping[str, str] | None = None,
    defs: dg.Definitions | None = None,
) -> tuple[Document, str] | str:
    """Build and write the document of a project after a run.

    Args:
        failed: the errors of failed steps by name; those that left no record get one.
    Returns: the document and where it is, or the sentence on why there is none.
    """
    try:
        return _refresh(project, lake, instance, dagster_run_id, failed or {}, defs)
    except Exception as error:  # the run is done, and what it published is right without a document
        text = f"the catalogue document of project {project.name!r} was not written: {error}"
        logger.warning("%s", text, exc_info=error)
        return text


def _refresh(
    project: Project,
    lake: Lake,
    instance: dg.DagsterInstance,
    dagster_run_id: str,
    failed: Mapping[str, str],
    defs: dg.Definitions | None,
) -> tuple[Document, str]:
    run_id, started, clock = short_run_id(dagster_run_id), utc_now(), time.monotonic()
    kept = {record.step for record in read_records(lake.settings, project.name, run_id)} if failed else set()
    for step, error in failed.items():
        if not kept & _names(project, step):
            write_record(lake.settings, _record(project, lake, run_id, step, started, error=error))
    _record_lost_runs(project, lake, instance, dagster_run_id)
    current = check_outcomes(instance, dagster_run_id)
    document = build_document(project, lake, defs=defs, run_id=run_id, current=current)
    # Written after: the document has these results already, the next one finds them here.
    details = {"dagster_run_id": dagster_run_id, "results": outcomes_of(document.tests, run_id)}
    run = instance.get_run_by_id(dagster_run_id)
    if run is not None and not run.job_name.startswith("__"):  # Dagster's own name for assets that no job selects
        details["job"] = run.job_name
    document = _with_run(document, run_id, details)
    record = _record(project, lake, run_id, STEP, started, duration_s=time.monotonic() - clock, details=details)
    write_record(lake.settings, record)
    return document, write_document(lake.settings, document, run_id=run_id)


def _record_lost_runs(project: Project, lake: Lake, instance: dg.DagsterInstance, dagster_run_id: str) -> None:
    try:
        record_lost_runs(lake.settings, project, instance, but=dagster_run_id)
    except Exception as error:  # another run's record: this one's document is worth more
        logger.warning("runs that were killed are not recorded: %s", error, exc_info=error)


def _with_run(document: Document, run_id: str, details: Mapping[str, object]) -> Document:
    """The document with what only this run's last record tells of it: its job and its page in Dagster."""
    base = (document.dagster_url or "").rstrip("/")
    known = {"job": details.get("job"), "url": f"{base}/runs/{details['dagster_run_id']}" if base else None}
    runs = (run.model_copy(update=known) if run.run_id == run_id else run for run in document.runs)
    return document.model_copy(update={"runs": tuple(runs)})


def _names(project: Project, step: str) -> set[str]:
    """How the record of a Dagster step may be named: by its table, its source, or ``dbt``."""
    inside = step.removeprefix(f"{project.name}__").removeprefix(f"{project.name}_")
    return {step, inside, step.rpartition("__marts__")[2], step.rpartition("__raw__")[2]}


def _record(
    project: Project,
    lake: Lake,
    run_id: str,
    step: str,
    started: str,
    *,
    error: str | None = None,
    duration_s: float = 0.0,
    details: Mapping[str, object] | None = None,
) -> RunRecord:
    return RunRecord(
        project=project.name,
        run_id=run_id,
        step=step,
        status="failed" if error else "success",
        started_at=started,
        duration_s=round(duration_s, 3),
        git_commit=git_commit(project.root),
        image=lake.settings.image,
        error=error,
        details=dict(details or {}),
    )
