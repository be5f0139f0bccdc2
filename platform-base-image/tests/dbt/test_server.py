"""Builds on a server, where a run's container and its folders are gone when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from dbt_shop import land_orders

from dml_platform.cli.lake import _open_run
from dml_platform.core.errors import ChecksFailedError, PermanentError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.runrecord import run_files
from dml_platform.core.settings import Settings
from dml_platform.dbt.changes import find_unchanged, fingerprint
from dml_platform.dbt.runner import build
from dml_platform.lake import Lake

pytestmark = pytest.mark.parametrize("settings", ["server"], indirect=True)


@pytest.fixture
def shop(settings: Settings, project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    monkeypatch.chdir(project.root)
    lake = Lake(settings, project.root)
    with closing(lake.catalog):
        land_orders(lake, "values (1, 500, 'de')", run_id="land1")
        yield lake


def in_a_new_container(lake: Lake, folder: Path) -> Lake:
    return Lake(lake.settings.model_copy(update={"home": folder}), lake.root)


def test_next_container_finds_the_build_that_is_still_good(shop: Lake, project: Project, tmp_path: Path) -> None:
    build(project, shop, run_id="r1", details={"fingerprint": fingerprint(project, shop)})

    record = find_unchanged(project, in_a_new_container(shop, tmp_path / "next"))

    assert record is not None
    assert record.run_id == "r1"


def test_file_of_a_failed_run_outlives_its_container(shop: Lake, project: Project, tmp_path: Path) -> None:
    land_orders(shop, "values (1, 1, 'de')", run_id="land2")
    error = build(project, shop, run_id="r1").error
    assert isinstance(error, ChecksFailedError)
    assert f"That reads {shop.settings.warehouse}/shop/_runs/files/r1/dbt.duckdb" in error.fix
    assert not list(shop.settings.home.rglob("*.duckdb"))

    with closing(_open_run(in_a_new_container(shop, tmp_path / "next"), "r1")) as connection:
        assert connection.sql("select count(*) from shop.staging.stg_orders").fetchall() == [(2,)]
        assert connection.sql("select count(*) from fct_orders").fetchall() == [(2,)]


def test_only_the_last_failed_file_is_kept_and_no_big_one(shop: Lake, project: Project) -> None:
    (project.dbt_dir / "models" / "marts" / "fct_log.sql").write_text("select nope from {{ ref('stg_orders') }}\n")
    few = shop.settings.dbt.model_copy(update={"keep_failed_runs": 1})
    lake = Lake(shop.settings.model_copy(update={"dbt": few}), project.root)
    for number in range(3):
        build(project, lake, run_id=f"r{number}", select=["model.shop.fct_log"])
    files = run_files(lake.settings, "shop", "")
    assert [e.name for e in files.list(recursive=True) if not e.is_folder] == ["r2/dbt.duckdb"]

    none = few.model_copy(update={"keep_failed_mb": 0})
    lake = Lake(shop.settings.model_copy(update={"dbt": none}), project.root)
    error = build(project, lake, run_id="r3", select=["model.shop.fct_log"]).error
    assert error is not None
    assert "the run's DuckDB file could not be kept: it has" in error.fix
    assert "DML_DBT__KEEP_FAILED_MB is 0" in error.fix


def test_reader_in_a_container_asks_for_nothing_that_its_project_may_not_read(shop: Lake) -> None:
    theirs = [TableRef("stock", "raw", "items"), TableRef("stock", "marts", "dim_items")]
    for ref in theirs:
        step = shop.step("r1", "x")
        step.write_query(ref, shop.connect(), "select 1 as item_id")
        step.publish()
    denied = PermanentError("cannot read 'stock.raw.items'", "the object store does not let it", "Read its marts.")
    load = shop.catalog._convert_orm_to_iceberg

    def refuse(row: object) -> object:
        if row.table_namespace == "stock.raw":  # type: ignore[attr-defined]
            raise denied
        return load(row)  # type: ignore[arg-type]

    shop.catalog._convert_orm_to_iceberg = refuse  # type: ignore[method-assign,assignment]
    with closing(shop.connect()) as connection:
        assert {pinned.ref.dotted for pinned in shop.create_views(connection)} == {
            "shop.raw.web__orders",
            "stock.marts.dim_items",
        }
    assert shop.sql("select count(*) from stock.marts.dim_items, shop.raw.web__orders as items").fetchall() == [(1,)]
    with pytest.raises(PermanentError, match=r"cannot read 'stock\.raw\.items'"):
        shop.sql("select * from stock.raw.items")
