"""When a build may be left out: only when it would publish what is published already."""

from __future__ import annotations

import pytest
from dbt_shop import land_orders

from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.dbt.changes import find_unchanged, fingerprint
from dml_platform.dbt.runner import build
from dml_platform.lake import Lake


def build_all(project: Project, lake: Lake, run_id: str) -> None:
    details = {"fingerprint": fingerprint(project, lake)}
    assert build(project, lake, run_id=run_id, details=details).error is None


def test_second_build_of_the_same_is_left_out(project: Project, shop_lake: Lake) -> None:
    assert find_unchanged(project, shop_lake) is None
    build_all(project, shop_lake, "r1")

    record = find_unchanged(project, shop_lake)

    assert record is not None
    assert record.run_id == "r1"


def test_new_rows_a_new_file_or_somebody_elses_publish_make_it_build_again(project: Project, shop_lake: Lake) -> None:
    build_all(project, shop_lake, "r1")

    land_orders(shop_lake, "values (9, 1, 'de')", run_id="land2")
    assert find_unchanged(project, shop_lake) is None
    build_all(project, shop_lake, "r2")
    assert find_unchanged(project, shop_lake) is not None

    seed = project.dbt_dir / "seeds" / "countries.csv"
    seed.write_text(seed.read_text() + "it,Italy\n")
    assert find_unchanged(project, shop_lake) is None
    build_all(project, shop_lake, "r3")
    assert find_unchanged(project, shop_lake) is not None

    other = shop_lake.step("other", "x")
    other.write_query(TableRef("shop", "marts", "fct_log"), shop_lake.connect(), "select 1 as order_count")
    other.publish()
    assert find_unchanged(project, shop_lake) is None


@pytest.mark.parametrize("sql", ["current_date", "now()", "'{{ run_started_at }}'", "random()"])
def test_model_that_depends_on_the_moment_is_always_built(project: Project, shop_lake: Lake, sql: str) -> None:
    (project.dbt_dir / "models" / "marts" / "fct_now.sql").write_text(f"select {sql} as moment\n")
    build_all(project, shop_lake, "r1")

    assert find_unchanged(project, shop_lake) is None


def test_build_of_a_part_does_not_stand_for_the_whole(project: Project, shop_lake: Lake) -> None:
    build_all(project, shop_lake, "r1")
    land_orders(shop_lake, "values (9, 1, 'de')", run_id="land2")
    build(project, shop_lake, run_id="r2", select=["model.shop.fct_orders"])

    assert find_unchanged(project, shop_lake) is None


def test_failed_build_is_not_taken_for_a_good_one(project: Project, shop_lake: Lake) -> None:
    land_orders(shop_lake, "values (3, 1, 'de')", run_id="land2")
    details = {"fingerprint": fingerprint(project, shop_lake)}
    assert build(project, shop_lake, run_id="r1", details=details).error is not None

    assert find_unchanged(project, shop_lake) is None


def test_column_that_is_named_like_a_function_does_not_force_a_build(project: Project, shop_lake: Lake) -> None:
    (project.dbt_dir / "models" / "marts" / "fct_people.sql").write_text("select 42 as age, 1 as today\n")
    build_all(project, shop_lake, "r1")

    assert find_unchanged(project, shop_lake) is not None
