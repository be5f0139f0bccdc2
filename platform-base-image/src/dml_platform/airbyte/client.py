"""Runs a connector program: ``spec``, ``check``, ``discover``, ``read``, within time limits.

Knows no lake and no Dagster; works from a notebook.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from dml_platform.airbyte.config import AirbyteSource, CommandConnector, resolve_config
from dml_platform.airbyte.environment import Progress, ensure_connector
from dml_platform.airbyte.protocol import Listener, make_mask, parse_message
from dml_platform.core.errors import ConfigError, RetryableError, SourceError
from dml_platform.core.settings import Settings
from dml_platform.lake.scratch import scratch_folder

_CHUNK = 1 << 20
_MAX_LINE = 256 << 20
_F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ from Python 3.10 on Linux only
_GRACE_S = 5.0
_SHORT_TIMEOUT_S = 300.0


class Connector:
    """A connector program with its config.

    Args:
        command: program and first arguments.
        name: the source's name, for messages.
        config: the connector's config, secrets resolved.
        secrets: strings of the config that are blanked out of logs and errors.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        config: Mapping[str, Any],
        settings: Settings,
        secrets: frozenset[str] = frozenset(),
    ) -> None:
        self.command = tuple(command)
        self.name = name
        self.settings = settings
        self._config = config
        self._mask = make_mask(secrets)

    def listener(self, action: str) -> Listener:
        """What hears the messages of one call."""
        return Listener(f"cannot {action} source {self.name!r}", self.name, self._mask)

    def spec(self) -> dict[str, Any]:
        """The connector's specification: the JSON schema of its config and what it supports."""
        return self._ask("spec", "SPEC", needs_config=False)

    def check(self) -> None:
        """Try the connection with this config.

        Raises:
            SourceError: the connector says that it does not work, and why.
        """
        status = self._ask("check", "CONNECTION_STATUS")
        if status.get("status") != "SUCCEEDED":
            why = self._mask(str(status.get("message") or "no reason given"))
            raise SourceError(
                f"cannot check source {self.name!r}", f"the connector says: {why}", "Correct the source's config."
            )

    def discover(self) -> list[dict[str, Any]]:
        """The streams that the source offers, as the protocol's AirbyteStream objects."""
        streams = self._ask("discover", "CATALOG").get("streams")
        return [s for s in streams if isinstance(s, dict)] if isinstance(streams, list) else []

    def read(
        self, catalog: Mapping[str, Any], state: Any | None, *, listener: Listener
    ) -> Generator[bytes, None, None]:
        """Read the configured streams.

        Returns: blocks of whole lines as the connector printed them; what is no record and no state belongs to
            ``listener``.
        Raises:
            RetryableError: a time limit was passed.
            SourceError: the connector failed; raised after the last block.
        """
        documents = {"catalog": catalog}
        if state is not None:
            documents["state"] = state
        limits = self.settings.airbyte
        with self._files(documents, needs_config=True) as arguments:
            yield from self._run(
                ["read", *arguments], listener, timeout_s=limits.timeout_s, idle_timeout_s=limits.idle_timeout_s
            )

    def _ask(self, action: str, kind: str, *, needs_config: bool = True) -> dict[str, Any]:
        """Run a short command and give the content of its one answer."""
        listener = self.listener(action)
        answer: dict[str, Any] | None = None
        limit = min(_SHORT_TIMEOUT_S, self.settings.airbyte.timeout_s)
        with self._files({}, needs_config=needs_config) as arguments:
            for block in self._run([action, *arguments], listener, timeout_s=limit, idle_timeout_s=limit):
                for line in block.splitlines():
                    message = parse_message(line)
                    if message is None:
                        listener.hear_garbage(line)
                        continue
                    listener.hear(message)
                    # The names differ only here: CONNECTION_STATUS is in `connectionStatus`.
                    key = "connectionStatus" if kind == "CONNECTION_STATUS" else kind.lower()
                    if message["type"] == kind and isinstance(message.get(key), dict):
                        answer = message[key]
        if answer is None:
            raise SourceError(
                listener.what, f"the connector sent no {kind} message", "Check that the program is an Airbyte source."
            )
        return answer

    @contextlib.contextmanager
    def _files(self, documents: Mapping[str, Any], *, needs_config: bool) -> Iterator[list[str]]:
        """Files that only this user can read, gone when the connector has ended."""
        named = {"config": self._config, **documents} if needs_config else dict(documents)
        with scratch_folder(self.settings) as folder:
            arguments = []
            for name, document in named.items():
                path = folder / f"{name}.json"
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    json.dump(document, file)
                arguments += [f"--{name}", str(path)]
            yield arguments

    def _run(
        self, arguments: Sequence[str], listener: Listener, *, timeout_s: float, idle_timeout_s: float
    ) -> Iterator[bytes]:
        try:
            process = subprocess.Popen(
                [*self.command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_connector_environment(),
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise ConfigError(
                listener.what,
                f"{self.command[0]!r} does not start ({error.strerror})",
                "Correct the connector's command.",
            ) from error
        try:
            yield from _blocks(process, listener, timeout_s=timeout_s, idle_timeout_s=idle_timeout_s)
            try:
                exit_code = process.wait(timeout=max(_GRACE_S, idle_timeout_s))
            except subprocess.TimeoutExpired as error:
                raise _too_slow(
                    listener, "it closed its output but did not end", "DML_AIRBYTE__IDLE_TIMEOUT_S"
                ) from error
        finally:
            _kill_group(process)
        if failure := listener.failure(exit_code):
            raise failure


def open_connector(
    name: str, source: AirbyteSource, settings: Settings, *, progress: Progress | None = None
) -> Connector:
    """Make a source's connector ready to run: its program installed, its secrets resolved.

    Raises:
        ConfigError: a variable of the config is not set, or the program does not exist.
        RetryableError: the package index cannot be reached.
    """
    config, secrets = resolve_config(name, source.config)
    chosen = source.connector
    if isinstance(chosen, CommandConnector):
        program = shutil.which(chosen.command[0])
        if program is None:
            raise ConfigError(
                f"cannot run source {name!r}",
                f"there is no program {chosen.command[0]!r}",
                "Correct connector.command.",
            )
        command = [program, *chosen.command[1:]]
    else:
        path = ensure_connector(
            chosen.package, chosen.version, settings, chosen.program, python=chosen.python, progress=progress
        )
        command = [str(path)]
    return Connector(command, name=name, config=config, settings=settings, secrets=secrets)


def _connector_environment() -> dict[str, str]:
    """Ours without the platform's own settings, which hold its credentials, and without our Python's."""
    ours = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")
    return {k: v for k, v in os.environ.items() if not k.upper().startswith("DML_") and k not in ours}


def _blocks(
    process: subprocess.Popen[bytes], listener: Listener, *, timeout_s: float, idle_timeout_s: float
) -> Iterator[bytes]:
    """The program's output in blocks of whole lines, while its error output goes to the listener."""
    assert process.stdout is not None
    assert process.stderr is not None
    with contextlib.suppress(OSError):  # other systems, or a limit of this one: smaller blocks, nothing else
        fcntl.fcntl(process.stdout, _F_SETPIPE_SZ, _CHUNK)
    started = last = time.monotonic()
    rest: list[bytes] = []
    rest_size = 0
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map():
            now = time.monotonic()
            if now - started > timeout_s:
                raise _too_slow(listener, f"it took longer than {timeout_s:g} s", "DML_AIRBYTE__TIMEOUT_S")
            if now - last > idle_timeout_s:
                raise _too_slow(listener, f"it was silent for {idle_timeout_s:g} s", "DML_AIRBYTE__IDLE_TIMEOUT_S")
            ready = selector.select(min(timeout_s - (now - started), idle_timeout_s - (now - last)) + 0.01)
            for key, _ in ready:
                data = os.read(key.fd, _CHUNK)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    for line in data.splitlines():
                        listener.hear_garbage(line)
                elif (end := data.rfind(b"\n") + 1) == 0:
                    rest.append(data)
                    rest_size += len(data)
                    if rest_size > _MAX_LINE:
                        raise SourceError(
                            listener.what,
                            f"the connector printed a line longer than {_MAX_LINE >> 20} MiB",
                            "Leave the large field out of the stream.",
                        )
                else:
                    yield b"".join((*rest, data[:end]))
                    rest = [data[end:]]
                    rest_size = len(rest[0])
            if ready:
                last = time.monotonic()
    if rest_size:
        yield b"".join(rest) + b"\n"


def _too_slow(listener: Listener, why: str, variable: str) -> RetryableError:
    return RetryableError(
        listener.what, f"the connector was stopped because {why}", f"Run it again, or raise {variable} (seconds)."
    )


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the program and what it started; a program that has ended costs nothing."""
    for stop in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, stop)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_GRACE_S)
            if stop == signal.SIGTERM:
                continue  # children of a program that ended may still be there
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
