"""Why a build of dbt's cannot be published, as the error that a person reads."""

from __future__ import annotations

import shlex
from typing import Any

from dml_platform.core.errors import ChecksFailedError, PermanentError, PlatformError
from dml_platform.dbt.results import NodeResult
from dml_platform.dbt.session import Session


def error_of(session: Session, outcome: Any, nodes: list[NodeResult], run_id: str) -> PlatformError | None:
    """Why it cannot be published, what of it failed and how to look at that; None where it can."""
    if session.error is not None:
        return session.error
    failed = [n for n in nodes if n.has_failed]
    what = f"cannot publish project {session.project!r}"
    tests = [n for n in failed if n.resource_type in ("test", "unit_test") and n.status == "fail"]
    if failed and len(tests) == len(failed):
        return ChecksFailedError(
            what,
            f"{len(tests)} blocking {'check' if len(tests) == 1 else 'checks'} failed: "
            + "; ".join(f"{n.name} ({(n.message or '').strip().split(chr(10))[0].rstrip(':')})" for n in tests[:5]),
            _how_to_look(tests, run_id),
        )
    if failed:
        return PermanentError(
            what,
            "; ".join(f"{n.resource_type} {n.name}: {one_line(n.message)}" for n in failed[:3]),
            f"Correct it and run again; 'dml sql --run {run_id}' opens the run's DuckDB file.",
        )
    if not outcome.success:
        return PermanentError(
            what, one_line(str(outcome.exception or session.held_back or "dbt failed")), "Correct it and run again."
        )
    return None


def _how_to_look(failed: list[NodeResult], run_id: str) -> str:
    """A unit test reads no table: how its rows differ is its message, which dbt has printed."""
    if of_rows := [n for n in failed if n.resource_type == "test"]:
        return f"Look at the failing rows with: dml sql --run {run_id} --test {shlex.quote(of_rows[0].name)}"
    return "What was printed before says which rows differ from the expected ones: mend the model, or the unit test."


def one_line(text: str | None) -> str:
    """A text of dbt's, which it breaks and indents, within a sentence."""
    return " ".join((text or "").split())
