"""Stacks through Portainer: the same Compose text as the plain driver, kept and shown by Portainer.

Facts of Portainer that shape this:

- An update's `Env` replaces all variables, so all of it is sent each time.
- From 2.45 a create or update answers at once and deploys in the background (`Status` 3). Success and failure are read
  from the stack afterwards; while it deploys, another update is refused with 409. Earlier versions answer when done.
- A stack whose last deployment failed (`Status` 4) is taken down by Portainer before it is deployed again. So images
  are pulled before a stack is applied, and a failed deployment is not repeated blindly.
- A Compose project whose containers Portainer did not make cannot become a stack of that name (409).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dml_infra.drivers import StackStatus
from dml_infra.drivers.portainer_api import ConflictError, NotFoundError, PortainerApi
from dml_infra.errors import CheckFailedError, ConfigError, PermanentError, RetryableError
from dml_infra.installation import Installation

API_KEY = "portainer_api_key"  # pragma: allowlist secret
ACTIVE, INACTIVE, DEPLOYING, FAILED = 1, 2, 3, 4
COMPOSE = 2


class PortainerDriver:
    """The ``portainer`` driver.

    Settings: ``DML_PORTAINER_URL``, ``DML_PORTAINER_ENVIRONMENT`` (name or identifier), ``DML_PORTAINER_CA_FILE`` where
    a private authority signed its certificate, and the secret file ``portainer_api_key``.

    Args:
        installation: has the settings.
        deadline_s: how long a deployment may take, the wait for another one included.
        poll_s: how often the stack's status is read meanwhile.
    """

    name = "portainer"

    def __init__(self, installation: Installation, *, deadline_s: float = 600.0, poll_s: float = 1.0) -> None:
        self._environment_name = _setting(installation, "DML_PORTAINER_ENVIRONMENT")
        ca_file = installation.env.get("DML_PORTAINER_CA_FILE")
        self._api = PortainerApi(
            _setting(installation, "DML_PORTAINER_URL"),
            installation.secrets / API_KEY,
            ca_file=Path(ca_file) if ca_file else None,
            answer_s=deadline_s,
        )
        self._deadline_s = deadline_s
        self._poll_s = poll_s

    def apply(self, stack: str, compose_text: str, env: Mapping[str, str]) -> None:
        """Create or update the stack and return when Portainer has deployed it; see ``StackDriver.apply``."""
        environment = self._api.environment_id(self._environment_name)
        end = time.monotonic() + self._deadline_s
        while True:
            found = self._api.find_stack(environment, stack)
            try:
                if found is None:
                    sent = self._api.create_stack(environment, stack, compose_text, env)
                else:
                    _refuse_foreign(found)
                    sent = self._api.update_stack(int(found["Id"]), environment, compose_text, env)
                break
            except ConflictError as error:
                self._wait_out(environment, stack, error, end)
        stack_id = int(sent["Id"])
        self._settle(stack_id, stack, end)
        kept = self._api.stack_file(stack_id)
        if kept != compose_text:
            raise CheckFailedError(
                f"cannot deploy stack {stack!r}",
                "Portainer keeps another text for it than the one that was sent: somebody changed it meanwhile",
                "Look at the stack in Portainer, then run this again.",
            )

    def remove(self, stack: str) -> None:
        """Remove the stack through Portainer; nothing when there is none."""
        environment = self._api.environment_id(self._environment_name)
        end = time.monotonic() + self._deadline_s
        while (found := self._api.find_stack(environment, stack)) is not None:
            _refuse_foreign(found)
            try:
                self._api.delete_stack(int(found["Id"]), environment)
            except ConflictError as error:
                self._wait_out(environment, stack, error, end)

    def status(self, stack: str) -> StackStatus:
        """What Portainer and its engine know of the stack."""
        environment = self._api.environment_id(self._environment_name)
        found = self._api.find_stack(environment, stack)
        if found is None:
            return StackStatus(exists=False, active=False, services={})
        services = {
            str(container["Labels"].get("com.docker.compose.service", container["Names"][0])): str(container["State"])
            for container in self._api.containers(environment, stack)
        }
        return StackStatus(
            exists=True,
            active=found["Status"] == ACTIVE and bool(services),
            services=services,
            error=_failure(found) if found["Status"] == FAILED else "",
        )

    def _wait_out(self, environment: int, stack: str, error: ConflictError, end: float) -> None:
        """After a 409: wait for the other deployment, or say that the name is taken."""
        found = self._api.find_stack(environment, stack)
        if found is None:
            raise ConfigError(
                f"cannot deploy stack {stack!r}",
                f"{error.why}; its containers were not made by Portainer",
                "Remove them first ('docker compose --project-name NAME down'), then deploy again.",
            ) from error
        if found["Status"] != DEPLOYING:
            # It ended between the two calls; the pause keeps a Portainer that answers 409 for another reason unharmed.
            self._pause(stack, end, error.why)
            return
        self._poll(lambda: self._api.stack(int(found["Id"]))["Status"] != DEPLOYING, stack, end, error.why)

    def _settle(self, stack_id: int, stack: str, end: float) -> None:
        """Wait until the deployment has ended, and raise unless it ended well."""
        what = f"cannot deploy stack {stack!r}"
        last: dict[str, Any] = {}

        def ended() -> bool:
            last.update(self._api.stack(stack_id))
            return bool(last["Status"] != DEPLOYING)

        try:
            self._poll(ended, stack, end, "Portainer is still deploying it")
        except NotFoundError as error:
            raise CheckFailedError(what, "it was removed in Portainer meanwhile", "Run this again.") from error
        if last["Status"] == FAILED:
            raise PermanentError(what, _failure(last), "Correct what it says, then deploy again.")
        if last["Status"] != ACTIVE:
            raise CheckFailedError(
                what,
                f"it was stopped in Portainer meanwhile (status {last['Status']})",
                "Start it there, or run this again.",
            )

    def _poll(self, done: Callable[[], bool], stack: str, end: float, why: str) -> None:
        while not done():
            self._pause(stack, end, why)

    def _pause(self, stack: str, end: float, why: str) -> None:
        if time.monotonic() + self._poll_s > end:
            raise RetryableError(
                f"cannot deploy stack {stack!r}",
                f"{why} after {self._deadline_s:g} s",
                "Look at the stack in Portainer; once its deployment has ended, run this again.",
            )
        time.sleep(self._poll_s)


def _refuse_foreign(found: Mapping[str, Any]) -> None:
    what = f"cannot change stack {found['Name']!r}"
    if found.get("GitConfig"):
        raise ConfigError(
            what, "Portainer deploys it from a git repository", "Detach it from git in Portainer, or remove it there."
        )
    if found["Type"] != COMPOSE:
        raise ConfigError(what, f"it is no Compose stack (type {found['Type']})", "Remove it in Portainer.")


def _failure(found: Mapping[str, Any]) -> str:
    """Portainer's message about the last deployment."""
    messages = [str(entry.get("Message") or "") for entry in found.get("DeploymentStatus") or []]
    return next((m for m in reversed(messages) if m), "the deployment failed, and Portainer gives no reason")


def _setting(installation: Installation, name: str) -> str:
    value = installation.env.get(name, "").strip()
    if not value:
        raise ConfigError("cannot use Portainer", f"{name} is not set", f"Set {name} in {installation.env_file}.")
    return value
