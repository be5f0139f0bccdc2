"""Elementary's tests of this project, on its own data: ten quiet days, then each fault is found by the test for it.

``TEST_DBT_PACKAGES_MIRROR`` names the mirror of dbt packages. A day is a build with its own now; the lake is all that
lives on between them. The shop's purchases land daily, its users and products only once.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from conftest import PROJECT, Dml
from dml_platform.core.naming import TableRef
from dml_platform.core.project import read_project
from dml_platform.core.settings import load_settings
from dml_platform.dbt.packages import install_packages
from dml_platform.dbt.runner import build
from dml_platform.lake import Lake

MIRROR = os.environ.get("TEST_DBT_PACKAGES_MIRROR", "")
DAYS = 10

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(3600),
    # Of strings in Elementary's own macros.
    pytest.mark.filterwarnings("ignore:invalid escape sequence"),
    pytest.mark.skipif(not MIRROR, reason="no mirror of dbt packages: set TEST_DBT_PACKAGES_MIRROR"),
]

# dbt puts the arguments behind it.
NAME = re.compile(r"elementary_(?:source_)?([a-z]+_[a-z]+)_(?:raw_)?([a-z]+__[a-z]+|fct_purchases|fct_daily_revenue)")
CDNOW, PURCHASES, USERS, PRODUCTS = (
    TableRef("sales", "raw", name) for name in ("cdnow__purchases", "shop__purchases", "shop__users", "shop__products")
)


class Sales:
    """A copy of the project, its lake, and days that pass."""

    def __init__(self, root: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        project = read_project(root)
        assert project is not None
        install_packages(project, MIRROR)
        monkeypatch.setenv("DML_HOME", str(home))
        self.project, self.day = project, 0
        self._home, self._monkeypatch = home, monkeypatch
        # Freshness also looks at the machine's clock, so all of it lies in the past.
        self._start = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(days=20)
        self._lake = Lake(load_settings(root), root)
        for ref in (PURCHASES, USERS, PRODUCTS):
            self.write(ref, f"SELECT * REPLACE ({self._moment()} AS _loaded_at) FROM {ref.dotted}")

    def land_purchases(self) -> None:
        """Some that the shop sends again, as a sync does that finds changes."""
        self.write(
            PURCHASES,
            f"SELECT * REPLACE ({self._moment()} AS _loaded_at) FROM {PURCHASES.dotted}"
            f" QUALIFY row_number() OVER (ORDER BY id, _loaded_at) <= {20 + self.day % 5}",
            mode="append",
        )

    def _moment(self) -> str:
        """When the day's landing is; not at the same minute each day."""
        at = self._start + timedelta(days=self.day, minutes=(self.day * 37) % 23)
        return f"TIMESTAMPTZ '{at.isoformat()}'"

    def write(self, ref: TableRef, query: str, *, mode: str = "table") -> None:
        rows = self._lake.sql(query).to_arrow_table()
        step = self._lake.step(f"{ref.name}{self.day}", "land")
        step.write_batches(ref, self._lake.connect(), rows, mode=mode, full_refresh=mode == "table")
        step.publish()

    def build(self) -> set[str]:
        """Build an hour after the landing. Returns: Elementary's tests that found something, as ``kind table``."""
        now = self._start + timedelta(days=self.day, hours=1)
        self._monkeypatch.setenv("TEST_NOW", now.isoformat())
        result = build(self.project, self._lake, run_id=f"day{self.day}")
        assert result.error is None, result.error
        return {f"{found[1]} {found[2]}" for node in result.warned if (found := NAME.match(node.name))}

    def keep(self) -> None:
        self._lake.catalog.close()
        shutil.copytree(self._home, self._home.with_name("kept"))

    def go_back(self) -> None:
        """To what was kept; in the same place, for a lake's files know their addresses."""
        self._lake.catalog.close()
        shutil.rmtree(self._home)
        shutil.copytree(self._home.with_name("kept"), self._home)
        self.day = DAYS
        self._lake = Lake(load_settings(self.project.root), self.project.root)


@pytest.fixture(scope="module")
def quiet_days(dml: Dml, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sales]:
    """After ten days on which nothing was found."""
    folder = tmp_path_factory.mktemp("days")
    home, root = folder / ".dml", folder / "project-sales"
    done = dml(home, "run", "--select", "group:raw")
    assert done.returncode == 0, done.stdout + done.stderr
    ignored = shutil.ignore_patterns("dbt_packages", "target", "logs", ".venv", ".nox", ".dvc", ".*_cache", "results")
    shutil.copytree(PROJECT, root, ignore=ignored)
    settings = root / "dbt" / "dbt_project.yml"
    now = "vars: {custom_run_started_at: \"{{ env_var('TEST_NOW') }}\"}\n"
    settings.write_text(settings.read_text(encoding="utf-8") + now, encoding="utf-8")
    with pytest.MonkeyPatch.context() as monkeypatch:
        sales = Sales(root, home, monkeypatch)
        found = {}
        for sales.day in range(DAYS):
            if sales.day:
                sales.land_purchases()
            found[sales.day] = sales.build()
        assert {day: names for day, names in found.items() if names} == {}
        sales.keep()
        yield sales


@pytest.fixture
def sales(quiet_days: Sales) -> Sales:
    """On the day after them, with that day's purchases landed."""
    quiet_days.go_back()
    quiet_days.land_purchases()
    return quiet_days


def test_lost_rows_are_found_in_the_source_and_in_the_marts(sales: Sales) -> None:
    sales.write(CDNOW, f"SELECT * FROM {CDNOW.dotted} WHERE date < DATE '1998-06-01'")
    lost = {f"volume_anomalies {table}" for table in ("cdnow__purchases", "fct_purchases", "fct_daily_revenue")}
    assert sales.build() == lost


def test_amounts_in_another_unit_are_found(sales: Sales) -> None:
    sales.write(CDNOW, f"SELECT * REPLACE ((dollars * 100)::DECIMAL(10, 2) AS dollars) FROM {CDNOW.dotted}")
    assert sales.build() == {"column_anomalies fct_purchases"}


def test_a_column_that_is_gone_is_found(sales: Sales) -> None:
    sales.write(USERS, f"SELECT * EXCLUDE (weight) FROM {USERS.dotted}")
    assert sales.build() == {"schema_changes shop__users"}


def test_a_source_that_stops_is_found_and_one_that_never_landed_again_is_not(sales: Sales) -> None:
    sales.day += 3
    assert sales.build() == {"freshness_anomalies shop__purchases"}
