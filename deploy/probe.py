#!/opt/fedrx/bin/python3
"""Asks a coordinator or a site on this host whether it is ready, by `grpc.health.v1`.

    fedrx-probe [PORT]

exits with 0 if it is, with 1 if not. Without a port it takes FEDRX_HEALTH_PORT. For container
engines and Kubernetes: the health service listens on loopback, so a probe must run beside it.
"""

import os
import sys
from typing import Final

import grpc  # type: ignore[import-untyped]  # ships no types
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

TIMEOUT_S: Final = 4.0


def is_serving(port: int) -> bool:
    """Whether what listens on this port of loopback says that it is ready."""
    # What is on this host is asked straight, whatever proxy the environment names.
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S
            )
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def main() -> int:
    """Exit status for the port that was given."""
    given = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("FEDRX_HEALTH_PORT", "")
    if not given.isascii() or not given.isdigit():
        sys.stderr.write("fedrx-probe: give the health port, or set FEDRX_HEALTH_PORT.\n")
        return 2
    return 0 if is_serving(int(given)) else 1


if __name__ == "__main__":
    sys.exit(main())
