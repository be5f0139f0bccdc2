"""What came out of dbt's nodes, as this library's own values: nothing else depends on the shape of dbt's results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dml_platform.core.errors import PlatformError
from dml_platform.dbt.messages import without_colours
from dml_platform.lake import StagedTable

FAILED = frozenset({"error", "fail", "runtime error"})


@dataclass(frozen=True)
class NodeResult:
    """What became of one model, seed or test. ``sql`` is the compiled query: of a test, the failing rows'."""

    unique_id: str
    resource_type: str
    name: str
    status: str
    message: str | None
    failures: int | None
    duration_s: float
    severity: str
    sql: str | None

    @property
    def has_failed(self) -> bool:
        """Whether this result blocks publishing."""
        return self.status in FAILED


@dataclass(frozen=True)
class BuildResult:
    """A finished build: every node's result and the tables that were published."""

    nodes: list[NodeResult]
    published: list[StagedTable]
    duration_s: float
    database: Path
    error: PlatformError | None = None
    inputs: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> list[NodeResult]:
        """The nodes that block publishing."""
        return [node for node in self.nodes if node.has_failed]

    @property
    def warned(self) -> list[NodeResult]:
        """Tests that found something and are set to warn only."""
        return [node for node in self.nodes if node.status == "warn"]


def from_event(event: Any) -> NodeResult:
    """The result in dbt's event of a finished node."""
    info, run = event.data.node_info, event.data.run_result
    return NodeResult(
        unique_id=info.unique_id,
        resource_type=info.resource_type,
        name=info.node_name,
        status=run.status,
        message=without_colours(run.message) or None,
        failures=None,
        duration_s=run.execution_time,
        severity="ERROR",
        sql=None,
    )


def node_results(outcome: Any) -> list[NodeResult]:
    """The results of a finished invocation."""
    found = []
    for result in getattr(outcome.result, "results", None) or []:
        node = result.node
        config = getattr(node, "config", None)
        found.append(
            NodeResult(
                unique_id=node.unique_id,
                resource_type=str(node.resource_type),
                name=node.name,
                status=str(result.status),
                message=without_colours(result.message),
                failures=result.failures,
                duration_s=result.execution_time,
                severity=str(getattr(config, "severity", "ERROR")).upper(),
                sql=getattr(node, "compiled_code", None),
            )
        )
    return found


_STATUS = {"success": "pass", "runtime error": "error"}


def test_outcomes(nodes: Iterable[NodeResult]) -> list[dict[str, Any]]:
    """What became of each test, as the run record keeps it: histories are made of these."""
    return [
        {
            "id": node.unique_id,
            "status": _STATUS.get(node.status, node.status),
            "failures": node.failures,
            "duration_s": round(node.duration_s, 3),
            "message": node.message if node.status not in ("pass", "success") else None,
        }
        for node in nodes
        if node.resource_type in ("test", "unit_test")
    ]
