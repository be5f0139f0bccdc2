"""A server's Postgres lets a project's role read all rows of the catalogue and change only its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg2
import pytest
from lake_steps import rows, write
from pydantic import SecretStr

from dml_platform.core.config import MaintenanceConfig
from dml_platform.core.errors import ConfigError, PermanentError
from dml_platform.core.naming import TableRef
from dml_platform.core.settings import Settings
from dml_platform.lake import Lake
from dml_platform.lake.maintain import Work, maintain
from dml_platform.lake.rollback import move_main, plan_table

pytestmark = pytest.mark.parametrize("settings", ["server"], indirect=True)
THEIRS = TableRef("orders", "marts", "fct_orders")


@pytest.fixture
def prepared(settings: Settings, postgres: Any) -> Iterator[tuple[Settings, str]]:
    """A lake with another project's table, and the name of a project whose role has its own rows only."""
    role = f"p{uuid.uuid4().hex[:10]}"
    owner = Lake(settings)
    write(owner, "SELECT 1 AS a", ref=THEIRS)
    own = "{0} = current_user::text OR starts_with({0}, current_user::text || '.')"
    database = settings.catalog_uri.rpartition("/")[2]
    with closing(
        psycopg2.connect(host="127.0.0.1", port=postgres.port, user="postgres", dbname=database)
    ) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"REVOKE ALL ON SCHEMA public FROM PUBLIC; CREATE ROLE {role} LOGIN")
            cursor.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
            columns = {"iceberg_tables": "table_namespace", "iceberg_namespace_properties": "namespace"}
            for table, column in columns.items():
                cursor.execute(
                    f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role};"
                    f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
                    f"CREATE POLICY reads ON {table} FOR SELECT USING (true);"
                    f"CREATE POLICY writes ON {table} USING ({own.format(column)})"
                )
            yield settings, role
            owner.catalog.close()
            cursor.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def as_role(settings: Settings, role: str) -> Lake:
    uri = settings.catalog_uri.replace("postgres:not-asked-for@", f"{role}@")
    return Lake(settings.model_copy(update={"lake": settings.lake.model_copy(update={"catalog_uri": SecretStr(uri)})}))


def test_role_publishes_its_own_tables_and_reads_the_others(prepared: tuple[Settings, str]) -> None:
    settings, role = prepared
    mine = TableRef(role, "marts", "fct")
    lake = as_role(settings, role)
    with closing(lake.catalog):
        write(lake, "SELECT 1 AS a", ref=mine)
        write(lake, "SELECT 2 AS a, 3 AS b", ref=mine, mode="table", run="r2")
        assert rows(lake, mine) == [(2, 3)]
        assert rows(lake, THEIRS) == [(1,)]


@pytest.mark.parametrize("ref", [THEIRS, TableRef("orders", "marts", "new"), TableRef("unknown", "marts", "new")])
def test_table_of_another_project_is_refused_in_words(prepared: tuple[Settings, str], ref: TableRef) -> None:
    settings, role = prepared
    lake = as_role(settings, role)
    with closing(lake.catalog):
        with pytest.raises(PermanentError) as caught:
            write(lake, "SELECT 9 AS a", ref=ref)
        assert f"project {ref.project!r} owns it, and this process works as {role!r}, which may only read it" in str(
            caught.value
        )
        assert rows(lake, THEIRS) == [(1,)]


def test_a_role_that_may_only_read_is_told_so(prepared: tuple[Settings, str], postgres: Any) -> None:
    settings, role = prepared
    mine = TableRef(role, "marts", "fct")
    lake = as_role(settings, role)
    with closing(lake.catalog):
        write(lake, "SELECT 1 AS a", ref=mine)
        database = settings.catalog_uri.rpartition("/")[2]
        connect = {"host": "127.0.0.1", "port": postgres.port, "user": "postgres", "dbname": database}
        with closing(psycopg2.connect(**connect)) as connection, connection, connection.cursor() as cursor:
            for table in ("iceberg_tables", "iceberg_namespace_properties"):
                cursor.execute(f"REVOKE INSERT, UPDATE, DELETE ON {table} FROM {role}")
        with pytest.raises(PermanentError, match="which may only read the lake") as caught:
            write(lake, "SELECT 2 AS a", ref=mine, run="r2")
        assert "'dml infra reader'" in str(caught.value)
        assert rows(lake, mine) == [(1,)]


def test_catalogue_that_nobody_prepared_is_a_sentence(prepared: tuple[Settings, str], postgres: Any) -> None:
    settings, role = prepared
    empty = postgres.create_database(f"e{role}").replace("postgres:not-asked-for@", f"{role}@")
    lake = Lake(
        settings.model_copy(update={"lake": settings.lake.model_copy(update={"catalog_uri": SecretStr(empty)})})
    )
    with pytest.raises(ConfigError, match="permission denied for schema public") as caught:
        lake.tables()
    assert caught.value.fix.startswith("The database is not prepared for this role")


def test_role_can_neither_maintain_nor_roll_back_others_tables(prepared: tuple[Settings, str]) -> None:
    settings, role = prepared
    owner, lake = Lake(settings), as_role(settings, role)
    write(owner, "SELECT 2 AS a", ref=THEIRS, run="r2")
    moves = plan_table(lake, THEIRS)
    with pytest.raises(PermanentError, match=r"cannot roll back orders\.marts\.fct_orders: project 'orders' owns it"):
        move_main(lake, moves, by="t", why="", roll_back_id="rb")
    late = datetime.now(timezone.utc) + timedelta(days=40)
    with pytest.raises(PermanentError, match=r"cannot maintain 'orders\.marts\.fct_orders': project 'orders' owns it"):
        maintain(lake, "orders", Work(MaintenanceConfig(keep_snapshots=1), now=late))
    assert rows(owner, THEIRS) == [(1,), (2,)]
    assert len(list(owner.history(THEIRS))) == 2
    owner.catalog.close()
    lake.catalog.close()
