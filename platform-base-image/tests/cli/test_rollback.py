"""`dml rollback` as a person types it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dml_platform.core.naming import TableRef
from dml_platform.core.runrecord import read_records
from dml_platform.core.settings import load_settings
from dml_platform.lake import open_lake

ORDERS = TableRef("shop", "raw", "web__orders")
Dml = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "project-shop"
    (tmp_path / ".dml").mkdir()
    root.mkdir()
    (root / "pyproject.toml").write_text('[tool.dml]\nproject = "shop"\n')
    monkeypatch.chdir(root)


def publish(run_id: str, value: int) -> None:
    lake = open_lake()
    step = lake.step(run_id, "land")
    step.write_query(ORDERS, lake.connect(), f"select {value} as order_id")
    step.publish()


def count() -> int:
    row = open_lake().sql(f"select count(*) from {ORDERS.dotted}").fetchone()
    assert row
    return int(row[0])


def test_dry_run_shows_the_rows_and_what_a_raw_table_means_and_changes_nothing(dml: Dml) -> None:
    publish("r1", 1)
    publish("r2", 2)
    code, output, _ = dml("rollback", "shop.raw.web__orders", "--dry-run")
    assert code == 0
    assert output.splitlines()[1].split()[:5] == ["shop.raw.web__orders", "2", "1", "r2", "r1"]
    assert "the next ingest fetches again what is left out" in output
    assert "nothing was changed" in output
    assert count() == 2


def test_run_is_rolled_back_recorded_and_undone_by_the_line_that_is_shown(dml: Dml) -> None:
    publish("r1", 1)
    publish("r2", 2)
    code, output, _ = dml("rollback", "r2", "--yes", "--why", "a broken export")
    assert code == 0, output
    assert count() == 1
    (record,) = read_records(load_settings(), "shop")
    assert (record.step, record.outputs, record.rows) == ("rollback", {}, {"shop.raw.web__orders": 1})
    assert record.details["rollback"]["why"] == "a broken export"
    assert record.details["rollback"]["by"]
    undo = output.split("undo it with:\n")[1].split()
    assert undo[:4] == ["dml", "rollback", "r2", "--to"]
    assert dml(*undo[1:], "--yes")[0] == 0
    assert count() == 2


def test_table_is_rolled_back_and_undone_by_the_line_that_is_shown(dml: Dml) -> None:
    publish("r1", 1)
    publish("r2", 2)
    code, output, _ = dml("rollback", "shop.raw.web__orders", "--yes", "--json")
    assert code == 0, output
    done = json.loads(output)
    assert (done["done"], done["moves"][0]["run_now"]) == (True, "r1")
    (undo,) = done["undo"]
    assert dml(*undo.split()[1:], "-y")[0] == 0
    assert count() == 2


def test_nobody_to_ask_is_no_yes(dml: Dml, monkeypatch: pytest.MonkeyPatch) -> None:
    publish("r1", 1)
    publish("r2", 2)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, errors = dml("rollback", "r2")
    assert (code, count()) == (2, 2)
    assert "nobody is there to say yes.\nAdd --yes or --dry-run." in errors


def test_unknown_run_is_a_sentence(dml: Dml) -> None:
    publish("r1", 1)
    code, _, errors = dml("rollback", "r9", "--yes")
    assert code == 2
    assert "cannot roll back run 'r9': no table of project 'shop' has a state that it published." in errors
