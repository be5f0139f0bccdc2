"""Ports, names and addresses: what the proxy listens on, and what networks the projects need."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dml_infra import engine
from dml_infra.checks import Finding, failed, ok, warning
from dml_infra.checks.host import engine_info, services
from dml_infra.installation import Installation

# What an engine without a setting of its own uses: 16 networks of 172.16/12 (one is the bridge), 16 of 192.168/16.
DEFAULT_POOLS = [
    *({"Base": f"172.{n}.0.0/16", "Size": 16} for n in range(17, 32)),
    {"Base": "192.168.0.0/16", "Size": 20},
]


def check_ports(installation: Installation) -> Iterator[Finding]:
    """What the proxy publishes is free, or is published by this stack's own proxy."""
    address = installation.env.get("DML_BIND") or "0.0.0.0"
    free = []
    for name, default in (("DML_HTTP_PORT", 80), ("DML_HTTPS_PORT", 443)):
        port = installation.number(name, default)
        owner = port_owner(installation, address, port)
        if owner:
            yield failed(f"{address}:{port} is taken by {owner}", f"Stop it, or set {name} to another port.")
        else:
            free.append(str(port))
    if free:
        yield ok(f"free or ours: {', '.join(free)}")


def port_owner(installation: Installation, address: str, port: int) -> str | None:
    """Who listens there; None when it is free or when it is this stack's proxy."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            return None
        except OSError as error:
            reason = error.strerror or str(error)
    published = engine.docker("ps", f"--filter=publish={port}", "--format", "{{json .}}", check=False).splitlines()
    for line in published:
        name = re.search(r'"Names":"([^"]*)"', line)
        if f"com.docker.compose.project={installation.stack}," in f"{line}," or (
            name and name[1].startswith(f"{installation.stack}-proxy-")
        ):
            return None
        return f"container {name[1]}" if name else "another container"
    return _listening_program(port) or f"something ({reason})"


def check_dns(installation: Installation) -> Iterator[Finding]:
    """The address that people type leads somewhere, best of all here."""
    automatic = "@" in installation.env.get("DML_TLS", "")
    for host in site_hosts(installation):
        if automatic and (host == "localhost" or _is_address(host) or "." not in host):
            yield failed(
                f"nobody issues a certificate for {host!r} (DML_TLS is an e-mail address)",
                "Set DML_SITE to a public host name, or DML_TLS=internal.",
            )
            continue
        try:
            found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        except (OSError, UnicodeError) as error:
            yield failed(
                f"{host!r} has no address here ({error})",
                "Make a DNS record for it, or set DML_SITE to a name that has one.",
            )
            continue
        text = f"{host} is {', '.join(sorted(found))}"
        if any(_is_here(address) for address in found):
            yield ok(text)
        else:
            yield warning(text, "No address of this machine: right only behind a router or load balancer.")


def site_hosts(installation: Installation) -> list[str]:
    """Host names of ``DML_SITE``, which may list several and have schemes and ports."""
    sites = [s for s in re.split(r"[,\s]+", installation.env.get("DML_SITE", "")) if s]
    return [urlsplit(s if "://" in s else f"//{s}").hostname or s for s in sites]


def check_address_pools(installation: Installation) -> Iterator[Finding]:
    """Every project has a network of its own; the engine has a fixed number of subnets to give."""
    from dml_infra.registry import load_registry

    projects = [location.name for location in load_registry(installation, check_budget=False)]
    networks: list[Any] = engine.inspect("network", *engine.docker("network", "ls", "--quiet").split())
    names = {network["Name"] for network in networks}
    taken = [
        ipaddress.ip_network(config["Subnet"], strict=False)
        for network in networks
        for config in (network["IPAM"].get("Config") or [])
        if config.get("Subnet")
    ]
    core = {name for service in services(installation).values() for name in (service.get("networks") or {})}
    wanted = [installation.network(name) for name in core if name != "edge"]
    missing = [n for n in [*wanted, *map(installation.project_network, projects)] if n not in names]
    pools = engine_info().get("DefaultAddressPools") or DEFAULT_POOLS
    free = _free_subnets(pools, taken, limit=len(missing) + 1)
    if free < len(missing):
        yield failed(
            f"{len(missing)} more networks are needed ({len(projects)} projects), the engine has room for {free}",
            'Give it more in /etc/docker/daemon.json, e.g. "default-address-pools": '
            '[{"base": "10.201.0.0/16", "size": 24}], and restart it.',
        )
    else:
        yield ok(f"{len(missing)} more networks are needed, {free if free <= len(missing) else 'more'} are free")
    edge = ipaddress.ip_network(installation.env.get("DML_EDGE_SUBNET") or "172.31.250.0/24", strict=False)
    for name in ("DML_EDGE_RANGE", "DML_PROXY_IP", "DML_WEBSERVER_IP", "DML_WEBSERVER_VIEWER_IP"):
        value = installation.env.get(name)
        if value and not _within(value, edge):
            yield failed(f"{name}={value} is not in DML_EDGE_SUBNET {edge}", "Change these five settings together.")
    if installation.network("edge") not in names:
        hit = next((n for n in taken if n.version == edge.version and n.overlaps(edge)), None)
        if hit:
            yield failed(
                f"DML_EDGE_SUBNET {edge} overlaps the network {hit}",
                "Set DML_EDGE_SUBNET, the range and the three addresses in it to others.",
            )


def _free_subnets(pools: list[dict[str, Any]], taken: list[Any], *, limit: int) -> int:
    free = 0
    for pool in pools:
        base = ipaddress.ip_network(pool["Base"], strict=False)
        inside = [n for n in taken if n.version == base.version and n.overlaps(base)]
        for subnet in base.subnets(new_prefix=int(pool["Size"])):
            if not any(n.overlaps(subnet) for n in inside):
                free += 1
            if free >= limit:
                return free
    return free


def _within(value: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        inner = ipaddress.ip_network(value, strict=False)
    except ValueError:
        return False
    return inner.version == network.version and network.supernet_of(inner)  # type: ignore[arg-type]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_here(address: str) -> bool:
    """An address belongs to this machine when one can listen on it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _listening_program(port: int) -> str | None:
    """Name and process id of a listener, from the kernel's tables; needs root for other people's processes."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net") / table
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "0A":
                inodes.add(f"socket:[{fields[9]}]")
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) in inodes:
                return f"{(link.parent.parent / 'comm').read_text().strip()} (process {link.parent.parent.name})"
        except OSError:
            continue
    return None
