"""What happened: profiles of snapshots, results of tests, runs. Each is sent once, the oldest first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dml_openmetadata.columns import NUMBERS, describe_type
from dml_openmetadata.document import Column, Document, Run, Step, Table, TestResult, milliseconds
from dml_openmetadata.entities import Entities
from dml_openmetadata.names import table_fqn

_STATUS = {"pass": "Success", "warn": "Failed", "fail": "Failed", "error": "Aborted"}
_RUN_STATUS = {"success": "Successful", "unchanged": "Successful", "failed": "Failed", "running": "Pending"}
_MAX_TEXT = 2000


def profiles(tables: Iterable[Table], since: str) -> list[tuple[str, dict[str, Any]]]:
    """A table's profiles, oldest first, with the moment of each: those after ``since``.

    Args:
        tables: the same table in one or more documents, the newest last.
    """
    found: dict[str, dict[str, Any]] = {}
    for table in tables:
        for point in table.history:
            if point.published_at > since and point.row_count is not None:
                found.setdefault(point.published_at, _table_profile(point.published_at, point.row_count))
        if table.published_at and table.published_at > since:
            profile = _table_profile(table.published_at, table.row_count)
            profile["tableProfile"]["columnCount"] = len(table.columns)
            if table.size_bytes is not None:
                profile["tableProfile"]["sizeInByte"] = table.size_bytes
            columns = [_column_profile(column, table) for column in table.columns if column.profile]
            found[table.published_at] = profile | ({"columnProfile": columns} if columns else {})
    return sorted(found.items())


def results(found: Iterable[TestResult], since: str) -> list[tuple[str, dict[str, Any]]]:
    """A test's results after ``since``, oldest first, with the moment of each."""
    new = {result.at: result for result in found if result.at > since and result.status in _STATUS}
    return [(at, _result(result)) for at, result in sorted(new.items())]


def statuses(entities: Entities, documents: Iterable[Document], sent: Iterable[str]) -> list[tuple[Run, str, Any]]:
    """Runs that ended and were not sent, oldest first: the run, its pipeline, the status."""
    runs = {run.run_id: run for document in documents for run in document.runs if run.status != "running"}
    for run_id in sent:
        runs.pop(run_id, None)
    ordered = sorted(runs.values(), key=lambda run: run.started_at)
    found = []
    for run in ordered:
        fqn = entities.pipeline_fqn(run.job)
        found.append((run, fqn, _status(run, entities.tasks_of(fqn), entities.service)))
    return found


def _table_profile(at: str, rows: int | None) -> dict[str, Any]:
    profile: dict[str, Any] = {"timestamp": milliseconds(at)}
    return {"tableProfile": profile | ({"rowCount": rows} if rows is not None else {})}


def _column_profile(column: Column, table: Table) -> dict[str, Any]:
    assert table.published_at
    known, rows = column.profile, table.row_count
    found: dict[str, Any] = {"name": column.name, "timestamp": milliseconds(table.published_at)}
    share = known.get("null_share")
    if share is not None:
        found["nullProportion"] = share
        if rows is not None and not known.get("rows_looked_at"):
            found |= {"nullCount": round(share * rows), "valuesCount": rows - round(share * rows)}
    if known.get("distinct_count") is not None:
        found["distinctCount"] = known["distinct_count"]
    is_number = describe_type(column.type)["dataType"] in NUMBERS
    for name in ("min", "max"):
        if known.get(name) is not None:
            found[name] = _number(known[name]) if is_number else str(known[name])
    return found


def _number(text: Any) -> float | int | str:
    try:
        value = float(text)
    except ValueError:
        return str(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _result(result: TestResult) -> dict[str, Any]:
    said = result.message or ""
    if result.status == "warn":
        said = f"warning: {said}" if said else "warning"
    values = [{"name": "failing rows", "value": str(result.failures)}] if result.failures is not None else []
    body: dict[str, Any] = {
        "timestamp": milliseconds(result.at),
        "testCaseStatus": _STATUS[result.status],
        "testResultValue": values,
        "result": f"{said} (run {result.run_id})".strip()[:_MAX_TEXT] if result.run_id else said[:_MAX_TEXT],
    }
    if result.failures is not None and result.status != "pass":
        body["failedRows"] = result.failures
    return body


def _status(run: Run, tasks: set[str], service: str) -> dict[str, Any]:
    start = milliseconds(run.started_at)
    body: dict[str, Any] = {
        "timestamp": start,
        "endTime": start + round(run.duration_s * 1000),
        "executionStatus": _RUN_STATUS[run.status],
        "executionId": run.run_id,
        "version": run.git_commit,
        # OpenMetadata refuses a task that the pipeline does not have.
        "taskStatus": [task for step in run.steps for task in _task_statuses(step, tasks, run.url)],
        "inputs": _datasets((step.inputs for step in run.steps), service),
        "outputs": _outputs(run.steps, service),
    }
    failed = [step for step in run.steps if step.status == "failed"]
    if failed:
        text = "; ".join(f"{step.name}: {step.error or 'failed'}" for step in failed)[:_MAX_TEXT]
        body["error"] = {"failedTask": failed[0].name, "errorMessage": text}
    return body


def _task_statuses(step: Step, tasks: set[str], url: str | None) -> list[dict[str, Any]]:
    start = milliseconds(step.started_at)
    names = set(step.outputs) or {name for name in tasks if name.rpartition(".")[2] == step.name}
    common: dict[str, Any] = {
        "executionStatus": _RUN_STATUS[step.status],
        "startTime": start,
        "endTime": start + round(step.duration_s * 1000),
    }
    if url:
        common["logLink"] = url
    return [{"name": name, **common} for name in sorted(names & tasks)]


def _datasets(steps: Iterable[dict[str, int]], service: str) -> list[dict[str, Any]]:
    found = {name: snapshot for step in steps for name, snapshot in step.items()}
    return [{"datasetFQN": table_fqn(service, name), "version": str(found[name])} for name in sorted(found)]


def _outputs(steps: Iterable[Step], service: str) -> list[dict[str, Any]]:
    rows = {name: count for step in steps for name, count in step.rows.items()}
    found = _datasets((step.outputs for step in steps), service)
    by_fqn = {table_fqn(service, name): count for name, count in rows.items()}
    return [one | ({"rowCount": by_fqn[one["datasetFQN"]]} if one["datasetFQN"] in by_fqn else {}) for one in found]
