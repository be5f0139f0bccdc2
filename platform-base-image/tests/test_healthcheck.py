"""What the container's health check finds, on a real gRPC server."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from dml_platform.healthcheck import is_serving


@pytest.mark.parametrize(("status", "expected"), [("SERVING", True), ("NOT_SERVING", False)])
def test_server_that_serves_is_told_from_one_that_does_not(status: str, expected: bool) -> None:
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        servicer = health.HealthServicer()
        servicer.set("DagsterApi", health_pb2.HealthCheckResponse.ServingStatus.Value(status))
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        assert is_serving(port) is expected
        server.stop(None).wait()


def test_no_server_is_not_serving() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        assert not is_serving(probe.getsockname()[1], timeout_s=1)
