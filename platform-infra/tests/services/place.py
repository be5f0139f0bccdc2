"""Installations of plain processes, as backup and restore see them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from minio import Minio
from rich.console import Console
from services.servers import PROJECTS, Servers, free_port, postgres_binaries

from dml_infra import database, objectstore
from dml_infra.errors import PermanentError
from dml_infra.installation import Installation
from dml_infra.secrets import read_secret


class Place:
    """Implements ``dml_infra.backup.server.Server`` over the processes of `Servers`."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.started_all = False
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []

    @property
    def installation(self) -> Installation:
        return self.servers.installation

    def client(self, program: str, *args: str) -> Sequence[str]:
        binaries = postgres_binaries()
        assert binaries
        socket = str(self.servers.folder / "postgres")
        return [str(binaries / program), "-h", socket, "-p", str(self.servers.port), "-U", "postgres", *args]

    def store(self) -> Minio:
        user, password = (read_secret(self.installation, f"object_store_root_{n}") for n in ("user", "password"))
        return Minio(f"127.0.0.1:{self.servers.s3_port}", user, password, secure=False)

    def images(self) -> dict[str, str]:
        return {"postgres": "none"}

    def require_empty(self) -> None:
        if (self.servers.folder / "postgres" / "data").exists():
            raise PermanentError("cannot restore", "there are data already", "Remove them.")

    def start_data(self, console: Console) -> None:
        folder = self.servers.folder
        (folder / "postgres").mkdir()
        if self._as_user:
            shutil.chown(folder / "postgres", "postgres")
        options = f"-p {self.servers.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}/postgres"
        self._call("initdb", "-U", "postgres", "--auth-host=scram-sha-256", "--auth-local=trust", "-N")
        self._call("pg_ctl", "-l", str(folder / "postgres/log"), "-o", f"{options} -c fsync=off", "-w", "start")
        self.servers.start_minio()

    def start_all(self, console: Console) -> None:
        database.provision(self.installation, [database.ProjectRole(p) for p in PROJECTS], psql=self.servers.psql)
        objectstore.provision(self.installation, PROJECTS, store=self.servers.store)
        self.started_all = True

    def stop(self) -> None:
        self.servers.stop_minio()
        if (self.servers.folder / "postgres/data/postmaster.pid").exists():
            self._call("pg_ctl", "-m", "immediate", "-w", "stop")

    def _call(self, program: str, *args: str) -> None:
        binaries = postgres_binaries()
        assert binaries
        data = str(self.servers.folder / "postgres/data")
        command = [*self._as_user, str(binaries / program), "-D", data, *args]
        done = subprocess.run(command, cwd=self.servers.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def empty_place(folder: Path, stack: str = "dmltest") -> Iterator[Place]:
    """A machine without data; what is restored onto it is gone afterwards."""
    folder.chmod(0o755)
    installation = Installation(root=folder / "root", env={}, state=folder / "state", stack=stack)
    place = Place(Servers(installation, folder, free_port(), free_port()))
    try:
        yield place
    finally:
        place.stop()
