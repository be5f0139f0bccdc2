"""What Dagster loads, without running it: no network, no state, and nobody has to guess whose an asset is."""

from __future__ import annotations

import socket
from pathlib import Path

import dagster as dg
import pytest


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    from project_sales.definitions import defs

    return defs.get_repository_def()


def test_definitions_load_without_network_or_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib

    from project_sales import definitions

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("loading the definitions opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("DML_HOME", str(tmp_path / "home"))

    importlib.reload(definitions)

    assert not (tmp_path / "home" / "lake").exists()


def test_every_asset_is_below_the_projects_name(repository: dg.RepositoryDefinition) -> None:
    assert {asset.key.path[0] for asset in repository.asset_graph.asset_nodes} == {"sales"}


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


def test_keys_of_tables_block(repository: dg.RepositoryDefinition) -> None:
    checks = {node.key.name: node for node in repository.asset_graph.asset_check_nodes}
    keys = [node for name, node in checks.items() if name.startswith("unique_")]
    assert keys
    assert all(node.blocking for node in keys)
