"""A Portainer on loopback that behaves as the real one does where the driver depends on it.

It deploys with `docker compose` where it is given an engine, else it only keeps state. Every request and answer is
checked against ``portainer_api.json``; ``broken`` collects what does not fit.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import yaml

API = json.loads(Path(__file__).with_name("portainer_api.json").read_text(encoding="utf-8"))
ACTIVE, INACTIVE, DEPLOYING, FAILED = 1, 2, 3, 4


class DeploymentFailed(Exception):
    """What Compose said."""


@dataclass
class Exchange:
    """One call, as it went over the wire."""

    operation: str
    query: dict[str, str]
    body: Any
    status: int
    answer: Any


@dataclass
class FakePortainer:
    """State and switches of the server.

    Args:
        folder: where stack files are kept.
        engine: deploy with `docker compose`; otherwise a deployment only takes note of the services in the text.
        asynchronous: answer at once and deploy in the background, as from 2.45; else as versions before.
    """

    folder: Path
    engine: bool = False
    asynchronous: bool = True
    key: str = "ptr_right"
    environments: dict[int, str] = field(default_factory=lambda: {2: "local", 7: "far"})
    stacks: dict[int, dict[str, Any]] = field(default_factory=dict)
    files: dict[int, str] = field(default_factory=dict)
    running: dict[str, dict[str, str]] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    fail_with: str = ""
    foreign_projects: set[str] = field(default_factory=set)
    on_call: Callable[[str], None] = lambda operation: None
    url: str = ""

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.deploy_now = threading.Event()
        self.deploy_now.set()
        self._threads: list[threading.Thread] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._serving = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._serving.start()

    def close(self) -> None:
        """Stop the server and end what it deploys."""
        self.deploy_now.set()
        for thread in self._threads:
            thread.join()
        self._server.shutdown()
        self._server.server_close()
        self._serving.join()

    def operations(self) -> list[str]:
        """The calls so far."""
        return [exchange.operation for exchange in self.exchanges]

    def call(self, method: str, path: str, query: dict[str, str], key: str | None, body: Any) -> Exchange:
        """Answer one request and check it."""
        operation, stack_or_environment = _match(method, path)
        self.on_call(operation)
        status, answer = self._answer(operation, stack_or_environment, query, key, body)
        exchange = Exchange(operation, query, body, status, answer)
        self.exchanges.append(exchange)
        self._check(exchange)
        return exchange

    def _answer(self, operation: str, ident: int, query: dict[str, str], key: str | None, body: Any) -> tuple[int, Any]:
        if operation not in API["operations"]:
            return 404, {"message": "no such page"}
        if key is None:
            return 401, _error("A valid authorization token is missing", "Unauthorized")
        if key != self.key:
            return 401, _error("Invalid JWT token", "Unauthorized")
        with self.lock:
            if operation == "GET /endpoints":
                return 200, [{"Id": i, "Name": n, "Type": 1} for i, n in self.environments.items()]
            if operation.startswith("GET /endpoints/"):
                return self._containers(ident, json.loads(query["filters"])["label"][0].partition("=")[2])
            if operation == "GET /stacks":
                wanted = json.loads(query.get("filters", "{}")).get("EndpointID")
                return 200, [s for s in self.stacks.values() if wanted in {None, s["EndpointId"]}]
            if operation.startswith("POST"):
                return self._create(query, body)
            if ident not in self.stacks:
                return 404, _error(
                    "Unable to find a stack with the specified identifier inside the database", "Object not found"
                )
            if operation.endswith("/file"):
                return 200, {"StackFileContent": self.files[ident]}
            if operation.startswith("PUT"):
                return self._update(ident, query, body)
            if operation.startswith("DELETE"):
                return self._delete(ident, query)
            return 200, dict(self.stacks[ident])

    def _create(self, query: dict[str, str], body: Any) -> tuple[int, Any]:
        environment = int(query["endpointId"])
        if environment not in self.environments:
            return 404, _error(
                "Unable to find an environment with the specified identifier inside the database", "Object not found"
            )
        if not body.get("Name") or not body.get("StackFileContent"):
            return 400, _error("Invalid request payload", "Invalid stack file content")
        name = re.sub("[^-_a-z0-9]+", "", body["Name"].lower())
        if name in {s["Name"] for s in self.stacks.values()} | self.foreign_projects | set(self._projects()):
            return 409, _error(f"A stack with the normalized name '{name}' already exists")
        ident = max(self.stacks, default=0) + 1
        stack = {"Id": ident, "Name": name, "Type": 2, "EndpointId": environment, "GitConfig": None, "Status": INACTIVE}
        stack |= {"Env": body.get("Env"), "CreationDate": int(time.time()), "CreatedBy": "admin"}
        self.stacks[ident] = stack
        self.files[ident] = body["StackFileContent"]
        status, answer = self._start(ident, prune=False)
        if status != 200:
            # Versions that deploy within the request keep nothing of a failed creation.
            del self.stacks[ident], self.files[ident]
        return status, answer

    def _update(self, ident: int, query: dict[str, str], body: Any) -> tuple[int, Any]:
        stack = self.stacks[ident]
        if stack["Status"] == DEPLOYING:
            return 409, _error("Unable to update stack", "Stack deployment is already in progress")
        if int(query["endpointId"]) not in self.environments:
            return 404, _error(
                "Unable to find the environment associated to the stack inside the database", "Object not found"
            )
        if not body.get("StackFileContent"):
            return 400, _error("Invalid request payload", "Invalid stack file content")
        # What is not sent is gone.
        stack["Env"] = body.get("Env")
        stack["UpdateDate"] = int(time.time())
        before = self.files[ident]
        self.files[ident] = body["StackFileContent"]
        return self._start(ident, prune=body.get("Prune", False), restore=before)

    def _delete(self, ident: int, query: dict[str, str]) -> tuple[int, Any]:
        if int(query["endpointId"]) not in self.environments:
            return 404, _error(
                "Unable to find the environment associated to the stack inside the database", "Object not found"
            )
        stack = self.stacks.pop(ident)
        self._down(stack["Name"])
        return 204, None

    def _start(self, ident: int, *, prune: bool, restore: str | None = None) -> tuple[int, Any]:
        stack = self.stacks[ident]
        start_status = stack["Status"]
        stack |= {"Status": DEPLOYING, "DeploymentStartStatus": start_status}
        stack["DeploymentStatus"] = [{"Status": DEPLOYING, "Time": int(time.time())}]
        answer = dict(stack)
        thread = threading.Thread(target=self._deploy, args=(ident, start_status, prune, restore))
        self._threads.append(thread)
        if self.asynchronous:
            thread.start()
            return 200, answer
        self._deploy(ident, start_status, prune, restore)
        self._threads.remove(thread)
        if stack["Status"] == FAILED:
            return 500, _error(stack.pop("DeploymentStatus")[-1]["Message"])
        del stack["DeploymentStatus"], stack["DeploymentStartStatus"]
        return 200, dict(stack)

    def _deploy(self, ident: int, start_status: int, prune: bool, restore: str | None) -> None:
        self.deploy_now.wait()
        stack = self.stacks[ident]
        if start_status == FAILED:
            self._down(stack["Name"])
        try:
            self._up(stack["Name"], self.files[ident], stack["Env"] or [], prune)
            entry = {"Status": ACTIVE, "Time": int(time.time())}
        except DeploymentFailed as error:
            entry = {"Status": FAILED, "Time": int(time.time()), "Message": str(error)}
        with self.lock:
            if entry["Status"] == FAILED and restore is not None:
                self.files[ident] = restore
            stack["DeploymentStatus"] = [*stack["DeploymentStatus"], entry]
            stack["Status"] = entry["Status"]

    def _up(self, project: str, text: str, env: list[dict[str, str]], prune: bool) -> None:
        if self.fail_with:
            message, self.fail_with = self.fail_with, ""
            raise DeploymentFailed(message)
        if not self.engine:
            services = dict.fromkeys(yaml.safe_load(text)["services"], "running")
            self.running[project] = services if prune else {**self.running.get(project, {}), **services}
            return
        file = self.folder / project / "docker-compose.yml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        command = ["docker", "compose", "-p", project, "-f", str(file), "up", "--detach", "--pull=never"]
        command += ["--remove-orphans"] if prune else []
        path = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
        done = subprocess.run(
            command, env=path | {p["name"]: p["value"] for p in env}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise DeploymentFailed(f"failed to deploy a stack: {done.stderr.strip()}")

    def _down(self, project: str) -> None:
        self.running.pop(project, None)
        if self.engine:
            subprocess.run(["docker", "compose", "-p", project, "down", "-t", "1"], capture_output=True, check=True)

    def _projects(self) -> list[str]:
        if not self.engine:
            return list(self.running)
        command = ["docker", "ps", "-a", "--format", '{{.Label "com.docker.compose.project"}}']
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    def _containers(self, environment: int, project: str) -> tuple[int, Any]:
        if environment not in self.environments:
            return 404, _error(
                "Unable to find an environment with the specified identifier inside the database", "Object not found"
            )
        if not self.engine:
            return 200, [
                {"Names": [f"/{project}-{s}"], "State": state, "Labels": {"com.docker.compose.service": s}}
                for s, state in self.running.get(project, {}).items()
            ]
        command = ["docker", "ps", "-a", "--format", '{{.Names}}\t{{.State}}\t{{.Label "com.docker.compose.service"}}']
        command.append(f"--filter=label=com.docker.compose.project={project}")
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        rows = [line.split("\t") for line in lines]
        return 200, [{"Names": ["/" + n], "State": s, "Labels": {"com.docker.compose.service": v}} for n, s, v in rows]

    def _check(self, exchange: Exchange) -> None:
        described = API["operations"].get(exchange.operation)
        if described is None:
            self.broken.append(f"{exchange.operation} is not in the API")
            return
        for name in exchange.query:
            if name not in described["query"]:
                self.broken.append(f"{exchange.operation}: no query parameter {name!r}")
        for name, required in described["query"].items():
            if required and name not in exchange.query:
                self.broken.append(f"{exchange.operation}: query parameter {name!r} is missing")
        if (exchange.body is None) != ("body" not in described):
            self.broken.append(f"{exchange.operation}: a body is there or missing")
        if exchange.body is not None and "body" in described:
            self._validate(exchange, "request", exchange.body, described["body"])
        answers = {**API["always"], **described["answers"]}
        if str(exchange.status) not in answers:
            self.broken.append(f"{exchange.operation}: answers no {exchange.status}")
        elif (schema := answers[str(exchange.status)]) is not None:
            self._validate(exchange, "answer", exchange.answer, schema)

    def _validate(self, exchange: Exchange, part: str, value: Any, schema: Any) -> None:
        whole = {**schema, "schemas": API["schemas"], "errors": API["errors"]}
        for error in jsonschema.Draft202012Validator(whole).iter_errors(value):
            self.broken.append(f"{exchange.operation} {part} {error.json_path}: {error.message}")


def _match(method: str, path: str) -> tuple[str, int]:
    number = re.search(r"/(\d+)(?=/|$)", path)
    return f"{method} {re.sub(r'/[0-9]+(?=/|$)', '/{id}', path, count=1)}", int(number[1]) if number else 0


def _error(message: str, details: str = "") -> dict[str, str]:
    return {"message": message, "details": details or message}


def _handler(fake: FakePortainer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            path = parts.path.removeprefix("/api")
            exchange = fake.call(self.command, path, query, self.headers.get("X-API-Key"), body)
            content = b"" if exchange.answer is None else json.dumps(exchange.answer).encode()
            self.send_response(exchange.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _respond

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    return Handler
