"""What hangs on what, and which checks block."""

from __future__ import annotations

import dagster as dg
import pytest


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    from project_sales.definitions import defs

    return defs.get_repository_def()


def key(*path: str) -> dg.AssetKey:
    return dg.AssetKey(["sales", *path])


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


def test_structural_checks_block(repository: dg.RepositoryDefinition) -> None:
    checks = {node.key.name: node for node in repository.asset_graph.asset_check_nodes}
    assert checks["unique_fct_purchases_purchase_id"].blocking
    assert not checks["forecast_is_close"].blocking
