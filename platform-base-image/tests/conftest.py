"""The two places that a lake can be: a folder with SQLite, and an object store with Postgres.

``settings`` and ``lake`` run a test on both; each test has a database and a prefix of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import psycopg2
import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr
from rich.console import Console

from dml_platform.core.settings import DuckDBSettings, LakeSettings, Settings
from dml_platform.lake import Lake

# Tests that send themselves Ctrl-C, and the programs that they start, find it as a terminal has it, also where this was
# started in the background of a shell.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)

BUCKET = "lake"
ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key-4711"  # pragma: allowlist secret


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting, credential or proxy of the machine reaches a test."""
    for name in list(os.environ):
        if name.upper().startswith(("DML_", "AWS_")) or name.upper() in ("HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def dml(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in this process: exit code, output, errors."""
    from dml_platform.cli import app

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dml", *arguments])
        # Rich keeps the stream that there was when the module was imported.
        monkeypatch.setattr(app, "console", Console(width=200))
        monkeypatch.setattr(app, "errors", Console(width=200, stderr=True))
        with pytest.raises(SystemExit) as ended:
            app.main()
        output, errors = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, output, errors

    return call


@pytest.fixture(params=["local", "server"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of one profile, with limits that suit a test."""
    if request.param == "server":
        return server_settings(
            tmp_path / "home",
            postgres=request.getfixturevalue("postgres"),
            object_store=request.getfixturevalue("object_store"),
        )
    return local_settings(tmp_path / "home of the lake")


@pytest.fixture
def local(tmp_path: Path) -> Settings:
    """Settings of the local profile, for tests in which the backend makes no difference."""
    return local_settings(tmp_path / "home of the lake")


@pytest.fixture
def lake(settings: Settings) -> Iterator[Lake]:
    lake = Lake(settings)
    yield lake
    lake.catalog.close()


@pytest.fixture
def local_lake(local: Settings) -> Iterator[Lake]:
    lake = Lake(local)
    yield lake
    lake.catalog.close()


def local_settings(home: Path) -> Settings:
    home.mkdir(parents=True)
    return Settings(home=home, duckdb=DuckDBSettings(memory_limit_mb=512, threads=2))


def server_settings(home: Path, *, postgres: Postgres, object_store: str) -> Settings:
    home.mkdir(parents=True)
    name = f"t{uuid.uuid4().hex[:12]}"
    return Settings(
        profile="server",
        home=home,
        duckdb=DuckDBSettings(memory_limit_mb=512, threads=2),
        lake=LakeSettings(
            catalog_uri=SecretStr(postgres.create_database(name)),
            warehouse=f"s3://{BUCKET}/{name}",
            s3_endpoint=object_store,
            s3_access_key_id=ACCESS_KEY,
            s3_secret_access_key=SecretStr(SECRET_KEY),
        ),
    )


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """Address of an S3 server on this machine, with a bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    client.create_bucket(Bucket=BUCKET)
    client.close()
    yield address
    server.stop()


@dataclass(frozen=True)
class Postgres:
    """A throw-away cluster."""

    port: int

    def create_database(self, name: str) -> str:
        connection = psycopg2.connect(host="127.0.0.1", port=self.port, user="postgres", dbname="postgres")
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f'CREATE DATABASE "{name}"')
        finally:
            connection.close()
        return f"postgresql+psycopg2://postgres:not-asked-for@127.0.0.1:{self.port}/{name}"  # pragma: allowlist secret


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A Postgres server on this machine, gone after the session."""
    binaries = _postgres_binaries()
    if binaries is None:
        pytest.skip("no Postgres here: neither initdb on the path nor in /usr/lib/postgresql")
    as_user = []
    # Not below pytest's folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="dml-postgres-"))
    if os.geteuid() == 0:  # root may not run Postgres
        if not shutil.which("runuser"):
            pytest.skip("Postgres does not run as root and there is no runuser")
        shutil.chown(folder, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data, log = str(folder / "data"), str(folder / "log")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"

    def call(*command: str) -> None:
        done = subprocess.run([*as_user, *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        call(str(binaries / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        call(str(binaries / "pg_ctl"), "-D", data, "-l", log, "-o", options, "-w", "start")
        yield Postgres(port)
        call(str(binaries / "pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _postgres_binaries() -> Path | None:
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None
