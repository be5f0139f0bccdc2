"""How backup and restore reach an installation's Postgres and object store.

`Server` is all that they need; `DockerServer` is the stack on this host. Tests have one of plain processes.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import IO, Any, Protocol

from minio import Minio
from rich.console import Console

from dml_infra import engine
from dml_infra.backup.target import CHUNK
from dml_infra.errors import EngineError, PermanentError
from dml_infra.installation import Installation

SUPERUSER = "postgres"
STORE_PORT = 9000
CONNECT_S = 10.0


class Server(Protocol):
    """A running installation, or one that is about to be."""

    def client(self, program: str, *args: str) -> Sequence[str]:
        """The command line of a Postgres program (pg_dump, pg_restore, psql) that is signed in as the superuser."""
        ...

    def store(self) -> Minio:
        """The object store, as its administrator."""
        ...

    def images(self) -> dict[str, str]:
        """Image of each core service with its digest or identifier."""
        ...

    def require_empty(self) -> None:
        """Raise unless there are no data of this installation yet."""
        ...

    def start_data(self, console: Console) -> None:
        """Start Postgres and the object store, and wait for them."""
        ...

    def start_all(self, console: Console) -> None:
        """Bring roles and policies to the wanted state and start everything."""
        ...


class DockerServer:
    """The stack on this host's engine."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def client(self, program: str, *args: str) -> Sequence[str]:
        """See :class:`Server`. The container's local socket asks for no password."""
        return ["docker", "exec", "-i", self._container("postgres")["Id"], program, "--username", SUPERUSER, *args]

    def store(self) -> Minio:
        """See :class:`Server`. No port is published: the engine's host reaches the container's own address."""
        networks = self._container("object-store")["NetworkSettings"]["Networks"]
        address = networks[self._installation.network("control")]["IPAddress"]
        try:
            socket.create_connection((address, STORE_PORT), timeout=CONNECT_S).close()
        except OSError as error:
            raise EngineError(
                "cannot reach the object store",
                f"{address}:{STORE_PORT} from this host ({error})",
                "Run this on the host whose engine runs the stack, as a user who reaches its bridge networks.",
            ) from error
        user, password = (
            (self._installation.secrets / f"object_store_root_{name}").read_text(encoding="utf-8").strip()
            for name in ("user", "password")
        )
        return Minio(f"{address}:{STORE_PORT}", user, password, secure=False, region="us-east-1")

    def images(self) -> dict[str, str]:
        """See :class:`Server`."""
        found = {}
        for container in engine.containers(f"com.docker.compose.project={self._installation.stack}"):
            service = container["Config"]["Labels"]["com.docker.compose.service"]
            found[service] = f"{container['Config']['Image']} {container['Image']}"
        return found

    def require_empty(self) -> None:
        """See :class:`Server`."""
        names = [f"{self._installation.stack}_{name}" for name in ("postgres", "object-store")]
        if there := [details["Name"] for details in engine.inspect("volume", *names)]:
            raise PermanentError(
                "cannot restore",
                f"there are data already: {', '.join(there)}",
                "Remove them with 'dml infra down --delete-data' if they may go, or restore into another installation.",
            )

    def start_data(self, console: Console) -> None:
        """See :class:`Server`."""
        from dml_infra import stack

        engine.compose(self._installation, "up", "--detach", "--wait", *stack.DATA)

    def start_all(self, console: Console) -> None:
        """See :class:`Server`."""
        from dml_infra import stack

        stack.up(self._installation, console, check=False)

    def _container(self, service: str) -> dict[str, Any]:
        found = engine.containers(
            f"com.docker.compose.project={self._installation.stack}", f"com.docker.compose.service={service}"
        )
        running = [container for container in found if container["State"]["Running"]]
        if not running:
            raise EngineError(
                f"cannot reach {service}",
                f"stack {self._installation.stack!r} has no such container running",
                "Run 'dml infra up'.",
            )
        return running[0]


@contextlib.contextmanager
def output_of(command: Sequence[str], what: str, *, stdin: Any = None) -> Iterator[IO[bytes]]:
    """A program's output as a stream; a failure of the program is raised when the stream has been read.

    Args:
        command: the command line.
        what: what fails if it does, e.g. ``"cannot dump database 'lake'"``.
        stdin: a stream that is fed to it.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        assert process.stdout
        feeder = _feed(process, stdin) if stdin else contextlib.nullcontext()
        try:
            with feeder, process.stdout:
                yield process.stdout
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if code:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()[-6:]
            raise EngineError(what, " / ".join(said) or f"exit {code}", "See what it says and run this again.")


def run(command: Sequence[str], what: str, *, stdin: Any = None) -> bytes:
    """A program's whole output."""
    with output_of(command, what, stdin=stdin) as output:
        return output.read()


@contextlib.contextmanager
def _feed(process: subprocess.Popen[bytes], stream: Any) -> Iterator[None]:
    raised: list[BaseException] = []

    def pump() -> None:
        assert process.stdin
        try:
            while data := stream.read(CHUNK):
                process.stdin.write(data)
        except BrokenPipeError:
            pass  # it ended early: its exit code says why
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            raised.append(error)
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if raised:
        raise raised[0]
