"""Pure functions from the registry to texts: a project's Compose stack, `workspace.yaml`, `locations.json`.

Nothing here touches a file, the engine or the clock, so that the same input gives the same text everywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import yaml

from dml_infra.installation import Installation
from dml_infra.names import megabytes
from dml_infra.registry import CodeLocation

GRPC_PORT = 4000
UID = 10001
SECRETS = "/run/secrets"
DATA_SERVICES = ("postgres", "object-store")
# A project that lists a secret of this name pushes to OpenMetadata, where the server has its address.
OPENMETADATA_TOKEN = "openmetadata_token"  # pragma: allowlist secret
# A tenth of a second where `dagster api grpc-health-check` takes three: it imports nothing of Dagster.
HEALTH = (
    "import grpc,sys;from grpc_health.v1 import health_pb2 as p,health_pb2_grpc as s;"
    f"r=s.HealthStub(grpc.insecure_channel('127.0.0.1:{GRPC_PORT}')).Check(p.HealthCheckRequest(service='DagsterApi'),"
    "timeout=5);sys.exit(r.status!=1)"
)


@dataclass(frozen=True)
class Server:
    """One code server, as it was rendered: a second one is made beside it, never this one changed.

    Args:
        key: what tells it from the project's others: 12 digits of the digest, and a suffix where only settings differ.
        host: its container's name and DNS name.
        image: ``repository@sha256:…``.
        service: its part of the Compose file.
        location: its entry of `locations.json`.
        schedules: names that it had when it went live, as ``repository/name``; with the sensors the next one's measure.
    """

    key: str
    host: str
    image: str
    service: Mapping[str, Any]
    location: Mapping[str, Any]
    schedules: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For the project's state file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Server:
        """From the project's state file."""
        tuples = {name: tuple(values.get(name, ())) for name in ("schedules", "sensors")}
        return cls(**{**values, **tuples})


@dataclass(frozen=True)
class Routes:
    """Where each project's code is to be found: what `workspace.yaml` says."""

    servers: Mapping[str, Server] = field(default_factory=dict)
    previous: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def stack_name(installation: Installation, project: str) -> str:
    """Compose project of a project's stack."""
    return f"{installation.stack}-{project}"


def plan_server(installation: Installation, location: CodeLocation, *, beside: Iterable[Server] = ()) -> Server:
    """The code server that a registry entry asks for.

    Args:
        installation: where.
        location: the entry, with the image to run.
        beside: servers that may still be running; the new one gets another name than theirs unless it equals one.
    """
    entry = location_entry(installation, location)
    digest12 = location.digest.removeprefix("sha256:")[:12]
    taken = {server.key: server for server in beside}
    key = digest12
    wanted = _server(installation, location, key, entry)
    if key in taken and _comparable(taken[key]) != _comparable(wanted):
        content = json.dumps(_comparable(wanted), sort_keys=True).encode()
        key = f"{digest12}-{hashlib.sha256(content).hexdigest()[:4]}"
        wanted = _server(installation, location, key, entry)
    return wanted


def same_server(one: Server, other: Server) -> bool:
    """Do both run the same image with the same settings?"""
    return _comparable(one) == _comparable(other)


def render_stack(installation: Installation, project: str, servers: Iterable[Server]) -> str:
    """Compose text of a project's stack: one code server, or two while one replaces the other."""
    network = installation.project_network(project)
    document = {
        "name": stack_name(installation, project),
        "services": {f"code-{server.key}": dict(server.service) for server in servers},
        "networks": {"project": {"name": network, "external": True}},
    }
    return _header(f"Code servers of {project}") + yaml.safe_dump(document, sort_keys=False, width=4096)


def render_workspace(routes: Routes) -> str:
    """`workspace.yaml`: one gRPC server a project, under the project's name."""
    load_from = [
        {"grpc_server": {"host": server.host, "port": GRPC_PORT, "location_name": project}}
        for project, server in sorted(routes.servers.items())
    ]
    return _header("Code locations") + yaml.safe_dump({"load_from": load_from}, sort_keys=False)


def render_locations(routes: Routes) -> str:
    """`locations.json`: what a run of a project gets; the run launcher believes this and not the code location."""
    content = {
        project: {**server.location, "host": server.host, "previous_images": list(routes.previous.get(project, ()))}
        for project, server in sorted(routes.servers.items())
    }
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def render_aliases(control: str) -> str:
    """`hosts`, for glibc: Dagster's services find Postgres and object store by the core's own network.

    They are on each project's network too, where these have the same names. Docker's DNS answers from the first network
    that knows one, an internal one last: without this, a project that is removed takes their connections along.

    Args:
        control: full name of the core's network.
    """
    return "".join(f"{service} {service}.{control}\n" for service in DATA_SERVICES)


def location_entry(installation: Installation, location: CodeLocation) -> dict[str, Any]:
    """A project's entry of `locations.json`."""
    folder = installation.secrets / "projects" / location.name
    return {
        "image": location.image,
        "repository": location.repository,
        "network": installation.project_network(location.name),
        "memory": location.run_memory,
        "cpus": location.run_cpus,
        "max_runs": location.max_runs,
        "env": project_environment(installation, location),
        "pgpass": str(folder / "pgpass"),
        "aws_credentials": str(folder / "aws_credentials"),
        "secrets": {name: str(folder / name) for name in location.secrets},
        "owner": location.owner,
        "alerts": location.alerts,
        "server_memory": location.memory,
        "server_cpus": location.cpus,
    }


def project_environment(installation: Installation, location: CodeLocation) -> dict[str, str]:
    """Variables of a project's containers, code server and runs alike; no value of them is secret.

    Of Airbyte a project gets the address and the application; the secret is one of its own (``secrets``), named to it
    by ``DML_AIRBYTE__CLIENT_SECRET_FILE`` in its environment. Of OpenMetadata it gets the address if it lists a token
    (:data:`OPENMETADATA_TOKEN`): without one, each run would only say that there is none.
    """
    name = location.name
    airbyte = {"DML_AIRBYTE__SERVER_URL": "DML_AIRBYTE_URL", "DML_AIRBYTE__CLIENT_ID": "DML_AIRBYTE_CLIENT_ID"}
    openmetadata = {}
    if OPENMETADATA_TOKEN in location.secrets and installation.env.get("DML_OPENMETADATA_URL"):
        openmetadata["DML_OPENMETADATA__URL"] = installation.env["DML_OPENMETADATA_URL"]
        openmetadata["DML_OPENMETADATA__TOKEN_FILE"] = f"{SECRETS}/{OPENMETADATA_TOKEN}"
    return {
        # Links of reports and alerts to Dagster's pages.
        "DML_DAGSTER_URL": installation.address,
        # The proxy shows there what the library has put into the object store.
        "DML_REPORTS_URL": f"{installation.address}reports/",
        **{ours: installation.env[theirs] for ours, theirs in airbyte.items() if installation.env.get(theirs)},
        **openmetadata,
        **location.environment,
        "DML_PROFILE": "server",
        "DML_HOME": "/var/lib/dml",
        "DML_IMAGE": location.image,
        "DAGSTER_CURRENT_IMAGE": location.image,
        "DML_LAKE__CATALOG_URI": f"postgresql+psycopg2://{name}@postgres:5432/lake",
        "DML_LAKE__WAREHOUSE": "s3://lake",
        "DML_LAKE__S3_ENDPOINT": "http://object-store:9000",
        "DML_LAKE__S3_CREDENTIALS_FILE": f"{SECRETS}/aws_credentials",
        "AWS_SHARED_CREDENTIALS_FILE": f"{SECRETS}/aws_credentials",
        "PGPASSFILE": f"{SECRETS}/pgpass",
        "PGUSER": name,
        "PGCONNECT_TIMEOUT": "10",
        # Some address is asked for everywhere; and no cloud's metadata service is asked for credentials.
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _server(installation: Installation, location: CodeLocation, key: str, entry: Mapping[str, Any]) -> Server:
    host = f"{stack_name(installation, location.name)}-{key}"
    return Server(key, host, location.image, _service(installation, location, host, entry), entry)


def _service(installation: Installation, location: CodeLocation, host: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    files = {"pgpass": entry["pgpass"], "aws_credentials": entry["aws_credentials"], **entry["secrets"]}
    memory_mb = megabytes(location.memory)
    return {
        "image": location.image,
        # Images come before a stack does: what is missing then is a mistake, not a reason to download.
        "pull_policy": "never",
        "container_name": host,
        "user": f"{UID}:{UID}",
        "read_only": True,
        "init": True,
        "restart": "unless-stopped",
        "stop_grace_period": "20s",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": 512,
        "mem_limit": f"{memory_mb}m",
        "memswap_limit": f"{memory_mb}m",
        "cpus": location.cpus,
        "environment": {k: v.replace("$", "$$") for k, v in sorted(entry["env"].items())},
        "tmpfs": [
            f"/tmp:size={memory_mb // 4}m,mode=1777",
            f"/var/lib/dml:size={memory_mb // 4}m,uid={UID},gid={UID},mode=0750",
            f"/var/lib/dml/dagster:size=16m,uid={UID},gid={UID},mode=0750",
        ],
        # Bound one by one: a project sees its own files and no folder. Rotation writes into them.
        "volumes": [
            {
                "type": "bind",
                "source": source.replace("$", "$$"),
                "target": f"{SECRETS}/{name}",
                "read_only": True,
                "bind": {"create_host_path": False},
            }
            for name, source in files.items()
        ],
        "networks": {"project": {"aliases": [host]}},
        "labels": {
            "dml.stack": installation.stack,
            "dml.project": location.name,
            "dml.image": location.image,
            "dml.role": "code-location",
        },
        "healthcheck": {
            "test": ["CMD", "python", "-c", HEALTH],
            "interval": "30s",
            "timeout": "20s",
            "retries": 3,
            "start_period": "120s",
            "start_interval": "2s",
        },
        "logging": {
            "driver": "json-file",
            "options": {
                "max-size": installation.env.get("DML_LOG_MAX_SIZE", "10m"),
                "max-file": installation.env.get("DML_LOG_MAX_FILE", "5"),
            },
        },
    }


def _comparable(server: Server) -> dict[str, Any]:
    """A server without what its key decides."""
    service = {k: v for k, v in server.service.items() if k not in ("container_name", "networks")}
    return json.loads(json.dumps({"image": server.image, "service": service, "location": dict(server.location)}))


def _header(what: str) -> str:
    return f"# {what}. Written by `dml infra`; changes here are lost: edit registry/code-locations.yaml.\n"
