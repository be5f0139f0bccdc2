"""JSON lines: full speed when all is well, each bad line found when not."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from dml_platform.core.errors import SchemaMismatchError, SourceError, TooManyRejectsError
from dml_platform.core.naming import TableRef
from dml_platform.files import FileTable, Landing, land_files
from dml_platform.lake import Lake

EVENTS = TableRef("sales", "raw", "app__events")
DECLARED = {"a": "BIGINT", "b": "VARCHAR", "d": "DATE"}
GOOD = b'{"a":1,"b":"x","d":"2020-01-01"}\n'
BAD = [
    (b"broken", None, "not valid JSON"),
    (b'{"a":1', None, "not valid JSON"),
    (b'{"a":"q"}', "a", 'could not convert "q" to BIGINT'),
    (b'{"d":"2020-13-01"}', "d", 'could not convert "2020-13-01" to DATE'),
    (b"[1,2]", None, "a JSON array, not an object"),
    (b"5", None, "not an object"),
    (b"null", None, "a JSON null, not an object"),
    (b'{"b":"\xff"}', None, "invalid UTF-8"),
    (b'{"a":1,"a":2}', None, "a key occurs twice"),
]


def land(lake: Lake, root: Path, path: str = "*.jsonl*", *, run_id: str = "r1", **options: Any) -> Landing:
    return land_files(lake, EVENTS, FileTable(path=path, format="jsonl", **options), root=root, run_id=run_id)


def rows(lake: Lake, columns: str, ref: TableRef = EVENTS) -> list[tuple[Any, ...]]:
    return lake.sql(f"SELECT {columns} FROM {ref.dotted} ORDER BY ALL").fetchall()


def test_json_lines_land_with_declared_types_plain_and_gzipped(local_lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"a":2}\n\n{"b":"y"}\n'))
    assert land(local_lake, tmp_path, columns=DECLARED).rows == 3
    assert rows(local_lake, "a, b, d::VARCHAR, _source_file") == [
        (1, "x", "2020-01-01", "a.jsonl"),
        (2, None, None, "b.jsonl.gz"),
        (None, "y", None, "b.jsonl.gz"),
    ]


def test_each_bad_line_is_rejected_with_number_column_and_reason(local_lake: Lake, tmp_path: Path) -> None:
    lines = [GOOD.strip(), *(line for line, _, _ in BAD), GOOD.strip()]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    (tmp_path / "b.jsonl").write_bytes(GOOD * 2)
    with pytest.raises(TooManyRejectsError, match="9 of its 11 rows did not parse"):
        land(local_lake, tmp_path, columns=DECLARED)
    landing = land(local_lake, tmp_path, columns=DECLARED, max_rejects_share=0.9)
    assert (landing.rows, landing.rejects) == (4, 9)
    found = rows(local_lake, "_source_file, line_number, column_name, reason", EVENTS.rejects)
    for number, (line, column, reason) in enumerate(BAD, 2):
        name, at, at_column, why = found[number - 2]
        assert (name, at, at_column or None) == ("a.jsonl", number, column), line
        assert reason in why
    assert not list((local_lake.settings.temp_dir).rglob("*.jsonl"))


def test_keys_beside_bad_lines_are_not_lost_when_columns_are_inferred(local_lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a":1}\n[1]\n{"late":"z","deep":{"x":1}}\n')
    assert land(local_lake, tmp_path, max_rejects_share=0.5).rows == 2
    assert rows(local_lake, "a, late, deep::VARCHAR") == [(1, None, None), (None, "z", '{"x":1}')]


def test_a_key_added_upstream_becomes_a_column_and_an_absent_one_is_null(local_lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a":1,"n":{"k":1}}\n')
    land(local_lake, tmp_path)
    (tmp_path / "b.jsonl").write_bytes(b'{"c":true,"n":{"m":2}}\n')
    land(local_lake, tmp_path, run_id="r2")
    assert rows(local_lake, "a, c, n.k, n.m") == [(1, None, 1, None), (None, True, None, 2)]


def test_a_key_that_changed_its_type_is_refused(local_lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a":1}\n')
    land(local_lake, tmp_path)
    (tmp_path / "b.jsonl").write_bytes(b'{"a":"one"}\n{"a":"two"}\n')
    with pytest.raises(SchemaMismatchError, match="a: BIGINT in the table, VARCHAR in the rows"):
        land(local_lake, tmp_path, run_id="r2")


def test_a_key_that_is_not_declared_is_named(local_lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD + b'{"a":1,"new":2}\n')
    with pytest.raises(SchemaMismatchError, match="new: in the file, not declared"):
        land(local_lake, tmp_path, columns=DECLARED)


def test_a_declared_type_that_would_round_is_refused(local_lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a":1.5}\n')
    with pytest.raises(SchemaMismatchError, match=r"a: BIGINT would lose part of '1\.5'"):
        land(local_lake, tmp_path, columns=DECLARED)


def test_a_file_without_any_object_is_refused(local_lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"a,b\n1,2\n")
    with pytest.raises(SourceError, match="none of its lines is a JSON object"):
        land(local_lake, tmp_path)
