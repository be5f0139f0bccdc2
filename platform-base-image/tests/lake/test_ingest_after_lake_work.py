"""What an ingest remembers follows the rows: after a roll-back it fetches again what went, and nothing twice."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from fake_source import fake_source

from dml_platform.airbyte import land_streams
from dml_platform.core.config import MaintenanceConfig
from dml_platform.core.errors import ConfigError
from dml_platform.core.naming import TableRef
from dml_platform.files import FileTable, Landing, land_files
from dml_platform.lake import Lake
from dml_platform.lake.maintain import Work, maintain
from dml_platform.lake.rollback import move_main, plan_table
from dml_platform.lake.state import carry

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


def expire(lake: Lake, project: str) -> None:
    """Maintain as if forty days had passed; only what is published now is kept."""
    policy = MaintenanceConfig(keep_snapshots=1, keep_runs=0, compact_files=2)
    later = datetime.now(timezone.utc) + timedelta(days=40)
    assert any(done.expired for done in maintain(lake, project, Work(policy, now=later)))


def test_files_whose_snapshots_expired_are_not_landed_twice(lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    for number in (1, 2, 3):
        drop(folder, number)
        land(lake, folder, f"r{number}")
        if number > 1:
            expire(lake, "sales")
    assert len(lake.catalog.load_table(ORDERS.identifier).snapshots()) == 1
    drop(folder, 4)
    landing = land(lake, folder, "r4")
    assert (landing.files_landed, landing.files_skipped) == (1, 3)
    assert count(lake, ORDERS) == [(number, 1) for number in (1, 2, 3, 4)]
    # Back to before it: what the expired snapshots remembered belongs to the state that is left.
    move_main(lake, plan_table(lake, ORDERS), by="t", why="", roll_back_id="rb1")
    assert count(lake, ORDERS) == [(1, 1), (2, 1), (3, 1)]
    assert (again := land(lake, folder, "r5")).files_skipped == 3, again
    assert count(lake, ORDERS) == [(number, 1) for number in (1, 2, 3, 4)]
    expire(lake, "sales")
    with pytest.raises(ConfigError, match="is past its retention and gone"):
        plan_table(lake, ORDERS)


def test_files_of_a_table_that_is_replaced_are_known_after_expiry(lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    replaced = SOURCE.model_copy(update={"mode": "table"})
    for number in (1, 2):
        drop(folder, number)
        land_files(lake, ORDERS, replaced, root=folder, run_id=f"r{number}")
    expire(lake, "sales")
    assert land_files(lake, ORDERS, replaced, root=folder, run_id="r3").files_landed == 0
    assert count(lake, ORDERS) == [(1, 1), (2, 1)]


def read(lake: Lake, rows: int, run: str, *, state: str = "STREAM", **options: Any) -> int:
    """Land so many users of the fake. Returns: how many it sent."""
    source = fake_source(streams={"users": {"rows": rows}}, state=state)
    (landing,) = land_streams(lake, "test", "fake", source, run_id=run, **options)
    return landing.rows


def test_connector_goes_on_from_a_state_whose_snapshot_expired(lake: Lake) -> None:
    assert read(lake, 100, "r1") == 100
    # A state belongs to the rows of its snapshot; here others follow that know none.
    for number in range(3):
        step = lake.step(f"other{number}", "s")
        columns = "* replace (1000 + id as id)"
        step.write_query(USERS, lake.connect(), f"select {columns} from ({_select(lake)}) limit 1")
        step.publish()
    expire(lake, "test")
    assert len(lake.catalog.load_table(USERS.identifier).snapshots()) == 1
    assert read(lake, 130, "r2") == 30
    expire(lake, "test")
    assert read(lake, 130, "r3") == 0
    row = lake.sql(f"select count(*), count(distinct id) from {USERS.dotted} where id < 1000").fetchone()
    assert row == (130, 130)


def test_rows_that_replaced_others_without_a_state_are_read_from_the_start_also_after_expiry(lake: Lake) -> None:
    read(lake, 100, "r1")
    read(lake, 50, "r2", state="none", full_refresh=True)
    # What comes after it knows no state of its own: maintenance, and other steps.
    step = lake.step("other", "s")
    step.write_query(USERS, lake.connect(), f"select * replace (1000 + id as id) from ({_select(lake)}) limit 1")
    step.publish()
    expire(lake, "test")
    assert len(lake.catalog.load_table(USERS.identifier).snapshots()) == 1
    assert read(lake, 130, "r3") == 130
    assert lake.sql(f"select count(*), count(distinct id) from {USERS.dotted}").fetchone() == (130, 130)


def test_a_roll_back_behind_rows_that_replaced_others_goes_on_from_the_state_of_those(lake: Lake) -> None:
    read(lake, 100, "r1")
    read(lake, 50, "r2", state="none", full_refresh=True)
    move_main(lake, plan_table(lake, USERS), by="t", why="", roll_back_id="rb1")
    assert read(lake, 130, "r3") == 30
    move_main(lake, plan_table(lake, USERS, to="r2"), by="t", why="", roll_back_id="rb2")
    assert read(lake, 130, "r4") == 130
    assert lake.sql(f"select count(*), count(distinct id) from {USERS.dotted}").fetchone() == (130, 130)


def _select(lake: Lake) -> str:
    pinned = lake.pin(USERS)
    select = pinned.select()
    assert select
    return select


def test_what_is_carried_is_no_more_than_is_looked_up() -> None:
    def file(name: str) -> dict[str, str]:
        return {"files": json.dumps([{"name": name}]), "landing": "append"}

    newest_first = [
        file("c"),
        {"airbyte_state": "2", "airbyte_sync_mode": "incremental", "rows": "5"},
        file("b"),
        {"airbyte_state": "1", "airbyte_sync_mode": "incremental"},
        {**file("a"), "landing": "full_refresh"},
        file("before"),
    ]
    assert json.loads(carry(newest_first)) == [
        {"airbyte_state": "2", "airbyte_sync_mode": "incremental"},
        {"files": '[{"name": "c"}, {"name": "b"}, {"name": "a"}]', "landing": "full_refresh"},
    ]
    assert carry([{"run_id": "r1"}]) == "[]"
    assert json.loads(carry([{"airbyte_anew": "true", "airbyte_sync_mode": "incremental"}, *newest_first]))[0] == {
        "airbyte_sync_mode": "incremental",
        "airbyte_anew": "true",
    }
    assert json.loads(carry([{"airbyte_sync_mode": "full_refresh"}, *newest_first]))[0] == {
        "airbyte_sync_mode": "full_refresh"
    }
