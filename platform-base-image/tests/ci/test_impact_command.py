"""``dml impact`` as people and programs call it: on a small dbt project with two owners and a dashboard."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from dml_platform.core.project import Project
from dml_platform.lake import Lake

Dml = Callable[..., tuple[int, str, str]]

EXPOSURES = """
version: 2
exposures:
  - name: board
    type: dashboard
    label: Board [weekly]
    owner: {name: Ann, email: ann@example.com}
    depends_on: [ref('fct_latest')]
"""


@pytest.fixture(autouse=True)
def shop(project: Project, published: Lake) -> None:
    """Its owners and who uses it; the working folder is the project's."""
    (project.root / "config").mkdir()
    (project.root / "config" / "project.yaml").write_text("owner: shop@example.com\n")
    (project.dbt_dir / "models" / "exposures.yml").write_text(EXPOSURES)
    edit(
        project,
        "schema.yml",
        "  - name: fct_latest\n",
        "  - name: fct_latest\n    config: {meta: {owner: latest@example.com}}\n",
    )


def edit(project: Project, name: str, old: str, new: str) -> None:
    path = project.dbt_dir / "models" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_column_is_followed_to_tables_owners_and_consumers(dml: Dml) -> None:
    code, output, _ = dml("impact", "web__orders.amount_cents")

    assert code == 0
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert lines[0] == "shop.raw.web__orders.amount_cents (owner shop@example.com)"
    assert "shop.staging.stg_orders columns amount_cents shop@example.com" in lines
    assert "shop.marts.fct_latest columns amount_cents latest@example.com" in lines
    assert "dashboard Board [weekly], owner Ann (ann@example.com)" in lines
    assert not any("fct_log" in line for line in lines), "count(*) does not depend on the column"


def test_a_mart_nobody_reads_has_nothing_downstream(dml: Dml) -> None:
    code, output, _ = dml("impact", "fct_log")
    assert code == 0
    assert output.splitlines() == ["shop.marts.fct_log (owner shop@example.com)", "  nothing downstream"]


def test_json_says_the_same_to_programs(dml: Dml) -> None:
    code, output, _ = dml("impact", "stg_orders.amount_cents", "--json")

    assert code == 0
    found = json.loads(output)
    assert found["subject"] == "shop.staging.stg_orders.amount_cents"
    assert {t["table"]: t["how"] for t in found["tables"]} == {
        "shop.marts.fct_orders": "column",
        "shop.marts.fct_latest": "column",
    }
    assert found["owners"] == ["Ann (ann@example.com)", "latest@example.com", "shop@example.com"]
    assert [c["name"] for c in found["consumers"]] == ["board"]


def test_a_seeds_file_is_followed_and_told_in_markdown(dml: Dml) -> None:
    code, output, _ = dml("impact", "dbt/seeds/countries.csv", "--markdown")

    assert code == 0
    assert "| `shop.seeds.countries` | `shop.marts.fct_orders` | columns | `country` | shop@example.com |" in output


def test_what_the_working_tree_changes_is_found(dml: Dml, project: Project) -> None:
    edit(project, "staging/stg_orders.sql", "select *", "select * replace (amount_cents * 2 as amount_cents)")

    code, output, _ = dml("impact", "--changed", "--base", "main", "--json")

    assert code == 0
    found = json.loads(output)
    assert found["base"] == "main"
    assert [(c["what"], c["table"], c["column"]) for c in found["changes"]] == [
        ("changed", "shop.staging.stg_orders", "amount_cents")
    ]
    (change,) = found["changes"]
    column = "shop.raw.web__orders.amount_cents"
    assert change["why"] == f"was made of {column} (copy), now of {column} (transform)"
    (impact,) = found["impacts"]
    assert {t["table"] for t in impact["tables"]} == {"shop.marts.fct_orders", "shop.marts.fct_latest"}

    code, output, _ = dml("impact", "--changed", "--base", "main")
    assert code == 0
    assert "changed shop.staging.stg_orders.amount_cents" in output
    code, output, _ = dml("impact", "--changed", "--base", "main", "--markdown")
    assert code == 0
    assert "Owners: Ann (ann@example.com), latest@example.com, shop@example.com." in output


def test_nothing_changed_is_said(dml: Dml, project: Project) -> None:
    code, output, _ = dml("impact", "--changed", "--base", "main")
    assert code == 0
    assert "No column of a model differs from main." in output


def test_what_cannot_be_answered_says_what_to_write(dml: Dml) -> None:
    wrong: dict[tuple[str, ...], str] = {
        (): "it needs a table, column or file, or else --changed",
        ("fct_orders", "--changed"): "it needs a table, column or file, or else --changed",
        ("fct_ordrs",): "Did you mean fct_orders",
        ("fct_orders.amount",): "has no column 'amount'",
        ("--changed", "--base", "nowhere"): "cannot compare with 'nowhere'",
    }
    for arguments, said in wrong.items():
        code, output, errors = dml("impact", *arguments)
        assert (code, output) == (2, ""), arguments
        assert said in errors, arguments
