"""Is the code server in this container serving? ``python -m dml_platform.healthcheck [port]``, for a Dockerfile.

Imports nothing of Dagster: a tenth of a second where ``dagster api grpc-health-check`` takes three, every 30 seconds.
"""

from __future__ import annotations

import sys

# One call does not pay for the stubs.
import grpc  # type: ignore[import-untyped]
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse  # type: ignore[import-untyped]
from grpc_health.v1.health_pb2_grpc import HealthStub  # type: ignore[import-untyped]


def is_serving(port: int, *, timeout_s: float = 5) -> bool:
    """Whether Dagster's API answers on a port of this machine."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(service="DagsterApi"), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(answer.status == HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(not is_serving(int(sys.argv[1]) if len(sys.argv) > 1 else 4000))
