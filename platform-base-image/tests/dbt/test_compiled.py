"""Compiled SQL of all models, whether they were built or not; and what a change of it does to the columns."""

from __future__ import annotations

import subprocess

import pytest

from dml_platform.ci import changes_since
from dml_platform.core.errors import ConfigError
from dml_platform.core.project import Project
from dml_platform.dbt.compiled import ensure_compiled
from dml_platform.dbt.runner import build
from dml_platform.lake import Lake
from dml_platform.lineage.changes import Change

MODELS = {f"model.shop.{name}" for name in ("stg_orders", "fct_orders", "fct_latest", "fct_log")}


def test_every_model_is_compiled_without_a_build_and_once(
    project: Project, shop_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = ensure_compiled(project, shop_lake)

    assert compiled.keys() >= MODELS
    assert 'from "shop"."raw"."web__orders"' in compiled["model.shop.stg_orders"]
    assert shop_lake.tables("shop") == [ref for ref in shop_lake.tables("shop") if ref.layer == "raw"]

    def fail(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr("dml_platform.dbt.compiled.compile_models", fail)
    assert ensure_compiled(project, shop_lake) == compiled


def test_a_build_of_a_part_leaves_its_sql_and_the_rest_is_compiled(project: Project, shop_lake: Lake) -> None:
    assert build(project, shop_lake, run_id="r1", select=["model.shop.fct_orders"]).error is None

    assert ensure_compiled(project, shop_lake).keys() >= MODELS


def test_changes_since_a_commit_are_those_of_the_traced_columns(project: Project, shop_lake: Lake) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        subprocess.run(["git", *identity, *arguments], cwd=project.root.parent, check=True, capture_output=True)

    git("init", "-q")
    git("add", "project-shop")
    git("commit", "-qm", "base")
    assert changes_since(project, shop_lake, "HEAD") == []

    model = project.dbt_dir / "models" / "marts" / "fct_orders.sql"
    model.write_text(model.read_text().replace("orders.amount_cents", "orders.order_id * 2 as double_id"))
    assert changes_since(project, shop_lake, "HEAD") == [
        Change("shop.marts.fct_orders", "amount_cents", "removed"),
        Change("shop.marts.fct_orders", "double_id", "added"),
    ]
    with pytest.raises(ConfigError, match="cannot compare with 'nowhere'"):
        changes_since(project, shop_lake, "nowhere")
