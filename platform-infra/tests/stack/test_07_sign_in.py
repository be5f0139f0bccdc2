"""The proxy's sign-in before services that only tell what reached them: local users, and a stand-in of oauth2-proxy.

TEST_CADDY_IMAGE names another version of the proxy.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from stack.engine import FOLDER, docker

NAME = f"dmlsignin{os.getpid()}"
# Every port stands for one service. Port 4180 is oauth2-proxy: it takes the cookie "who=<user>:<groups>" for a session.
SERVICES = r"""
import http.server, json, threading
class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        port, headers = self.server.server_port, {}
        status, who = 200, self.headers.get("Cookie", "").partition("who=")[2]
        if port == 4180 and self.path == "/oauth2/auth":
            status = 202 if who else 401
            user, _, groups = who.partition(":")
            headers = {"X-Auth-Request-User": user, "X-Auth-Request-Email": user + "@example.com"} if who else {}
            headers |= {"X-Auth-Request-Groups": groups} if groups else {}
        body = json.dumps({"port": port, "path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
    do_POST = do_GET
servers = [http.server.ThreadingHTTPServer(("", port), Service) for port in (3000, 3001, 3002, 8585, 9000, 4180)]
threads = [threading.Thread(target=server.serve_forever) for server in servers]
[thread.start() for thread in threads]
"""
ALIASES = ("grafana", "openmetadata", "portainer", "oauth2-proxy", "dagster", "object-store")
WEBSERVER, VIEWER, GRAFANA, CATALOG, PORTAINER, OBJECT_STORE = 3001, 3002, 3000, 8585, 9000, 9000
Ask = Callable[..., tuple[int, dict[str, Any], dict[str, str]]]


@pytest.fixture(scope="module")
def users(folder: Path) -> Path:
    """The file that `dml infra users` writes."""
    path = folder / "proxy_users"
    hashed = bcrypt.hashpw(b"correct", bcrypt.gensalt(4)).decode()
    path.write_text(
        f"(users) {{\n\tann {hashed}\n\tvera {hashed}\n\tnew {hashed}\n}}\n"
        "(roles) {\n\tann admin\n\tvera viewer\n}\n",
        encoding="utf-8",
    )
    path.chmod(0o644)
    return path


@pytest.fixture(scope="module")
def services(core_images: dict[str, str]) -> Iterator[str]:
    docker("network", "create", NAME)
    docker(
        *["run", "--detach", "--init", "--name", f"{NAME}-services", "--network", NAME],
        *(f"--network-alias={alias}" for alias in ALIASES),
        *[core_images["DML_DAGSTER_IMAGE"], "python", "-c", SERVICES],
    )
    try:
        yield NAME
    finally:
        docker("rm", "--force", "--volumes", *docker("ps", "-aq", f"--filter=name=^{NAME}").split())
        docker("network", "rm", NAME)


@pytest.fixture(scope="module")
def start(services: str, users: Path, core_images: dict[str, str]) -> Callable[[str], Ask]:
    image = os.environ.get("TEST_CADDY_IMAGE") or core_images["DML_CADDY_IMAGE"]

    def run(sign_in: str) -> Ask:
        name = f"{NAME}-{sign_in}"
        settings = {
            "DML_SITE": "http://localhost",
            "DML_TLS": "internal",
            "DML_SIGN_IN": sign_in,
            "DML_WEBSERVER": f"dagster:{WEBSERVER}",
            "DML_WEBSERVER_VIEWER": f"dagster:{VIEWER}",
            "DML_OIDC_ADMIN_GROUP": "dml-admins",
            "XDG_CONFIG_HOME": "/tmp",
        }
        docker(
            *["run", "--detach", "--name", name, "--network", services, "--publish=127.0.0.1::80"],
            *(f"--env={key}={value}" for key, value in settings.items()),
            *["--volume", f"{FOLDER}/config/caddy:/etc/caddy:ro", "--volume", f"{users}:/run/secrets/proxy_users:ro"],
            image,
        )
        port = int(docker("port", name, "80").splitlines()[0].rpartition(":")[2])

        def ask(
            path: str, *, user: str = "", headers: dict[str, str] | None = None, method: str = "GET"
        ) -> tuple[int, dict[str, Any], dict[str, str]]:
            sent = {"Host": "localhost", **(headers or {})}
            if user:
                sent["Authorization"] = "Basic " + base64.b64encode(f"{user}:correct".encode()).decode()
            connection = HTTPConnection("127.0.0.1", port, timeout=20)
            try:
                connection.request(method, path, headers=sent)
                answer = connection.getresponse()
                text = answer.read().decode()
                seen = json.loads(text) if text.startswith("{") else {"text": text}
                return answer.status, seen, {key.lower(): value for key, value in answer.getheaders()}
            finally:
                connection.close()

        deadline = time.monotonic() + 30
        while True:
            try:
                if ask("/")[0] in (302, 401):
                    return ask
            except (OSError, HTTPException):
                pass
            assert time.monotonic() < deadline, docker("logs", name)
            time.sleep(0.1)

    return run


@pytest.fixture(scope="module")
def local(start: Callable[[str], Ask]) -> Ask:
    return start("local")


@pytest.fixture(scope="module")
def oidc(start: Callable[[str], Ask]) -> Ask:
    return start("oidc")


REPORT = "/reports/orders/report/index.html"
PATHS = ("/", "/graphql", "/grafana/", "/portainer/", "/catalog/", "/catalog/data", "//graphql", "/oauth2/../graphql")
PATHS += ("/reports/", REPORT)


@pytest.mark.parametrize("path", PATHS)
def test_nobody_passes_without_signing_in(local: Ask, path: str) -> None:
    status, seen, headers = local(path)
    assert status == 401
    assert "port" not in seen
    assert headers["www-authenticate"].startswith("Basic")


def test_a_wrong_password_is_refused(local: Ask) -> None:
    wrong = {"Authorization": "Basic " + base64.b64encode(b"ann:wrong").decode()}
    assert local("/", headers=wrong)[0] == 401


@pytest.mark.parametrize(("user", "port"), [("ann", WEBSERVER), ("vera", VIEWER), ("new", VIEWER)])
def test_only_administrators_reach_the_webserver_that_can_change_things(local: Ask, user: str, port: int) -> None:
    for path in ("/", "/graphql"):
        assert local(path, user=user, method="POST")[1]["port"] == port


def test_a_password_is_not_handed_on(local: Ask) -> None:
    assert "authorization" not in local("/", user="ann")[1]["headers"]
    assert "authorization" not in local("/grafana/", user="ann")[1]["headers"]


def test_grafana_learns_name_and_role_from_the_proxy_alone(local: Ask) -> None:
    forged = {"X-Dml-User": "ann", "X-Dml-Grafana-Role": "Admin"}
    status, seen, _ = local("/grafana/d/1", user="vera", headers=forged)
    assert (status, seen["port"]) == (200, GRAFANA)
    assert seen["headers"]["x-dml-user"] == "vera"
    assert seen["headers"]["x-dml-grafana-role"] == "Viewer"
    assert local("/grafana/", user="ann")[1]["headers"]["x-dml-grafana-role"] == "Admin"


def test_only_administrators_reach_portainer(local: Ask) -> None:
    assert local("/portainer/api/stacks", user="vera")[0] == 403
    _, seen, _ = local("/portainer/api/stacks", user="ann")
    assert (seen["port"], seen["path"]) == (PORTAINER, "/api/stacks")


def test_a_report_comes_from_the_object_store_and_a_password_does_not_go_there(local: Ask) -> None:
    status, seen, headers = local(REPORT, user="vera")
    assert (status, seen["port"], seen["path"]) == (200, OBJECT_STORE, "/lake/orders/_report/index.html")
    assert "authorization" not in seen["headers"]
    assert headers["content-security-policy"].startswith("sandbox ")


def test_the_catalogues_api_takes_its_own_token(local: Ask, oidc: Ask) -> None:
    for ask in (local, oidc):
        status, seen, _ = ask("/catalog/api/v1/tables", headers={"Authorization": "Bearer token"})
        assert (status, seen["port"]) == (200, CATALOG)
        assert seen["headers"]["authorization"] == "Bearer token"


@pytest.mark.parametrize("path", PATHS)
def test_oidc_sends_strangers_to_sign_in(oidc: Ask, path: str) -> None:
    forged = {
        "X-Auth-Request-User": "ann",
        "X-Auth-Request-Email": "ann@example.com",
        "X-Auth-Request-Groups": "dml-admins",
    }
    status, seen, headers = oidc(path, headers=forged)
    assert seen.get("port") in (None, 4180)
    if status != 200:
        assert status == 302
        assert headers["location"].startswith("/oauth2/start?rd=")


@pytest.mark.parametrize(
    ("who", "port"),
    [
        ("ann:dml-admins", WEBSERVER),
        ("ann:dml-users,dml-admins", WEBSERVER),
        ("vera:dml-users", VIEWER),
        ("vera:not-dml-admins,dml-admins2", VIEWER),
        ("vera:", VIEWER),
    ],
)
def test_oidc_takes_the_role_from_the_groups_of_the_identity_provider(oidc: Ask, who: str, port: int) -> None:
    forged = {"Cookie": f"who={who}", "X-Auth-Request-Groups": "dml-admins", "X-Dml-User": "root"}
    assert oidc("/graphql", headers=forged, method="POST")[1]["port"] == port
    assert oidc("/grafana/", headers=forged)[1]["headers"]["x-dml-user"] == who.partition(":")[0] + "@example.com"
