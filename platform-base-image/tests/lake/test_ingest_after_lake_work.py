"""What an ingest remembers follows the rows: after a roll-back it fetches again what went, and nothing twice."""

from __future__ import annotations

from pathlib import Path

from fake_source import fake_source

from dml_platform.airbyte import land_streams
from dml_platform.core.naming import TableRef
from dml_platform.files import FileTable, Landing, land_files
from dml_platform.lake import Lake
from dml_platform.lake.rollback import move_main, plan_table

ORDERS = TableRef("sales", "raw", "shop__orders")
USERS = TableRef("test", "raw", "fake__users")
SOURCE = FileTable(path="*.csv", format="csv", columns={"id": "BIGINT", "n": "BIGINT"}, max_rejects_share=0.6)


def land(lake: Lake, folder: Path, run: str) -> Landing:
    return land_files(lake, ORDERS, SOURCE, root=folder, run_id=run)


def drop(folder: Path, number: int) -> None:
    """A file with one good row and one that does not parse."""
    folder.mkdir(exist_ok=True)
    (folder / f"{number}.csv").write_text(f"id,n\n{number},1\nwrong,{number}\n")


def count(lake: Lake, ref: TableRef, column: str = "id") -> list[tuple[int, int]]:
    """Each value and how often it is there."""
    return lake.sql(f"select {column}, count(*) from {ref.dotted} group by all order by all").fetchall()


def test_files_are_landed_again_after_a_roll_back_with_their_rejects_and_only_those(lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    drop(folder, 1)
    land(lake, folder, "r1")
    drop(folder, 2)
    land(lake, folder, "r2")
    moves = plan_table(lake, ORDERS)
    assert [(m.ref, m.rows_was, m.rows_now) for m in moves] == [(ORDERS, 2, 1), (ORDERS.rejects, 2, 1)]
    move_main(lake, moves, by="t", why="", roll_back_id="rb1")
    assert count(lake, ORDERS) == [(1, 1)]
    again = land(lake, folder, "r3")
    assert (again.files_landed, again.files_skipped, again.rejects) == (1, 1, 1)
    assert count(lake, ORDERS) == [(1, 1), (2, 1)]
    assert lake.sql(f"select count(*) from {ORDERS.rejects.dotted}").fetchone() == (2,)


def test_connector_is_read_from_the_state_of_the_rows_that_are_left(lake: Lake) -> None:
    for run, rows in (("r1", 100), ("r2", 130)):
        land_streams(lake, "test", "fake", fake_source(streams={"users": {"rows": rows}}), run_id=run)
    move_main(lake, plan_table(lake, USERS), by="t", why="", roll_back_id="rb1")
    assert lake.sql(f"select count(*) from {USERS.dotted}").fetchone() == (100,)
    (again,) = land_streams(lake, "test", "fake", fake_source(streams={"users": {"rows": 130}}), run_id="r3")
    assert again.rows == 30
    assert lake.sql(f"select count(*), count(distinct id) from {USERS.dotted}").fetchone() == (130, 130)
