"""Builds documents for the tests, day by day."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from typing import Any

from dml_platform.core.document import (
    Column,
    ColumnEdge,
    Owner,
    Run,
    Step,
    Table,
    TableEdge,
    TablePoint,
    Test,
    TestResult,
)

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=timezone.utc)
SALES, SHOP = Owner(name="Sales data", email="sales-data@example.com"), Owner(email="shop@example.com")
COMMIT = "ab5ed9d0f2c34e7788a1b2c3d4e5f60718293a4b"  # pragma: allowlist secret


def iso(hours_ago: float) -> str:
    return (NOW - timedelta(hours=hours_ago)).isoformat()


def snapshot(*parts: object) -> int:
    """Like Iceberg's: 63 bits, more than JavaScript's numbers hold."""
    return random.Random(repr(parts)).randrange(2**60, 2**63)


class Builder:
    """Collects the parts of a document; runs are days, run 0 is the newest."""

    def __init__(self, project: str, *, days: int, failing: dict[int, str] | None = None) -> None:
        self.project, self.days, self.failing = project, days, failing or {}
        self.tables: list[Table] = []
        self.tests: list[Test] = []
        self.edges: list[TableEdge] = []
        self.columns: list[ColumnEdge] = []
        self.published = [day for day in range(days) if day not in self.failing]

    def run_id(self, day: int) -> str:
        return f"{random.Random(day).randrange(16**8):08x}"

    def table(self, layer: str, name: str, kind: Any, columns: str, *, rows: int = 0, **values: Any) -> str:
        """``columns``: words ``name:type=description`` joined by ``|``."""
        dotted = f"{self.project}.{layer}{name}" if layer.endswith(":") else f"{self.project}.{layer}.{name}"
        parsed = []
        for part in filter(None, columns.split("|")):
            head, _, text = part.partition("=")
            column, _, kind_of = head.partition(":")
            profile = {"null_share": 0.0, "distinct_count": max(1, rows // 3)} if rows else {}
            parsed.append(Column(name=column, type=kind_of or None, description=text, profile=profile))
        if rows:
            history = tuple(
                TablePoint(
                    snapshot_id=snapshot(dotted, day),
                    published_at=iso(day * 24 + 0.2),
                    row_count=max(0, rows - day * (rows // 100)),
                    run_id=self.run_id(day),
                    git_commit=COMMIT if day < 5 else "0" * 40,
                )
                for day in self.published
            )
            newest = history[0]
            values = {
                "snapshot_id": newest.snapshot_id,
                "published_at": newest.published_at,
                "row_count": rows,
                "size_bytes": rows * 23,
                "run_id": newest.run_id,
                "git_commit": COMMIT,
                "history": history,
            } | values
        self.tables.append(Table(name=dotted, kind=kind, columns=tuple(parsed), **values))
        return dotted

    def test(
        self, name: str, table: str, column: str | None = None, *, bad: dict[int, str] | None = None, **values: Any
    ) -> None:
        severity = values.get("severity", "error")
        results = tuple(
            TestResult(
                run_id=self.run_id(day),
                at=iso(day * 24 + 0.25),
                status=("warn" if severity == "warn" else "fail") if day in (bad or {}) else "pass",
                failures=3 if day in (bad or {}) else 0,
                duration_s=0.021,
                message=(bad or {}).get(day),
            )
            for day in range(self.days)
        )
        known = {"id": f"test.{self.project}.{name}", "kind": "data", "results": results}
        self.tests.append(Test(name=name, table=table, column=column, **(known | values)))

    def edge(self, source: str, target: str, columns: str = "") -> None:
        """``columns``: words ``from>to``: ``~from`` is copied, ``?`` unknown, ``#`` the rows as such."""
        self.edges.append(TableEdge(source=source, target=target))
        for word in columns.split():
            head, to = word.split(">")
            name = None if head in "?#" else head.lstrip("~")
            via: Any = "unknown" if head == "?" else "copy" if head.startswith("~") else "transform"
            self.columns.append(ColumnEdge(source=source, source_column=name, target=target, target_column=to, via=via))

    def runs(self) -> tuple[Run, ...]:
        found = []
        stored = [table for table in self.tables if table.history]
        for day in range(self.days):
            error = self.failing.get(day)
            raw = {t.name: snapshot(t.name, day) for t in stored if t.kind == "raw" and not error}
            made = {t.name: snapshot(t.name, day) for t in stored if t.kind in ("mart", "seed") and not error}
            rows = {t.name: t.row_count or 0 for t in stored if t.name in made}
            seconds = 9 + random.Random(day).random() * 6
            steps = (
                Step(name="cdnow", status="success", started_at=iso(day * 24 + 0.3), duration_s=1.2, outputs=raw),
                Step(
                    name="dbt",
                    status="failed" if error else "success",
                    started_at=iso(day * 24 + 0.28),
                    duration_s=seconds,
                    inputs=raw,
                    outputs=made,
                    rows=rows,
                    error=error,
                ),
            )
            status: Any = "failed" if error else "unchanged" if day == 6 else "success"
            found.append(
                Run(
                    run_id=self.run_id(day),
                    status=status,
                    started_at=iso(day * 24 + 0.3),
                    duration_s=0.4 if status == "unchanged" else seconds + 1.5,
                    git_commit=COMMIT,
                    image="registry.example.com/sales@sha256:" + "5" * 64,
                    url=f"http://dagster.example.com/runs/{day}",
                    steps=steps,
                    dvc={
                        "data/drop/cdnow/history.csv.gz": "d41d8cd98f00b204e9800998ecf8427e"  # pragma: allowlist secret
                    },
                )
            )
        return tuple(found)
