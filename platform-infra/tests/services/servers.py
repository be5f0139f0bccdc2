"""A real Postgres and a real MinIO of this machine, prepared for two projects as the server prepares its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import urllib3
from minio import Minio

from dml_infra import database, objectstore, psql, secrets
from dml_infra.installation import Installation
from dml_infra.rotation import Services

PROJECTS = ["sales", "orders"]


@dataclass
class Servers:
    """The servers, and the installation whose secrets they know."""

    installation: Installation
    folder: Path
    port: int
    s3_port: int
    restarted: list[str] = field(default_factory=list)
    minio: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.s3_port}"

    def psql(self, script: str, name: str) -> str:
        """What `container_psql` does, through the local socket of this machine."""
        command = [*psql.ARGUMENTS, "-h", str(self.folder / "postgres"), "-p", str(self.port), "-d", name]
        done = subprocess.run(command, input=psql._QUEUE + script, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout

    def store(self, request: dict[str, Any]) -> dict[str, Any]:
        return objectstore.answer_request(request | {"endpoint": self.endpoint})

    def restart(self, names: tuple[str, ...]) -> None:
        self.restarted += names
        if "object-store" in names:
            self.stop_minio()
            self.start_minio()

    def services(self) -> Services:
        return Services(psql=lambda: self.psql, store=lambda: self.store, restart=self.restart)

    def provision(self) -> None:
        database.provision(self.installation, [database.ProjectRole(p) for p in PROJECTS], psql=self.psql)
        objectstore.provision(self.installation, PROJECTS, store=self.store)

    @contextlib.contextmanager
    def connect(self, role: str, name: str, file: str | None = None) -> Iterator[Any]:
        """A connection of a role with the password file that its containers have mounted."""
        passfile = str(self.installation.secrets / (file or f"projects/{role}/pgpass"))
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user=role, dbname=name, passfile=passfile, connect_timeout=10
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def client(self, key: secrets.S3Key) -> Minio:
        """Asks again soon: the default waits five minutes for an answer that a restart has swallowed."""
        patient = urllib3.PoolManager(
            timeout=10, retries=urllib3.Retry(total=8, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504])
        )
        return Minio(
            f"127.0.0.1:{self.s3_port}",
            access_key=key.access_key,
            secret_key=key.secret_key,
            secure=False,
            http_client=patient,
        )

    def key(self, project: str) -> secrets.S3Key:
        return secrets.read_s3_key(self.installation, f"projects/{project}/aws_credentials")

    def start_minio(self) -> None:
        env = {**os.environ, "MINIO_BROWSER": "off", "MINIO_UPDATE": "off", "HOME": str(self.folder)}
        for name in ("user", "password"):
            env[f"MINIO_ROOT_{name.upper()}_FILE"] = str(self.installation.secrets / f"object_store_root_{name}")
        command = [str(minio_binary()), "server", str(self.folder / "minio"), "--quiet"]
        with (self.folder / "minio.log").open("ab") as log:
            self.minio = subprocess.Popen(
                [*command, "--address", f"127.0.0.1:{self.s3_port}"], env=env, stdout=log, stderr=log
            )
        wait_for(lambda: _answers(f"{self.endpoint}/minio/health/ready"), "MinIO")

    def stop_minio(self) -> None:
        if self.minio:
            self.minio.terminate()
            self.minio.wait(30)


def run_servers() -> Iterator[Servers]:
    """Start and provision them; gone afterwards."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("no Postgres here: neither initdb on the path nor in /usr/lib/postgresql")
    if minio_binary() is None:
        pytest.skip("no MinIO here: neither 'minio' on the path nor MINIO_BINARY")
    folder = Path(tempfile.mkdtemp(prefix="dml-services-"))
    folder.chmod(0o755)
    as_user = []
    (folder / "postgres").mkdir()
    if os.geteuid() == 0:  # root may not run Postgres
        shutil.chown(folder / "postgres", "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    installation = Installation(root=folder, env={}, state=folder / "state", stack="dmltest")
    servers = Servers(installation, folder, free_port(), free_port())
    data, log = str(folder / "postgres/data"), str(folder / "postgres/log")
    options = (
        f"-p {servers.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}/postgres -c fsync=off"
    )

    def call(program: str, *arguments: str) -> None:
        command = [*as_user, str(binaries / program), *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        if os.geteuid():  # a test without root has one user for all
            patch.setattr(secrets, "_give", lambda _path, _uid: None)
        secrets.ensure_secrets(installation, PROJECTS)
        try:
            # As the image does: passwords over the network, none inside.
            call("initdb", "-D", data, "-U", "postgres", "--auth-host=scram-sha-256", "--auth-local=trust", "-N")
            call("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
            servers.start_minio()
            servers.provision()
            yield servers
            call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        finally:
            servers.stop_minio()
            shutil.rmtree(folder, ignore_errors=True)


def postgres_binaries() -> Path | None:
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


def minio_binary() -> Path | None:
    if found := os.environ.get("MINIO_BINARY") or shutil.which("minio"):
        return Path(found)
    # What the stack's tests have compiled for their image.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dml" / "standins"
    return max(Path(os.environ.get("STANDIN_CACHE") or cache).glob("minio-v*"), default=None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} is not there after {seconds} s"
        time.sleep(0.05)


def _answers(address: str) -> bool:
    with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(address, timeout=2):
        return True
    return False
