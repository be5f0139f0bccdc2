"""Runs and the history of tests, from the run records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from dml_platform.core.document import Run, Step, Test, TestResult
from dml_platform.core.runrecord import RunRecord, read_records
from dml_platform.core.settings import Settings

# What a document shows; the records themselves stay.
MAX_RUNS = 100
MAX_RESULTS = 100
STEP = "catalog"
_UNCHANGED = "unchanged"


def recent_records(settings: Settings, project: str) -> list[RunRecord]:
    """The records of the newest runs, newest first."""
    found: list[RunRecord] = []
    runs: set[str] = set()
    for record in read_records(settings, project):
        runs.add(record.run_id)
        if len(runs) > MAX_RUNS:
            break
        found.append(record)
    return found


def make_runs(records: Iterable[RunRecord], *, dagster_url: str | None = None) -> tuple[Run, ...]:
    """One run from the records of its steps, newest first."""
    by_run: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_run[record.run_id].append(record)
    runs = [_run(run_id, steps, dagster_url) for run_id, steps in by_run.items()]
    return tuple(sorted(runs, key=lambda run: run.started_at, reverse=True))


def add_results(
    tests: dict[str, Test], records: Sequence[RunRecord], current: Iterable[Mapping[str, Any]] = (), *, run_id: str = ""
) -> None:
    """Give each test its results, newest first.

    Args:
        records: newest first.
        current: outcomes of this moment, which no record has yet.
    """
    results: dict[str, list[TestResult]] = defaultdict(list)
    for outcome in current:
        results[outcome["id"]].append(_result(run_id, outcome["at"], outcome))
    for record in records:
        ended = _end(record).isoformat(timespec="milliseconds")
        for outcome in record.details.get("results") or ():
            if outcome.get("id") in tests:
                results[outcome["id"]].append(_result(record.run_id, outcome.get("at") or ended, outcome))
    for key, found in results.items():
        if key in tests:
            known = (*tests[key].results, *found)
            # A record of this very run may be there already: it was repeated.
            unique = {(result.run_id, result.at): result for result in reversed(known)}
            newest = sorted(unique.values(), key=lambda result: result.at, reverse=True)[:MAX_RESULTS]
            tests[key] = tests[key].model_copy(update={"results": tuple(newest)})


def outcomes_of(tests: Iterable[Test], run_id: str) -> list[dict[str, Any]]:
    """This run's results of checks that no other step's record has, as a record keeps them."""
    return [
        {"id": test.id, **result.model_dump(exclude={"run_id"}, exclude_none=True)}
        for test in tests
        if test.kind in ("check", "freshness")
        for result in test.results
        if result.run_id == run_id
    ]


def _run(run_id: str, records: list[RunRecord], dagster_url: str | None) -> Run:
    records = sorted(records, key=lambda record: record.started_at)
    began = datetime.fromisoformat(records[0].started_at)
    failed = any(record.status == "failed" for record in records)
    is_unchanged = not any(record.outputs for record in records)
    known = {key: value for record in records for key, value in record.details.items()}
    whole_id = known.get("dagster_run_id")
    return Run(
        run_id=run_id,
        status="failed" if failed else "unchanged" if is_unchanged else "success",
        started_at=records[0].started_at,
        duration_s=round((max(map(_end, records)) - began).total_seconds(), 3),
        job=known.get("job"),
        git_commit=records[-1].git_commit,
        image=records[-1].image,
        url=f"{dagster_url.rstrip('/')}/runs/{whole_id}" if dagster_url and whole_id else None,
        steps=tuple(_step(record) for record in records if record.step != STEP),
        dvc=known.get("dvc") or {},
    )


def _step(record: RunRecord) -> Step:
    is_unchanged = record.step == _UNCHANGED
    return Step(
        name="dbt" if is_unchanged else record.step,
        status="failed" if record.status == "failed" else "unchanged" if is_unchanged else "success",
        started_at=record.started_at,
        duration_s=record.duration_s,
        inputs=record.inputs,
        outputs=record.outputs,
        rows=record.rows,
        error=record.error,
    )


def _result(run_id: str, at: str, outcome: Mapping[str, Any]) -> TestResult:
    return TestResult(
        run_id=run_id,
        at=at,
        status=outcome["status"] if outcome["status"] in ("pass", "warn", "fail", "error") else "skipped",
        failures=outcome.get("failures"),
        duration_s=outcome.get("duration_s"),
        message=outcome.get("message"),
    )


def _end(record: RunRecord) -> datetime:
    return datetime.fromisoformat(record.started_at) + timedelta(seconds=record.duration_s)
