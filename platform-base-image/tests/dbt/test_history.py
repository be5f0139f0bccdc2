"""What Elementary remembers, across runs that know nothing of each other; the tables are made as a build makes them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dml_platform.core.naming import TableRef
from dml_platform.dbt.history import load_history, save_history
from dml_platform.dbt.session import readable_tables
from dml_platform.lake import Lake

METRICS = TableRef("shop", "elementary", "data_monitoring_metrics")
RESULTS = TableRef("shop", "elementary", "elementary_test_results")
MODELS = TableRef("shop", "elementary", "dbt_models")


def run(lake: Lake, folder: Path, name: str, *, models: str = "'m1'") -> dict[TableRef, int]:
    """Begin a build: its private file, with the history in it and rows of its own added."""
    with lake.connect() as connection:
        connection.execute(f"ATTACH '{folder / name}.duckdb' AS shop")
        loaded = load_history(connection, lake, "shop")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS shop.elementary.data_monitoring_metrics (id VARCHAR, metric_value DOUBLE);"
            "CREATE TABLE IF NOT EXISTS shop.elementary.elementary_test_results (id VARCHAR, status VARCHAR);"
            "CREATE TABLE IF NOT EXISTS shop.elementary.test_result_rows"
            " (elementary_test_results_id VARCHAR, result_row VARCHAR);"
            "CREATE TABLE IF NOT EXISTS shop.elementary.dbt_models (unique_id VARCHAR);"
            "CREATE TABLE shop.elementary.some_temporary_thing (x INT);"
            f"INSERT INTO shop.elementary.data_monitoring_metrics VALUES ('{name}', 1), (NULL, 2);"
            f"INSERT INTO shop.elementary.elementary_test_results VALUES ('{name}', 'pass');"
            f"INSERT INTO shop.elementary.test_result_rows VALUES ('{name}', 'a'), ('{name}', 'a'), ('{name}', 'b');"
            "DELETE FROM shop.elementary.dbt_models;"
            f"INSERT INTO shop.elementary.dbt_models SELECT unnest([{models}])"
        )
    return loaded


def save(lake: Lake, folder: Path, name: str, loaded: dict[TableRef, int]) -> dict[str, int]:
    return save_history(lake, "shop", folder / f"{name}.duckdb", run_id=name, loaded=loaded)


def column(lake: Lake, ref: TableRef, name: str) -> list[str]:
    return [value for (value,) in lake.sql(f"SELECT {name} FROM {ref.dotted} ORDER BY ALL").fetchall()]


def test_each_run_adds_to_what_the_others_left(lake: Lake, tmp_path: Path) -> None:
    for name in ("r1", "r2", "r3"):
        save(lake, tmp_path, name, run(lake, tmp_path, name))
    assert column(lake, METRICS, "id") == ["r1", "r2", "r3"]
    assert column(lake, RESULTS, "id") == ["r1", "r2", "r3"]
    assert len(lake.df("shop.elementary.test_result_rows")) == 6
    assert column(lake, MODELS, "unique_id") == ["m1"]
    assert "some_temporary_thing" not in {ref.name for ref in lake.tables("shop")}


def test_a_build_gets_all_metrics_and_the_report_all_results(local_lake: Lake, tmp_path: Path) -> None:
    save(local_lake, tmp_path, "r1", run(local_lake, tmp_path, "r1"))
    for whole, expected in ((False, 0), (True, 1)):
        with local_lake.connect() as connection:
            connection.execute("ATTACH ':memory:' AS shop")
            load_history(connection, local_lake, "shop", whole=whole)
            counts = connection.execute(
                "SELECT (SELECT count(*) FROM shop.elementary.data_monitoring_metrics),"
                " (SELECT count(*) FROM shop.elementary.elementary_test_results)"
            ).fetchone()
            assert counts == (1, expected)
            rows = connection.execute("DESCRIBE shop.elementary.test_result_rows").fetchall()
            assert [name for name, *_ in rows] == ["elementary_test_results_id", "result_row"]


def test_runs_at_once_lose_and_double_nothing(lake: Lake, tmp_path: Path) -> None:
    save(lake, tmp_path, "r0", run(lake, tmp_path, "r0"))
    names = [f"c{number}" for number in range(4)]
    loaded = {name: run(lake, tmp_path, name) for name in names}
    faults: list[BaseException] = []

    def attempt(name: str) -> None:
        try:
            save(Lake(lake.settings), tmp_path, name, loaded[name])
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            faults.append(error)

    threads = [threading.Thread(target=attempt, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert column(lake, METRICS, "id") == [*names, "r0"]
    assert column(lake, RESULTS, "id") == [*names, "r0"]
    assert len(lake.df("shop.elementary.test_result_rows")) == 10


def test_saving_again_after_a_crash_doubles_nothing(local_lake: Lake, tmp_path: Path) -> None:
    loaded = run(local_lake, tmp_path, "r1")
    save(local_lake, tmp_path, "r1", loaded)
    save(local_lake, tmp_path, "r1", loaded)
    assert column(local_lake, RESULTS, "id") == ["r1"]


def test_a_model_that_is_gone_leaves_the_state_and_nothing_new_writes_nothing(local_lake: Lake, tmp_path: Path) -> None:
    save(local_lake, tmp_path, "r1", run(local_lake, tmp_path, "r1", models="'m1', 'm2'"))
    first = local_lake.pin(MODELS).snapshot_id
    written = save(local_lake, tmp_path, "r2", run(local_lake, tmp_path, "r2", models="'m2', 'm1'"))
    assert "dbt_models" not in written
    assert local_lake.pin(MODELS).snapshot_id == first
    save(local_lake, tmp_path, "r3", run(local_lake, tmp_path, "r3", models="'m2'"))
    assert column(local_lake, MODELS, "unique_id") == ["m2"]


def test_models_do_not_read_the_history(local_lake: Lake, tmp_path: Path) -> None:
    save(local_lake, tmp_path, "r1", run(local_lake, tmp_path, "r1"))
    assert readable_tables(local_lake, "shop") == []


@pytest.mark.parametrize("added", ["ALTER TABLE shop.elementary.elementary_test_results ADD COLUMN note VARCHAR"])
def test_a_newer_package_may_add_a_column(local_lake: Lake, tmp_path: Path, added: str) -> None:
    save(local_lake, tmp_path, "r1", run(local_lake, tmp_path, "r1"))
    loaded = run(local_lake, tmp_path, "r2")
    with local_lake.connect() as connection:
        connection.execute(f"ATTACH '{tmp_path / 'r2'}.duckdb' AS shop; {added}")
    save(local_lake, tmp_path, "r2", loaded)
    assert local_lake.df(RESULTS).set_index("id")["note"].isna().all()
