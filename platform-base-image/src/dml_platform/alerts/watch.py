"""Finds what is wrong: in a finished run, in the age of sources, in schedules. Tells and keeps nothing.

Looks at the objects themselves (a run's events, a table's rows, a schedule's ticks), not at what claims to be done.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorState, InstigatorType, TickStatus
from dagster._utils.schedules import cron_string_iterator

from dml_platform.alerts.ledger import Fault, OpenFault
from dml_platform.core.naming import TableRef
from dml_platform.lake import Lake
from dml_platform.lake.engine import quote_name

_MAX_LINES = 10
_MAX_LINE = 500
_SHOWN_EVENTS = {
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.RUN_FAILURE,
}
_NOT_BEGUN = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING)


@dataclass(frozen=True)
class Freshness:
    """A table that is late when the newest value of a column is older than some hours."""

    table: TableRef
    column: str
    max_age_hours: float


@dataclass(frozen=True)
class Schedule:
    """When a job ought to run by itself. A schedule with several times has several expressions."""

    name: str
    cron: tuple[str, ...]
    timezone: str


@dataclass
class RunOutcome:
    """What became of a run's steps and checks. Checks are named ``table: check``."""

    run_id: str
    job: str
    succeeded: bool
    failed_steps: dict[str, str] = field(default_factory=dict)
    good_steps: set[str] = field(default_factory=set)
    failed_checks: dict[str, str] = field(default_factory=dict)
    good_checks: set[str] = field(default_factory=set)
    check_steps: set[str] = field(default_factory=set)
    error: str | None = None

    def faults(self) -> list[Fault]:
        """What is wrong, one fault a cause: blocking checks by name, steps by what they could not do, else the job."""
        found = [
            Fault(
                key=f"check:{name}",
                topic="failed_checks",
                label=f"check {name}",
                text=_line(f"Check failed: {name} ({text})"),
                scope={"check": name, "job": self.job},
            )
            for name, text in self.failed_checks.items()
        ]
        # The step of a failed check failed because of it.
        found += [
            Fault(
                key=f"step:{step}:{_without_numbers(text)}",
                topic="failed_runs",
                label=f"step {step}",
                text=_line(f"Step {step} failed: {text}"),
                scope={"step": step, "job": self.job},
            )
            for step, text in self.failed_steps.items()
            if step not in self.check_steps
        ]
        if not found and not self.succeeded:
            text = _line(f"The run ended without a step's failure: {self.error or 'no reason was given'}")
            found = [Fault(f"job:{self.job}", "failed_runs", f"job {self.job}", text, {"job": self.job})]
        return found[:_MAX_LINES]

    def ends(self, fault: OpenFault) -> bool:
        """Whether this run shows that a fault is over."""
        scope = fault.scope
        is_same_job = self.succeeded and scope.get("job") == self.job
        if "check" in scope:
            # A run of the whole job that does not know the check any more: it was taken out.
            return scope["check"] in self.good_checks or (is_same_job and scope["check"] not in self.failed_checks)
        if "step" in scope:
            return scope["step"] in self.good_steps
        return fault.topic == "failed_runs" and is_same_job


def read_outcome(instance: dg.DagsterInstance, run: dg.DagsterRun) -> RunOutcome:
    """What became of a finished run, from its events."""
    outcome = RunOutcome(run.run_id, run.job_name, run.status == dg.DagsterRunStatus.SUCCESS)
    for entry in instance.all_logs(run.run_id, of_type=_SHOWN_EVENTS):
        event = entry.dagster_event
        if event is None:
            continue
        step = event.step_key or ""
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            outcome.failed_steps[step] = _failure_text(event.step_failure_data)
        elif event.event_type == dg.DagsterEventType.STEP_SUCCESS:
            outcome.good_steps.add(step)
        elif event.event_type == dg.DagsterEventType.RUN_FAILURE:
            outcome.error = event.message
        else:
            check = event.asset_check_evaluation_data
            name = f"{'.'.join(check.asset_key.path)}: {check.check_name}"
            if check.passed:
                outcome.good_checks.add(name)
            elif check.severity == dg.AssetCheckSeverity.ERROR:
                rows = check.metadata.get("failing_rows")
                outcome.failed_checks[name] = f"{rows.value} rows" if rows and rows.value else "it did not pass"
                outcome.check_steps.add(step)
            else:  # it warns, so it holds nothing up
                outcome.good_checks.add(name)
    outcome.good_steps -= set(outcome.failed_steps)
    return outcome


def find_late(
    lake: Lake, limits: Iterable[Freshness], now: datetime, known: Mapping[str, Sequence[Any]]
) -> tuple[list[Fault], dict[str, list[Any]]]:
    """Tables whose newest row is too old. One that was never landed is no late one: its first run says what is wrong.

    Args:
        known: what the last look found, by table: snapshot and newest time; spares reading the same rows again.
    Returns: the faults, and what to give as ``known`` the next time.
    """
    faults, seen = [], {}
    for limit in limits:
        pinned = lake.published(limit.table)
        if pinned is None:
            continue
        name, snapshot = limit.table.dotted, str(pinned.snapshot_id)
        before = known.get(name)
        newest = before[1] if before and before[0] == snapshot else _newest(lake, limit)
        seen[name] = [snapshot, newest]
        if newest is None:
            continue
        age = now - datetime.fromisoformat(newest)
        if age > timedelta(hours=limit.max_age_hours):
            found, allowed = _hours(age.total_seconds() / 3600), _hours(limit.max_age_hours)
            text = f"{name}: its newest row is {found} old, more than {allowed}."
            faults.append(Fault(f"late:{name}", "late_sources", f"source {name}", text, {"late": name}))
    return faults, seen


def _newest(lake: Lake, limit: Freshness) -> str | None:
    query = f"SELECT epoch_ms(max({quote_name(limit.column)})::TIMESTAMPTZ) FROM {limit.table.dotted}"
    row = lake.sql(query).fetchone()
    if row is None or row[0] is None:
        return None
    return datetime.fromtimestamp(row[0] / 1000, tz=timezone.utc).isoformat()


def find_missed(
    instance: dg.DagsterInstance,
    schedules: Iterable[Schedule],
    now: datetime,
    *,
    grace: timedelta,
    location: str | None = None,
) -> tuple[list[Fault], set[str]]:
    """Schedules that are switched on and did not run when they should have.

    Args:
        grace: how long after its time a run may begin.
        location: name of the code location; None takes schedules of that name wherever they are.
    Returns: the faults, and the names of the schedules that did run.
    """
    schedules = list(schedules)
    if not schedules:
        return [], set()
    states = [
        state
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
        if state.is_running and (location is None or _location(state) == location)
    ]
    by_name = {state.instigator_name: state for state in states}
    faults, good = [], set()
    for schedule in schedules:
        state = by_name.get(schedule.name)
        if state is None:
            good.add(schedule.name)  # switched off: nothing is missed
            continue
        due = _last_due(schedule, now - grace)
        begun = getattr(state.instigator_data, "start_timestamp", None)
        if due is None or begun is None or due.timestamp() <= begun:
            continue
        why = _why_missed(instance, state, due)
        if why is None:
            good.add(schedule.name)
            continue
        text = f"Schedule {schedule.name} was due at {due:%Y-%m-%d %H:%M} UTC: {why}."
        faults.append(
            Fault(
                f"schedule:{schedule.name}",
                "missed_schedules",
                f"schedule {schedule.name}",
                text,
                {"schedule": schedule.name},
            )
        )
    return faults, good


def _why_missed(instance: dg.DagsterInstance, state: InstigatorState, due: datetime) -> str | None:
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, after=due.timestamp() - 1, limit=5)
    if not ticks:
        return "nothing came of it; is Dagster's daemon running, and does the code location load?"
    if any(tick.status == TickStatus.SKIPPED for tick in ticks):
        return None
    done = [tick for tick in ticks if tick.status == TickStatus.SUCCESS]
    if not done:
        said = next((tick.error.message.strip().splitlines()[0] for tick in ticks if tick.error), "no reason was given")
        return f"its evaluation failed ({_line(said)})"
    run_ids = [run_id for tick in done for run_id in tick.run_ids]
    runs = instance.get_runs(dg.RunsFilter(run_ids=run_ids)) if run_ids else []
    if runs and all(run.status in _NOT_BEGUN for run in runs):
        return f"its run {runs[0].run_id.split('-')[0]} still waits to begin"
    return None


def _last_due(schedule: Schedule, until: datetime) -> datetime | None:
    found = []
    for cron in schedule.cron:
        # Iterated backwards it begins at or before the moment.
        moment = next(iter(cron_string_iterator(until.timestamp(), cron, schedule.timezone, ascending=False)), None)
        if moment is not None:
            found.append(moment.astimezone(timezone.utc))
    return max(found, default=None)


def _location(state: InstigatorState) -> str:
    return str(state.origin.repository_origin.code_location_origin.location_name)


def _failure_text(data: Any) -> str:
    failure = data.user_failure_data
    if failure is not None and {"what", "why"} <= set(failure.metadata):
        return f"{failure.metadata['what'].value}: {failure.metadata['why'].value}"
    if failure is not None and failure.description:
        return str(failure.description)
    cause = data.error.cause if data.error and data.error.cause else data.error
    return f"{cause.cls_name}: {cause.message}" if cause else "no reason was given"


def _without_numbers(text: str) -> str:
    """Enough of a failure to know it again: run ids, counts and times differ each time."""
    return re.sub(r"[0-9a-f]*\d[0-9a-f]*", "#", text.partition(": ")[0].lower())[:200]


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_LINE else line[: _MAX_LINE - 1] + "…"


def _hours(hours: float) -> str:
    return (
        f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.0f} hours" if hours >= 2 else f"{hours * 60:.0f} minutes"
    )
