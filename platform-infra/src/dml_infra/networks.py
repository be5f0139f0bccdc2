"""Networks between core and projects: each project has one, and the core's services join it under their roles."""

from __future__ import annotations

from dml_infra import engine
from dml_infra.installation import Installation

# Services that a project's network needs, each under its role as DNS name.
CORE_ON_PROJECT_NETWORKS = ("postgres", "object-store", "webserver", "webserver-viewer", "daemon")


def service_containers(installation: Installation, service: str | None = None) -> list[str]:
    """Names of the containers of one or all core services, running or not."""
    labels = [f"label=com.docker.compose.project={installation.stack}"]
    if service:
        labels.append(f"label=com.docker.compose.service={service}")
    text = engine.docker("ps", "-a", "--format", "{{.Names}}", *(f"--filter={label}" for label in labels))
    return text.split()


def attach_core(installation: Installation, project: str) -> None:
    """Make the project's network if it is not there and join the core services to it; nothing changes when all is so.

    A connection belongs to a container: call it again after core containers were made anew (`up` and `deploy` do).
    """
    network = installation.project_network(project)
    if not engine.inspect("network", network):
        labels = {"dml.stack": installation.stack, "dml.project": project}
        # Not internal: a project calls its sources.
        engine.docker("network", "create", *(f"--label={k}={v}" for k, v in labels.items()), network)
    for service in CORE_ON_PROJECT_NETWORKS:
        for details in engine.inspect("container", *service_containers(installation, service)):
            if network not in details["NetworkSettings"]["Networks"]:
                engine.docker("network", "connect", "--alias", service, network, details["Id"])


def detach_core(installation: Installation, project: str) -> None:
    """Take the core services off a project's network and remove it; nothing when it is not there."""
    remove_network(installation.project_network(project))


def remove_network(network: str) -> None:
    """Take everything off a network and remove it; nothing when it is not there."""
    for details in engine.inspect("network", network):
        for container in details.get("Containers") or {}:
            engine.docker("network", "disconnect", "--force", network, container)
        engine.docker("network", "rm", network)
