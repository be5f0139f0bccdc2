"""Backups of a real Postgres and a real object store that people write to, and what comes back from them."""

from __future__ import annotations

import io
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from services.place import Place, empty_place
from services.servers import Servers, run_servers

from dml_infra.backup import backup, list_backups, new_identity, open_target, prune, restore, verify
from dml_infra.backup import objects as objects_
from dml_infra.backup.target import PART, FolderTarget, Target
from dml_infra.errors import CheckFailedError, ConfigError, InfraError, PermanentError, RetryableError
from dml_infra.secrets import S3Key, read_secret

pytestmark = pytest.mark.integration
pyiceberg_sql = pytest.importorskip(
    "pyiceberg.catalog.sql", reason="tables are written with pyiceberg, which is not here"
)
pa = pytest.importorskip("pyarrow", reason="tables are written with pyarrow, which is not here")


@pytest.fixture(scope="module")
def source() -> Iterator[Place]:
    """An installation with history, schedules, two projects' tables and logs."""
    for servers in run_servers():
        root = servers.folder
        (root / "registry").mkdir()
        (root / "registry/code-locations.yaml").write_text("code_locations: []\n", encoding="utf-8")
        (root / "compose.yaml").write_text("services: {}\n", encoding="utf-8")
        (root / ".env").write_text("DML_SITE=old.example.org\n", encoding="utf-8")
        (servers.installation.state / "deploys.jsonl").write_text('{"project": "sales"}\n', encoding="utf-8")
        place = Place(servers)
        write_history(servers, runs=7)
        for project in ("sales", "orders"):
            catalogue(servers, project).create_namespace(f"{project}.marts")
            table = new_table(servers, f"{project}.marts.fct")
            table.append(ROWS)
            table.append(ROWS)
        store = place.store()
        store.put_object("dagster", "compute-logs/1.out", io.BytesIO(b"hello"), 5, content_type="text/plain")
        store.put_object("landing", "sales/a b+ü%.csv", io.BytesIO(b""), 0)
        yield place


ROWS = pa.table({"id": pa.array(range(1000)), "name": pa.array([f"n{i}" for i in range(1000)])})


@pytest.fixture
def target(tmp_path: Path) -> FolderTarget:
    return FolderTarget(tmp_path / "backups")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Public key, and the private key's file."""
    file = tmp_path_factory.mktemp("keys") / "identity"
    return new_identity(file), file


@pytest.fixture
def empty() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="dml-restore-"))
    with empty_place(folder) as place:
        yield place
    shutil.rmtree(folder)


def catalogue(servers: Servers, project: str) -> Any:
    """The catalogue with a project's own role and key."""
    os.environ["PGPASSFILE"] = str(servers.installation.secrets / f"projects/{project}/pgpass")
    key: S3Key = servers.key(project)
    return pyiceberg_sql.SqlCatalog(
        "dml",
        **{
            "uri": f"postgresql+psycopg2://{project}@127.0.0.1:{servers.port}/lake",
            "warehouse": "s3://lake",
            "s3.endpoint": servers.endpoint,
            "s3.access-key-id": key.access_key,
            "s3.secret-access-key": key.secret_key,
            "s3.region": "us-east-1",
            "init_catalog_tables": "false",
        },
    )


def new_table(servers: Servers, name: str) -> Any:
    project, _, table = name.split(".")
    location = f"s3://lake/{project}/marts/{table}"
    return catalogue(servers, project).create_table(name, schema=ROWS.schema, location=location)


def write_history(servers: Servers, runs: int) -> None:
    """What Dagster keeps, in the columns that matter here."""
    servers.psql(
        "SET ROLE dagster;"
        "CREATE TABLE runs (id serial primary key, run_id text, status text, run_body text);"
        "CREATE TABLE instigators (id serial primary key, selector_id text, status text, instigator_body text);"
        "INSERT INTO runs (run_id, status, run_body) "
        f"SELECT 'r' || i, 'SUCCESS', E'a\\tb\\nc\\\\' FROM generate_series(1, {runs}) i;"
        "INSERT INTO instigators (selector_id, status) VALUES ('sched-a', 'RUNNING'), ('sched-b', 'STOPPED');",
        "dagster",
    )


def content(servers: Servers, project: str, snapshot: int | None = None) -> Any:
    table = catalogue(servers, project).load_table(f"{project}.marts.fct")
    return table.scan(snapshot_id=snapshot).to_arrow().sort_by("id")


def test_everything_comes_back_while_people_wrote_during_the_backup(
    source: Place, target: FolderTarget, keys: tuple[str, Path], empty: Place
) -> None:
    stop, failures = threading.Event(), []

    def write() -> None:
        table = catalogue(source.servers, "sales").load_table("sales.marts.fct")
        try:
            while not stop.is_set():
                table.append(ROWS)
                source.servers.psql("INSERT INTO runs (run_id, status) VALUES ('busy', 'STARTED')", "dagster")
        except Exception as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = backup(source.installation, target, keys[0], server=source)
    finally:
        stop.set()
        writer.join()
    assert failures == []
    assert made.missing == {}
    expected = {i: content(source.servers, i) for i in ("orders",)}
    done = restore(empty.installation, target, keys[1], server=empty, full=True)
    assert empty.started_all
    assert (done.tables, done.runs) == (2, made.facts["runs"])
    assert made.facts["runs"] >= 7
    assert done.lost_s > 0
    assert content(empty.servers, "orders").equals(expected["orders"])
    # The table that was written to is as it was at one of its commits: whole, and the same rows.
    restored = catalogue(empty.servers, "sales").load_table("sales.marts.fct")
    pinned = restored.current_snapshot().snapshot_id
    assert content(empty.servers, "sales").equals(content(source.servers, "sales", pinned))
    assert [snapshot.snapshot_id for snapshot in restored.snapshots()] == [
        snapshot.snapshot_id
        for snapshot in catalogue(source.servers, "sales").load_table("sales.marts.fct").snapshots()
    ][: len(restored.snapshots())]
    body = empty.servers.psql("SELECT run_body FROM runs WHERE run_id = 'r1'", "dagster")
    assert body.strip() == "a\tb\nc\\"
    # A project goes on with the key and password that it had.
    catalogue(empty.servers, "sales").load_table("sales.marts.fct").append(ROWS)
    log = empty.store().get_object("dagster", "compute-logs/1.out")
    assert (log.read(), log.headers["Content-Type"]) == (b"hello", "text/plain")
    assert objects_.read_object(empty.store(), "landing", "sales/a b+ü%.csv") == b""


def test_files_of_the_installation_come_back_with_their_modes_and_owners(
    source: Place, target: FolderTarget, keys: tuple[str, Path], empty: Place
) -> None:
    backup(source.installation, target, keys[0], server=source)
    restore(empty.installation, target, keys[1], server=empty)
    names = [p.relative_to(source.installation.secrets) for p in source.installation.secrets.rglob("*")]
    assert names
    for name in names:
        before, after = (place.installation.secrets / name for place in (source, empty))
        assert (after.stat().st_mode, after.stat().st_uid, after.stat().st_gid) == (
            before.stat().st_mode, before.stat().st_uid, before.stat().st_gid,
        )  # fmt: skip
        assert before.is_dir() or after.read_bytes() == before.read_bytes()
    root, state = empty.installation.root, empty.installation.state
    assert (root / ".env").read_text() == "DML_SITE=old.example.org\n"
    assert (root / "registry/code-locations.yaml").is_file()
    assert (state / "deploys.jsonl").read_text() == '{"project": "sales"}\n'
    assert not (root / "compose.yaml").exists()  # the release's, not the backup's


def test_settings_that_are_there_are_kept_and_what_differs_is_named(
    source: Place, target: FolderTarget, keys: tuple[str, Path], empty: Place
) -> None:
    backup(source.installation, target, keys[0], server=source)
    empty.installation.root.mkdir()
    (empty.installation.root / ".env").write_text("DML_SITE=new.example.org\n", encoding="utf-8")
    done = restore(empty.installation, target, keys[1], server=empty)
    assert done.env_differs == ["DML_SITE"]
    assert (empty.installation.root / ".env").read_text() == "DML_SITE=new.example.org\n"


def test_no_secret_is_readable_in_a_backup(source: Place, target: FolderTarget, keys: tuple[str, Path]) -> None:
    backup(source.installation, target, keys[0], server=source)
    stored = b"".join(p.read_bytes() for p in Path(target.address).rglob("*") if p.is_file())
    for name in ("postgres_superuser", "object_store_root_password"):
        assert read_secret(source.installation, name).encode() not in stored
    assert b"SCRAM-SHA-256" not in stored
    assert all(p.stat().st_mode & 0o077 == 0 for p in Path(target.address).rglob("*"))


def test_the_second_backup_copies_only_what_is_new(
    source: Place, target: FolderTarget, keys: tuple[str, Path], empty: Place
) -> None:
    first = backup(source.installation, target, keys[0], server=source)
    wait_for_next_second(first.id)
    source.store().put_object("landing", "orders/new.csv", io.BytesIO(b"1,2"), 3)
    second = backup(source.installation, target, keys[0], server=source)
    assert first.copied_count == first.object_count
    assert (second.copied_count, second.copied_bytes) == (1, 3)
    assert second.object_count == first.object_count + 1
    assert restore(empty.installation, target, keys[1], server=empty).objects == second.object_count


def wait_for_next_second(backup_id: str) -> None:
    from datetime import datetime, timezone

    tick = threading.Event()
    while datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ") <= backup_id:
        tick.wait(0.05)


def test_a_bucket_works_as_a_folder_does(source: Place, keys: tuple[str, Path], empty: Place, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    root = [read_secret(source.installation, f"object_store_root_{n}") for n in ("user", "password")]
    file.write_text(f"[default]\naws_access_key_id = {root[0]}\naws_secret_access_key = {root[1]}\n", encoding="utf-8")
    big = random.Random(1).randbytes(2 * PART + 5)
    source.store().put_object("landing", "sales/big.bin", io.BytesIO(big), len(big))
    target = open_target("s3://backups/nightly", endpoint=source.servers.endpoint, credentials_file=file)
    made = backup(source.installation, target, keys[0], server=source)
    assert {o.bucket for o in stored_objects(target, made)} == {"lake", "dagster", "landing"}
    verify(target, "dmltest", full=True)
    restore(empty.installation, target, keys[1], server=empty)
    assert objects_.read_object(empty.store(), "landing", "sales/big.bin") == big
    assert prune(target, "dmltest", 1) == []
    source.store().remove_object("landing", "sales/big.bin")


def stored_objects(target: Target, made: Any) -> list[Any]:
    from dml_infra.backup.manifest import read_objects

    return read_objects(target, made)


@pytest.mark.parametrize("what", ["part", "object", "object gone", "list", "manifest"])
def test_a_damaged_backup_is_found_before_anything_is_changed(
    source: Place, target: FolderTarget, keys: tuple[str, Path], empty: Place, what: str
) -> None:
    made = backup(source.installation, target, keys[0], server=source)
    folder = Path(target.address) / "dmltest"
    own = folder / "backups" / made.id
    table = next(o for o in stored_objects(target, made) if o.key.endswith(".parquet"))
    damaged = {
        "part": own / "postgres/lake.dump",
        "list": own / "objects.jsonl.gz",
        "manifest": own / "manifest.json",
    }.get(what, Path(target.address) / table.stored)
    if what == "object gone":
        damaged.unlink()
    else:
        data = bytearray(damaged.read_bytes())
        data[len(data) // 2] ^= 1
        damaged.write_bytes(data)
    with pytest.raises(CheckFailedError, match=r"not as it was written|no bytes instead|damaged"):
        restore(empty.installation, target, keys[1], server=empty, full=True)
    assert not empty.installation.state.exists()
    assert not empty.installation.root.exists()
    assert not (empty.servers.folder / "postgres").exists()


def test_a_content_that_changed_is_found_while_it_is_put_back(
    source: Place, target: FolderTarget, keys: tuple[str, Path], empty: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dml_infra.backup.create.SAMPLE", 0)
    made = backup(source.installation, target, keys[0], server=source)
    victim = next(o for o in stored_objects(target, made) if o.key.endswith(".parquet"))
    path = Path(target.address) / victim.stored
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckFailedError, match="its content is not as it was written"):
        restore(empty.installation, target, keys[1], server=empty)
    assert not empty.started_all


def test_another_s_key_opens_nothing(
    source: Place, target: FolderTarget, keys: tuple[str, Path], empty: Place, tmp_path: Path
) -> None:
    backup(source.installation, target, keys[0], server=source)
    new_identity(tmp_path / "other")
    with pytest.raises(ConfigError, match="cannot decrypt"):
        restore(empty.installation, target, tmp_path / "other", server=empty)
    assert not empty.installation.state.exists()


def test_data_and_secrets_that_are_there_are_never_overwritten(
    source: Place, target: FolderTarget, keys: tuple[str, Path], empty: Place
) -> None:
    backup(source.installation, target, keys[0], server=source)
    with pytest.raises(ConfigError, match="has secrets already"):
        restore(source.installation, target, keys[1], server=source)
    (empty.servers.folder / "postgres/data").mkdir(parents=True)
    with pytest.raises(PermanentError, match="there are data already"):
        restore(empty.installation, target, keys[1], server=empty)
    assert not empty.installation.state.exists()


def test_the_catalogue_is_read_again_when_maintenance_removes_files_meanwhile(
    source: Place, target: FolderTarget, keys: tuple[str, Path], empty: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = source.servers
    name = "orders.marts.kept_tidy"
    table = new_table(servers, name)
    table.append(ROWS)
    copy, calls = objects_.copy_objects, []

    def tidy_first(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            old = [task.file.file_path for task in table.scan().plan_files()]
            catalogue(servers, "orders").drop_table(name)
            for location in old:
                source.store().remove_object(*objects_.split_location(location))
        return copy(*args)

    monkeypatch.setattr(objects_, "copy_objects", tidy_first)
    made = backup(source.installation, target, keys[0], server=source)
    assert len(calls) == 2
    assert made.missing == {}
    assert name not in made.facts["tables"]
    restore(empty.installation, target, keys[1], server=empty)


def test_a_table_that_is_damaged_already_is_named_and_the_rest_is_kept(
    source: Place, target: FolderTarget, keys: tuple[str, Path], empty: Place
) -> None:
    table = new_table(source.servers, "orders.marts.broken")
    table.append(ROWS)
    (location,) = [task.file.file_path for task in table.scan().plan_files()]
    source.store().remove_object(*objects_.split_location(location))
    try:
        with pytest.raises(
            CheckFailedError, match=r"is stored, but not all.*orders\.marts\.broken \(1 files\)"
        ) as caught:
            backup(source.installation, target, keys[0], server=source)
    finally:
        catalogue(source.servers, "orders").drop_table("orders.marts.broken")
    assert location in str(caught.value)
    done = restore(empty.installation, target, keys[1], server=empty)
    assert list(done.missing) == ["orders.marts.broken"]
    assert content(empty.servers, "orders").equals(content(source.servers, "orders"))


class Full(FolderTarget):
    """A disk that is full at some point."""

    def __init__(self, folder: Path, when: Callable[[str], bool]) -> None:
        super().__init__(folder)
        self._when = when

    def put(self, name: str, stream: IO[bytes]) -> None:
        if self._when(name):
            raise PermanentError(f"cannot write {name}", "no space left on device", "Make room.")
        super().put(name, stream)


@pytest.mark.parametrize("part", ["lake.dump", "/objects/lake/", "manifest.json"])
def test_a_backup_that_was_not_finished_does_not_count(
    source: Place, keys: tuple[str, Path], tmp_path: Path, part: str
) -> None:
    full = Full(tmp_path / "backups", lambda name: part in name)
    with pytest.raises(PermanentError, match="no space left"):
        backup(source.installation, full, keys[0], server=source)
    assert list_backups(full, "dmltest") == []
    wait_for_next_second(max((p.name for p in (tmp_path / "backups/dmltest/backups").iterdir()), default=""))
    made = backup(source.installation, FolderTarget(tmp_path / "backups"), keys[0], server=source)
    assert verify(full, "dmltest", full=True).id == made.id


def test_a_dump_that_fails_in_the_middle_is_no_backup(
    source: Place, target: FolderTarget, keys: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = source.client

    def dies(program: str, *args: str) -> Any:
        command = list(client(program, *args))
        return (
            ["sh", "-c", '"$@" | head -c 200; echo "connection lost" >&2; exit 3', "sh", *command]
            if program == "pg_dump"
            else command
        )

    monkeypatch.setattr(source, "client", dies)
    with pytest.raises(InfraError, match=r"cannot dump database '\w+': .*connection lost"):
        backup(source.installation, target, keys[0], server=source)
    assert list_backups(target, "dmltest") == []


def test_old_backups_go_with_the_objects_that_only_they_need(
    source: Place, target: FolderTarget, keys: tuple[str, Path]
) -> None:
    store = source.store()
    store.put_object("landing", "orders/short-lived.csv", io.BytesIO(b"x" * 10), 10)
    made = [backup(source.installation, target, keys[0], server=source)]
    lost = next(o.stored for o in stored_objects(target, made[0]) if o.key == "orders/short-lived.csv")
    store.remove_object("landing", "orders/short-lived.csv")
    for _ in range(2):
        wait_for_next_second(made[-1].id)
        made.append(backup(source.installation, target, keys[0], server=source, keep=2))
    assert list_backups(target, "dmltest") == [m.id for m in made[1:]]
    assert lost not in target.names("dmltest/objects")
    for each in made[1:]:
        verify(target, "dmltest", each.id, full=True)


def test_only_one_backup_at_a_time(source: Place, target: FolderTarget, keys: tuple[str, Path]) -> None:
    inner: list[Exception] = []

    class Nested(FolderTarget):
        def put(self, name: str, stream: IO[bytes]) -> None:
            if not inner:
                with pytest.raises(RetryableError, match="another backup is under way") as caught:
                    backup(source.installation, target, keys[0], server=source)
                inner.append(caught.value)
            super().put(name, stream)

    backup(source.installation, Nested(Path(target.address)), keys[0], server=source)
    assert inner


@pytest.mark.parametrize("given", [None, "20200101T000000Z"])
def test_a_backup_that_is_not_there_is_told(
    target: FolderTarget, keys: tuple[str, Path], empty: Place, given: str | None
) -> None:
    with pytest.raises(ConfigError, match="there is none"):
        restore(empty.installation, target, keys[1], server=empty, backup_id=given)
