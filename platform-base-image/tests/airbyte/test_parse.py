"""A value is landed as it came or it is a reject: never rounded, never cut."""

from __future__ import annotations

import json
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from dml_platform.airbyte.catalog import StreamPlan
from dml_platform.airbyte.parse import ParsedSegment, parse_segment
from dml_platform.airbyte.segments import Segment
from dml_platform.core.errors import SourceError
from dml_platform.core.naming import TableRef
from dml_platform.lake import Lake

UTC = timezone.utc


def parse(lake: Lake, path: Path, columns: dict[str, str], data: list[Any]) -> tuple[list[Any], ParsedSegment]:
    """Good rows by record, and what the parse said."""
    plan = StreamPlan("a", TableRef("p", "raw", "s__a"), "incremental", tuple(columns.items()), {})
    lines = [{"type": "RECORD", "record": {"stream": "a", "data": d, "emitted_at": 1767225600123}} for d in data]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    connection = lake.connect()
    parsed = parse_segment(connection, plan, Segment(path, len(data), 1, 1 << 20), what="cannot land")
    rows = connection.execute(f"SELECT * FROM {parsed.table}").fetchall()
    connection.close()
    return rows, parsed


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (
            "BIGINT",
            [(1, 1), (1.0, 1), ("12", 12), (-(2**63), -(2**63)), (None, None)],
            [1.5, "x", "", "1.5", True, 2**63, {"x": 1}, [1]],
        ),
        ("DOUBLE", [(1, 1.0), (0.1, 0.1), ("2.5", 2.5), (1e300, 1e300), (None, None)], ["x", True, "", [1]]),
        ("BOOLEAN", [(True, True), ("false", False), (1, True)], [2, "x", ""]),
        (
            "DATE",
            [("2024-02-29", date(2024, 2, 29)), ("2024-01-01T00:00:00Z", date(2024, 1, 1))],
            ["2024-01-01T05:00:00Z", "2024-13-01", "01/02/2024", "", 20240101],
        ),
        (
            "TIMESTAMPTZ",
            [
                ("2024-01-01T05:00:00Z", datetime(2024, 1, 1, 5, tzinfo=UTC)),
                ("2024-01-01T05:00:00.25+02:00", datetime(2024, 1, 1, 3, 0, 0, 250000, tzinfo=UTC)),
                ("2024-01-01T05:00:00", datetime(2024, 1, 1, 5, tzinfo=UTC)),
            ],
            ["soon", 1700000000, ""],
        ),
        (
            "TIMESTAMP",
            [
                ("2024-01-01T05:00:00", datetime.fromisoformat("2024-01-01T05:00:00")),
                ("2024-01-01T05:00:00Z", datetime.fromisoformat("2024-01-01T05:00:00")),
            ],
            ["2024-01-01T05:00:00+02:00", "soon"],
        ),
        ("VARCHAR", [("ü\n\"'", "ü\n\"'"), (1, "1"), ({"a": [1]}, '{"a":[1]}'), (None, None)], []),
        ("JSON", [("x", '"x"'), (1.5, "1.5"), ({"a": [None]}, '{"a":[null]}'), (None, None)], []),
    ],
)
def test_values(kind: str, good: list[tuple[Any, Any]], bad: list[Any], local_lake: Lake, tmp_path: Path) -> None:
    columns = {"n": "BIGINT", "v": kind}
    rows, parsed = parse(local_lake, tmp_path / "x", columns, [{"n": n, "v": v} for n, (v, _) in enumerate(good)])
    assert [row[1] for row in sorted(rows)] == [expected for _, expected in good]
    assert parsed.rejects == 0
    for value in bad:
        rows, parsed = parse(local_lake, tmp_path / "x", columns, [{"n": 1, "v": value}, {"n": 2}])
        assert [row[:2] for row in rows] == [(2, None)], value
        assert (parsed.rows, parsed.rejects) == (1, 1)
        assert parsed.first_reject is not None
        assert (parsed.first_reject.record_number, parsed.first_reject.column_name) == (1, "v")


def test_undeclared_fields_are_kept(local_lake: Lake, tmp_path: Path) -> None:
    rows, parsed = parse(local_lake, tmp_path / "x", {"a b": "BIGINT"}, [{"z": {"y": None}, "a b": 1}])
    assert parsed.has_extra
    assert rows == [(1, '{"z":{"y":null}}', datetime(2026, 1, 1, 0, 0, 0, 123000, tzinfo=UTC))]


def test_a_stream_without_columns_keeps_everything_as_json(local_lake: Lake, tmp_path: Path) -> None:
    rows, _ = parse(local_lake, tmp_path / "x", {}, [{"a": 1}])
    assert rows[0][0] == '{"a":1}'


@pytest.mark.parametrize("data", [None, [1], "x", 5])
def test_a_record_whose_data_is_no_object_is_an_error(data: Any, local_lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="record 2 of the stream"):
        parse(local_lake, tmp_path / "x", {"a": "BIGINT"}, [{"a": 1}, data])
