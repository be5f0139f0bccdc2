"""Requests to Dagster and what is made of the replies; against Dagster's own schema where it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from dml_infra import dagster_api
from dml_infra.core import parse_traffic
from dml_infra.dagster_api import DagsterApi, error_text
from dml_infra.errors import InfraError, RetryableError

ENTRY = {
    "__typename": "WorkspaceLocationEntry",
    "name": "sales",
    "loadStatus": "LOADED",
    "updatedTimestamp": 1.0,
    "displayMetadata": [{"key": "host", "value": "dml-sales-0123"}, {"key": "image", "value": "i@sha256:0"}],
}
SCHEDULE = {
    "name": "daily",
    "defaultStatus": "STOPPED",
    "scheduleState": {"id": "x", "selectorId": "y", "status": "RUNNING"},
}
LOADED = {"__typename": "RepositoryLocation", "repositories": [{"name": "r", "schedules": [SCHEDULE], "sensors": []}]}


def api(reply: Mapping[str, Any]) -> DagsterApi:
    return DagsterApi(lambda query, variables: reply)


def test_loaded_location_tells_image_host_and_states() -> None:
    found = api({"workspaceLocationEntryOrError": {**ENTRY, "locationOrLoadError": LOADED}}).location("sales")
    assert found is not None
    assert (found.loaded, found.image, found.host, found.error) == (True, "i@sha256:0", "dml-sales-0123", "")
    assert [(i.key, i.status, i.default_status) for i in found.instigators] == [("r/daily", "RUNNING", "STOPPED")]


def test_load_error_is_the_text_that_dagster_shows() -> None:
    cause = {"message": "ImportError: x\n", "className": "ImportError", "stack": ["  line 1\n"]}
    error = {"__typename": "PythonError", "message": "cannot load\n", "stack": ["  line 9\n"], "causes": [cause]}
    found = api({"workspaceLocationEntryOrError": {**ENTRY, "locationOrLoadError": error}}).location("sales")
    assert found is not None
    assert not found.loaded
    assert found.error == (
        "cannot load\n\nStack Trace:\n  line 9\n\nThe above exception was caused by the following exception:\n"
        "ImportError: x\n\nStack Trace:\n  line 1\n"
    )
    assert error_text({"message": "plain"}) == "plain"


def test_refusal_is_an_error_in_words() -> None:
    with pytest.raises(InfraError, match="cannot reload the workspace: Dagster answers UnauthorizedError: no right"):
        api({"reloadWorkspace": {"__typename": "UnauthorizedError", "message": "no right"}}).reload_workspace()
    with pytest.raises(RetryableError, match="Dagster says: broken"):
        api({"runsOrError": {"__typename": "PythonError", "message": "broken"}}).runs()


def test_every_query_fits_dagsters_schema() -> None:
    pytest.importorskip("dagster_graphql", reason="Dagster is only in the server's image")
    from dagster_graphql.schema import create_schema
    from graphql import parse, validate

    schema = create_schema().graphql_schema
    texts = [v for k, v in vars(dagster_api).items() if k.isupper() and not k.startswith("_") and isinstance(v, str)]
    texts += [*dagster_api.START.values(), *dagster_api.STOP.values()]
    assert len(texts) >= 10
    for text in texts:
        assert validate(schema, parse(text)) == [], text


class _Dagster(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"data": {"asked": request["query"]}}).encode()
        self.send_response(400 if "wrong" in request["query"] else 200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Dagster) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask(url: str, query: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dml_infra.graphql", "5"]
    environment = {"DML_DAGSTER_URL": url, "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run(
        command, input=json.dumps({"query": query}), env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("query", ["{ version }", "{ wrong }"])
def test_client_inside_the_container_passes_the_reply_on(url: str, query: str) -> None:
    done = ask(url, query)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"data": {"asked": query}})


def test_client_inside_the_container_says_when_nobody_answers() -> None:
    done = ask("http://127.0.0.1:9", "{ version }")
    assert done.returncode == 1
    assert done.stderr.startswith("no answer from http://127.0.0.1:9: ")
    assert "Traceback" not in done.stderr


def test_traffic_counts_open_connections_of_others_to_the_code_server_only() -> None:
    text = """Tcp: RtoAlgorithm ActiveOpens PassiveOpens
Tcp: 1 34 612
  sl  local_address rem_address   st
   0: 020012AC:0FA0 030012AC:D2F0 01 x
   1: 0100007F:0FA0 0100007F:D2F1 01 x
   2: 020012AC:0FA0 030012AC:D2F2 06 x
   3: 020012AC:9C40 040012AC:1538 01 x
   4: 00000000:0FA0 00000000:0000 0A x
  sl  local_address                         remote_address                        st
   0: 0000000000000000FFFF0000020012AC:0FA0 0000000000000000FFFF0000030012AC:E000 01 x
   1: 0000000000000000FFFF00000100007F:0FA0 0000000000000000FFFF00000100007F:E001 01 x
"""
    traffic = parse_traffic(text)
    assert (traffic.accepted, traffic.open) == (612, 2)
