"""Landing files: each once, whole or not at all. The faults are real files on a real lake."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dml_platform.core.errors import (
    ConfigError,
    PublishConflictError,
    SchemaMismatchError,
    SourceError,
    TooManyRejectsError,
)
from dml_platform.core.naming import TableRef
from dml_platform.core.settings import Settings
from dml_platform.files import FileTable, Landing, csv_reader, land_files
from dml_platform.lake import Lake, Step

ORDERS = TableRef("sales", "raw", "shop__orders")
COLUMNS = {"id": "BIGINT", "day": "DATE", "amount": "DECIMAL(10,2)", "note": "VARCHAR"}
HEADER = b"id,day,amount,note\n"
ROW = b"1,2020-01-01,1.50,a\n"
Land = Callable[..., Landing]


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    folder = tmp_path / "project [1]*"  # a name that is a glob itself
    folder.mkdir()
    return folder


@pytest.fixture
def land(local_lake: Lake, drop: Path) -> Land:
    """Land a glob of the drop folder in ORDERS, with declared columns unless told otherwise."""

    def call(
        path: str = "*.csv",
        *,
        lake: Lake = local_lake,
        run_id: str = "r1",
        full_refresh: bool = False,
        **options: Any,
    ) -> Landing:
        source = FileTable(path=path, **{"format": "csv", "columns": COLUMNS, **options})
        return land_files(lake, ORDERS, source, root=drop, run_id=run_id, full_refresh=full_refresh)

    return call


def rows(lake: Lake, columns: str = "*", ref: TableRef = ORDERS) -> list[tuple[Any, ...]]:
    return lake.sql(f"SELECT {columns} FROM {ref.dotted} ORDER BY ALL").fetchall()


def rejects(lake: Lake) -> list[tuple[Any, ...]]:
    return rows(lake, "line_number, column_name, reason, raw_line", ORDERS.rejects)


def test_land_files_gives_declared_types_and_says_where_each_row_came_from(
    local_lake: Lake, land: Land, drop: Path
) -> None:
    (drop / "a.csv").write_bytes(HEADER + ROW)
    landing = land(run_id="run-7")
    assert (landing.files_landed, landing.rows, landing.rejects) == (1, 1, 0)
    assert landing.snapshot_id == next(local_lake.history(ORDERS)).snapshot_id
    assert rows(local_lake, "id, day::VARCHAR, amount::VARCHAR, note, _source_file, _run_id") == [
        (1, "2020-01-01", "1.50", "a", "a.csv", "run-7")
    ]
    assert rows(local_lake, "typeof(_loaded_at)") == [("TIMESTAMP WITH TIME ZONE",)]


def test_land_files_skips_content_that_was_landed_under_any_name(local_lake: Lake, land: Land, drop: Path) -> None:
    (drop / "a.csv").write_bytes(HEADER + ROW)
    first = land()
    (drop / "b.csv").write_bytes(HEADER + ROW)
    os.utime(drop / "a.csv", (1, 1))
    again = land(run_id="r2")
    assert (again.files_landed, again.files_skipped, again.snapshot_id) == (0, 2, first.snapshot_id)
    (drop / "a.csv").write_bytes(HEADER + b"2,2020-01-01,1.50,a\n")  # as long as before, but not the same
    assert land(run_id="r3").files_landed == 1
    assert rows(local_lake, "id") == [(1,), (2,)]


def test_land_files_lands_the_same_content_once_within_one_call(local_lake: Lake, land: Land, drop: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (drop / name).write_bytes(HEADER + ROW)
    landing = land()
    assert (landing.files_landed, landing.files_skipped, landing.rows) == (1, 1, 1)


def test_land_files_counts_the_rows_of_each_file(land: Land, drop: Path) -> None:
    (drop / "a.csv").write_bytes(HEADER + ROW * 3)
    (drop / "b.csv").write_bytes(HEADER + ROW * 2 + b"x,2020-01-01,1,a\n")
    landing = land(max_rejects_share=0.5)
    assert [(f.name, f.rows, f.rejects) for f in landing.files] == [("a.csv", 3, 0), ("b.csv", 2, 1)]


def test_land_files_matches_declared_columns_by_name_in_any_order(local_lake: Lake, land: Land, drop: Path) -> None:
    (drop / "a.csv").write_bytes(HEADER + ROW)
    (drop / "b.csv").write_bytes(b"note,amount,day,id\nb,2.5,2020-01-02,2\n")
    assert land().rows == 2
    assert rows(local_lake, "id, note") == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    ("content", "rejected"),
    [
        (ROW + b"2,2020-01-01\n" + ROW, (3, "amount, note", "4 columns expected, 2 found", "2,2020-01-01")),
        (ROW + b"2,2020-01-01,1,b,c\n", (3, None, "4 columns expected, 5 found", "2,2020-01-01,1,b,c")),
        (
            b"2,2020-13-01,1,b\n" + ROW,
            (2, "day", "Could not convert string \"2020-13-01\" to 'DATE'", "2,2020-13-01,1,b"),
        ),
        (
            ROW + b"2,2020-01-01,many,b\n",
            (3, "amount", "Could not convert string \"many\" to 'DECIMAL'", "2,2020-01-01,many,b"),
        ),
        (ROW + b"2,2020-01-01,1,caf\xe9\n", (3, "note", "Invalid unicode", "2,2020-01-01,1,caf?")),
        (ROW + b"\n\n2,bad,1,b\n", (5, "day", "Could not convert", "2,bad,1,b")),
        (b'1,2020-01-01,1,"two\nlines"\n2,bad,1,b\n', (4, "day", "Could not convert", "2,bad,1,b")),
        (ROW + b'2,2020-01-01,1,"open\n', (3, "note", "unterminated quote", '2,2020-01-01,1,"open')),
        (ROW + b"2,2020-01", (3, "day, amount, note", "4 columns expected, 2 found", "2,2020-01")),
    ],
    ids=["too few", "too many", "date", "number", "utf-8", "blank lines", "quoted newline", "open quote", "cut"],
)
@pytest.mark.parametrize("form", ["lf", "crlf", "gz", "bom"])
def test_a_row_that_does_not_parse_goes_to_rejects_with_its_line(
    local_lake: Lake, land: Land, drop: Path, content: bytes, rejected: tuple[Any, ...], form: str
) -> None:
    data = HEADER + content
    if form == "crlf":
        data = data.replace(b"\n", b"\r\n")
    if form == "bom":
        data = b"\xef\xbb\xbf" + data
    name = "a.csv.gz" if form == "gz" else "a.csv"
    (drop / name).write_bytes(gzip.compress(data) if form == "gz" else data)
    landing = land("a.csv*", max_rejects_share=0.5)
    assert landing.rejects == 1
    assert landing.rows == len(rows(local_lake)) == content.count(b"2020-01-01,1.50") + content.count(b"two")
    ((line, column, reason, raw),) = rejects(local_lake)
    assert (line, column, raw) == (rejected[0], rejected[1], rejected[3])
    assert rejected[2] in reason


def test_rows_and_rejects_add_up_in_a_file_that_is_read_in_parallel(local_lake: Lake, land: Land, drop: Path) -> None:
    bad = {7: b"x,2020-01-01,1,a", 150_000: b"1,2020-01-01", 399_999: b"1,2020-01-01,1,\xff"}
    with (drop / "a.csv").open("wb") as file:
        file.write(HEADER)
        for number in range(2, 400_001):
            wide = b'"%s\n"' % (b"w" * 60) if number % 1000 == 0 else b"w" * 60
            file.write(bad.get(number, b"%d,2020-01-01,1.25,%s" % (number, wide)) + b"\n")
    landing = land(max_rejects_share=0.1)
    assert landing.rows + landing.rejects == 399_999
    assert landing.rejects == 3
    physical = [number + (number - 1) // 1000 - (number > 150_000) for number in bad]
    assert [line for line, *_ in rejects(local_lake)] == physical


def test_too_many_rejects_names_file_count_share_and_first_lines_and_publishes_nothing(
    local_lake: Lake, land: Land, drop: Path, local: Settings
) -> None:
    (drop / "good.csv").write_bytes(HEADER + ROW)
    (drop / "bad.csv").write_bytes(HEADER + ROW + b"2,nope,1,b\n3,2020-01-01\n")
    with pytest.raises(TooManyRejectsError) as caught:
        land(max_rejects_share=0.5)
    message = str(caught.value)
    assert (
        "cannot land 'bad.csv' in 'sales.raw.shop__orders': 2 of its 3 rows did not parse (66.7 %, allowed 50 %)"
        in message
    )
    assert "line 3, column day: Could not convert string \"nope\" to 'DATE'" in message
    assert "raise max_rejects_share" in message
    assert local_lake.published(ORDERS) is None
    report = local.home / "runs" / "sales" / "r1" / "shop__orders__rejects.csv"
    assert len(report.read_text().splitlines()) == 3
    assert not list(Path(local.warehouse).rglob("*.parquet"))  # nothing is left of the rows that did parse
    (drop / "bad.csv").write_bytes(HEADER + b"2,2020-01-01,1,b\n")
    assert land(run_id="r2").rows == 2


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "it is empty, without even a header"),
        (b"\n\n", "it is empty, without even a header"),
        (b"1,2,3,4\n", "has none of the declared columns"),
        (b"id;day;amount;note\n1;2020-01-01;1;a\n", "has none of the declared columns"),
        (b"id,day,id,note\n", "names ['id'] more than once"),
        (b"id,day,,note\n", "column [3] of its header has no name"),
        (HEADER + ROW + ROW[:-1] + b"\r\n", "its line ends are mixed"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_is_refused_in_a_sentence(
    local_lake: Lake, land: Land, drop: Path, data: bytes, sentence: str
) -> None:
    (drop / "a.csv").write_bytes(data)
    with pytest.raises(SourceError) as caught:
        land(max_rejects_share=1.0)
    assert sentence in str(caught.value)
    assert "'a.csv'" in str(caught.value)
    assert local_lake.published(ORDERS) is None


def test_a_file_with_only_a_header_lands_no_rows_and_is_remembered(local_lake: Lake, land: Land, drop: Path) -> None:
    (drop / "a.csv").write_bytes(HEADER)
    assert (land().files_landed, rows(local_lake)) == (1, [])
    assert land(run_id="r2").files_skipped == 1


def test_no_matching_file_is_refused_in_a_sentence(land: Land) -> None:
    with pytest.raises(SourceError, match=r"no file matches 'drop/\*\.csv'"):
        land("drop/*.csv")


def test_a_reader_that_loses_lines_is_not_believed(
    local_lake: Lake, land: Land, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (drop / "a.csv").write_bytes(HEADER + ROW * 3 + b"\n" + ROW.strip())
    reader = csv_reader._reader

    def lose_one(*args: Any, **options: Any) -> str:
        return f"(SELECT *, filename FROM {reader(*args, **options)} LIMIT 3)"

    monkeypatch.setattr(csv_reader, "_reader", lose_one)
    with pytest.raises(SourceError, match="it has 4 lines of data, but 3 were read"):
        land(columns=COLUMNS)
    assert local_lake.published(ORDERS) is None


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_gzip_file_is_refused_although_duckdb_reads_part_of_it(
    local_lake: Lake, land: Land, drop: Path, damage: str
) -> None:
    data = bytearray(gzip.compress(HEADER + b"".join(b"%d,2020-01-01,1,a\n" % n for n in range(50_000))))
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2] ^= 0xFF
    (drop / "a.csv.gz").write_bytes(data)
    with pytest.raises(SourceError, match="the gzip stream is damaged"):
        land("*.gz", max_rejects_share=1.0)
    assert local_lake.published(ORDERS) is None


def test_a_file_that_is_written_to_while_it_is_read_is_refused(
    local_lake: Lake, land: Land, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (drop / "a.csv").write_bytes(HEADER + ROW)
    write = Step.write_query

    def write_late(self: Step, *args: Any, **options: Any) -> Any:
        with (drop / "a.csv").open("ab") as file:
            file.write(ROW)
        return write(self, *args, **options)

    monkeypatch.setattr(Step, "write_query", write_late)
    with pytest.raises(SourceError, match="it was written to while it was read"):
        land()
    assert local_lake.published(ORDERS) is None


@pytest.mark.parametrize(
    ("header", "difference"),
    [
        (b"id,day,amount\n", "note: declared, missing in the file"),
        (b"id,day,amount,note,extra\n", "extra: in the file, not declared"),
    ],
)
def test_a_declared_column_that_is_missing_or_new_is_named(
    land: Land, drop: Path, header: bytes, difference: str
) -> None:
    (drop / "a.csv").write_bytes(header)
    with pytest.raises(SchemaMismatchError, match=difference):
        land()


@pytest.mark.parametrize("value", [b"1.5,2020-01-01,1,a", b"1,2020-01-01 10:00:00,1,a", b"1,2020-01-01,1.555,a"])
def test_a_declared_type_that_would_cut_values_is_refused(land: Land, drop: Path, value: bytes) -> None:
    (drop / "a.csv").write_bytes(HEADER + value + b"\n")
    with pytest.raises(SchemaMismatchError, match=r"would lose part of '(1\.5|2020-01-01 10:00:00|1\.555)'"):
        land()


def test_a_type_that_does_not_exist_is_a_config_error(land: Land, drop: Path) -> None:
    (drop / "a.csv").write_bytes(HEADER + ROW)
    with pytest.raises(ConfigError, match="'BIGINTT' is not a type of DuckDB"):
        land(columns=COLUMNS | {"id": "BIGINTT"})


def test_inferred_types_keep_what_was_written(local_lake: Lake, land: Land, drop: Path) -> None:
    (drop / "a.csv").write_bytes(
        b"n,zip,x,d,t,z,b,s,digits\n"
        b"1,00123,1.5,2020-01-01,2020-01-01 10:00:00,2020-01-01T10:00:00Z,true,text,12345678901234567890\n"
        b"-2,,3,,2020-01-01 10:00,,false,,1\n"
    )
    land(columns=None)
    described = local_lake.sql(f"DESCRIBE SELECT * EXCLUDE (_source_file, _loaded_at, _run_id) FROM {ORDERS.dotted}")
    assert [(name, kind) for name, kind, *_ in described.fetchall()] == [
        ("n", "BIGINT"),
        ("zip", "VARCHAR"),
        ("x", "DOUBLE"),
        ("d", "DATE"),
        ("t", "TIMESTAMP"),
        ("z", "TIMESTAMP WITH TIME ZONE"),
        ("b", "BOOLEAN"),
        ("s", "VARCHAR"),
        ("digits", "VARCHAR"),
    ]


def test_a_column_added_upstream_is_added_and_earlier_rows_have_none(local_lake: Lake, land: Land, drop: Path) -> None:
    (drop / "a.csv").write_bytes(b"id,note\n1,a\n")
    land(columns=None)
    (drop / "b.csv").write_bytes(b"id,note,extra\n2,b,5\n")
    assert land(columns=None, run_id="r2").rows == 1
    assert rows(local_lake, "id, extra") == [(1, None), (2, 5)]


@pytest.mark.parametrize(
    ("data", "difference"),
    [
        (b"id\n2\n", "note: VARCHAR in the table, missing in the rows"),
        (b"id,note\nx,b\ny,b\n", "id: BIGINT in the table, VARCHAR in the rows"),
        (b"id,note\n1.5,b\n", "id: BIGINT in the table, DOUBLE in the rows"),
    ],
    ids=["dropped", "type changed", "decimals"],
)
def test_a_column_dropped_or_changed_upstream_is_refused_with_the_difference(
    local_lake: Lake, land: Land, drop: Path, data: bytes, difference: str
) -> None:
    (drop / "a.csv").write_bytes(b"id,note\n1,a\n")
    land(columns=None)
    (drop / "b.csv").write_bytes(data)
    with pytest.raises(SchemaMismatchError, match=difference):
        land(columns=None, run_id="r2")
    assert rows(local_lake, "id") == [(1,)]


def test_a_full_refresh_replaces_rows_rejects_and_columns(local_lake: Lake, land: Land, drop: Path) -> None:
    (drop / "a.csv").write_bytes(b"id,note\n1,a\nx,b\n")
    (drop / "b.csv").write_bytes(b"id,note\n2,c\n")
    land(columns={"id": "BIGINT", "note": "VARCHAR"}, max_rejects_share=0.5)
    assert len(rejects(local_lake)) == 1
    (drop / "a.csv").write_bytes(b"id,kind\nA1,x\n")
    (drop / "b.csv").write_bytes(b"id,kind\n2,y\n")
    with pytest.raises(SchemaMismatchError, match="--full-refresh --select key:sales/raw/shop__orders"):
        land(columns=None, run_id="r2")
    landing = land(columns={"id": "VARCHAR", "kind": "VARCHAR"}, run_id="r3", full_refresh=True)
    assert (landing.files_landed, landing.files_skipped, landing.rows) == (2, 0, 2)
    assert {"id", "kind", "note"} & set(local_lake.sql(f"FROM {ORDERS.dotted}").columns) == {"id", "kind"}
    assert rows(local_lake, "id, kind, _run_id") == [("2", "y", "r3"), ("A1", "x", "r3")]
    assert rejects(local_lake) == []


def test_files_are_known_after_a_full_refresh_and_those_before_it_are_not(
    local_lake: Lake, land: Land, drop: Path
) -> None:
    (drop / "a.csv").write_bytes(HEADER + ROW)
    (drop / "b.csv").write_bytes(HEADER + ROW.replace(b"1,", b"2,", 1))
    land()
    (drop / "a.csv").rename(drop / "a.away")
    assert land(run_id="r2", full_refresh=True).files_landed == 1
    assert rows(local_lake, "id") == [(2,)]
    assert land(run_id="r3").files_landed == 0
    (drop / "a.away").rename(drop / "a.csv")
    assert land(run_id="r4").files_landed == 1
    assert rows(local_lake, "id") == [(1,), (2,)]


def test_inferred_values_that_fit_the_table_take_its_types(local_lake: Lake, land: Land, drop: Path) -> None:
    (drop / "a.csv").write_bytes(b"x,note,n\n1.5,a,1\n")
    land(columns=None)
    (drop / "b.csv").write_bytes(b"x,note,n\n2,7,\n")  # alone: BIGINT, BIGINT, unknown
    land(columns=None, run_id="r2")
    assert rows(local_lake, "x, note, n") == [(1.5, "a", 1), (2.0, "7", None)]


def test_mode_table_replaces_the_rows_when_the_files_changed(local_lake: Lake, land: Land, drop: Path) -> None:
    (drop / "a.csv").write_bytes(HEADER + ROW)
    (drop / "b.csv").write_bytes(b"note,amount,day,id\nb,2.5,2020-01-02,2\n")
    assert land(mode="table").rows == 2
    assert land(mode="table", run_id="r2").files_landed == 0
    (drop / "b.csv").unlink()
    assert land(mode="table", run_id="r3").rows == 1
    assert rows(local_lake, "id") == [(1,)]


def test_two_landings_at_once_land_each_file_once(local: Settings, land: Land, drop: Path) -> None:
    for number in range(4):
        (drop / f"{number}.csv").write_bytes(HEADER + b"%d,2020-01-01,1,a\nbad\n" % number)
    landings: list[Landing] = []
    gate = threading.Barrier(2)

    def run(name: str) -> None:
        lake = Lake(local)
        gate.wait()
        landings.append(land(lake=lake, run_id=name, max_rejects_share=0.5))
        lake.catalog.close()

    threads = [threading.Thread(target=run, args=(f"run-{n}",)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lake = Lake(local)
    assert sorted(one.files_landed for one in landings) == [0, 4]
    assert rows(lake, "id") == [(0,), (1,), (2,), (3,)]
    assert len(rejects(lake)) == 4
    lake.catalog.close()


def test_a_landing_that_keeps_losing_the_race_says_so(
    land: Land, drop: Path, local: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (drop / "a.csv").write_bytes(HEADER + ROW)
    publish = Step.publish
    others = iter(range(100))

    def publish_late(self: Step) -> Any:
        monkeypatch.setattr(Step, "publish", publish)
        other = Lake(local)
        (drop / "other").mkdir(exist_ok=True)
        (drop / "other" / "o.csv").write_bytes(HEADER + b"%d,2020-01-01,9,o\n" % next(others))
        land("other/o.csv", lake=other, run_id="other")
        other.catalog.close()
        monkeypatch.setattr(Step, "publish", publish_late)
        return publish(self)

    monkeypatch.setattr(Step, "publish", publish_late)
    with pytest.raises(PublishConflictError, match="run 'other' published it while this step ran"):
        land()


@pytest.mark.integration
@pytest.mark.parametrize("moment", ["copied", "staged", "published"])
def test_a_landing_that_is_killed_leaves_nothing_and_the_next_lands_once(
    local_lake: Lake, land: Land, drop: Path, local: Settings, moment: str
) -> None:
    (drop / "a.csv").write_bytes(HEADER + ROW * 1000)
    script = f"""
import os, signal
from pathlib import Path
from dml_platform.core.naming import TableRef
from dml_platform.core.settings import Settings
from dml_platform.files import FileTable, land_files
from dml_platform.lake import Lake, Step, write
def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)
moment = {moment!r}
if moment == "copied":
    Step._commit = die
elif moment == "staged":
    Step.publish = die
else:
    Step._forget = die
source = FileTable(path="a.csv", format="csv", columns={COLUMNS!r})
land_files(Lake(Settings(home=Path({str(local.home)!r}))), TableRef.parse({ORDERS.dotted!r}), source,
    root={str(drop)!r}, run_id="killed")
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (local_lake.published(ORDERS) is None) == (moment != "published")
    assert land(run_id="next").files_landed == (0 if moment == "published" else 1)
    assert len(rows(local_lake)) == 1000


def test_declared_parquet_types_are_checked_and_damage_is_a_sentence(local_lake: Lake, land: Land, drop: Path) -> None:
    good = drop / "a.parquet"
    query = "SELECT 1::INTEGER AS id, DATE '2020-01-01' AS day, 1.5::DECIMAL(10,2) AS amount, 'a' AS note"
    duckdb.sql(query).write_parquet(str(good))
    assert land("*.parquet", format="parquet").rows == 1
    assert rows(local_lake, "typeof(id), _source_file") == [("BIGINT", "a.parquet")]
    (drop / "b.parquet").write_bytes(good.read_bytes()[:-30])
    with pytest.raises(SourceError, match=r"cannot land 'b\.parquet' .* it is not a whole Parquet file"):
        land("b.parquet", format="parquet")
    duckdb.sql(query.replace("'a' AS", "7 AS")).write_parquet(str(drop / "c.parquet"))
    with pytest.raises(SchemaMismatchError, match="note: VARCHAR declared, INTEGER in the file"):
        land("c.parquet", format="parquet")
