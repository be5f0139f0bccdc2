"""A self-hosted Airbyte as far as we call it: a real HTTP server with tokens that expire and jobs that take their time.

Every request and response is checked against Airbyte's API description: what does not fit is in ``violations``.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from api_description import Description, find_operation

PREFIX = "/api/public/v1"
CLIENT_ID, CLIENT_SECRET = "client-of-the-test", "s3cr3t-of-the-client-4711"  # pragma: allowlist secret
FINAL = ("succeeded", "failed", "cancelled")


@dataclass
class Fault:
    """Answer the next requests of a kind otherwise: with a status, or by cutting the connection (0)."""

    method: str
    path: str
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | str | None = None


@dataclass
class FakeJob:
    """One job; each look at it takes it to the next status."""

    job_id: int
    connection_id: str
    statuses: list[str]
    rows: int = 0
    size: int = 0
    delivered: bool = False

    @property
    def status(self) -> str:
        return self.statuses[0]


class FakeAirbyte:
    """The server's state.

    Args:
        deliver: what a job does right before it succeeds; gives rows and bytes.
    """

    def __init__(self, connection: dict[str, Any], deliver: Callable[[], tuple[int, int]] | None = None) -> None:
        self.connection = connection
        self.deliver = deliver or (lambda: (0, 0))
        self.script = ["pending", "running", "succeeded"]
        self.token_lives_s = 900.0
        self.token_says_s: int | None = None
        self.token_uses = 1_000_000
        self.delay_s = 0.0
        self.jobs: list[FakeJob] = []
        self.faults: list[Fault] = []
        self.tokens: dict[str, float] = {}
        self.uses: dict[str, int] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.violations: list[str] = []
        self.description = Description()
        self.lock = threading.RLock()
        self.url = ""

    def count(self, method: str, path: str) -> int:
        """Requests of a kind so far."""
        return sum(1 for m, p, _ in self.requests if m == method and p.startswith(path))

    @property
    def running(self) -> FakeJob | None:
        return next((job for job in self.jobs if job.status not in FINAL), None)

    def start_job(self) -> FakeJob:
        job = FakeJob(100 + len(self.jobs), self.connection["connectionId"], list(self.script))
        self.jobs.append(job)
        return job

    def describe(self, job: FakeJob) -> dict[str, Any]:
        document = {
            "jobId": job.job_id,
            "status": job.status,
            "jobType": "sync",
            "startTime": "2026-11-23T00:00:00Z",
            "connectionId": job.connection_id,
        }
        return {**document, "bytesSynced": job.size, "rowsSynced": job.rows} if job.delivered else document

    def answer(self, method: str, path: str, body: Any, token: str | None) -> tuple[int, Any]:
        """What the server says to a request that is well formed."""
        if path == "/applications/token":
            return self._sign_in(body)
        if token is None or self.tokens.get(token, 0.0) < time.monotonic():
            return _problem(401, "invalid-api-key", "The token is expired or unknown.")
        self.uses[token] = self.uses.get(token, 0) + 1
        if self.uses[token] >= self.token_uses:
            self.tokens[token] = 0.0
        if path.startswith("/connections/"):
            found = path.removeprefix("/connections/") == self.connection["connectionId"]
            return (200, self.connection) if found else _problem(404, "resource-not-found", "No such connection.")
        if (method, path) == ("post", "/jobs"):
            if body["connectionId"] != self.connection["connectionId"]:
                return _problem(404, "resource-not-found", "No such connection.")
            if self.running:
                return _problem(409, "try-again-later", "A sync is already running.")
            return 200, self.describe(self.start_job())
        if path == "/jobs":
            return 200, {"data": [self.describe(job) for job in reversed(self.jobs)]}
        job = next((job for job in self.jobs if str(job.job_id) == path.removeprefix("/jobs/")), None)
        if job is None:
            return _problem(404, "resource-not-found", "No such job.")
        if method == "delete":
            job.statuses = ["cancelled"]
        elif len(job.statuses) > 1:
            if job.statuses[1] == "succeeded":
                self._deliver(job)
            job.statuses.pop(0)
        return 200, self.describe(job)

    def _deliver(self, job: FakeJob) -> None:
        try:
            job.rows, job.size = self.deliver()
        except Exception as error:
            self.violations.append(f"the job could not deliver: {error!r}")
            raise
        job.delivered = True

    def _sign_in(self, body: Any) -> tuple[int, Any]:
        if (body["client_id"], body["client_secret"]) != (CLIENT_ID, CLIENT_SECRET):
            return _problem(401, "unauthorized", "Unknown client.")
        token = f"token-{uuid.uuid4().hex}"
        self.tokens[token] = time.monotonic() + self.token_lives_s
        says = self.token_says_s if self.token_says_s is not None else int(self.token_lives_s)
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": says}

    def take_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and path.startswith(fault.path):
                fault.times -= 1
                return fault
        return None


def _problem(status: int, title: str, detail: str) -> tuple[int, dict[str, Any]]:
    kind = f"https://reference.airbyte.com/reference/errors#{title}"
    return status, {"status": status, "type": kind, "title": title, "detail": detail}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    airbyte: FakeAirbyte

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("get")

    def do_POST(self) -> None:
        self._serve("post")

    def do_DELETE(self) -> None:
        self._serve("delete")

    def _serve(self, method: str) -> None:
        airbyte = self.airbyte
        parts = urlsplit(self.path)
        path = parts.path.removeprefix(PREFIX)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(content) if content else None
        time.sleep(airbyte.delay_s)
        with airbyte.lock:
            template = find_operation(method, path)
            if template is None or not parts.path.startswith(PREFIX):
                airbyte.violations.append(f"{method} {parts.path} is not in the description")
                return self._send(404, _problem(404, "resource-not-found", "No such path.")[1])
            query = dict(parse_qsl(parts.query))
            airbyte.violations += airbyte.description.check_request(method, template, query, body)
            fault = airbyte.take_fault(method, path)
            if fault is not None and not fault.status:
                airbyte.requests.append((method, path, 0))
                self.close_connection = True
                return None
            if fault is not None:
                told = fault.body or _problem(fault.status, "fault", f"A planted {fault.status}.")[1]
                status, answer, headers = fault.status, told, fault.headers
            else:
                kind, _, token = (self.headers.get("Authorization") or "").partition(" ")
                status, answer = airbyte.answer(method, path, body, token if kind == "Bearer" else None)
                headers = {}
            if not isinstance(answer, str):
                airbyte.violations += airbyte.description.check_response(method, template, status, answer)
            airbyte.requests.append((method, path, status))
        return self._send(status, answer, headers)

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        is_text = isinstance(body, str)
        content = body.encode() if is_text else json.dumps(body).encode()
        kind = "text/html" if is_text else "application/json" if status == 200 else "application/problem+json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that went away is what some tests are about."""


def make_connection(streams: dict[str, str]) -> dict[str, Any]:
    """A connection with these streams and their sync modes."""
    ids = {name: str(uuid.uuid4()) for name in ("connectionId", "sourceId", "destinationId", "workspaceId")}
    return {
        **ids,
        "name": "shop to landing",
        "status": "active",
        "schedule": {"scheduleType": "manual"},
        "configurations": {"streams": [{"name": n, "syncMode": mode} for n, mode in streams.items()]},
        "createdAt": 1763856000,
        "tags": [],
    }


@contextmanager
def serve(airbyte: FakeAirbyte) -> Iterator[FakeAirbyte]:
    """Run the server in a thread of its own on a free port."""
    handler = type("Handler", (_Handler,), {"airbyte": airbyte})
    server = _Server(("127.0.0.1", 0), handler)
    airbyte.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield airbyte
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
