"""What a deploy needs of the running core and the engine: one class, so that a test can put another core behind it."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dml_infra import database, engine, networks, objectstore, secrets
from dml_infra.budget import roles
from dml_infra.dagster_api import DagsterApi
from dml_infra.errors import ConfigError, EngineError, RetryableError
from dml_infra.installation import Installation
from dml_infra.registry import CodeLocation
from dml_infra.render import GRPC_PORT, UID

WEBSERVER = "webserver"
PULL_TIMEOUT_S = 900
_ESTABLISHED = "01"


@dataclass(frozen=True)
class ContainerState:
    """A container, as the engine sees it. ``health`` is ``""`` where it has no check."""

    exists: bool
    status: str = ""
    health: str = ""
    exit_code: int = 0
    restarts: int = 0
    oom_killed: bool = False

    @property
    def is_up(self) -> bool:
        """Running and healthy, since its first start."""
        return self.status == "running" and self.health in ("", "healthy")

    @property
    def is_starting(self) -> bool:
        """Running, and its check has not decided yet."""
        return self.status == "running" and self.health == "starting"

    def has_ended(self, restarts: int = 0) -> bool:
        """It stopped, or was started again more often than before: no code server that is well does that by itself."""
        return not self.exists or self.status in ("exited", "dead", "restarting") or self.restarts > restarts

    def describe(self) -> str:
        """In words."""
        if not self.exists:
            return "its container is not there"
        if self.oom_killed:
            return "its container needed more memory than its limit and was killed"
        if self.has_ended():
            again = f" and was started again {self.restarts} times" if self.restarts > 1 else ""
            return f"its container ended with exit code {self.exit_code}{again}"
        return f"its container is {self.status}" + (f" ({self.health})" if self.health else "")


@dataclass(frozen=True)
class Traffic:
    """Connections to a code server: accepted since it started, and open ones from other containers."""

    accepted: int
    open: int


class Core:
    """The running core of an installation.

    Args:
        installation: where.
    """

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.role = WEBSERVER
        self.api = DagsterApi(self._graphql)
        self._reloading = threading.Lock()
        self._reload_began = 0.0

    def prepare(self, location: CodeLocation) -> None:
        """Make what a project's containers need before they start: secrets, role, keys, network. Idempotent."""
        secrets.ensure_secrets(self.installation, [location.name])
        folder = self.installation.secrets / "projects" / location.name
        missing = [name for name in location.secrets if not (folder / name).is_file()]
        if missing:
            raise ConfigError(
                f"cannot deploy {location.name!r}",
                f"its secret {missing[0]!r} is not there",
                f"Put it there: install -m 600 -o {UID} -g {UID} FILE {folder / missing[0]}",
            )
        database.provision(self.installation, roles([location]))
        objectstore.provision(self.installation, [location.name])
        networks.attach_core(self.installation, location.name)

    def ensure_image(self, image: str) -> bool:
        """Have the image on this host. Returns: whether it had to be fetched.

        Raises:
            EngineError: it cannot be; the engine's reason is in the message.
        """
        if engine.inspect("image", image):
            return False
        try:
            engine.docker("pull", "--quiet", image, timeout_s=PULL_TIMEOUT_S)
        except EngineError as error:
            raise EngineError(
                f"cannot fetch the image {image}",
                error.why,
                "Check that it was pushed, and that this host is signed in there (docker login).",
            ) from error
        return True

    def container(self, host: str) -> ContainerState:
        """State of a code server's container."""
        found = engine.inspect("container", host)
        if not found:
            return ContainerState(exists=False)
        state = found[0]["State"]
        return ContainerState(
            exists=True,
            status=state["Status"],
            health=(state.get("Health") or {}).get("Status", ""),
            exit_code=state.get("ExitCode", 0),
            restarts=found[0].get("RestartCount", 0),
            oom_killed=bool(state.get("OOMKilled")),
        )

    def logs(self, host: str, lines: int = 40) -> str:
        """Last lines of a container, without colours; without the frames of long traces, which hide the cause."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", engine.docker_text("logs", "--tail", str(10 * lines), host))
        found = text.strip().splitlines()
        if len(found) > lines:
            found = [line for line in found if line.strip() and not line.startswith((" ", "\t"))]
        return "\n".join(found[-lines:])

    def restart(self, host: str) -> None:
        """Start a container again."""
        engine.docker("restart", "--time", "10", host, timeout_s=60)

    def reload(self) -> None:
        """Make the webserver read the workspace again. The viewers' webserver and the daemon do it by themselves.

        It loads every location anew, so deploys that go on together share one that began after each had written.
        """
        asked = time.monotonic()
        with self._reloading:
            if self._reload_began > asked:
                return
            self._reload_began = time.monotonic()
            self.api.reload_workspace()

    def probe(self, host: str) -> Mapping[str, Any]:
        """Ask a code server what it offers, from where Dagster would load it; see :mod:`dml_infra.probe`."""
        command = ("python", "-m", "dml_infra.probe", host, str(GRPC_PORT))
        return dict(json.loads(engine.docker("exec", self._webserver(), *command, timeout_s=90)))

    def traffic(self, host: str) -> Traffic | None:
        """Connections to a code server, read in its own network namespace; ``None`` when it is not running."""
        text = engine.docker("exec", host, "cat", "/proc/net/snmp", "/proc/net/tcp", "/proc/net/tcp6", check=False)
        return parse_traffic(text) if text else None

    def _graphql(self, query: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        request = json.dumps({"query": query, "variables": variables})
        try:
            text = engine.docker(
                "exec", "-i", self._webserver(), "python", "-m", "dml_infra.graphql", stdin=request, timeout_s=90
            )
            reply = json.loads(text)
        except (EngineError, ValueError) as error:
            raise RetryableError(
                "cannot ask Dagster", getattr(error, "why", str(error)), "See 'dml infra status', then run this again."
            ) from error
        if reply.get("errors"):
            messages = "; ".join(str(e.get("message")) for e in reply["errors"])
            raise RetryableError("cannot ask Dagster", f"it answers: {messages}", "Look at the webserver's log.")
        return dict(reply["data"])

    def _webserver(self) -> str:
        names = networks.service_containers(self.installation, self.role)
        if not names:
            raise RetryableError(
                "cannot reach Dagster", f"stack {self.installation.stack!r} has no {self.role}", "Run: dml infra up"
            )
        return names[0]


def parse_traffic(text: str) -> Traffic:
    """Read ``/proc/net/snmp``, ``tcp``, ``tcp6``: connections accepted, and open to the gRPC port from elsewhere."""
    header, values = [line.split()[1:] for line in text.splitlines() if line.startswith("Tcp:")][:2]
    accepted = int(dict(zip(header, values, strict=True))["PassiveOpens"])
    port = f"{GRPC_PORT:04X}"
    here = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
    open_ = 0
    for line in text.splitlines():
        parts = line.split()
        if len(parts) > 3 and parts[0].endswith(":") and parts[0][:-1].isdigit() and parts[3] == _ESTABLISHED:
            local, remote = parts[1].split(":"), parts[2].split(":")
            open_ += local[1] == port and remote[0] not in here
    return Traffic(accepted, open_)
