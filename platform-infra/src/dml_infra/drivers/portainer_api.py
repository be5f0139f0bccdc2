"""Portainer's HTTP API as the driver needs it: requests in, plain dictionaries or an InfraError out.

What belongs here: sign-in, addresses and the words for what can go wrong with a call. What a stack should look like is
decided in ``portainer``.

Source: Portainer CE's API description (2.31, 2.44) and handlers: environments (``/endpoints``), stacks (``/stacks``)
and the Docker API that it passes through (``/endpoints/{id}/docker``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from dml_infra.errors import ConfigError, PermanentError, RetryableError

CONNECT_S = 10.0
# Versions before 2.45 deploy within the request, and that may pull images.
ANSWER_S = 600.0


class NotFoundError(PermanentError):
    """Portainer has no such thing."""


class ConflictError(RetryableError):
    """The stack is being deployed by another call, or its name is taken."""


class PortainerApi:
    """Calls of one Portainer.

    Args:
        url: its address as a browser has it, e.g. ``https://portainer.example.org``.
        api_key_file: file with an access token of a user that may manage stacks.
        ca_file: certificates to trust besides the system's, for a private certificate authority.
        answer_s: how long one call may take.
    """

    def __init__(
        self, url: str, api_key_file: Path, *, ca_file: Path | None = None, answer_s: float = ANSWER_S
    ) -> None:
        self.url = url.rstrip("/")
        self._key_file = api_key_file
        self._answer_s = answer_s
        self._session = requests.Session()
        if ca_file:
            self._session.verify = str(ca_file)

    def environment_id(self, name_or_id: str) -> int:
        """Identifier of an environment (Portainer's word for an engine) given by its name or identifier.

        Raises:
            ConfigError: there is none; those that this key may see are named.
        """
        found = list(self._call("GET", "/endpoints", params={"excludeSnapshots": "true"}) or [])
        for environment in found:
            if name_or_id in {str(environment["Id"]), environment["Name"]}:
                return int(environment["Id"])
        seen = ", ".join(f"{e['Name']} ({e['Id']})" for e in found) or "none"
        raise ConfigError(
            f"cannot use Portainer at {self.url}",
            f"it has no environment {name_or_id!r}; this key sees: {seen}",
            "Set DML_PORTAINER_ENVIRONMENT to one of them, or give the key's user access to the environment.",
        )

    def find_stack(self, environment: int, name: str) -> dict[str, Any] | None:
        """The stack of that name in that environment, or nothing."""
        filters = json.dumps({"EndpointID": environment})
        stacks = self._call("GET", "/stacks", params={"filters": filters}) or []
        for stack in stacks:
            if stack["Name"] == name and stack["EndpointId"] == environment:
                return dict(stack)
        return None

    def stack(self, stack_id: int) -> dict[str, Any]:
        """A stack's details, among them ``Status`` and ``DeploymentStatus``."""
        return dict(self._call("GET", f"/stacks/{stack_id}"))

    def stack_file(self, stack_id: int) -> str:
        """The Compose text that Portainer keeps for a stack."""
        return str(self._call("GET", f"/stacks/{stack_id}/file")["StackFileContent"])

    def create_stack(self, environment: int, name: str, text: str, env: Mapping[str, str]) -> dict[str, Any]:
        """Make a standalone Compose stack from a text."""
        body = {"Name": name, "StackFileContent": text, "Env": _pairs(env), "FromAppTemplate": False}
        return dict(
            self._call("POST", "/stacks/create/standalone/string", params={"endpointId": environment}, body=body)
        )

    def update_stack(self, stack_id: int, environment: int, text: str, env: Mapping[str, str]) -> dict[str, Any]:
        """Replace a stack's text and variables.

        `Env` replaces everything, so it is always there; `RepullImageAndRedeploy` would make every container anew, also
        the one that still serves.
        """
        body = {"StackFileContent": text, "Env": _pairs(env), "Prune": True, "RepullImageAndRedeploy": False}
        return dict(self._call("PUT", f"/stacks/{stack_id}", params={"endpointId": environment}, body=body))

    def delete_stack(self, stack_id: int, environment: int) -> None:
        """Remove a stack with its containers; nothing when it is gone already."""
        try:
            self._call("DELETE", f"/stacks/{stack_id}", params={"endpointId": environment})
        except NotFoundError as error:
            if "stack" not in error.why.lower():
                raise

    def containers(self, environment: int, project: str) -> list[dict[str, Any]]:
        """Containers of a Compose project, running or not, as the engine lists them."""
        filters = json.dumps({"label": [f"com.docker.compose.project={project}"]})
        path = f"/endpoints/{environment}/docker/containers/json"
        return list(self._call("GET", path, params={"all": "true", "filters": filters}) or [])

    def _call(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Mapping[str, Any] | None = None
    ) -> Any:
        what = f"{method} {path} at Portainer {self.url} failed"
        try:
            answer = self._session.request(
                method,
                f"{self.url}/api{path}",
                params=dict(params or {}),
                json=body,
                headers={"X-API-Key": _read_key(self._key_file)},
                timeout=(CONNECT_S, self._answer_s),
                # The key must not follow a redirect to another host.
                allow_redirects=False,
            )
        except requests.exceptions.SSLError as error:
            raise ConfigError(
                what,
                f"its certificate was refused ({_innermost(error)})",
                "Give the authority that signed it as DML_PORTAINER_CA_FILE, or correct DML_PORTAINER_URL.",
            ) from error
        except requests.exceptions.ReadTimeout as error:
            raise RetryableError(
                what,
                f"no answer within {self._answer_s:g} s; the deployment may still be under way",
                "Look at the stack in Portainer, then run this again.",
            ) from error
        except requests.exceptions.ConnectionError as error:
            raise RetryableError(
                what,
                f"cannot reach it ({_innermost(error)})",
                "Check DML_PORTAINER_URL, and that Portainer runs and this host may reach it.",
            ) from error
        except requests.exceptions.RequestException as error:
            raise ConfigError(what, str(error), "Correct DML_PORTAINER_URL.") from error
        return self._read(answer, what)

    def _read(self, answer: requests.Response, what: str) -> Any:
        if answer.status_code == 204:
            return None
        if 300 <= answer.status_code < 400:
            to = answer.headers.get("Location", "nowhere")
            raise ConfigError(what, f"it redirects to {to}", "Set DML_PORTAINER_URL to Portainer's own address.")
        try:
            content = answer.json()
        except ValueError as error:
            if answer.status_code >= 500:
                raise RetryableError(
                    what, f"HTTP {answer.status_code} without an explanation", "Read Portainer's log, then try again."
                ) from error
            raise ConfigError(
                what,
                f"HTTP {answer.status_code} with {answer.headers.get('Content-Type', 'no type')!r} instead of JSON",
                "Set DML_PORTAINER_URL to Portainer itself, not to a sign-in page in front of it.",
            ) from error
        if answer.ok:
            return content
        raise _refusal(answer.status_code, _words(content), what, self._key_file)


def _refusal(status: int, words: str, what: str, key_file: Path) -> PermanentError | RetryableError:
    said = f"HTTP {status}: {words}"
    if status == 401:
        return ConfigError(
            what,
            f"the API key was refused ({said})",
            f"Make a new access token in Portainer and write it to {key_file}.",
        )
    if status == 403:
        return ConfigError(
            what, f"the API key's user may not do this ({said})", "Give that user the right to manage stacks there."
        )
    if status == 404:
        return NotFoundError(what, said, "Check DML_PORTAINER_ENVIRONMENT and the stack's name in Portainer.")
    if status == 409:
        return ConflictError(what, said, "Wait until the stack's deployment has ended, then run this again.")
    if status == 400:
        return PermanentError(what, said, "Look for a version of Portainer that this platform was tested with.")
    return PermanentError(what, said, "Correct what Portainer says, then run this again.")


def _words(content: Any) -> str:
    """Portainer's own message: a summary and, where they differ, the details of it."""
    if not isinstance(content, dict):
        return str(content)[:500]
    message, details = str(content.get("message") or ""), str(content.get("details") or "")
    return ": ".join(dict.fromkeys(part for part in (message, details) if part)) or "no message"


def _pairs(env: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": env[name]} for name in sorted(env)]


def _read_key(file: Path) -> str:
    what = "cannot sign in to Portainer"
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            what, f"cannot read {file} ({error})", "Make an access token in Portainer and write it there, mode 600."
        ) from error
    if not key or any(c.isspace() for c in key) or not key.isascii():
        raise ConfigError(what, f"{file} does not hold one key", "Write the access token there, and nothing else.")
    return key


def _innermost(error: BaseException) -> str:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error) or type(error).__name__
