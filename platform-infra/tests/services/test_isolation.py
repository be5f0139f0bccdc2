"""What a project's role and key are refused, tried one by one as the project would."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from minio import Minio
from minio.error import S3Error
from psycopg2.errors import InsufficientPrivilege
from services.servers import Servers

from dml_infra import database, secrets
from dml_infra.rotation import Services, add_reader, end_reader, revoke_project
from dml_infra.s3check import check_calls

pytestmark = pytest.mark.integration
ROW = "INSERT INTO iceberg_tables VALUES ('dml', %s, %s, 's3://lake/x', NULL, 'TABLE')"
NAMESPACE = "INSERT INTO iceberg_namespace_properties VALUES ('dml', %s, 'exists', 'true')"


@pytest.fixture(autouse=True)
def rows(servers: Servers) -> Iterator[None]:
    """A table of each project."""
    for project in ("sales", "orders"):
        with servers.connect(project, "lake") as cursor:
            cursor.execute(ROW, (f"{project}.marts", "t"))
            cursor.execute(NAMESPACE, (f"{project}.marts",))
    yield
    servers.psql("TRUNCATE iceberg_tables, iceberg_namespace_properties;", "lake")


@pytest.mark.parametrize(
    ("where", "statement"),
    [
        ("lake", "CREATE TABLE public.mine (a int)"),
        ("lake", "CREATE TEMP TABLE mine (a int)"),
        ("lake", "CREATE SCHEMA mine"),
        ("lake", "SELECT lo_creat(-1)"),
        ("lake", "DROP TABLE iceberg_tables"),
        ("lake", "TRUNCATE iceberg_tables"),
        ("lake", "ALTER TABLE iceberg_tables DISABLE ROW LEVEL SECURITY"),
        ("lake", "CREATE POLICY all_mine ON iceberg_tables USING (true)"),
        ("lake", "INSERT INTO iceberg_tables VALUES ('dml', 'orders.marts', 'u', 'x', NULL, NULL)"),
        ("lake", "INSERT INTO iceberg_tables VALUES ('dml', 'sales_of_others.marts', 'u', 'x', NULL, NULL)"),
        ("lake", "UPDATE iceberg_tables SET table_namespace = 'orders.marts' WHERE table_namespace = 'sales.marts'"),
        ("lake", "INSERT INTO iceberg_namespace_properties VALUES ('dml', 'orders.x', 'a', 'b')"),
        ("lake", "SELECT rolpassword FROM pg_authid"),
        ("lake", "SELECT passwd FROM pg_shadow"),
        ("lake", "SELECT pg_read_file('/etc/passwd')"),
        ("lake", "COPY iceberg_tables TO PROGRAM 'cat'"),
        ("lake", "SET ROLE orders"),
        ("lake", "SET ROLE lake"),
        ("lake", "SET SESSION AUTHORIZATION postgres"),
        ("lake", "ALTER ROLE orders PASSWORD 'mine'"),
        ("lake", "ALTER ROLE sales CONNECTION LIMIT 1000"),
        ("lake", "CREATE ROLE mine"),
        ("lake", "CREATE DATABASE mine"),
        ("dagster", "CREATE TABLE public.mine (a int)"),
    ],
)
def test_project_is_refused(servers: Servers, where: str, statement: str) -> None:
    with (
        servers.connect("sales", where) as cursor,
        pytest.raises(InsufficientPrivilege, match=r"permission denied|must be|row-level security|cannot"),
    ):
        cursor.execute(statement)


@pytest.mark.parametrize("name", ["postgres", "template1", "openmetadata"])
def test_project_cannot_enter_other_databases(servers: Servers, name: str) -> None:
    with (
        pytest.raises(psycopg2.OperationalError, match="permission denied for database"),
        servers.connect("sales", name),
    ):
        pass


def test_rows_of_others_are_seen_and_stay_as_they_are(servers: Servers) -> None:
    with servers.connect("sales", "lake") as cursor:
        for statement in (
            "UPDATE iceberg_tables SET metadata_location = 'stolen' WHERE table_namespace = 'orders.marts'",
            "DELETE FROM iceberg_tables WHERE table_namespace = 'orders.marts'",
            "UPDATE iceberg_namespace_properties SET property_value = 'x' WHERE namespace = 'orders.marts'",
            "DELETE FROM iceberg_namespace_properties WHERE namespace = 'orders.marts'",
        ):
            cursor.execute(statement)
            assert cursor.rowcount == 0
        cursor.execute("SELECT metadata_location FROM iceberg_tables WHERE table_namespace = 'orders.marts'")
        assert cursor.fetchall() == [("s3://lake/x",)]
        cursor.execute("UPDATE iceberg_tables SET metadata_location = 'next' WHERE table_namespace = 'sales.marts'")
        assert cursor.rowcount == 1
        cursor.execute("DELETE FROM iceberg_tables WHERE table_namespace = 'sales.marts'")
        assert cursor.rowcount == 1


def test_connections_of_a_project_are_limited_to_its_budget(servers: Servers) -> None:
    limit = database.connection_budget([database.ProjectRole("sales")]).per_project["sales"]
    found = servers.psql("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'sales';", "postgres")
    assert int(found) == limit


def test_core_roles_are_no_superusers_and_the_exporter_reads_statistics_only(servers: Servers) -> None:
    found = servers.psql("SELECT string_agg(rolname, ',') FROM pg_roles WHERE rolsuper;", "postgres")
    assert found.strip() == "postgres"
    password = secrets.read_password(servers.installation, "postgres_exporter_password")
    connection = psycopg2.connect(
        host="127.0.0.1", port=servers.port, user="postgres_exporter", password=password, dbname="postgres"
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE query IS NOT NULL")
    finally:
        connection.close()


def test_reader_reads_what_the_project_reads_and_changes_nothing(servers: Servers) -> None:
    first = add_reader(servers.installation, "sales", services=servers.services())
    given = add_reader(servers.installation, "sales", services=servers.services())
    servers.client(servers.key("sales")).put_object("lake", "sales/raw/t/data/reader.parquet", io.BytesIO(b"x"), 1)

    def open_store(reader: dict[str, str]) -> Minio:
        return servers.client(secrets.S3Key(reader["LAKE_ACCESS_KEY_ID"], reader["LAKE_SECRET_ACCESS_KEY"]))

    store = open_store(given)
    assert store.get_object("lake", "sales/raw/t/data/reader.parquet").data == b"x"
    assert [o.object_name for o in store.list_objects("lake", "sales/raw/t/data/", recursive=True)]
    for forbidden in (
        lambda: store.put_object("lake", "sales/raw/t/data/mine", io.BytesIO(b"x"), 1),
        lambda: store.remove_object("lake", "sales/raw/t/data/reader.parquet"),
        lambda: store.get_object("lake", "orders/raw/t/data/secret"),
        lambda: list(store.list_objects("landing", "sales/")),
    ):
        with pytest.raises(S3Error, match="Access Denied"):
            forbidden()
    with pytest.raises(S3Error, match="does not exist"):
        open_store(first).get_object("lake", "sales/raw/t/data/reader.parquet")

    def connect(uri: str, name: str = "lake") -> psycopg2.extensions.connection:
        password = uri.partition("sales-reader:")[2].partition("@")[0]
        return psycopg2.connect(
            host="127.0.0.1", port=servers.port, user="sales-reader", password=password, dbname=name
        )

    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        connect(first["LAKE_CATALOG_URI"])
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        connect(given["LAKE_CATALOG_URI"], "dagster")
    connection = connect(given["LAKE_CATALOG_URI"])
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT table_namespace FROM iceberg_tables ORDER BY 1")
            assert cursor.fetchall() == [("orders.marts",), ("sales.marts",)]
            for statement in (
                "UPDATE iceberg_tables SET metadata_location = 'x'",
                "DELETE FROM iceberg_tables",
                "INSERT INTO iceberg_tables VALUES ('dml', 'sales-reader', 'u', 'x', NULL, NULL)",
                "INSERT INTO iceberg_namespace_properties VALUES ('dml', 'sales-reader', 'a', 'b')",
                "CREATE TABLE public.mine (a int)",
                "SET ROLE sales",
            ):
                with pytest.raises(InsufficientPrivilege):
                    cursor.execute(statement)
    finally:
        connection.close()

    servers.provision()  # which gives the tables' rights anew, and leaves it
    connect(given["LAKE_CATALOG_URI"]).close()
    end_reader(servers.installation, "sales", services=servers.services())
    end_reader(servers.installation, "sales", services=servers.services())
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        connect(given["LAKE_CATALOG_URI"])


def test_provisioning_again_changes_nothing_that_a_project_notices(servers: Servers) -> None:
    with servers.connect("sales", "lake") as cursor:
        cursor.execute("BEGIN; SELECT * FROM iceberg_tables FOR UPDATE")
        servers.provision()  # while a run publishes
        cursor.execute("COMMIT")


def test_removed_project_cannot_sign_in_with_what_it_kept_and_leaves_its_tables(
    servers: Servers, tmp_path: Path
) -> None:
    folder = servers.installation.secrets / "projects/orders"
    kept = shutil.copytree(folder, tmp_path / "kept")
    services = Services(psql=lambda: servers.psql, store=lambda: servers.store, restart=lambda names: None)
    revoke_project(servers.installation, "orders", services=services)
    revoke_project(servers.installation, "orders", services=services)
    database.drop_project(servers.installation, "dagster", psql=servers.psql)  # not a project
    assert not folder.exists()
    shutil.copytree(kept, folder)
    try:
        with (
            pytest.raises(psycopg2.OperationalError, match="password authentication failed"),
            servers.connect("orders", "lake"),
        ):
            pass
        assert _refusal(servers, "orders", "get", "lake", "orders/raw/t") == "InvalidAccessKeyId"
        with servers.connect("sales", "lake") as cursor:
            cursor.execute("SELECT 1 FROM iceberg_tables WHERE table_namespace = 'orders.marts'")
            assert cursor.rowcount == 1
    finally:
        servers.provision()


OWN, PUBLISHED, RAW = "sales/raw/t/data/1.parquet", "orders/marts/t/data/1.parquet", "orders/raw/t/data/1.parquet"


@pytest.fixture
def objects(servers: Servers) -> None:
    root = secrets.S3Key(
        secrets.read_secret(servers.installation, "object_store_root_user"),
        secrets.read_secret(servers.installation, "object_store_root_password"),
    )
    for bucket, name in [("lake", PUBLISHED), ("lake", RAW), ("landing", "orders/in.csv"), ("backups", "b")]:
        servers.client(root).put_object(bucket, name, io.BytesIO(b"x"), 1)
    servers.client(root).put_object("dagster", "compute-logs/r/1.out", io.BytesIO(b"x"), 1)


@pytest.mark.parametrize(
    ("verb", "bucket", "name"),
    [
        ("put", "lake", PUBLISHED),
        ("delete", "lake", PUBLISHED),
        ("put", "lake", RAW),
        ("put", "lake", "orders/marts/t/data/new.parquet"),
        ("put", "lake", "salesx/marts/t"),
        ("put", "lake", "sales"),
        ("get", "lake", RAW),
        ("list", "lake", "orders/raw/"),
        ("list", "lake", "orders/"),
        ("list", "lake", ""),
        ("get", "landing", "orders/in.csv"),
        ("put", "landing", "orders/in.csv"),
        ("list", "landing", ""),
        ("get", "dagster", "compute-logs/r/1.out"),
        ("list", "dagster", "compute-logs/"),
        ("put", "dagster", "elsewhere"),
        ("get", "backups", "b"),
        ("list", "backups", ""),
    ],
)
@pytest.mark.usefixtures("objects")
def test_project_is_refused_objects(servers: Servers, verb: str, bucket: str, name: str) -> None:
    assert _refusal(servers, "sales", verb, bucket, name) == "AccessDenied"


@pytest.mark.usefixtures("objects")
def test_project_uses_its_own_and_reads_what_is_published(servers: Servers) -> None:
    for verb, bucket, name in [
        ("put", "lake", OWN),
        ("get", "lake", OWN),
        ("list", "lake", "sales/"),
        ("get", "lake", PUBLISHED),
        ("list", "lake", "orders/marts/t/"),
        ("put", "landing", "sales/in.csv"),
        ("list", "landing", "sales/"),
        ("put", "dagster", "compute-logs/r/2.out"),
        ("delete", "lake", OWN),
    ]:
        assert _refusal(servers, "sales", verb, bucket, name) == "", (verb, bucket, name)


def test_project_key_cannot_administrate(servers: Servers) -> None:
    key = servers.key("sales")
    request = {"do": "drop", "policy": "project-orders", "root": vars(key)}
    answer = servers.store(request)
    assert "AccessDenied" in answer["error"] or "denied" in answer["error"].lower()


def test_object_store_does_all_that_the_platform_asks_of_one(servers: Servers) -> None:
    outcomes = check_calls(servers.endpoint, servers.key("sales"), bucket="landing", prefix="sales/conformance")
    assert [o for o in outcomes if o.problem] == []
    assert len(outcomes) > 10


def _refusal(servers: Servers, project: str, verb: str, bucket: str, name: str) -> str:
    client = servers.client(servers.key(project))
    try:
        if verb == "put":
            client.put_object(bucket, name, io.BytesIO(b"x"), 1)
        elif verb == "get":
            client.get_object(bucket, name).close()
        elif verb == "delete":
            client.remove_object(bucket, name)
        else:
            list(client.list_objects(bucket, prefix=name, recursive=True))
    except S3Error as error:
        return str(error.code)
    return ""
