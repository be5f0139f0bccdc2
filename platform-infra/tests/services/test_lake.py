"""The shared library as a project's container uses it: its own role, its own key, both from files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from services.servers import Servers

from dml_infra import rotation

pytest.importorskip("dml_platform", reason="the shared library is not installed here")

from dml_platform.core.errors import ConfigError, PermanentError
from dml_platform.core.naming import TableRef
from dml_platform.core.settings import load_settings
from dml_platform.lake import Lake

pytestmark = pytest.mark.integration
MINE, THEIRS = TableRef("sales", "marts", "fct"), TableRef("orders", "marts", "fct")
OpenLake = Callable[[str], Any]


@pytest.fixture
def open_lake(servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[OpenLake]:
    """Opens the lake with the environment of a project's container."""
    lakes = []

    def as_project(project: str) -> Lake:
        files = servers.installation.secrets / "projects" / project
        for name, value in {
            "DML_PROFILE": "server",
            "DML_HOME": str(tmp_path),
            "DML_LAKE__CATALOG_URI": f"postgresql+psycopg2://{project}@127.0.0.1:{servers.port}/lake",
            "DML_LAKE__WAREHOUSE": "s3://lake",
            "DML_LAKE__S3_ENDPOINT": servers.endpoint,
            "DML_LAKE__S3_CREDENTIALS_FILE": str(files / "aws_credentials"),
            "PGPASSFILE": str(files / "pgpass"),
        }.items():
            monkeypatch.setenv(name, value)
        lake = Lake(load_settings())
        assert lake.tables() is not None  # signed in now, while PGPASSFILE is this project's
        lakes.append(lake)
        return lake

    yield as_project
    for lake in lakes:
        lake.catalog.close()
    servers.psql("TRUNCATE iceberg_tables, iceberg_namespace_properties;", "lake")


def publish(lake: Any, ref: TableRef, sql: str) -> None:
    step = lake.step("r1", "write")
    step.write_query(ref, lake.connect(), sql, mode="table")
    step.publish()


def test_project_publishes_its_tables_and_reads_those_of_others_pinned(open_lake: OpenLake) -> None:
    theirs = open_lake("orders")
    publish(theirs, THEIRS, "SELECT 1 AS a")
    old = theirs.pin(THEIRS).snapshot_id
    publish(theirs, THEIRS, "SELECT 2 AS a")
    mine = open_lake("sales")
    publish(mine, MINE, "SELECT 3 AS a")
    publish(mine, MINE, "SELECT 4 AS a, 5 AS b")  # a new column too
    assert mine.sql("SELECT * FROM sales.marts.fct, orders.marts.fct").fetchall() == [(4, 5, 2)]
    pinned = mine.pin(THEIRS, snapshot_id=old)
    assert pinned.snapshot_id == old
    assert [r.project for r in mine.tables()] == ["orders", "sales"]
    assert mine.df(THEIRS)["a"].tolist() == [2]


def test_writing_to_anothers_table_is_one_sentence(open_lake: OpenLake) -> None:
    theirs = open_lake("orders")
    publish(theirs, THEIRS, "SELECT 1 AS a")
    mine = open_lake("sales")
    why = "project 'orders' owns it, and this process works as 'sales', which may only read it"
    for ref in (THEIRS, TableRef("orders", "raw", "new"), TableRef("nobody", "marts", "new")):
        with pytest.raises(PermanentError, match="which may only read it") as caught:
            publish(mine, ref, "SELECT 9 AS a")
        if ref.project == "orders":
            assert why in str(caught.value)
    assert mine.df(THEIRS)["a"].tolist() == [1]


def test_raw_tables_of_others_cannot_be_read(open_lake: OpenLake) -> None:
    theirs = open_lake("orders")
    publish(theirs, TableRef("orders", "raw", "secret"), "SELECT 1 AS a")
    mine = open_lake("sales")
    why = "cannot read 'orders.raw.secret': the object store does not let this process's key read it"
    with pytest.raises(PermanentError, match=why):
        mine.df("orders.raw.secret")


def test_open_lake_outlives_the_rotation_of_its_credentials(servers: Servers, open_lake: OpenLake) -> None:
    mine = open_lake("sales")
    publish(mine, MINE, "SELECT 1 AS a")
    for name in ("postgres/sales", "object-store/sales"):
        rotation.rotate(servers.installation, name, services=servers.services())
    rotation.retire(servers.installation, "object-store/sales", services=servers.services())
    mine.catalog.engine.dispose()  # new connections, with the new password
    publish(mine, MINE, "SELECT 2 AS a")
    assert mine.df(MINE)["a"].tolist() == [2]


def test_database_that_is_not_prepared_is_a_sentence(servers: Servers, open_lake: OpenLake) -> None:
    servers.psql("ALTER TABLE iceberg_tables RENAME TO away;", "lake")
    try:
        with pytest.raises(ConfigError, match="permission denied for schema public") as caught:
            open_lake("sales")
        assert caught.value.fix.startswith("The database is not prepared for this role")
    finally:
        servers.psql("ALTER TABLE away RENAME TO iceberg_tables;", "lake")


def test_catalogue_tables_are_those_that_the_library_would_make(servers: Servers) -> None:
    from pyiceberg.catalog.sql import SqlCatalogBaseTable
    from sqlalchemy import create_engine, inspect

    columns = {}
    engine = create_engine(
        f"postgresql+psycopg2://postgres@/lake?host={servers.folder}/postgres&port={servers.port}", future=True
    )
    try:
        for table in SqlCatalogBaseTable.metadata.tables.values():
            found = inspect(engine).get_columns(table.name)
            columns[table.name] = [(c["name"], str(c["type"]), c["nullable"]) for c in found]
            assert columns[table.name] == [(c.name, str(c.type), bool(c.nullable)) for c in table.columns]
            key = inspect(engine).get_pk_constraint(table.name)["constrained_columns"]
            assert key == [c.name for c in table.primary_key.columns]
    finally:
        engine.dispose()
    assert set(columns) == {"iceberg_tables", "iceberg_namespace_properties"}
