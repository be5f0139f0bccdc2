"""When a build may be left out: only when it would publish what is published already."""

from __future__ import annotations

import pytest
from dbt_shop import land_orders

from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.dbt.changes import find_unchanged, find_volatile, fingerprint, volatile_words
from dml_platform.dbt.manifest import load_manifest
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


@pytest.mark.parametrize(
    "sql",
    [
        "select current_localtimestamp() as m",
        "select ago(interval 1 day) as m",
        "select getvariable('x') as m",
        "select txid_current() as m",
        "select * from parquet_scan('/data/x.parquet')",
        "select * from read_xlsx('x.xlsx')",
        "select * from glob('*')",
        "select * from '/data/x.parquet'",
        'select * from "/data/x.parquet"',
        'select * from "x.csv" as x',
        "select * from x.parquet",
        "select * from {{ ref('a') }} as a, 'x.csv' as b",
        "select * from postgres_query('db', 'select 1')",
        "select '--' as dashes, now() as m",
        "attach 'other.duckdb'",
    ],
)
def test_what_depends_on_the_moment_or_on_files_is_known(sql: str) -> None:
    assert volatile_words(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "select 42 as age, 1 as today, 2 as now, 3 as random from {{ ref('a') }}",
        "-- until now (2026) it's what random() gives, see '/data/x.parquet'\nselect 1 as id",
        "select 1 as id /* now() */ {# current_date #}",
        'select * from "shop"."marts"."fct_orders" join {{ ref(\'b\') }} using (id)',
        "select unnest(range(3)) as id, current_schema() as place, json_each.value from json_each('[1]')",
        "{% for name in range(3) %}{{ run_query('select 1') }}{% endfor %}",
    ],
)
def test_names_that_only_look_like_it_force_no_build(sql: str) -> None:
    assert volatile_words(sql) == []


def test_hooks_tests_sources_and_packages_that_depend_on_the_moment_are_found(project: Project) -> None:
    files = {
        "models/marts/fct_hooked.sql": '{{ config(post_hook="insert into log select now()") }} select 1 as id',
        "models/marts/fct_packaged.sql": "select {{ other.moment() }} as id",
        "models/hooks.yml": """
version: 2
sources:
  - name: files
    tables: [{name: days, config: {meta: {external_location: "/data/days.parquet"}}}]
models:
  - name: fct_log
    columns:
      - name: order_count
        data_tests:
          - unique: {config: {where: "day > current_date"}}
          - accepted_values: {arguments: {values: ["now()"], quote: false}}
""",
        "dbt_packages/other/dbt_project.yml": "name: other\nversion: '1.0.0'\nprofile: shop\n",
        "dbt_packages/other/macros/moment.sql": "{% macro moment() %}{{ other.inner() }}{% endmacro %}",
        "dbt_packages/other/macros/inner.sql": "{% macro inner() %}now(){% endmacro %}",
        "dbt_packages/other/macros/unused.sql": "{% macro unused() %}random(){% endmacro %}",
    }
    for name, text in files.items():
        (project.dbt_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (project.dbt_dir / name).write_text(text)

    found = set(find_volatile(load_manifest(project)))

    assert {key.rsplit(".", 1)[0] if key.startswith("test.") else key for key in found} == {
        "model.shop.fct_hooked",
        "source.shop.files.days",
        "test.shop.accepted_values_fct_log_order_count__False__now_",
        "test.shop.unique_fct_log_order_count",
        "macro.other.inner",
    }


def test_a_variable_that_yaml_asks_for_makes_it_build_again_when_it_changes(
    project: Project, shop_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.dbt_dir / "models" / "marts" / "switch.yml").write_text(
        "version: 2\nmodels:\n  - name: fct_log\n    config: {enabled: \"{{ env_var('HAS_LOG', 'yes') == 'yes' }}\"}\n"
    )
    build_all(project, shop_lake, "r1")
    assert find_unchanged(project, shop_lake) is not None

    monkeypatch.setenv("HAS_LOG", "no")
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
