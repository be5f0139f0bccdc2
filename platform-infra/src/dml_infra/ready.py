"""Is the server truly there: asked through the proxy, as a person's browser would, and of the containers themselves."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from dml_infra import engine
from dml_infra.checks.host import services
from dml_infra.errors import CheckFailedError, RetryableError
from dml_infra.installation import Installation

POLL_S = 1.0
ADMIN = "admin"
_LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus locationOrLoadError {
  __typename ... on PythonError { message } } } } ... on PythonError { message } } }"""


@dataclass(frozen=True)
class Answer:
    """What the proxy answered."""

    status: int
    text: str


def ask_proxy(
    installation: Installation, path: str, *, body: str | None = None, signed_in: bool = True, timeout_s: float = 10
) -> Answer:
    """One request to this stack's proxy, by its published port and under its public name.

    The certificate is not checked: it is for people's browsers, and this never leaves the machine.
    """
    site = urlsplit(installation.first_site)
    host = site.hostname or "localhost"
    bind = installation.env.get("DML_BIND") or "0.0.0.0"
    here = "127.0.0.1" if bind in {"0.0.0.0", "::", "[::]"} else bind
    connection: http.client.HTTPConnection
    if site.scheme == "http":
        connection = http.client.HTTPConnection(here, installation.number("DML_HTTP_PORT", 80), timeout=timeout_s)
    else:
        port = installation.number("DML_HTTPS_PORT", 443)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(here, port, timeout=timeout_s, context=context)
        raw = socket.create_connection((here, port), timeout=timeout_s)
        # The name decides which site answers, so it cannot be the address that was called.
        connection.sock = context.wrap_socket(raw, server_hostname=host)
    headers = {"Host": host, "Content-Type": "application/json"}
    password = installation.secrets / "admin_password"
    if signed_in and password.is_file():
        token = base64.b64encode(f"{ADMIN}:{password.read_text().strip()}".encode()).decode()
        headers["Authorization"] = f"Basic {token}"
    try:
        connection.request("POST" if body else "GET", path, body=body, headers=headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read().decode(errors="replace"))
    finally:
        connection.close()


def load_states(installation: Installation) -> dict[str, str]:
    """Every code location that the webserver knows: ``""`` when it is loaded, else why not."""
    answer = ask_proxy(installation, "/graphql", body=json.dumps({"query": _LOCATIONS}), timeout_s=60)
    if answer.status != 200:
        raise RetryableError("cannot ask Dagster", f"it answers {answer.status}", "Look at 'dml infra status'.")
    found = json.loads(answer.text)["data"]["workspaceOrError"]
    states: dict[str, str] = {}
    for entry in found.get("locationEntries", []):
        result = entry["locationOrLoadError"] or {}
        if entry["loadStatus"] != "LOADED":
            states[entry["name"]] = "still loading"
        else:
            states[entry["name"]] = result.get("message", "").strip()
    return states


def not_ready(installation: Installation) -> dict[str, str]:
    """Core services that are not what they should be, with the reason; empty when all are up and healthy."""
    reasons: dict[str, str] = {}
    found: dict[str, dict[str, Any]] = {}
    for details in engine.containers(f"com.docker.compose.project={installation.stack}"):
        found[details["Config"]["Labels"].get("com.docker.compose.service", "?")] = details
    for name, wanted in services(installation).items():
        if name not in found:
            reasons[name] = "has no container"
        elif reason := _reason(found[name], once=wanted.get("restart", "no") != "unless-stopped"):
            reasons[name] = reason
    return reasons


def last_words(details: dict[str, Any], lines: int = 1) -> str:
    """The end of a container's log, or of its last failed health check."""
    state = details["State"]
    checks = (state.get("Health") or {}).get("Log") or []
    if state.get("Running") and checks and checks[-1]["ExitCode"]:
        text = checks[-1]["Output"]
    else:
        text = engine.docker_text("logs", "--tail", str(max(lines, 3)), details["Id"])
    kept = [line.strip() for line in text.splitlines() if line.strip()][-lines:]
    return " / ".join(kept)[:400]


def wait_until_ready(
    installation: Installation, *, deadline: float, tell: Callable[[str], None] = lambda _: None
) -> None:
    """Return when every service is healthy and a signed-in request gets through to Dagster, and no other does.

    Raises:
        CheckFailedError: somebody gets in without signing in.
        RetryableError: the deadline passed; each thing that is not ready is named.
    """
    while True:
        reasons = not_ready(installation)
        if not reasons and (reason := _through_the_proxy(installation)):
            reasons = {"proxy": reason}
        if not reasons:
            return
        tell(", ".join(sorted(reasons)))
        if time.monotonic() > deadline:
            raise RetryableError(
                "the server did not get ready in time",
                "; ".join(f"{name}: {reason}" for name, reason in sorted(reasons.items())),
                "Look at 'dml infra logs SERVICE', mend it and run 'dml infra up' again.",
            )
        time.sleep(POLL_S)


def _through_the_proxy(installation: Installation) -> str:
    """Why a person cannot use Dagster yet; empty when one can."""
    try:
        stranger = ask_proxy(installation, "/server_info", signed_in=False)
        if stranger.status == 200 and "dagster_webserver_version" in stranger.text:
            raise CheckFailedError(
                "the server is open to everybody",
                "Dagster answers a request that did not sign in",
                "Take it down (dml infra down) and correct config/caddy.",
            )
        if installation.env.get("DML_SIGN_IN", "local") != "local":
            return "" if stranger.status in {302, 303, 307, 401, 403} else f"answers {stranger.status}"
        answer = ask_proxy(installation, "/server_info")
    except (OSError, http.client.HTTPException) as error:
        return f"no answer ({error})"
    return "" if answer.status == 200 else f"a signed-in request gets {answer.status}"


def _reason(details: dict[str, Any], *, once: bool) -> str:
    state = details["State"]
    if once:
        done = state["Status"] == "exited" and state["ExitCode"] == 0
        return "" if done else f"{state['Status']}, exit code {state['ExitCode']}: {last_words(details)}"
    if state["Status"] != "running":
        memory = ", out of memory" if state.get("OOMKilled") else ""
        return f"{state['Status']}, exit code {state['ExitCode']}{memory}: {last_words(details)}"
    health = (state.get("Health") or {}).get("Status", "healthy")
    return "" if health == "healthy" else f"{health}: {last_words(details)}".rstrip(": ")
