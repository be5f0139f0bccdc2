"""Every check of the preflight, by causing the fault that it is for."""

from __future__ import annotations

import email.utils
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dml_infra import engine
from dml_infra.checks import Check, Finding, contents, host, network
from dml_infra.errors import CheckFailedError, EngineError
from dml_infra.installation import Installation
from dml_infra.preflight import preflight, run_checks

GIB = 1024**3
INFO = {
    "OSType": "linux",
    "MemoryLimit": True,
    "MemTotal": 16 * GIB,
    "DockerRootDir": "/",
    "SystemTime": "",
    "DefaultAddressPools": [{"Base": "10.9.0.0/22", "Size": 24}],
}
SERVICES = {"web": {"image": "reg.test/web:1", "mem_limit": str(4 * GIB), "secrets": [{"source": "key"}]}}
ENTRY = """code_locations:
  - {{name: {name}, image: reg.test/{name}@sha256:{digest}, owner: "team:x", alerts: x@example.com, memory: {memory}}}
"""


class FakeEngine:
    """Answers of the `docker` program; what is not here does not exist."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = dict(INFO)
        self.engine, self.compose = "26.1.5+dfsg1", "2.26.1-4"
        self.networks: list[dict[str, Any]] = []
        self.images = {"reg.test/web:1"}
        self.published = ""
        self.down = False

    def docker(self, *args: str, check: bool = True, **_: Any) -> str:
        if self.down:
            raise EngineError("'docker version' failed", "Cannot connect to the Docker daemon", "Start it.")
        if args[0] == "version":
            return json.dumps({"Server": {"Version": self.engine}})
        if args[:2] == ("compose", "version"):
            return self.compose
        if args[0] == "compose":
            return json.dumps({"services": SERVICES}) if "json" in args else ""
        if args[0] == "info":
            return json.dumps(self.info)
        if args[:2] == ("network", "ls"):
            return "\n".join(item["Name"] for item in self.networks)
        if args[:2] == ("network", "inspect"):
            return json.dumps([item for item in self.networks if item["Name"] == args[2]])
        if args[:2] == ("image", "inspect"):
            return json.dumps([{"Id": args[2]}]) if args[2] in self.images else ""
        if args[0] == "ps":
            return self.published
        if args[0] == "manifest":
            raise EngineError("'docker manifest inspect' failed", "no such manifest: reg.test", "See.")
        raise AssertionError(args)


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr(engine, "docker", fake.docker)
    host.engine_info.cache_clear()
    return fake


@pytest.fixture
def make(tmp_path: Path, docker: FakeEngine) -> Callable[..., Installation]:
    """An installation with these settings and this registry."""

    def make(registry: str = "code_locations: []\n", **env: str) -> Installation:
        (tmp_path / "registry").mkdir(exist_ok=True)
        (tmp_path / "registry" / "code-locations.yaml").write_text(registry)
        (tmp_path / "compose.yaml").touch()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        given = {"DML_BIND": "127.0.0.1", "DML_HTTP_PORT": port, "DML_HTTPS_PORT": port, "DML_SITE": "localhost"}
        return Installation(tmp_path, given | {"DML_MIN_FREE_GB": "0"} | env, tmp_path / "state", "test")

    return make


def find(check: Check, installation: Installation, state: str) -> str:
    """Texts and fixes of the findings in that state."""
    found: list[Finding] = [finding for finding in check(installation) if finding.state == state]
    return "\n".join(f"{finding.text}. {finding.fix}" for finding in found)


Make = Callable[..., Installation]


def test_good_host_passes(make: Make) -> None:
    for check in (host.check_engine, host.check_memory, network.check_ports, network.check_dns, contents.check_images):
        assert [f for f in check(make()) if f.state == "failed"] == [], check


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"engine": "24.0.7"}, "Install Docker Engine 25.0 or newer"),
        ({"compose": "v2.20.2"}, "Install Docker Compose 2.24 or newer"),
        ({"info": INFO | {"MemoryLimit": False}}, "cannot limit memory"),
        ({"info": INFO | {"OSType": "windows"}}, "Switch it to Linux containers"),
    ],
)
def test_unfit_engine_is_refused(make: Make, docker: FakeEngine, change: dict[str, Any], why: str) -> None:
    vars(docker).update(change)
    assert why in find(host.check_engine, make(), "failed")


def test_without_an_engine_only_what_needs_it_is_not_checked(make: Make, docker: FakeEngine) -> None:
    docker.down = True
    states = {(r.check, r.finding.state) for r in run_checks(make())}
    assert ("engine", "failed") in states
    assert ("memory", "not checked") in states
    assert ("name", "ok") in states


def test_socket_of_another_group_is_named(make: Make, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "docker.sock"))
        wrong = make(DML_DOCKER_SOCKET=str(tmp_path / "docker.sock"), DML_DOCKER_GID="4711")
        assert f"Set DML_DOCKER_GID={os.getgid()}" in find(host.check_rights, wrong, "failed")
    assert "there is no socket" in find(host.check_rights, make(DML_DOCKER_SOCKET="/nowhere"), "failed")


def test_small_machine_is_refused_and_a_tight_one_is_warned_about(make: Make, docker: FakeEngine) -> None:
    docker.info["MemTotal"] = GIB
    assert "1.0 GiB; limits of the core 4.0" in find(host.check_memory, make(), "failed")
    docker.info["MemTotal"] = 3 * GIB
    host.engine_info.cache_clear()
    assert "more than there is" in find(host.check_memory, make(), "warning")


def test_full_disk_is_refused(make: Make) -> None:
    assert "at least 1000000 GiB are needed" in find(host.check_disk, make(DML_MIN_FREE_GB="1000000"), "failed")


def test_occupied_port_names_its_owner(make: Make) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        text = find(network.check_ports, make(DML_HTTPS_PORT=port), "failed")
    assert f"127.0.0.1:{port} is taken by" in text
    assert f"(process {os.getpid()})" in text
    assert "set DML_HTTPS_PORT to another port" in text


def test_port_of_this_stacks_own_proxy_is_fine_and_of_another_container_is_not(make: Make, docker: FakeEngine) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        docker.published = '{"Labels":"com.docker.compose.project=test,a=b","Names":"test-proxy-1"}'
        assert find(network.check_ports, make(DML_HTTPS_PORT=port), "failed") == ""
        docker.published = '{"Labels":"com.docker.compose.project=other","Names":"other-web-1"}'
        assert "is taken by container other-web-1" in find(network.check_ports, make(DML_HTTPS_PORT=port), "failed")


def test_name_without_an_address_is_refused_and_one_elsewhere_is_warned_about(make: Make) -> None:
    assert "Make a DNS record" in find(network.check_dns, make(DML_SITE="nobody.invalid"), "failed")
    assert "No address of this machine" in find(network.check_dns, make(DML_SITE="192.0.2.1"), "warning")
    assert "localhost is" in find(network.check_dns, make(DML_SITE="https://localhost:8443"), "ok")
    assert "nobody issues a certificate for 'localhost'" in find(
        network.check_dns, make(DML_TLS="a@example.com"), "failed"
    )


@pytest.fixture
def other_server() -> Iterator[HTTPServer]:
    """Answers with `offset_s` on its clock and with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            signed_in = "token" in self.path or "loggedInUser" in self.path or "endpoints" in self.path
            good = "right" in (self.headers.get("Authorization") or self.headers.get("X-API-Key") or self.body())
            status = 401 if signed_in and not good else getattr(self.server, "status", 200)
            self.send_response_only(status)
            now = time.time() + getattr(self.server, "offset_s", 0)
            self.send_header("Date", email.utils.formatdate(now, usegmt=True))
            self.end_headers()

        do_HEAD = do_POST = do_GET

        def body(self) -> str:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("offset_s", "state"), [(0, "ok"), (-20, "warning"), (300, "failed")])
def test_wrong_clock_is_seen(make: Make, other_server: HTTPServer, offset_s: int, state: str) -> None:
    other_server.offset_s = offset_s  # type: ignore[attr-defined]
    here = make(DML_AIRBYTE_URL=f"http://127.0.0.1:{other_server.server_port}")
    assert find(host.check_clock, here, state)


def test_clock_is_not_checked_where_nobody_answers(make: Make) -> None:
    assert find(host.check_clock, make(DML_AIRBYTE_URL="http://127.0.0.1:1"), "not checked")


def test_readable_and_empty_secrets_are_refused(make: Make) -> None:
    here = make()
    here.secrets.mkdir(parents=True)
    (here.secrets / "key").write_text("x")
    (here.secrets / "key").chmod(0o640)
    (here.secrets / "none").touch(mode=0o600)
    text = find(contents.check_secrets, here, "failed")
    assert f"key has mode 640, others can read it. chmod 600 {here.secrets / 'key'}" in text
    assert "none is empty" in text


def test_secret_that_people_have_to_give_is_asked_for(make: Make) -> None:
    text = find(contents.check_secrets, make(DML_DRIVER="portainer"), "failed")
    assert "portainer_api_key is missing: an API key of Portainer" in text


def test_each_mistake_of_the_registry_is_a_line(make: Make) -> None:
    here = make(ENTRY.format(name="Sales", digest="ab" * 32, memory="1m"))
    lines = [r.finding.text for r in run_checks(here, only=("registry",))]
    assert len(lines) >= 2
    assert all(line.startswith("line 2") for line in lines)


def test_too_many_projects_for_postgres_are_refused(make: Make) -> None:
    here = make(ENTRY.format(name="sales", digest="ab" * 32, memory="512m"), DML_POSTGRES_MAX_CONNECTIONS="10")
    (result,) = run_checks(here, only=("registry",))
    assert "Postgres connections" in result.finding.text
    assert "Set DML_POSTGRES_MAX_CONNECTIONS=" in result.finding.fix


def test_image_that_is_nowhere_is_refused(make: Make) -> None:
    digest = "ab" * 32
    text = find(contents.check_images, make(ENTRY.format(name="sales", digest=digest, memory="512m")), "failed")
    assert text.startswith(f"reg.test/sales@sha256:{digest} is neither here nor in its registry (no such manifest")
    assert "docker login" in text


def test_image_without_a_version_is_refused(make: Make, docker: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    docker.images |= {"reg.test:5000/web", "reg.test/db:latest"}
    monkeypatch.setitem(SERVICES, "web", {"image": "reg.test:5000/web"})
    monkeypatch.setitem(SERVICES, "db", {"image": "reg.test/db:latest"})
    assert "no exact version: reg.test/db:latest, reg.test:5000/web" in find(contents.check_images, make(), "failed")


def test_too_few_subnets_are_refused(make: Make, docker: FakeEngine) -> None:
    docker.networks = [{"Name": f"n{n}", "IPAM": {"Config": [{"Subnet": f"10.9.{n}.0/24"}]}} for n in range(4)]
    here = make(ENTRY.format(name="sales", digest="ab" * 32, memory="512m"))
    text = find(network.check_address_pools, here, "failed")
    assert "1 more networks are needed (1 projects), the engine has room for 0" in text
    assert "default-address-pools" in text


def test_taken_subnet_of_the_edge_is_refused(make: Make, docker: FakeEngine) -> None:
    docker.networks = [{"Name": "vpn", "IPAM": {"Config": [{"Subnet": "172.31.0.0/16"}]}}]
    text = find(network.check_address_pools, make(), "failed")
    assert "DML_EDGE_SUBNET 172.31.250.0/24 overlaps the network 172.31.0.0/16" in text


def test_address_outside_the_edge_is_named(make: Make, docker: FakeEngine) -> None:
    text = find(network.check_address_pools, make(DML_PROXY_IP="172.31.14.2"), "failed")
    assert "DML_PROXY_IP=172.31.14.2 is not in DML_EDGE_SUBNET 172.31.250.0/24" in text


def test_outside_service_that_does_not_answer_or_is_another_is_named(make: Make, other_server: HTTPServer) -> None:
    text = find(contents.check_outside, make(DML_AIRBYTE_URL="http://127.0.0.1:1"), "failed")
    assert "Airbyte at http://127.0.0.1:1 does not answer" in text
    assert "Connection refused" in text
    other_server.status = 404  # type: ignore[attr-defined]
    here = make(DML_AIRBYTE_URL=f"http://127.0.0.1:{other_server.server_port}")
    assert "Is that Airbyte? Correct DML_AIRBYTE_URL" in find(contents.check_outside, here, "failed")


@pytest.mark.parametrize(
    ("name", "settings", "secret", "fix"),
    [
        ("Airbyte", {"DML_AIRBYTE_CLIENT_ID": "application"}, "airbyte_client_secret", "Correct DML_AIRBYTE_CLIENT_ID"),
        ("OpenMetadata", {}, "projects/shop/openmetadata_token", "Copy the bot's token anew"),
        ("Portainer", {}, "portainer_api_key", "Make a new key in Portainer"),
    ],
)
def test_credentials_that_an_outside_service_refuses_are_named(
    make: Make, other_server: HTTPServer, name: str, settings: dict[str, str], secret: str, fix: str
) -> None:
    address = {f"DML_{name.upper()}_URL": f"http://127.0.0.1:{other_server.server_port}"}
    here = make(**address, **settings)
    if name == "OpenMetadata":
        push_from_shop(here)
    (here.secrets / secret).parent.mkdir(parents=True)
    (here.secrets / secret).write_text("wrong")
    text = find(contents.check_outside, here, "failed")
    assert "401" in text
    assert fix in text
    (here.secrets / secret).write_text("right")
    assert find(contents.check_outside, here, "failed") == ""
    assert f"{name} answers at" in find(contents.check_outside, here, "ok")


def push_from_shop(here: Installation) -> None:
    entry = ENTRY.format(name="shop", digest="a" * 64, memory="512m")
    here.registry_file.write_text(entry.replace("}\n", ", secrets: [openmetadata_token]}\n"))


def test_openmetadata_that_no_project_has_a_token_for_is_a_warning(make: Make, other_server: HTTPServer) -> None:
    here = make(DML_OPENMETADATA_URL=f"http://127.0.0.1:{other_server.server_port}")
    text = find(contents.check_outside, here, "warning")
    assert "no project pushes to OpenMetadata" in text
    assert f"{here.secrets}/projects/NAME/openmetadata_token" in text


def test_project_whose_token_of_openmetadata_is_missing_is_named(make: Make, other_server: HTTPServer) -> None:
    here = make(DML_OPENMETADATA_URL=f"http://127.0.0.1:{other_server.server_port}")
    push_from_shop(here)
    assert "shop has no token for OpenMetadata" in find(contents.check_outside, here, "failed")


def test_refusal_lists_what_failed_and_nothing_is_written(
    make: Make, docker: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    docker.down = True
    here = make()
    with pytest.raises(CheckFailedError, match=r"failed: engine.*nothing was changed"):
        preflight(here, Console(width=200))
    assert "FAILED      engine" in capsys.readouterr().out
    assert not here.state.exists()
