"""What Dagster loads, without running it: no network, no state, lineage from sources to the forecast."""

from __future__ import annotations

import socket
from pathlib import Path

import dagster as dg
import pytest


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    from project_sales.definitions import defs

    return defs.get_repository_def()


def key(*path: str) -> dg.AssetKey:
    return dg.AssetKey(["sales", *path])


def test_definitions_load_without_network_or_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib

    from project_sales import definitions

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("loading the definitions opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("DML_HOME", str(tmp_path / "home"))

    importlib.reload(definitions)

    assert not (tmp_path / "home" / "lake").exists()


def test_lineage_reaches_from_the_sources_to_the_forecast(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    upstream = {key("marts", "customer_forecast")}
    while True:
        more = {parent for child in upstream for parent in graph.get(child).parent_keys} - upstream
        if not more:
            break
        upstream |= more
    assert key("raw", "cdnow__purchases") in upstream
    assert key("staging", "stg_cdnow__purchases") in upstream
    assert key("marts", "fct_purchases") in upstream
    assert key("raw", "shop__users") not in upstream


def test_every_asset_has_an_owner_a_group_a_kind_and_a_description(repository: dg.RepositoryDefinition) -> None:
    bare = {}
    for node in repository.asset_graph.asset_nodes:
        missing = [
            name
            for name, value in (
                ("owner", node.owners),
                ("group", node.group_name),
                ("kind", node.kinds),
                ("description", node.description),
            )
            if not value
        ]
        if missing:
            bare[node.key.to_user_string()] = missing
    assert bare == {}


def test_structural_checks_block(repository: dg.RepositoryDefinition) -> None:
    checks = {node.key.name: node for node in repository.asset_graph.asset_check_nodes}
    assert checks["unique_fct_purchases_purchase_id"].blocking
    assert not checks["forecast_is_close"].blocking


def test_daily_job_covers_every_asset(repository: dg.RepositoryDefinition) -> None:
    job = repository.get_job("daily")
    assert job.asset_layer.executable_asset_keys == repository.asset_graph.materializable_asset_keys
    [schedule] = repository.schedule_defs
    assert (schedule.job_name, schedule.cron_schedule) == ("daily", "0 5 * * *")


def test_sensor_asks_for_one_run_when_files_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from project_sales import jobs

    monkeypatch.setattr(jobs, "DROP_FOLDER", tmp_path)
    (tmp_path / "cdnow").mkdir()
    (tmp_path / "cdnow" / "a.csv").write_text("x\n")

    def look(cursor: str | None) -> object:
        return jobs.new_files(dg.build_sensor_context(cursor=cursor))

    first = look(None)
    assert isinstance(first, dg.SensorResult)
    assert first.run_requests is not None
    assert len(first.run_requests) == 1
    assert isinstance(look(first.cursor), dg.SkipReason)

    (tmp_path / "cdnow" / "b.csv").write_text("y\n")
    assert isinstance(look(first.cursor), dg.SensorResult)
