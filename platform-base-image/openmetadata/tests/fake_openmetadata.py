"""A stateful OpenMetadata for tests: over HTTP, with a token, each body in both directions checked by its schemas."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from fake_routes import BY_TYPE, KINDS, Kind, compile_route, visible
from fake_store import BOT, ApiError, Store
from vendor_schema import Checker, Spec, WrongShape

TOKEN = "test-token-of-a-bot"  # pragma: allowlist secret
VERSION = "2.0.5"
_PERSON = "test-token-of-a-person"  # pragma: allowlist secret


class FakeOpenMetadata:
    """The server. ``faults`` are answered first: a status, or ``"cut"`` for a connection that ends.

    ``log`` has each request as method and path, ``wrong`` each body that was of another shape.
    """

    def __init__(self, spec: Spec | None = None, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.checker = Checker(spec)
        self.store = Store(self.checker)
        self.version = VERSION
        self.faults: list[Any] = []
        self.fault_when: Callable[[str, str], Any] | None = None
        self.log: list[tuple[str, str]] = []
        self.wrong: list[str] = []
        self.page = 25
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(address, _handler(self))

    @property
    def url(self) -> str:
        """Its address, as people give it."""
        return f"http://127.0.0.1:{self._http.server_port}"

    @contextmanager
    def running(self) -> Iterator[FakeOpenMetadata]:
        """Serve until the end of the block; what was of a wrong shape fails the test then."""
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()
        assert not self.wrong, self.wrong[:3]

    def person(self, method: str, path: str, body: Any = None) -> Any:
        """What somebody does in OpenMetadata's pages."""
        answer = self.handle(method, path, {"Authorization": f"Bearer {_PERSON}"}, body, faults=False)
        assert answer[0] < 300, answer
        return answer[1]

    def get(self, type_: str, fqn: str, *, deleted: bool = False) -> dict[str, Any] | None:
        """An entity as it is kept; None where it is gone."""
        found = self.store.by_fqn(type_, fqn)
        return found if found and (deleted or not found["deleted"]) else None

    def names(self, type_: str) -> list[str]:
        """The fully qualified names of what is there."""
        return sorted(e["fullyQualifiedName"] for e in self.store.entities[type_].values() if not e["deleted"])

    def edges(self) -> list[str]:
        """``source -> target`` of each edge."""
        every = {e["id"]: e["fullyQualifiedName"] for kind in self.store.entities.values() for e in kind.values()}
        return sorted(f"{every[a]} -> {every[b]}" for a, b in self.store.edges)

    def writes(self) -> list[tuple[str, str]]:
        """The requests that may change something."""
        return [(method, path) for method, path in self.log if method != "GET"]

    def handle(
        self, method: str, target: str, headers: Any, body: Any, *, faults: bool = True
    ) -> tuple[Any, Any, dict[str, str]]:
        """Answer a request: status, body, headers."""
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        path = parts.path.removeprefix("/api/v1")
        with self._lock:
            self.log.append((method, path))
            fault = self.faults.pop(0) if faults and self.faults else None
            if faults and fault is None and self.fault_when:
                fault = self.fault_when(method, path)
            if fault is not None:
                more = {"Retry-After": "1"} if fault == 429 else {}
                return fault, {"code": fault, "message": f"a planned {fault}"}, more
            try:
                user = self._user(headers)
                return (*self._answer(method, path, query, body, user), {})
            except ApiError as error:
                return error.status, {"code": error.status, "message": error.message}, {}
            except (WrongShape, LookupError, TypeError, ValueError) as error:
                self.wrong.append(f"{method} {path}: {type(error).__name__}: {error}")
                return 400, {"code": 400, "message": str(error)[:200]}, {}

    def _user(self, headers: Any) -> str:
        given = (headers.get("Authorization") or "").removeprefix("Bearer ")
        if given not in (TOKEN, _PERSON):
            raise ApiError(401, "Token has expired or is not valid")
        return BOT if given == TOKEN else "anna"

    def _answer(self, method: str, path: str, query: dict[str, str], body: Any, user: str) -> tuple[int, Any]:
        for verb, pattern, function in _ROUTES:
            if verb == method and (found := pattern.fullmatch(path)):
                return function(self, query, body, user, **{k: unquote(v) for k, v in found.groupdict().items()})
        for kind in sorted(KINDS, key=lambda kind: -len(kind.route)):
            if path == kind.route or path.startswith(f"{kind.route}/"):
                return self._entity(method, kind, path[len(kind.route) :].strip("/"), query, body, user)
        raise ApiError(404, f"HTTP 404 Not Found: {path}")

    def _entity(
        self, method: str, kind: Kind, rest: str, query: dict[str, str], body: Any, user: str
    ) -> tuple[int, Any]:
        if method == "GET":
            return 200, self._read(kind, rest, query)
        if method == "PUT" and rest == "restore":
            self.checker.check("api/data/restoreEntity", body, rest)
            return 200, self._give(kind, self.store.restore(kind, body["id"]))
        if method == "PUT" and not rest:
            self.checker.check(kind.create, body, kind.create)
            entity, is_new = self.store.create_or_update(kind, body, user)
            return 201 if is_new else 200, self._give(kind, entity)
        if method == "PATCH":
            return 200, self._give(kind, self.store.patch(kind, rest, body, user))
        if method == "DELETE":
            hard, recursive = query.get("hardDelete") == "true", query.get("recursive") == "true"
            return 200, self._give(kind, self.store.delete(kind, rest, hard=hard, recursive=recursive))
        raise ApiError(405, f"HTTP 405 Method Not Allowed: {method} {kind.route}/{rest}")

    def _read(self, kind: Kind, rest: str, query: dict[str, str]) -> Any:
        fields = {name for name in query.get("fields", "").split(",") if name}
        if unknown := fields - set(kind.fields) - {"*"}:
            raise ApiError(400, f"Invalid field name {sorted(unknown)[0]}")
        include = query.get("include", "non-deleted")
        if rest.startswith("name/"):
            found = self.store.need(kind.type, unquote(rest[5:]), deleted=include == "all")
            return self._give(kind, found, fields)
        if rest:
            return self._give(kind, self.store.by_id(kind.type, rest), fields)
        chosen = [e for e in self.store.entities[kind.type].values() if include == "all" or not e["deleted"]]
        for name in kind.filters:
            if wanted := query.get(name):
                chosen = [e for e in chosen if self._belongs(e, name, wanted)]
        chosen.sort(key=lambda entity: entity["fullyQualifiedName"])
        start, limit = int(query.get("after") or 0), min(int(query.get("limit", 10)), self.page)
        paging: dict[str, Any] = {"total": len(chosen)}
        if start + limit < len(chosen):
            paging["after"] = str(start + limit)
        return {"data": [self._give(kind, e, fields) for e in chosen[start : start + limit]], "paging": paging}

    def _belongs(self, entity: dict[str, Any], name: str, wanted: str) -> bool:
        if name == "testSuiteId":
            return entity["id"] in self.store.suites.get(wanted, set())
        return bool(entity.get(name, {}).get("fullyQualifiedName") == wanted)

    def _give(self, kind: Kind, entity: dict[str, Any], fields: set[str] | None = None) -> dict[str, Any]:
        whole = set(kind.fields) if fields is None else fields
        given = visible(kind, self.store.inherited(kind, entity), whole)
        self.checker.check(kind.entity, given, f"answer {kind.type}")
        return given

    def _put_lineage(self, query: Any, body: Any, user: str) -> tuple[int, Any]:
        self.checker.check("api/lineage/addLineage", body, "lineage")
        self.store.add_edge(body["edge"])
        return 200, None

    def _get_lineage(self, query: dict[str, str], body: Any, user: str, *, type: str, fqn: str) -> tuple[int, Any]:
        found = self.store.lineage(type, fqn, int(query.get("upstreamDepth", 1)), int(query.get("downstreamDepth", 1)))
        self.checker.check("type/entityLineage", found, "answer lineage")
        return 200, found

    def _delete_lineage(self, query: Any, body: Any, user: str, **ends: str) -> tuple[int, Any]:
        if self.store.edges.pop((ends["source"], ends["target"]), None) is None:
            raise ApiError(404, "entityRelationship instance not found")
        return 200, None

    def _put_profile(self, query: Any, body: Any, user: str, *, id: str) -> tuple[int, Any]:
        self.checker.check("api/data/createTableProfile", body, "profile")
        table = self.store.by_id("table", id)
        known = {column["name"] for column in table["columns"]}
        for column in body.get("columnProfile") or ():
            if column["name"] not in known:
                raise ApiError(400, f"Invalid column name {column['name']}")
        self.store.profiles.setdefault(table["fullyQualifiedName"], {})[body["tableProfile"]["timestamp"]] = body
        return 200, self._give(BY_TYPE["table"], table)

    def _put_model(self, query: Any, body: Any, user: str, *, id: str) -> tuple[int, Any]:
        self.checker.check("entity/data/table#/definitions/dataModel", body, "model")
        table = self.store.by_id("table", id)
        changed = {**table, "dataModel": body, "version": round(table["version"] + 0.1, 1)}
        self.store.entities["table"][id] = changed
        return 200, self._give(BY_TYPE["table"], changed)

    def _put_status(self, query: Any, body: Any, user: str, *, fqn: str) -> tuple[int, Any]:
        self.checker.check("entity/data/pipeline#/definitions/pipelineStatus", body, "status")
        pipeline = self.store.need("pipeline", fqn)
        tasks = {task["name"] for task in pipeline.get("tasks") or ()}
        for task in body.get("taskStatus") or ():
            if task["name"] not in tasks:
                raise ApiError(400, f"Invalid task name {task['name']}")
        self.store.statuses.setdefault(fqn, {})[body["timestamp"]] = body
        return 200, self._give(BY_TYPE["pipeline"], pipeline)

    def _post_result(self, query: Any, body: Any, user: str, *, fqn: str) -> tuple[int, Any]:
        self.checker.check("api/tests/createTestCaseResult", body, "result")
        self.store.need("testCase", fqn)
        self.store.results.setdefault(fqn, {})[body["timestamp"]] = body
        answer = body | {"testCaseFQN": fqn}
        self.checker.check("tests/basic#/definitions/testCaseResult", answer, "answer result")
        return 201, answer

    def _get_results(self, query: dict[str, str], body: Any, user: str, *, fqn: str) -> tuple[int, Any]:
        first, last = int(query["startTs"]), int(query["endTs"])
        found = [r for at, r in sorted(self.store.results.get(fqn, {}).items()) if first <= at <= last]
        return 200, {"data": found, "paging": {"total": len(found)}}

    def _put_members(self, query: Any, body: Any, user: str) -> tuple[int, Any]:
        self.checker.check("api/tests/createLogicalTestCases", body, "members")
        suite = self.store.by_id("testSuite", body["testSuiteId"])
        if suite.get("basic"):
            raise ApiError(400, "You are trying to add test cases to a basic test suite")
        for case in body["testCaseIds"]:
            self.store.suites.setdefault(suite["id"], set()).add(self.store.by_id("testCase", case)["id"])
        return 200, self._give(BY_TYPE["testSuite"], suite)

    def _get_version(self, query: Any, body: Any, user: str) -> tuple[int, Any]:
        return 200, {"version": self.version, "revision": "fake", "timestamp": 1}


_PATTERNS: list[tuple[str, str, Any]] = [
    ("GET", "/system/version", FakeOpenMetadata._get_version),
    ("PUT", "/lineage", FakeOpenMetadata._put_lineage),
    ("GET", "/lineage/{type}/name/{fqn}", FakeOpenMetadata._get_lineage),
    ("DELETE", "/lineage/{from}/{source}/{to}/{target}", FakeOpenMetadata._delete_lineage),
    ("PUT", "/tables/{id}/tableProfile", FakeOpenMetadata._put_profile),
    ("PUT", "/tables/{id}/dataModel", FakeOpenMetadata._put_model),
    ("PUT", "/pipelines/{fqn}/status", FakeOpenMetadata._put_status),
    ("POST", "/dataQuality/testCases/testCaseResults/{fqn}", FakeOpenMetadata._post_result),
    ("GET", "/dataQuality/testCases/testCaseResults/{fqn}", FakeOpenMetadata._get_results),
    ("PUT", "/dataQuality/testCases/logicalTestCases", FakeOpenMetadata._put_members),
]
_ROUTES = [(method, compile_route(pattern), function) for method, pattern, function in _PATTERNS]


def _handler(fake: FakeOpenMetadata) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def _do(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(content) if content else None
            status, answer, more = fake.handle(self.command, self.path, self.headers, body)
            if status == "cut":
                self.close_connection = True
                self.connection.close()
                return
            data = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **more}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _do

    return Handler
