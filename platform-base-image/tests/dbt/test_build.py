"""Building a dbt project in this process: what is published, what is held back, and what people are told."""

from __future__ import annotations

import os
import signal

import duckdb
import pytest
from dbt_shop import land_orders

from dml_platform.core.errors import ChecksFailedError, ConfigError, PermanentError, PublishConflictError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.runrecord import read_records
from dml_platform.dbt.manifest import ensure_manifest, load_manifest, parsed_digest
from dml_platform.dbt.runner import build
from dml_platform.lake import Lake

FCT_ORDERS = TableRef("shop", "marts", "fct_orders")
FCT_LATEST = TableRef("shop", "marts", "fct_latest")
FCT_LOG = TableRef("shop", "marts", "fct_log")


def rows(lake: Lake, table: TableRef) -> list[tuple[object, ...]]:
    return lake.sql(f"select * from {table.dotted} order by all").fetchall()


def test_build_publishes_every_mart_and_keeps_a_record(project: Project, shop_lake: Lake) -> None:
    result = build(project, shop_lake, run_id="r1")

    assert result.error is None
    assert [s.ref for s in result.published] == [FCT_LATEST, FCT_LOG, FCT_ORDERS]
    assert rows(shop_lake, FCT_ORDERS) == [(1, 500, "Germany"), (2, 700, "France"), (3, 900, "Germany")]
    [record] = read_records(shop_lake.settings, "shop")
    assert record.status == "success"
    assert record.outputs["shop.marts.fct_orders"] == shop_lake.pin(FCT_ORDERS).snapshot_id
    assert record.inputs["shop.raw.web__orders"] == shop_lake.pin("shop.raw.web__orders").snapshot_id
    assert record.rows["shop.marts.fct_orders"] == 3
    assert not result.database.exists()


def test_a_build_that_is_told_to_end_ends_and_publishes_nothing(
    project: Project, shop_lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(project, shop_lake, run_id="r1", on_node=lambda _: os.kill(os.getpid(), signal.SIGINT))

    assert {ref.layer for ref in shop_lake.tables() if shop_lake.published(ref)} == {"raw"}
    assert "Traceback" not in capsys.readouterr().out
    assert build(project, shop_lake, run_id="r2").error is None


def test_staging_and_seeds_live_only_inside_the_run(project: Project, shop_lake: Lake) -> None:
    build(project, shop_lake, run_id="r1")

    assert {ref.layer for ref in shop_lake.tables()} == {"raw", "marts"}


def test_failed_check_publishes_nothing_and_names_the_check_and_its_query(project: Project, shop_lake: Lake) -> None:
    build(project, shop_lake, run_id="r1")
    land_orders(shop_lake, "values (3, 1, 'de')", run_id="land2")

    result = build(project, shop_lake, run_id="r2")

    assert isinstance(result.error, ChecksFailedError)
    assert "unique_fct_orders_order_id (Got 1 result" in str(result.error)
    assert "dml sql --run r2" in str(result.error)
    assert result.published == []
    assert len(rows(shop_lake, FCT_LOG)) == 1
    assert not any("run_r2" in name for name in shop_lake.pin(FCT_ORDERS).table.refs())
    [failed] = result.failed
    assert failed.sql is not None
    with duckdb.connect() as connection:
        connection.execute(f"attach '{result.database}' as shop (read_only)")
        assert connection.execute(failed.sql).fetchall() == [(3, 2)]


def test_warning_is_reported_and_published(project: Project, shop_lake: Lake) -> None:
    model = project.dbt_dir / "models" / "marts" / "fct_latest.sql"
    model.write_text(model.read_text().replace("'{{ is_incremental() }}'", "'maybe'"))

    result = build(project, shop_lake, run_id="r1")

    assert result.error is None
    assert [node.name.split("__")[0] for node in result.warned] == ["accepted_values_fct_latest_was_incremental"]
    assert len(result.published) == 3


def test_merge_replaces_only_rows_with_the_same_key(project: Project, shop_lake: Lake) -> None:
    build(project, shop_lake, run_id="r1")
    assert rows(shop_lake, FCT_LATEST) == [(1, 500, "False"), (2, 700, "False"), (3, 900, "False")]
    land_orders(shop_lake, "values (4, 50, 'fr')", run_id="land2")

    build(project, shop_lake, run_id="r2")

    assert rows(shop_lake, FCT_LATEST) == [(1, 500, "False"), (2, 700, "False"), (3, 900, "True"), (4, 50, "True")]
    assert rows(shop_lake, FCT_LOG) == [(3,), (4,)]


def test_full_refresh_replaces_rows_and_columns(project: Project, shop_lake: Lake) -> None:
    build(project, shop_lake, run_id="r1")
    model = project.dbt_dir / "models" / "marts" / "fct_orders.sql"
    model.write_text("select order_id, 'x' as amount_cents from {{ ref('stg_orders') }}\n")

    refused = build(project, shop_lake, run_id="r2")
    assert "amount_cents: INTEGER in the table, VARCHAR in the rows" in str(refused.error)
    assert "country: VARCHAR in the table, missing in the rows" in str(refused.error)
    assert rows(shop_lake, FCT_ORDERS)[0] == (1, 500, "Germany")

    assert build(project, shop_lake, run_id="r3", full_refresh=True).error is None
    assert rows(shop_lake, FCT_ORDERS)[0] == (1, "x")


def test_selection_builds_its_foundations_and_publishes_only_itself(project: Project, shop_lake: Lake) -> None:
    result = build(project, shop_lake, run_id="r1", select=["model.shop.fct_orders"])

    assert result.error is None
    assert {n.name for n in result.nodes if n.resource_type in ("model", "seed")} == {
        "stg_orders",
        "countries",
        "fct_orders",
    }
    assert [s.ref for s in result.published] == [FCT_ORDERS]


def test_publishing_is_refused_when_another_run_published_meanwhile(project: Project, shop_lake: Lake) -> None:
    build(project, shop_lake, run_id="r1")

    def publish_in_between(node: object) -> None:
        if getattr(node, "name", "") == "unique_fct_orders_order_id":
            other = shop_lake.step("other", "x")
            other.write_query(
                FCT_ORDERS, shop_lake.connect(), "select 9 as order_id, 9 as amount_cents, 'x' as country"
            )
            other.publish()

    result = build(project, shop_lake, run_id="r2", on_node=publish_in_between)

    assert isinstance(result.error, PublishConflictError)
    assert "run 'other' published it while this step ran" in str(result.error)
    assert len(rows(shop_lake, FCT_LOG)) == 1
    assert build(project, shop_lake, run_id="r3").error is None


def test_broken_model_is_told_in_one_sentence(project: Project, shop_lake: Lake) -> None:
    (project.dbt_dir / "models" / "marts" / "fct_log.sql").write_text("select nope from {{ ref('stg_orders') }}\n")

    result = build(project, shop_lake, run_id="r1")

    assert isinstance(result.error, PermanentError)
    assert "model fct_log" in str(result.error)
    assert '"nope" not found' in str(result.error)
    assert result.published == []


def test_manifest_is_parsed_again_only_when_a_file_changed(project: Project, shop_lake: Lake) -> None:
    manifest = ensure_manifest(project)
    first = manifest.stat().st_mtime_ns
    assert ensure_manifest(project).stat().st_mtime_ns == first

    (project.dbt_dir / "models" / "marts" / "fct_new.sql").write_text("select 1 as id\n")

    assert "model.shop.fct_new" in load_manifest(project)["nodes"]


def test_project_that_does_not_parse_is_told_with_dbts_words(project: Project, shop_lake: Lake) -> None:
    (project.dbt_dir / "models" / "marts" / "fct_new.sql").write_text("select * from {{ ref('missing') }}\n")

    with pytest.raises(ConfigError, match="depends on a node named 'missing'"):
        ensure_manifest(project)


def test_what_dbt_read_before_it_refused_it_is_not_built_once_the_files_are_as_before(
    project: Project, shop_lake: Lake
) -> None:
    assert build(project, shop_lake, run_id="r1").error is None
    stamp = parsed_digest(project)
    marts = project.dbt_dir / "models" / "marts"
    text = (marts / "fct_orders.sql").read_text()
    # dbt looks for two models of one name only after it has written what it read.
    (marts / "fct_orders.sql").write_text(text.replace("orders.amount_cents,", "-1 as amount_cents,"))
    (marts / "twin.sql").write_text("{{ config(alias='fct_log') }} select 1 as order_count\n")
    with pytest.raises(ConfigError, match="fct_log"):
        ensure_manifest(project)
    (marts / "fct_orders.sql").write_text(text)
    (marts / "twin.sql").unlink()

    assert build(project, shop_lake, run_id="r2").error is None
    assert shop_lake.sql("select min(amount_cents) from shop.marts.fct_orders").fetchall() == [(500,)]
    assert parsed_digest(project) == stamp  # the same files, whatever dbt wrote of them


@pytest.mark.parametrize("name", ["manifest.json", "partial_parse.msgpack"])
def test_a_parse_that_was_killed_between_its_files_is_done_again(project: Project, shop_lake: Lake, name: str) -> None:
    file = ensure_manifest(project).with_name(name)
    file.write_bytes(file.read_bytes()[:-50])

    assert build(project, shop_lake, run_id="r1").error is None
    assert load_manifest(project)["nodes"]


def test_selected_model_does_not_run_tests_that_read_what_is_not_selected(project: Project, shop_lake: Lake) -> None:
    (project.dbt_dir / "models" / "staging" / "stg_other.sql").write_text("select 1 as order_id\n")
    (project.dbt_dir / "tests").mkdir()
    (project.dbt_dir / "tests" / "assert_both.sql").write_text(
        "select 1 from {{ ref('fct_orders') }} join {{ ref('stg_other') }} using (order_id) where false\n"
    )

    result = build(project, shop_lake, run_id="r1", select=["model.shop.fct_orders"])

    assert result.error is None
    assert [s.ref for s in result.published] == [FCT_ORDERS]


def test_test_that_cannot_run_is_an_error_and_no_failed_check(project: Project, shop_lake: Lake) -> None:
    (project.dbt_dir / "tests").mkdir()
    (project.dbt_dir / "tests" / "assert_broken.sql").write_text("select nope from {{ ref('fct_orders') }}\n")

    result = build(project, shop_lake, run_id="r1")

    assert isinstance(result.error, PermanentError)
    assert not isinstance(result.error, ChecksFailedError)
    assert "assert_broken" in str(result.error)


def test_files_of_old_failed_runs_go_and_a_running_ones_stay(project: Project, shop_lake: Lake) -> None:
    (project.dbt_dir / "models" / "marts" / "fct_log.sql").write_text("select nope from {{ ref('stg_orders') }}\n")
    running = shop_lake.settings.home / "runs" / "shop" / "running" / "dbt.duckdb"
    running.parent.mkdir(parents=True)
    running.touch()
    for number in range(7):
        build(project, shop_lake, run_id=f"r{number}", select=["model.shop.fct_log"])

    kept = sorted(path.parent.name for path in running.parent.parent.glob("*/dbt.duckdb"))
    assert kept == ["r1", "r2", "r3", "r4", "r5", "r6", "running"]


def test_missing_manifest_where_nothing_can_be_written_is_said(project: Project) -> None:
    (project.dbt_dir / "target").write_text("in the way: root can write to folders that are read-only")
    with pytest.raises(ConfigError, match=r"its manifest in .* is missing or older than its files") as caught:
        ensure_manifest(project)
    assert caught.value.fix == "Build the image again: parsing the dbt project belongs to its build."


def test_errors_and_what_a_model_prints_are_shown_without_secrets(
    project: Project, shop_lake: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DBT_ENV_SECRET_TOKEN", "hunter2-4711")  # pragma: allowlist secret
    marts = project.dbt_dir / "models" / "marts"
    for name, word in (("fct_latest", "hunter2-4711"), ("fct_log", "nothing_secret")):
        model = marts / f"{name}.sql"
        model.write_text(f"{{{{ print('looking at {word}') }}}}\n{model.read_text()}\nand no_column = '{word}'")

    build(project, shop_lake, run_id="r1")

    shown = capsys.readouterr().out
    assert "looking at nothing_secret" in shown
    assert "looking at *****" in shown
    assert "fct_log" in shown
    assert "no_column" in shown
    assert "hunter2" not in shown
