"""The Dagster sensor that watches a project and delivers its alerts.

One plain sensor and not Dagster's run-status sensors: those go on to the next run where telling of one fails, and
two of them would deliver at once. This one keeps its place itself, so that a fault of the object store delays an alert
and loses none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg

from dml_platform.alerts.config import AlertsConfig
from dml_platform.alerts.desk import Desk, open_desk
from dml_platform.alerts.ledger import Occasion
from dml_platform.alerts.watch import Freshness, RunOutcome, Schedule, find_late, find_missed, read_outcome
from dml_platform.core.project import Project
from dml_platform.core.settings import load_settings
from dml_platform.lake import Lake
from dml_platform.lake.reporting import short_run_id

# Rows of the run table may become visible a little after the time that they carry.
_OVERLAP = timedelta(minutes=2)
_RUNS_A_TICK = 50
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
_LAPTOP_TAG = "dml/command"


@dataclass
class _Place:
    """How far the sensor is; Dagster keeps it between ticks."""

    after: str
    looked_at: str | None = None
    seen: dict[str, str] = field(default_factory=dict)
    newest: dict[str, Any] = field(default_factory=dict)


def build_alert_sensor(
    project: Project,
    alerts: AlertsConfig | None,
    *,
    limits: Callable[[], Iterable[Freshness]],
    schedules: Sequence[Any] = (),
) -> list[dg.SensorDefinition]:
    """The sensor, in a list that is empty where the project has no alerts.

    Args:
        limits: gives what must be fresh; called at each look.
        schedules: the project's schedules.
    """
    if alerts is None:
        return []
    look_every = timedelta(minutes=alerts.look_every_minutes)
    due = [
        Schedule(
            s.name,
            (s.cron_schedule,) if isinstance(s.cron_schedule, str) else tuple(s.cron_schedule),
            s.execution_timezone or "UTC",
        )
        for s in schedules
        if isinstance(s, dg.ScheduleDefinition)
    ]

    @dg.sensor(
        name=f"{project.name}_alerts",
        description="Tells the owner what failed, is late or did not run, once, and when it is over.",
        minimum_interval_seconds=alerts.tick_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def _watch(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        settings = load_settings(project.root)
        desk = open_desk(project, settings)
        assert desk is not None
        now = datetime.now(timezone.utc)
        place = _Place(**json.loads(context.cursor)) if context.cursor else _Place(after=now.isoformat())
        problems = []

        def attempt(what: str, part: Callable[[], None]) -> None:
            # One part's fault must not silence the others.
            try:
                part()
            except Exception as error:
                context.log.exception("cannot look at %s", what)
                problems.append(f"cannot look at {what}: {type(error).__name__}")

        attempt("finished runs", lambda: _look_at_runs(context, desk, place, settings.dagster_url))
        if place.looked_at is None or now - datetime.fromisoformat(place.looked_at) >= look_every:
            place.looked_at = now.isoformat()
            attempt("late sources", lambda: _look_at_sources(desk, Lake(settings, project.root), limits(), now, place))
            attempt("schedules", lambda: _look_at_schedules(context, desk, due, now))
        context.update_cursor(json.dumps(place.__dict__))
        outcome: dict[str, str] = {}
        attempt("the outbox", lambda: outcome.update(_flush(desk)))
        return dg.SkipReason("; ".join([*problems, *(f"{name}: {text}" for name, text in outcome.items())]) or "quiet")

    return [_watch]


def tell_of_run(
    desk: Desk, outcome: RunOutcome, *, at: str, job: str, facts: dict[str, str], dagster_url: str | None = None
) -> None:
    """Report what is wrong in a finished run, and settle what it shows to be over."""
    url = f"{dagster_url.rstrip('/')}/runs/{outcome.run_id}" if dagster_url else None
    faults = outcome.faults()
    run_id = short_run_id(outcome.run_id)
    told = {"run": run_id, **facts}
    if faults:
        checks = sum(fault.topic == "failed_checks" for fault in faults)
        why = f" on {checks} {'check' if checks == 1 else 'checks'}" if checks else ""
        desk.ledger.report(faults, Occasion(f"{job} failed{why}", at, url, told))
    keys = {fault.key for fault in faults}
    desk.ledger.settle(lambda fault: fault.key not in keys and outcome.ends(fault), Occasion("", at, url, told))


def _look_at_runs(context: dg.SensorEvaluationContext, desk: Desk, place: _Place, dagster_url: str | None) -> None:
    after = datetime.fromisoformat(place.after)
    origin = context.code_location_origin
    location = origin.location_name if origin else None
    records = context.instance.get_run_records(
        dg.RunsFilter(statuses=_FINISHED, updated_after=after - _OVERLAP),
        limit=_RUNS_A_TICK + len(place.seen),
        order_by="update_timestamp",
        ascending=True,
    )
    for record in records:
        run, updated = record.dagster_run, _utc(record.update_timestamp)
        if run.run_id in place.seen:
            continue
        if _is_ours(run, location) and (record.end_time or 0) >= (after - _OVERLAP).timestamp():
            ended = datetime.fromtimestamp(record.end_time or updated.timestamp(), tz=timezone.utc).isoformat()
            git = run.tags.get("dml/git_commit")
            outcome = read_outcome(context.instance, run)
            facts = {"commit": git} if git else {}
            tell_of_run(desk, outcome, at=ended, job=_job_label(run), facts=facts, dagster_url=dagster_url)
        place.seen[run.run_id] = updated.isoformat()
        place.after = max(place.after, updated.isoformat())
    horizon = (datetime.fromisoformat(place.after) - _OVERLAP).isoformat()
    place.seen = {run_id: updated for run_id, updated in place.seen.items() if updated >= horizon}


def _look_at_sources(desk: Desk, lake: Lake, limits: Iterable[Freshness], now: datetime, place: _Place) -> None:
    faults, place.newest = find_late(lake, limits, now, place.newest)
    late = {fault.scope["late"] for fault in faults}
    count = f"{len(late)} sources are late" if len(late) > 1 else "a source is late"
    if faults:
        desk.ledger.report(faults, Occasion(count, now.isoformat()))
    desk.ledger.settle(
        lambda fault: fault.topic == "late_sources" and fault.scope.get("late") not in late,
        Occasion("", now.isoformat()),
    )


def _look_at_schedules(
    context: dg.SensorEvaluationContext, desk: Desk, schedules: Sequence[Schedule], now: datetime
) -> None:
    origin = context.code_location_origin
    faults, good = find_missed(
        context.instance,
        schedules,
        now,
        grace=timedelta(minutes=desk.config.schedule_grace_minutes),
        location=origin.location_name if origin else None,
    )
    if faults:
        desk.ledger.report(faults, Occasion("a schedule did not run", now.isoformat()))
    names = {schedule.name for schedule in schedules}
    desk.ledger.settle(
        lambda fault: (
            fault.topic == "missed_schedules"
            and (fault.scope.get("schedule") in good or fault.scope.get("schedule") not in names)
        ),
        Occasion("", now.isoformat()),
    )


def _flush(desk: Desk) -> dict[str, str]:
    said = {}
    for name, delivery in desk.outbox.flush().items():
        if delivery.sent or delivery.waiting:
            error = f" ({delivery.error})" if delivery.error else ""
            said[name] = f"{delivery.sent} sent, {delivery.waiting} wait{error}"
    return said


def _is_ours(run: dg.DagsterRun, location: str | None) -> bool:
    """Runs of this code location; not those that a person runs and watches in a terminal, nor attempts of a retry."""
    if _LAPTOP_TAG in run.tags or run.tags.get("dagster/will_retry") == "true":
        return False
    origin = run.remote_job_origin
    return location is None or (origin is not None and origin.location_name == location)


def _job_label(run: dg.DagsterRun) -> str:
    return "a run of selected assets" if run.job_name.startswith("__") else f"job {run.job_name}"


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)
