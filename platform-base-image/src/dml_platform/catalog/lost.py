"""Runs that ended without a word: their process was killed, or their container never came up.

They could leave no record, but Dagster knows of them, so the next run that writes a document leaves one in their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg

from dml_platform.catalog.runs import STEP
from dml_platform.core.project import Project
from dml_platform.core.runrecord import RunRecord, read_records, write_record
from dml_platform.core.settings import Settings
from dml_platform.lake.reporting import short_run_id

# Of `dml run`: whose project it runs, and that its process was found to be gone.
COMMAND_TAG, PROJECT_TAG, KILLED_TAG = "dml/command", "dml/project", "dml/killed"
_SEEN_TAG = "dml/recorded"
_LOST_STEP = "run"
_LOOK_BACK = timedelta(days=7)
_MAX_RUNS = 100
_ENDED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_LAST_WORDS: Any = {dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED}


def record_lost_runs(settings: Settings, project: Project, instance: dg.DagsterInstance, *, but: str) -> int:
    """Leave a record for each run of a project that Dagster knows to have failed and that left none at its end.

    Args:
        but: Dagster's id of the run that asks.
    Returns: how many.
    """
    written = 0
    for record in _ended_runs(instance, project):
        run = record.dagster_run
        if run.run_id == but:
            continue
        run_id = short_run_id(run.run_id)
        kept = {kept.step for kept in read_records(settings, project.name, run_id)}
        if not kept & {STEP, _LOST_STEP}:
            write_record(settings, _make_record(instance, project, record, run_id))
            written += 1
        instance.add_run_tags(run.run_id, {_SEEN_TAG: "true"})
    return written


def _ended_runs(instance: dg.DagsterInstance, project: Project) -> Iterator[dg.RunRecord]:
    since = datetime.now(timezone.utc) - _LOOK_BACK
    for record in instance.get_run_records(dg.RunsFilter(statuses=_ENDED, updated_after=since), limit=_MAX_RUNS):
        tags, origin = record.dagster_run.tags, record.dagster_run.remote_job_origin
        if COMMAND_TAG in tags:  # a living one writes its own record after Dagster calls it failed
            is_lost = tags.get(PROJECT_TAG) == project.name and KILLED_TAG in tags
        else:
            is_lost = origin is not None and origin.location_name == project.name
        if is_lost and _SEEN_TAG not in tags:
            yield record


def _make_record(instance: dg.DagsterInstance, project: Project, record: dg.RunRecord, run_id: str) -> RunRecord:
    run = record.dagster_run
    began = record.start_time or _utc(record.create_timestamp).timestamp()
    ended = max(began, record.end_time or began)
    said = [
        entry.dagster_event.message
        for entry in instance.all_logs(run.run_id, of_type=_LAST_WORDS)
        if entry.dagster_event is not None and entry.dagster_event.message
    ]
    return RunRecord(
        project=project.name,
        run_id=run_id,
        step=_LOST_STEP,
        status="failed",
        started_at=datetime.fromtimestamp(began, tz=timezone.utc).isoformat(timespec="milliseconds"),
        duration_s=round(ended - began, 3),
        git_commit=run.tags.get("dml/git_commit", "unknown"),
        error=said[-1] if said else "The run ended and left no word.",
        details={"dagster_run_id": run.run_id},
    )


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
