"""A document as the page carries it: what repeats a thousand times is written once and named by a number.

300 models with their history are 10 MB as plain JSON and a quarter of that here. ``static/data.js`` is the other half:
change both. Numbers that JavaScript cannot hold, snapshot ids above all, are text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from dml_platform.core.document import Document, Run, Table, Test

# What a page shows of each history, newest first; the page says where there is more.
RESULTS = 40
POINTS = 60
RUNS = 100
STEPS_OF_RUNS = 30

_STATUS = {"pass": "p", "warn": "w", "fail": "f", "error": "e", "skipped": "s"}
_SAFE = 2**53 - 1


class _Names:
    """Numbers for texts, in the order in which they are first met."""

    def __init__(self, first: Iterable[str] = ()) -> None:
        self._numbers: dict[str, int] = {}
        for name in first:
            self.number(name)

    def number(self, name: str) -> int:
        return self._numbers.setdefault(name, len(self._numbers))

    def __iter__(self) -> Any:
        return iter(self._numbers)


def encode(document: Document) -> dict[str, Any]:
    """The document in the form that ``static/data.js`` reads."""
    names = _Names([*(t.name for t in document.tables), *(c.name for c in document.consumers)])
    runs, snapshots, series = _Names(r.run_id for r in document.runs), _Names(), _Names()
    page: dict[str, Any] = _plain(
        document.model_copy(
            update={"tables": (), "tests": (), "table_edges": (), "column_edges": (), "runs": ()},
        )
    )
    page["tables"] = [_table(table, runs, snapshots) for table in document.tables]
    page["tests"] = [_test(test, runs, series) for test in document.tests]
    page["series"] = [[int(number) for number in one.split(",")] for one in series]
    page["run_times"] = _run_times(document, runs)
    page["runs"] = [
        _run(run, names, snapshots, whole=number < STEPS_OF_RUNS) for number, run in enumerate(document.runs[:RUNS])
    ]
    page["table_edges"] = [[names.number(e.source), names.number(e.target)] for e in document.table_edges]
    columns, ways = _Names(), _Names()
    page["column_edges"] = [
        [
            names.number(e.source),
            -1 if e.source_column is None else columns.number(e.source_column),
            names.number(e.target),
            columns.number(e.target_column),
            ways.number(e.via),
        ]
        for e in document.column_edges
    ]
    page["runs_total"] = len(document.runs)
    page["names"], page["run_ids"], page["snapshots"] = list(names), list(runs), list(snapshots)
    page["column_names"], page["ways"] = list(columns), list(ways)
    return page


def _plain(part: Any, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = _safe(part.model_dump(mode="json", exclude_defaults=True, **options))
    return found


def _safe(value: Any) -> Any:
    """The value without what JSON or JavaScript would change: big integers, NaN, infinity."""
    if isinstance(value, dict):
        return {str(key): _safe(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _SAFE:
        return str(value)
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value


def _table(table: Table, runs: _Names, snapshots: _Names) -> dict[str, Any]:
    found = _plain(table, exclude={"history", "snapshot_id", "run_id"})
    if table.snapshot_id is not None:
        found["snapshot"] = snapshots.number(str(table.snapshot_id))
    if table.run_id is not None:
        found["run"] = runs.number(table.run_id)
    if table.history:
        found["history"] = [
            [
                snapshots.number(str(point.snapshot_id)),
                _seconds(point.published_at),
                point.row_count,
                -1 if point.run_id is None else runs.number(point.run_id),
                point.git_commit if point.git_commit != table.git_commit else 0,
            ]
            for point in table.history[:POINTS]
        ]
        found["history_total"] = len(table.history)
    return found


def _test(test: Test, runs: _Names, series: _Names) -> dict[str, Any]:
    found = _plain(test, exclude={"results"})
    if not test.results:
        return found
    shown = test.results[:RESULTS]
    found["results_total"] = len(test.results)
    found["at"] = _seconds(shown[0].at)
    found["statuses"] = "".join(_STATUS[result.status] for result in shown)
    # Most tests ran in the same runs: the list is written once.
    found["in"] = series.number(",".join(str(runs.number(result.run_id)) for result in shown))
    found["more"] = {
        number: more
        for number, result in enumerate(shown)
        if (
            more := _plain(result, include={"failures", "duration_s", "message"}) if _is_telling(number, result) else {}
        )
    }
    return found


def _run_times(document: Document, runs: _Names) -> list[int | None]:
    """When each run tested, by its number: older results have their run's time, the newest has its own."""
    times: dict[str, int] = {}
    for test in document.tests:
        for result in test.results[:RESULTS]:
            if result.run_id not in times and (at := _seconds(result.at)) is not None:
                times[result.run_id] = at
    return [times.get(run_id) for run_id in runs]


def _is_telling(number: int, result: Any) -> bool:
    """Of a pass that is not the newest nothing but the fact is kept."""
    return number == 0 or result.status not in ("pass", "skipped") or bool(result.failures)


def _run(run: Run, names: _Names, snapshots: _Names, *, whole: bool) -> dict[str, Any]:
    found = _plain(run, exclude={"steps"})
    steps = []
    for step in run.steps:
        plain = _plain(step, exclude={"inputs", "outputs", "rows"})
        if whole:
            plain["inputs"] = _pinned(step.inputs, names, snapshots)
            plain["outputs"] = _pinned(step.outputs, names, snapshots)
            plain["rows"] = [[names.number(name), rows] for name, rows in step.rows.items()]
        steps.append(plain)
    if steps:
        found["steps"] = steps
    if not whole:
        found["is_short"] = True
    return found


def _pinned(ids: Mapping[str, int], names: _Names, snapshots: _Names) -> list[list[int]]:
    return [[names.number(name), snapshots.number(str(snapshot))] for name, snapshot in ids.items()]


def _seconds(at: str) -> int | None:
    """Seconds since 1970 of an ISO time, None for what is none: the page then says that it is unknown."""
    try:
        moment = datetime.fromisoformat(at.replace("Z", "+00:00"))
    except ValueError:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp())
