"""The plain `dbt` program in a terminal: what it publishes, what it holds back, and what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.runrecord import read_records
from dml_platform.lake import Lake

FCT_ORDERS = TableRef("shop", "marts", "fct_orders")


def dbt(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "dbt"), *arguments],
        cwd=project.dbt_dir,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )


def test_dbt_build_publishes_and_leaves_a_record(project: Project, shop_lake: Lake) -> None:
    done = dbt(project, "build")

    assert done.returncode == 0, done.stdout
    assert "Published shop.marts.fct_orders: 3 rows" in done.stdout
    assert shop_lake.published(FCT_ORDERS) is not None
    [record] = read_records(shop_lake.settings, "shop")
    assert (record.status, record.rows["shop.marts.fct_orders"]) == ("success", 3)

    # The kept file still has the staging view, so that one test can be run alone.
    again = dbt(project, "test", "--select", "fct_orders")
    assert again.returncode == 0, again.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["run"], "'dbt run' runs no tests; 'dbt build' tests and publishes"),
        (["build", "--empty"], "the rows are a sample"),
        (["build", "--exclude-resource-type", "test"], "tests are excluded"),
    ],
)
def test_what_was_not_tested_is_not_published(
    project: Project, shop_lake: Lake, arguments: list[str], reason: str
) -> None:
    if arguments[0] == "run":
        assert dbt(project, "seed").returncode == 0

    done = dbt(project, *arguments)

    assert done.returncode == 0, done.stdout
    assert reason in done.stdout
    assert shop_lake.published(FCT_ORDERS) is None


def test_failing_test_publishes_nothing(project: Project, shop_lake: Lake) -> None:
    (project.dbt_dir / "tests").mkdir()
    (project.dbt_dir / "tests" / "assert_no.sql").write_text("select 1 from {{ ref('fct_orders') }}\n")

    done = dbt(project, "build")

    assert done.returncode == 1
    assert "1 nodes failed or were skipped: assert_no" in done.stdout
    assert shop_lake.published(FCT_ORDERS) is None
