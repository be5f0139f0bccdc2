"""The filtering proxy in front of a real engine: what a run needs passes, every attempt at more is refused."""

from __future__ import annotations

import copy
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from stack.engine import FOLDER, docker

STACK = f"dmlfilter{os.getpid()}"
NETWORK = f"{STACK}_project_sales"
DAEMON, WEBSERVER = 2375, 2376


class Proxy:
    """Talks to one of the proxy's ports as plainly as possible, so that odd requests go out as they are written."""

    def __init__(self, ports: dict[int, int]) -> None:
        self._ports = ports

    def call(
        self, method: str, path: str, body: Any = None, *, port: int = DAEMON, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        text = body if body is None or isinstance(body, str) else json.dumps(body)
        connection = HTTPConnection("127.0.0.1", self._ports[port], timeout=30)
        try:
            connection.request(method, path, text, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        finally:
            connection.close()

    def create(self, body: Any, name: str | None = None) -> tuple[int, str]:
        return self.call("POST", f"/v1.43/containers/create?name={name or new_name()}", body)


def new_name() -> str:
    return f"{STACK}-run-{uuid.uuid4()}"


@pytest.fixture(scope="module")
def state(folder: Path) -> Path:
    secrets = folder / STACK / "secrets" / "projects"
    for project in ("sales", "other"):
        (secrets / project).mkdir(parents=True)
        (secrets / project / "pgpass").write_text("x", encoding="utf-8")
    return folder / STACK


@pytest.fixture(scope="module")
def proxy_image(core_images: dict[str, str]) -> str:
    """HAProxy as the stack has it, or another version of it."""
    return os.environ.get("TEST_SOCKET_PROXY_IMAGE") or core_images["DML_SOCKET_PROXY_IMAGE"]


@pytest.fixture(scope="module")
def proxy(proxy_image: str, state: Path) -> Iterator[Proxy]:
    """The proxy as compose.yaml runs it, on ports of loopback."""
    gid = Path("/var/run/docker.sock").stat().st_gid
    docker("network", "create", NETWORK)
    docker(
        *["run", "--detach", "--name", f"{STACK}-proxy", "--user", f"99:{gid}", "--read-only", "--cap-drop=ALL"],
        *["--publish=127.0.0.1::2375", "--publish=127.0.0.1::2376"],
        *["--env", f"DML_STACK={STACK}", "--env", f"DML_STATE={state}", "--env", "DML_RUN_MEMORY_MAX=2g"],
        *["--volume", f"{FOLDER}/config/socket-proxy:/usr/local/etc/haproxy:ro"],
        *["--volume", "/var/run/docker.sock:/var/run/docker.sock", proxy_image],
        *["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"],
    )
    try:
        ports = {
            port: int(docker("port", f"{STACK}-proxy", str(port)).splitlines()[0].rpartition(":")[2])
            for port in (DAEMON, WEBSERVER)
        }
        made = Proxy(ports)
        deadline = time.monotonic() + 30
        while True:
            try:
                if made.call("GET", "/_ping") == (200, "OK"):
                    break
            except (OSError, HTTPException):
                pass
            assert time.monotonic() < deadline, docker("logs", f"{STACK}-proxy")
            time.sleep(0.1)
        yield made
    finally:
        names = docker("ps", "-aq", f"--filter=name=^{STACK}").split()
        docker("rm", "--force", "--volumes", *names)
        docker("network", "rm", NETWORK)


@pytest.fixture(scope="module")
def image(registry: Any, proxy_image: str) -> str:
    """Any image that the engine knows by digest."""
    address = str(registry.push(proxy_image, "filter"))
    docker("pull", "--quiet", address)
    return address


@pytest.fixture
def wanted(image: str, state: Path) -> dict[str, Any]:
    """What the launcher asks for."""
    return {
        "Image": image,
        "Cmd": ["sleep", "60"],
        "Env": ['ODD={"Privileged": true, "HostConfig": "\\u0050"}'],
        "User": "10001:10001",
        "Labels": {"dml.stack": STACK, "dml.project": "sales", "dml.role": "run", "dagster/run_id": "x"},
        "Healthcheck": {"Test": ["NONE"]},
        "AttachStdin": False,
        "Volumes": None,
        "HostConfig": {
            "NetworkMode": NETWORK,
            "Memory": 2**28,
            "MemorySwap": 2**28,
            "NanoCpus": 10**9,
            "PidsLimit": 100,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "ReadonlyRootfs": True,
            "Init": True,
            "Tmpfs": {"/tmp": "size=64m,mode=1777"},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
            "Mounts": [
                {"Target": "/var/lib/dml", "Source": None, "Type": "volume", "ReadOnly": False},
                {
                    "Target": "/run/secrets/pgpass",
                    "Source": f"{state}/secrets/projects/sales/pgpass",
                    "Type": "bind",
                    "ReadOnly": True,
                },
            ],
        },
        "NetworkingConfig": {"EndpointsConfig": {NETWORK: {}}},
    }


def test_the_life_of_a_run_passes(proxy: Proxy, wanted: dict[str, Any]) -> None:
    name = new_name()
    assert proxy.create(wanted, name)[0] == 201
    assert proxy.call("POST", f"/v1.43/containers/{name}/start")[0] == 204
    status, text = proxy.call("GET", f"/v1.43/containers/{name}/json")
    assert status == 200
    assert json.loads(text)["State"]["Running"]
    assert proxy.call("GET", f"/v1.43/containers/{name}/logs?stdout=1&tail=5")[0] == 200
    filters = f"%7B%22label%22%3A+%5B%22dml.role%3Drun%22%2C+%22dml.stack%3D{STACK}%22%5D%7D"
    status, text = proxy.call("GET", f"/v1.43/containers/json?all=1&filters={filters}")
    assert [item["Names"] for item in json.loads(text)] == [[f"/{name}"]]
    assert proxy.call("GET", f"/v1.43/containers/{name}/json", port=WEBSERVER)[0] == 200
    assert proxy.call("POST", f"/v1.43/containers/{name}/stop?t=0", port=WEBSERVER)[0] == 204
    assert proxy.call("DELETE", f"/v1.43/containers/{name}?v=True")[0] == 204


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("HostConfig.Privileged", True),
        ("HostConfig.privileged", True),
        ("HostConfig.PRIVILEGED", True),
        ("HostConfig.NetworkMode", "host"),
        ("HostConfig.NetworkMode", "container:x"),
        ("HostConfig.NetworkMode", f"{STACK}_control"),
        ("HostConfig.NetworkMode", f"{STACK}_project_other"),
        ("HostConfig.PidMode", "host"),
        ("HostConfig.IpcMode", "host"),
        ("HostConfig.UTSMode", "host"),
        ("HostConfig.UsernsMode", "host"),
        ("HostConfig.CgroupnsMode", "host"),
        ("HostConfig.CapAdd", ["SYS_ADMIN"]),
        ("HostConfig.CapDrop", []),
        ("HostConfig.CapDrop", ["NET_RAW"]),
        ("HostConfig.SecurityOpt", ["seccomp=unconfined"]),
        ("HostConfig.SecurityOpt", ["no-new-privileges:true", "apparmor=unconfined"]),
        ("HostConfig.Devices", [{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda"}]),
        ("HostConfig.DeviceCgroupRules", ["a *:* rwm"]),
        ("HostConfig.Binds", ["/:/host"]),
        ("HostConfig.Binds", ["/var/run/docker.sock:/s:ro"]),
        ("HostConfig.VolumesFrom", [f"{STACK}-proxy"]),
        ("HostConfig.VolumeDriver", "local"),
        ("HostConfig.Runtime", "runc"),
        ("HostConfig.GroupAdd", ["0"]),
        ("HostConfig.OomScoreAdj", -1000),
        ("HostConfig.Sysctls", {"net.ipv4.ip_forward": "1"}),
        ("HostConfig.Ulimits", [{"Name": "nofile", "Soft": 1, "Hard": 1}]),
        ("HostConfig.CgroupParent", "/"),
        ("HostConfig.RestartPolicy", {"Name": "always"}),
        ("HostConfig.PortBindings", {"80/tcp": [{"HostPort": "80"}]}),
        ("HostConfig.Links", [f"{STACK}-proxy:p"]),
        ("HostConfig.ExtraHosts", ["postgres:10.0.0.1"]),
        ("HostConfig.MaskedPaths", []),
        ("HostConfig.ReadonlyPaths", []),
        ("HostConfig.ReadonlyRootfs", False),
        ("HostConfig.Memory", 0),
        ("HostConfig.Memory", 2**32),
        ("HostConfig.PidsLimit", -1),
        ("HostConfig.LogConfig", {"Type": "syslog", "Config": {"syslog-address": "tcp://10.0.0.1"}}),
        ("HostConfig.Tmpfs", {"/etc": "size=1m"}),
        ("HostConfig", None),
        ("User", "0:0"),
        ("User", ""),
        ("user", "0:0"),
        ("Image", "debian:12"),
        ("Entrypoint", ["sh"]),
        ("MacAddress", "02:42:ac:11:00:02"),
        ("Volumes", {"/host": {}}),
        ("Healthcheck", {"Test": ["CMD", "true"]}),
        ("Labels.dml.project", "other"),
        ("Labels.dml.role", "code-location"),
        ("Labels.com.docker.compose.project", STACK),
        ("NetworkingConfig", {"EndpointsConfig": {NETWORK: {}, f"{STACK}_control": {}}}),
        ("NetworkingConfig", {"EndpointsConfig": {NETWORK: {"Aliases": ["postgres"]}}}),
        ("NetworkingConfig", {"EndpointsConfig": {NETWORK: {"IPAMConfig": {"IPv4Address": "172.20.0.2"}}}}),
    ],
)
def test_a_container_that_asks_for_more_is_refused(proxy: Proxy, wanted: dict[str, Any], what: str, value: Any) -> None:
    top, _, rest = what.partition(".")
    if rest:
        wanted[top][rest] = value
    else:
        wanted[top] = value
    status, text = proxy.create(wanted)
    assert status == 403, text
    assert "refused by the socket proxy" in text


def bind(source: str, target: str = "/run/secrets/x", **more: Any) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True, **more}


@pytest.mark.parametrize(
    "mount",
    [
        bind("/"),
        bind("/var/run/docker.sock"),
        bind("{secrets}/projects/sales/pgpass", ReadOnly=False),
        bind("{secrets}/projects/sales"),
        bind("{secrets}/projects/other/pgpass"),
        bind("{secrets}/projects/sales/../other"),
        bind("{secrets}/projects/sales/.."),
        bind("{secrets}/postgres_superuser"),
        bind("{secrets}/projects/sales/pgpass", "/etc/passwd"),
        bind("{secrets}/projects/sales/pgpass", BindOptions={"Propagation": "rshared"}),
        {"Type": "volume", "Source": "dml_postgres", "Target": "/var/lib/dml"},
        {"Type": "volume", "Target": "/etc"},
        {"Type": "volume", "Target": "/var/lib/dml", "VolumeOptions": {"DriverConfig": {"Name": "local"}}},
        {"Type": "tmpfs", "Target": "/var/lib/dml"},
        {"Type": "cluster", "Source": "x", "Target": "/var/lib/dml"},
        "text",
    ],
)
def test_a_mount_of_anything_else_is_refused(proxy: Proxy, wanted: dict[str, Any], state: Path, mount: Any) -> None:
    if isinstance(mount, dict) and "Source" in mount:
        mount = {**mount, "Source": mount["Source"].replace("{secrets}", f"{state}/secrets")}
    wanted["HostConfig"]["Mounts"] = [mount]
    status, text = proxy.create(wanted)
    assert status == 403, text


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"ReadonlyRootfs"', '"Privileg\\u0065d": true, "ReadonlyRootfs"'),
        lambda text: text.replace('"ReadonlyRootfs"', '"Memory": 1, "ReadonlyRootfs"'),
        lambda text: text.replace('"ReadonlyRootfs"', '"memory": 1, "ReadonlyRootfs"'),
        lambda text: text.replace('"CapDrop"', '"\u017fysctls": {}, "CapDrop"'),
        lambda text: text[:-1] + ', "HostConfig": {"Privileged": true}}',
        lambda text: text[:-1] + ', "hostconfig": {"Privileged": true}}',
        lambda text: text + '{"HostConfig": {"Privileged": true}}',
        lambda text: "[" + text + "]",
        lambda text: text[:-1],
        lambda text: "",
        lambda text: "null",
        lambda text: text.replace("{", "{ // comment\n", 1),
        lambda text: text.replace('"sleep"', "NaN"),
        lambda text: text.replace('"sleep"', '"' + "x" * 300_000 + '"'),
        lambda text: "[" * 100_000,
    ],
)
def test_a_body_that_can_be_read_in_two_ways_is_refused(
    proxy: Proxy, wanted: dict[str, Any], change: Callable[[str], str]
) -> None:
    try:
        status, text = proxy.create(change(json.dumps(wanted)).encode().decode("latin-1"))
    except (OSError, HTTPException):  # cut off while it was still being sent
        return
    assert status in (400, 403, 408, 413), text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1.43/containers/json"),
        ("GET", "/v1.43/containers/json?all=1&filters=%7B%7D"),
        ("GET", "/v1.43/info"),
        ("GET", "/v1.43/images/json"),
        ("GET", "/v1.43/events"),
        ("GET", "/v1.43/containers/{other}/json"),
        ("GET", "/v1.43/containers/{other}/logs?stdout=1"),
        ("GET", "/v1.43/containers/{other}/archive?path=/"),
        ("POST", "/v1.43/containers/{other}/stop"),
        ("POST", "/v1.43/containers/{other}/exec"),
        ("POST", "/v1.43/containers/{run}/exec"),
        ("POST", "/v1.43/containers/{run}/attach"),
        ("POST", "/v1.43/containers/{run}/update"),
        ("POST", "/v1.43/containers/{run}/rename?name=x"),
        ("PUT", "/v1.43/containers/{run}/archive?path=/"),
        ("GET", "/v1.43/containers/{run}/export"),
        ("DELETE", "/v1.43/containers/{other}"),
        ("POST", "/v1.43/containers/prune"),
        ("POST", "/v1.43/containers/create"),
        ("POST", "/v1.43/containers/create?name=postgres"),
        ("POST", "/v1.43/containers/create?name={run}&name=postgres"),
        ("POST", "/v1.43/containers/create?name={run}&platform=linux"),
        ("POST", "/v1.43/images/create?fromImage=debian"),
        ("POST", "/v1.43/build"),
        ("POST", "/v1.43/networks/create"),
        ("POST", "/v1.43/networks/{network}/connect"),
        ("POST", "/v1.43/volumes/create"),
        ("POST", "/v1.43/swarm/init"),
        ("GET", "/v1.43/../v1.43/info"),
        ("GET", "/v1.43//info"),
        ("GET", "/_ping/../info"),
        ("POST", "/v1.43/containers/{run}/../{other}/stop"),
        ("POST", "/v1.43/containers/{run}%2f..%2f{other}/stop"),
        ("GET", "/v1.43/containers/{run}/json/../../{other}/json"),
        ("POST", "/session"),
        ("CONNECT", "/v1.43/info"),
    ],
)
@pytest.mark.parametrize("port", [DAEMON, WEBSERVER])
def test_a_call_that_no_run_needs_is_refused(
    proxy: Proxy, wanted: dict[str, Any], method: str, path: str, port: int
) -> None:
    target = path.format(other=f"{STACK}-proxy", run=new_name(), network=NETWORK)
    body = copy.deepcopy(wanted) if method == "POST" else None
    status, text = proxy.call(method, target, body, port=port)
    assert status in (400, 403), text


def test_the_webserver_can_start_nothing(proxy: Proxy, wanted: dict[str, Any]) -> None:
    name = new_name()
    assert proxy.call("POST", f"/v1.43/containers/create?name={name}", wanted, port=WEBSERVER)[0] == 403
    assert proxy.call("POST", f"/v1.43/containers/{name}/start", port=WEBSERVER)[0] == 403
    assert proxy.call("DELETE", f"/v1.43/containers/{name}", port=WEBSERVER)[0] == 403


def test_a_start_with_settings_is_refused(proxy: Proxy) -> None:
    status, _ = proxy.call("POST", f"/v1.43/containers/{new_name()}/start", {"Privileged": True})
    assert status == 403


def test_a_body_without_a_length_is_refused(proxy: Proxy, wanted: dict[str, Any]) -> None:
    status, _ = proxy.call(
        "POST",
        f"/v1.43/containers/create?name={new_name()}",
        f"{len(json.dumps(wanted)):x}\r\n{json.dumps(wanted)}\r\n0\r\n\r\n",
        headers={"Transfer-Encoding": "chunked"},
    )
    assert status in (400, 403)


def test_a_second_request_hidden_in_the_first_is_not_passed_on(proxy: Proxy, wanted: dict[str, Any]) -> None:
    hidden = "GET /v1.43/info HTTP/1.1\r\nHost: x\r\n\r\n"
    request = f"GET /_ping HTTP/1.1\r\nHost: x\r\nContent-Length: {len(hidden)}\r\n\r\n{hidden}"
    request += "GET /v1.43/info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", proxy._ports[DAEMON]), timeout=20) as connection:
        connection.sendall(request.encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert b"ServerVersion" not in answer
    assert b"403" in answer
