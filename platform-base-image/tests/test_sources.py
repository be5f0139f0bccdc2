"""Sources as Dagster runs them: what a selection lands, a full refresh, and what is told of the rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dml_platform.cli.run import _op_config
from dml_platform.core.project import Project, get_project
from dml_platform.lake import Lake
from dml_platform.lake.resource import LakeResource
from dml_platform.sources import build_source_assets, install_connectors, load_sources

FAKE = Path(__file__).parent / "airbyte" / "fake_connector.py"
ORDERS = dg.AssetKey(["sales", "raw", "shop__orders"])
USERS = dg.AssetKey(["sales", "raw", "crm__users"])


@pytest.fixture
def project(local_lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a source of files and a connector of two streams."""
    monkeypatch.setenv("DML_HOME", str(local_lake.settings.home))
    root = tmp_path / "project-sales"
    (root / "config").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[tool.dml]\nproject = "sales"\n')
    streams = {"users": {"sync_mode": "incremental"}, "orders": {"sync_mode": "incremental"}}
    crm = {
        "kind": "airbyte",
        "connector": {"command": [sys.executable, str(FAKE)]},
        "config": {"streams": {name: {} for name in streams}},
        "streams": streams,
    }
    shop = {"kind": "files", "tables": {"orders": {"path": "*.csv", "format": "csv"}}}
    (root / "config" / "sources.yaml").write_text(json.dumps({"sources": {"shop": shop, "crm": crm}}))
    (root / "a.csv").write_text("id,email\n1,ada@example.com\n")
    return get_project(start=root)


def land(project: Project, *keys: dg.AssetKey, **config: Any) -> dg.ExecuteInProcessResult:
    definitions = dg.Definitions(
        build_source_assets(project, load_sources(project)),
        jobs=[dg.define_asset_job("land", selection=list(keys))],
        resources={"lake": LakeResource(project_root=str(project.root))},
    )
    job = definitions.resolve_job_def("land")
    options = {"is_selected": True, "force": False, "full_refresh": False, **config}
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(
            instance=instance, run_config={"ops": _op_config(project, job, **options)}, raise_on_error=False
        )


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    (event,) = result.get_step_failure_events()
    assert event.step_failure_data.user_failure_data is not None
    return str(event.step_failure_data.user_failure_data.description)


def test_a_table_that_a_changed_file_does_not_fit_is_replaced_by_the_command_that_the_error_names(
    project: Project, local_lake: Lake
) -> None:
    assert land(project, ORDERS).success
    (project.root / "a.csv").write_text("id,name\nA1,ada\n")
    assert "dml run --full-refresh --select key:sales/raw/shop__orders" in failure_of(land(project, ORDERS))
    assert land(project, ORDERS, full_refresh=True).success
    assert local_lake.sql("SELECT id, name FROM sales.raw.shop__orders").fetchall() == [("A1", "ada")]
    assert "email" not in local_lake.sql("FROM sales.raw.shop__orders").columns


def test_one_stream_of_a_connector_can_be_landed_and_refreshed(project: Project, local_lake: Lake) -> None:
    assert land(project, USERS).success
    assert [ref.name for ref in local_lake.tables()] == ["crm__users"]
    count = "SELECT count(*), count(DISTINCT _run_id) FROM sales.raw.crm__users"
    before = local_lake.sql("SELECT DISTINCT _run_id FROM sales.raw.crm__users").fetchall()
    assert land(project, USERS).success
    assert local_lake.sql("SELECT DISTINCT _run_id FROM sales.raw.crm__users").fetchall() == before
    assert land(project, USERS, full_refresh=True).success
    assert local_lake.sql("SELECT DISTINCT _run_id FROM sales.raw.crm__users").fetchall() != before
    assert local_lake.sql(count).fetchall() == [(100, 1)]


def test_a_run_of_everything_refreshes_no_source(project: Project) -> None:
    definitions = dg.Definitions(
        build_source_assets(project, load_sources(project)),
        jobs=[dg.define_asset_job("land")],
        resources={"lake": LakeResource(project_root=str(project.root))},
    )
    job = definitions.resolve_job_def("land")
    assert _op_config(project, job, is_selected=False, force=False, full_refresh=True) == {}
    assert _op_config(project, job, is_selected=True, force=False, full_refresh=False) == {}
    refreshed = _op_config(project, job, is_selected=True, force=False, full_refresh=True)
    assert refreshed == {name: {"config": {"full_refresh": True}} for name in ("sales_crm", "sales__raw__shop__orders")}


def test_a_sources_rows_are_not_shown_in_dagster(project: Project) -> None:
    result = land(project, ORDERS)
    (event,) = result.asset_materializations_for_node("sales__raw__shop__orders")
    assert event.metadata["dagster/row_count"].value == 1
    assert "preview" not in event.metadata
    assert "ada@example.com" not in str(event.metadata)


def test_connectors_are_installed_from_the_sources_file(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "connectors"
    monkeypatch.setenv("DML_AIRBYTE__CACHE_DIR", str(cache))
    assert install_connectors(project) == [], "a command is there already"
    sources = json.loads((project.config_dir / "sources.yaml").read_text())
    sources["sources"]["crm"]["connector"] = {"package": "airbyte-source-crm", "version": "1.2.3"}
    (project.config_dir / "sources.yaml").write_text(json.dumps(sources))
    folder = cache / f"airbyte-source-crm-1.2.3-py{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "source-crm").touch()
    (folder / ".complete").touch()

    assert install_connectors(project) == [folder / "bin" / "source-crm"]
