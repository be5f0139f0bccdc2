"""Rotation under load: a client reads its mounted file for each call, as libpq does, and every call succeeds."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from minio.error import S3Error
from services.servers import PROJECTS, Servers, wait_for

from dml_infra import rotation, secrets
from dml_infra.errors import ConfigError

pytestmark = pytest.mark.integration


@contextmanager
def looping(call: Callable[[], None]) -> Iterator[list[int]]:
    """Call it without a pause until the end, and raise what it raised; the list counts."""
    ended, counted, failed = threading.Event(), [0], []

    def loop() -> None:
        while not ended.is_set():
            try:
                call()
            except Exception as error:  # noqa: BLE001 -- shown by the test
                failed.append(error)
                return
            counted[0] += 1

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        wait_for(lambda: counted[0] > 3 or bool(failed), "a first call")
        yield counted
        seen = counted[0]
        wait_for(lambda: counted[0] > seen + 3 or bool(failed), "a call after the change")
    finally:
        ended.set()
        thread.join()
    assert not failed, failed


@pytest.mark.parametrize(("role", "name"), [("sales", "lake"), ("dagster", "dagster")])
def test_password_changes_while_clients_sign_in_all_the_time(servers: Servers, role: str, name: str) -> None:
    file = servers.installation.secrets / ("dagster_pgpass" if role == "dagster" else f"projects/{role}/pgpass")
    inode, old = file.stat().st_ino, file.read_text()

    def sign_in() -> None:
        for attempt in range(5):  # as Dagster and the platform's library do
            try:
                with servers.connect(role, name, file=str(file)) as cursor:
                    cursor.execute("SELECT 1")
                return
            except psycopg2.OperationalError as error:
                if attempt == 4 or "password authentication failed" not in str(error):
                    raise
                time.sleep(0.1)

    with servers.connect(role, name, file=str(file)) as held, looping(sign_in):
        for _ in range(3):
            rotation.rotate(servers.installation, f"postgres/{role}", services=servers.services())
        held.execute("SELECT 1")  # an open connection stays
    assert file.stat().st_ino == inode, "the file is mounted by its inode"
    assert file.stat().st_mode & 0o777 == 0o600
    password = old.rstrip("\n").rpartition(":")[2]
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(host="127.0.0.1", port=servers.port, user=role, dbname=name, password=password)


def test_superuser_and_metrics_get_new_passwords(servers: Servers) -> None:
    for role, file in (("postgres", "postgres_superuser"), ("postgres_exporter", "postgres_exporter_password")):
        old = secrets.read_password(servers.installation, file)
        rotation.rotate(servers.installation, f"postgres/{role}", services=servers.services())
        new = secrets.read_password(servers.installation, file)
        assert new != old
        where = {"host": "127.0.0.1", "port": servers.port, "user": role, "dbname": "postgres"}
        psycopg2.connect(password=new, **where).close()
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(password=old, **where)
    assert "postgres-exporter" in servers.restarted


def test_object_store_key_changes_while_a_client_writes_all_the_time(servers: Servers) -> None:
    old = servers.key("sales")
    long_run = servers.client(old)

    def put() -> None:
        servers.client(servers.key("sales")).put_object("lake", "sales/raw/t", io.BytesIO(b"x"), 1)

    def put_with_the_first_key() -> None:
        long_run.put_object("lake", "sales/raw/u", io.BytesIO(b"x"), 1)

    with looping(put):
        with looping(put_with_the_first_key):
            rotation.rotate(servers.installation, "object-store/sales", services=servers.services())
        assert servers.key("sales") != old
        removed = rotation.retire(servers.installation, "object-store/sales", services=servers.services())
    assert removed == [old.access_key]
    with pytest.raises(S3Error, match=r"InvalidAccessKeyId|does not exist"):
        put_with_the_first_key()


def test_second_rotation_removes_what_the_first_left(servers: Servers) -> None:
    first = servers.key("orders")
    rotation.rotate(servers.installation, "object-store/orders", services=servers.services())
    servers.client(first).put_object("lake", "orders/raw/t", io.BytesIO(b"x"), 1)
    second = servers.key("orders")
    rotation.rotate(servers.installation, "object-store/orders", services=servers.services())
    servers.client(second).put_object("lake", "orders/raw/t", io.BytesIO(b"x"), 1)
    with pytest.raises(S3Error, match=r"InvalidAccessKeyId|does not exist"):
        servers.client(first).put_object("lake", "orders/raw/t", io.BytesIO(b"x"), 1)


def test_dagsters_key_is_retired_after_its_services_read_the_new_one(servers: Servers) -> None:
    rotation.rotate(servers.installation, "object-store/dagster", services=servers.services())
    servers.restarted.clear()
    assert len(rotation.retire(servers.installation, "object-store/dagster", services=servers.services())) == 1
    assert servers.restarted == ["webserver", "webserver-viewer", "daemon"]


def test_root_of_the_object_store_changes_and_clients_only_wait(servers: Servers) -> None:
    old = secrets.read_secret(servers.installation, "object_store_root_password")

    def put() -> None:  # the client tries again while the store starts
        servers.client(servers.key("sales")).put_object("lake", "sales/raw/t", io.BytesIO(b"x"), 1)

    with looping(put):
        rotation.rotate(servers.installation, "object-store/root", services=servers.services())
    new = secrets.read_secret(servers.installation, "object_store_root_password")
    assert new != old
    user = secrets.read_secret(servers.installation, "object_store_root_user")
    with pytest.raises(S3Error, match=r"SignatureDoesNotMatch|signature"):
        servers.client(secrets.S3Key(user, old)).list_buckets()
    servers.provision()


@pytest.mark.parametrize("name", ["postgres/sales", "object-store/sales", "object-store/root"])
@pytest.mark.parametrize("moment", ["before the service", "before the file", "after the file"])
def test_rotation_that_was_cut_short_is_finished_by_running_it_again(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, name: str, moment: str
) -> None:
    class CutShort(Exception):
        pass

    def cut(*_args: object, **_kwargs: object) -> None:
        raise CutShort

    with monkeypatch.context() as patch:
        if moment == "before the service":
            patch.setattr(rotation.database, "set_password", cut)
            patch.setattr(rotation.objectstore, "add_key", cut)
            patch.setattr(servers, "start_minio", cut)
        elif moment == "before the file":
            real = rotation.write_secret

            def write(path: Path, text: str, *, uid: int) -> None:
                if rotation.JOURNAL not in path.parts:
                    raise CutShort
                real(path, text, uid=uid)

            patch.setattr(rotation, "write_secret", write)
        else:
            patch.setattr(rotation, "_forget", cut)
        with pytest.raises(CutShort):
            rotation.rotate(servers.installation, name, services=servers.services())
    assert rotation.unfinished(servers.installation) == [name]
    if name == "object-store/sales":
        with pytest.raises(ConfigError, match="its rotation did not end"):
            rotation.retire(servers.installation, name, services=servers.services())
    rotation.rotate(servers.installation, name, services=servers.services())
    assert rotation.unfinished(servers.installation) == []
    with servers.connect("sales", "lake") as cursor:
        cursor.execute("SELECT 1")
    servers.client(servers.key("sales")).put_object("lake", "sales/raw/t", io.BytesIO(b"x"), 1)
    servers.provision()


def test_every_credential_has_a_name_and_others_are_refused(servers: Servers) -> None:
    names = rotation.rotatable(servers.installation, PROJECTS)
    assert {"postgres/sales", "object-store/orders", "postgres/postgres", "object-store/root"} <= set(names)
    with pytest.raises(ConfigError, match=r"cannot rotate 'postgres/nobody'.*\nUse one of: postgres/postgres"):
        rotation.rotate(servers.installation, "postgres/nobody", services=servers.services())
