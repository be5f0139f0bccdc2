"""Projects' pages through the real proxy, out of a real object store: who sees which, and what a page may do."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import bcrypt
import pytest
from services.servers import Servers, free_port, wait_for

from dml_infra import secrets

pytestmark = pytest.mark.integration

CONFIG = Path(__file__).parents[2] / "config" / "caddy"
PAGE = b"<!doctype html><title>orders</title>"
OBJECTS = {
    "orders/_report/index.html": PAGE,
    "orders/_elementary/report.html": PAGE,
    "orders/_report/notes.txt": b"x",
    "orders/_runs/r1/index.html": b"x",
    "orders/raw/t/data/1.parquet": b"x",
    "orders/_catalog/document.json": b"x",
}
Answer = tuple[int, dict[str, str], bytes]
Ask = Callable[..., Answer]


def fetch(request: urllib.request.Request) -> Answer:
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


@pytest.fixture
def pages(servers: Servers) -> Servers:
    """The object store with what two runs of a project leave."""
    installation = servers.installation
    root = secrets.S3Key(
        secrets.read_secret(installation, "object_store_root_user"),
        secrets.read_secret(installation, "object_store_root_password"),
    )
    for name, content in OBJECTS.items():
        kind = "text/html; charset=utf-8" if name.endswith(".html") else "application/octet-stream"
        servers.client(root).put_object("lake", name, io.BytesIO(content), len(content), content_type=kind)
    return servers


@pytest.fixture
def ask(pages: Servers, tmp_path: Path) -> Iterator[Ask]:
    """The proxy with its own configuration; only addresses and ports are those of this machine."""
    if not shutil.which("caddy"):
        pytest.skip("no Caddy here: there is no 'caddy' on the path")
    folder = shutil.copytree(CONFIG, tmp_path / "caddy")
    hashed = bcrypt.hashpw(b"correct", bcrypt.gensalt(4)).decode()
    (tmp_path / "users").write_text(
        f"(users) {{\n\tvera {hashed}\n}}\n(roles) {{\n\tvera viewer\n}}\n", encoding="utf-8"
    )
    text = (folder / "Caddyfile").read_text(encoding="utf-8")
    for old, new in {
        "/run/secrets/proxy_users": str(tmp_path / "users"),
        "object-store:9000": f"127.0.0.1:{pages.s3_port}",
        "127.0.0.1:2019": f"127.0.0.1:{free_port()}",
        ":2020": f":{free_port()}",
    }.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "Caddyfile").write_text(text, encoding="utf-8")
    address = f"http://127.0.0.1:{free_port()}"
    settings = {
        "DML_SITE": address,
        "DML_TLS": "internal",
        "DML_SIGN_IN": "local",
        "DML_WEBSERVER": "127.0.0.1:1",
        "DML_WEBSERVER_VIEWER": "127.0.0.1:1",
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }

    def ask(path: str, *, user: str = "vera", method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
        sent = dict(headers or {})
        if user:
            sent["Authorization"] = "Basic " + base64.b64encode(f"{user}:correct".encode()).decode()
        return fetch(urllib.request.Request(f"{address}{path}", headers=sent, method=method))

    def answers() -> bool:
        try:
            return ask("/reports/", user="")[0] == 401
        except OSError:
            return False

    command = ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    with (tmp_path / "log").open("wb") as log:
        caddy = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log)
    try:
        wait_for(answers, f"Caddy ({tmp_path / 'log'})", seconds=30)
        yield ask
    finally:
        caddy.terminate()
        caddy.wait(30)


def test_a_signed_in_person_opens_the_pages_of_a_project(ask: Ask) -> None:
    for path in ("/reports/orders/report/index.html", "/reports/orders/elementary/report.html", "/reports/orders"):
        status, headers, body = ask(path)
        assert (status, body) == (200, PAGE), path
        assert headers["content-type"] == "text/html; charset=utf-8"
    assert ask("/reports/orders/report/index.html", method="HEAD")[0] == 200


def test_a_page_runs_without_an_origin_and_calls_nobody(ask: Ask) -> None:
    headers = ask("/reports/orders/report/index.html")[1]
    policy = [part.strip() for part in headers["content-security-policy"].split(";")]
    [sandbox] = [part for part in policy if part.startswith("sandbox")]
    assert "allow-scripts" in sandbox
    assert "allow-same-origin" not in sandbox
    assert "default-src 'unsafe-inline' data: blob:" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


def test_nobody_sees_a_page_without_signing_in(ask: Ask) -> None:
    status, _, body = ask("/reports/orders/report/index.html", user="")
    assert status == 401
    assert PAGE not in body


@pytest.mark.parametrize(
    "path",
    [
        "/reports/",
        "/reports/nobody/report/index.html",
        "/reports/orders/report/notes.txt",
        "/reports/orders/runs/r1/index.html",
        "/reports/orders/catalog/document.json",
        "/reports/orders/raw/t/data/1.parquet",
        "/reports/orders/report/../../orders/_runs/r1/index.html",
        "/reports/orders/report/%2e%2e/_runs/index.html",
        "/reports/orders/report/index.html/",
        "/reports//report/index.html",
    ],
)
def test_nothing_else_of_the_object_store_is_shown(ask: Ask, path: str) -> None:
    status, _, body = ask(path)
    assert status == 404
    assert body.startswith(b"There is no such page")


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_a_page_is_only_read(ask: Ask, method: str) -> None:
    assert ask("/reports/orders/report/index.html", method=method)[0] == 404
    assert ask("/reports/orders/report/index.html")[2] == PAGE


def test_a_visitors_query_and_headers_do_not_reach_the_object_store(ask: Ask) -> None:
    for query in ("?acl", "?policy", "?tagging", "?X-Amz-Signature=x&X-Amz-Algorithm=AWS4-HMAC-SHA256"):
        assert ask(f"/reports/orders/report/index.html{query}")[2] == PAGE, query
    forged = {"X-Amz-Security-Token": "x", "Cookie": "who=vera", "X-Amz-Content-Sha256": "x"}
    assert ask("/reports/orders/report/index.html", headers=forged)[2] == PAGE


def test_the_object_store_gives_strangers_pages_and_nothing_else(pages: Servers) -> None:
    def status(path: str, method: str = "GET") -> int:
        return fetch(urllib.request.Request(f"{pages.endpoint}/{path}", method=method, data=None))[0]

    allowed = {"orders/_report/index.html", "orders/_elementary/report.html"}
    assert {name for name in OBJECTS if status(f"lake/{name}") == 200} == allowed
    assert {status("lake"), status("lake/?list-type=2&prefix=orders/_report/"), status("")} == {403}
    assert status("lake/orders/_report/index.html", "DELETE") == 403
    assert status("lake/orders/_report/new.html", "PUT") == 403


def test_a_project_cannot_write_the_pages_of_another(pages: Servers) -> None:
    client = pages.client(pages.key("sales"))
    with pytest.raises(Exception, match="Access Denied"):
        client.put_object("lake", "orders/_report/index.html", io.BytesIO(b"x"), 1)
    client.put_object("lake", "sales/_report/index.html", io.BytesIO(PAGE), len(PAGE), content_type="text/html")
