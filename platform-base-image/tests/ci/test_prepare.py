"""The state to compare with is made of the base, in a lake of its own: what a person published is left as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dml_platform.ci.base import _unpack, find_base, prepare_base
from dml_platform.cli import ci as commands
from dml_platform.cli.app import console, errors
from dml_platform.core.naming import TableRef
from dml_platform.core.project import BASES, Project
from dml_platform.core.settings import Settings, load_settings
from dml_platform.dbt.runner import build
from dml_platform.lake import Lake

pytestmark = pytest.mark.integration

FILES = {
    ".gitignore": "dbt/target\n__pycache__\n",
    "project_shop/__init__.py": "",
    "project_shop/definitions.py": "from pathlib import Path\n\n"
    "from dml_platform.definitions import build_definitions\n\n"
    "defs = build_definitions(Path(__file__).parents[1])\n",
    "config/project.yaml": "owner: team:shop\n",
    "config/sources.yaml": "sources: {web: {kind: files, tables: {orders: {path: data/*.csv, format: csv, columns: "
    "{order_id: BIGINT, amount_cents: BIGINT, country_code: VARCHAR}}}}}\n",
    "data/orders.csv": "order_id,amount_cents,country_code\n1,500,de\n2,700,fr\n3,900,de\n",
}
FCT = TableRef("shop", "marts", "fct_orders")
MART = "marts/fct_orders.sql"


@pytest.fixture
def runnable(project: Project) -> Project:
    """The project with what `dml run` needs; before git takes its first commit."""
    for name, text in FILES.items():
        (project.root / name).parent.mkdir(parents=True, exist_ok=True)
        (project.root / name).write_text(text)
    return project


@pytest.fixture
def settings(runnable: Project, git: Callable[..., str]) -> Settings:
    return load_settings(runnable.root)


def edit(project: Project, old: str, new: str) -> None:
    path = project.dbt_dir / "models" / MART
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def columns(lake: Lake) -> list[str]:
    published = lake.published(FCT)
    assert published is not None
    return [field.name for field in published.schema.fields]


def folders(settings: Settings) -> list[str]:
    return sorted(path.name for path in (settings.home / BASES / "shop").iterdir() if path.is_dir())


def test_a_base_that_the_older_state_refuses_is_made_anew_and_any_other_runs_on_it(
    runnable: Project, settings: Settings, git: Callable[..., str]
) -> None:
    said: list[str] = []
    prepare_base(runnable, settings, "main", say=said.append)
    (first,) = folders(settings)

    (runnable.root / "data" / "more.csv").write_text("order_id,amount_cents,country_code\n4,100,fr\n")
    git("add", "--all")
    git("commit", "--quiet", "--message=more orders")
    lake = prepare_base(runnable, settings, "main", say=said.append)
    assert folders(settings) == [first], "the state was made anew without need"
    assert lake.sql(f"select count(*) from {FCT.dotted}").fetchall() == [(4,)]

    edit(runnable, "orders.amount_cents, ", "")
    git("commit", "--quiet", "--all", "--message=a column less, which was announced")
    prepare_base(runnable, settings, "main", say=said.append)
    lake = prepare_base(runnable, settings, "main", say=said.append)

    assert columns(lake) == ["order_id", "country"]
    (last,) = folders(settings)
    assert last != first
    commit = git("rev-parse", "main")[:12]
    assert said[-3:] == [
        "the state of an earlier base does not take it (see above), so it is made anew",
        f"made the published state from {commit}",
        f"the published state is here already, made from {commit}",
    ]


def test_what_a_person_published_is_neither_compared_with_nor_written_over(
    runnable: Project,
    settings: Settings,
    shop_lake: Lake,
    git: Callable[..., str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    commands.prepare(None, console, base="main")
    git("switch", "--quiet", "--create", "change")
    edit(runnable, "orders.amount_cents, ", "orders.amount_cents * 2 as amount_cents, ")
    assert build(runnable, shop_lake, run_id="mine").error is None
    mine = {ref: shop_lake.catalog.load_table(ref.identifier).metadata_location for ref in shop_lake.tables()}

    commands.prepare(None, console, base="main")
    commands.check(None, console, errors, base="main", output=tmp_path / "out")

    result = json.loads((tmp_path / "out" / "change.json").read_text())
    assert [(t["table"], t["changed"]) for t in result["tables"]] == [(FCT.dotted, 3)], (
        "compared with the branch itself"
    )
    assert mine == {ref: shop_lake.catalog.load_table(ref.identifier).metadata_location for ref in shop_lake.tables()}
    capfd.readouterr()

    # Of another commit there is no such state: then it is said what is compared with.
    git("commit", "--quiet", "--all", "--message=change")
    commands.check(None, console, errors, base="HEAD", output=tmp_path / "out")
    assert "Compared with what was published here" in (tmp_path / "out" / "comment.md").read_text()
    assert find_base(runnable, settings, "HEAD") is None


def test_models_of_the_base_read_the_marts_of_the_projects_beside_it(
    runnable: Project, settings: Settings, shop_lake: Lake, git: Callable[..., str]
) -> None:
    rates = TableRef("bank", "marts", "fct_rates")
    publish(shop_lake, rates, "values (1.5)")
    (runnable.dbt_dir / "models/marts/fct_rates.sql").write_text("select * from {{ source('bank', 'fct_rates') }}\n")
    (runnable.dbt_dir / "models/bank.yml").write_text(
        "version: 2\nsources:\n  - {name: bank, database: bank, schema: marts, tables: [{name: fct_rates}]}\n"
    )
    git("add", "--all")
    git("commit", "--quiet", "--message=rates")

    lake = prepare_base(runnable, settings, "main", say=print)
    assert lake.sql("select * from shop.marts.fct_rates").fetchall() == [(1.5,)]

    publish(shop_lake, rates, "values (2.5)")
    lake = prepare_base(runnable, settings, "main", say=print)
    assert sorted(lake.sql("select * from bank.marts.fct_rates").fetchall()) == [(1.5,), (2.5,)]


def publish(lake: Lake, ref: TableRef, values: str) -> None:
    step = lake.step("bank", "bank")
    step.write_query(ref, lake.connect(), f"select * from ({values}) as t(rate)")
    step.publish()


def test_a_base_that_does_not_run_leaves_the_state_of_no_commit(
    runnable: Project, settings: Settings, git: Callable[..., str]
) -> None:
    edit(runnable, "select", "select no_such_column,")
    git("commit", "--quiet", "--all", "--message=broken")
    command = [sys.executable, "-m", "dml_platform.cli", "ci", "prepare", "--base", "main"]
    done = subprocess.run(command, cwd=runnable.root, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot make the published state to compare with: 'dml run' of the project as it was ended with 1" in (
        done.stderr
    )
    assert find_base(runnable, settings, "main") is None


def test_the_base_has_the_dbt_packages_that_are_installed_here(
    runnable: Project, git: Callable[..., str], tmp_path: Path
) -> None:
    package = runnable.dbt_dir / "dbt_packages" / "elementary" / "dbt_project.yml"
    package.parent.mkdir(parents=True)
    package.write_text("name: elementary\n")
    assert _unpack(runnable, "main", tmp_path / "then")
    assert (tmp_path / "then/dbt/dbt_packages/elementary/dbt_project.yml").read_text() == "name: elementary\n"
