"""Sends what happened since the last push: profiles, results of tests, runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from urllib.parse import quote as quote_url

from metadata.generated.schema.api.data.createTableProfile import CreateTableProfileRequest
from metadata.generated.schema.api.tests.createTestCaseResult import CreateTestCaseResult
from metadata.generated.schema.entity.data.pipeline import PipelineStatus

from dml_openmetadata import events, kinds
from dml_openmetadata.document import Document, TestResult, milliseconds
from dml_openmetadata.kinds import checked
from dml_openmetadata.names import table_fqn
from dml_openmetadata.push import Push

_RESULTS = f"{kinds.TEST_CASE.route}/testCaseResults"
_KEPT_RUNS = 500


def send_events(push: Push, documents: Sequence[Document]) -> None:
    """Send them, the oldest first, so that an interrupted push goes on where it ended.

    Args:
        documents: the backlog and the newest document, the newest last.
    """
    _send_profiles(push, documents)
    _send_results(push, documents)
    _send_statuses(push, documents)


def _send_profiles(push: Push, documents: Sequence[Document]) -> None:
    for name in push.entities.tables:
        fqn = table_fqn(push.service, name)
        states = [table for document in documents for table in document.tables if table.name == name]
        new = events.profiles(states, push.state.profiles.get(fqn, ""))
        if not new:
            continue
        push.note("send", "profile", fqn, f"{len(new)} snapshots")
        table_id = push.ids.get(f"{kinds.TABLE.type}:{fqn}")

        def send(fqn: str = fqn, table_id: str | None = table_id, new: list = new) -> None:
            for at, body in new:
                request = checked(CreateTableProfileRequest, body)
                push.server.put(f"{kinds.TABLE.route}/{table_id}/tableProfile", request)
                push.state.profiles[fqn] = at

        if table_id and not push.is_dry:
            push.attempt(f"profile of {fqn}", send)


def _send_results(push: Push, documents: Sequence[Document]) -> None:
    by_id: dict[str, list[TestResult]] = defaultdict(list)
    for document in documents:
        for test in document.tests:
            by_id[test.id] += test.results
    for fqn, test in push.entities.tests.items():
        key = f"{kinds.TEST_CASE.type}:{fqn}"
        new = events.results(by_id[test.id], push.state.results.get(fqn, ""))
        if not new or (key not in push.ids and not push.is_dry):
            continue

        def send(fqn: str = fqn, key: str = key, new: list = new) -> None:
            path = f"{_RESULTS}/{quote_url(fqn, safe='')}"
            known: set[int] = set()
            if fqn not in push.state.results and key not in push.created:  # we made it and do not remember
                first, last = milliseconds(new[0][0]), milliseconds(new[-1][0])
                found = push.server.get(path, startTs=first, endTs=last) or {}
                known = {result["timestamp"] for result in found.get("data", ())}
            for at, body in new:
                if body["timestamp"] not in known:
                    push.server.post(path, checked(CreateTestCaseResult, body))
                push.state.results[fqn] = at

        push.note("send", "results", fqn, f"{len(new)}")
        if not push.is_dry:
            push.attempt(f"results of {fqn}", send)


def _send_statuses(push: Push, documents: Sequence[Document]) -> None:
    for run, fqn, body in events.statuses(push.entities, documents, push.state.runs):

        def send(run_id: str = run.run_id, fqn: str = fqn, body: dict = body) -> None:
            push.server.put(f"{kinds.PIPELINE.route}/{quote_url(fqn, safe='')}/status", checked(PipelineStatus, body))
            push.state.runs = [*push.state.runs, run_id][-_KEPT_RUNS:]

        push.note("send", "run", f"{fqn} {run.run_id}", body["executionStatus"])
        if not push.is_dry:
            push.attempt(f"run {run.run_id}", send)
