"""How a project's stack gets onto the engine: one protocol, a module for each way.

A driver only makes the running containers equal to a Compose text. It decides nothing about names, images or order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from dml_infra.errors import ConfigError
from dml_infra.installation import Installation


@dataclass(frozen=True)
class StackStatus:
    """What a driver knows of a stack.

    Args:
        exists: it was applied and not removed.
        active: the last apply has ended and every service has a container.
        services: state by service, such as ``{"code-0123456789ab": "running"}``.
        error: why the last apply failed, where it did.
    """

    exists: bool
    active: bool
    services: Mapping[str, str]
    error: str = ""


class StackDriver(Protocol):
    """Applies Compose texts under stack names."""

    name: str

    def apply(self, stack: str, compose_text: str, env: Mapping[str, str]) -> None:
        """Make the stack's containers exactly those of the text; containers whose service is unchanged are left alone.

        Returns when the engine has done it, not when the containers are healthy.

        Args:
            stack: Compose project name, such as ``dml-sales``.
            compose_text: the whole file.
            env: all variables that the text refers to; they replace those of the last apply.

        Raises:
            InfraError: it was refused or did not end in time; the stack may be half changed, another apply repairs it.
        """
        ...

    def remove(self, stack: str) -> None:
        """Remove the stack's containers; nothing when there is no such stack. Networks and data stay."""
        ...

    def status(self, stack: str) -> StackStatus:
        """What is there."""
        ...


def get_driver(installation: Installation, name: str | None = None) -> StackDriver:
    """The driver by name; default: ``DML_DRIVER`` of the installation, else ``compose``.

    Raises:
        ConfigError: there is no such driver, or its settings are wrong.
    """
    chosen = name or installation.env.get("DML_DRIVER") or "compose"
    if chosen == "compose":
        from dml_infra.drivers.compose import ComposeDriver

        return ComposeDriver(installation)
    if chosen == "portainer":
        from dml_infra.drivers.portainer import PortainerDriver

        driver: StackDriver = PortainerDriver(installation)
        return driver
    raise ConfigError("cannot deploy", f"there is no driver {chosen!r}", "Set DML_DRIVER to 'compose' or 'portainer'.")
