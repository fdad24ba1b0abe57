"""A process that FedRx runs in can be forked: Ray, for one, starts all its servers that way.

gRPC's handler in the forked child polls a descriptor that is closed by then, and aborts about one
child in a hundred before it is another program (grpc/grpc#43055): whoever started it waits for a
server that never was.
"""

import os
import subprocess
import sys

import apart
import pytest

FORKS = 1500


def fork_beside_grpc():
    """Exit with the number of children that ended otherwise than they should, at most 100."""
    os.environ.pop("GRPC_ENABLE_FORK_SUPPORT", None)  # the tests' own; here FedRx's must do
    import fedrx  # noqa: F401, PLC0415 - what is tested is its import, before gRPC's

    # isort: split
    import grpc  # noqa: PLC0415

    server = grpc.server(None)
    server.add_insecure_port("127.0.0.1:0")
    server.start()
    lost = 0
    for _ in range(FORKS):
        # A function to be called in the child is what makes it a fork, here as in Ray.
        lost += subprocess.call(["true"], preexec_fn=os.getpid, stderr=subprocess.DEVNULL) != 0
    os._exit(min(lost, 100))


@pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")
def test_no_forked_child_is_lost_to_grpc():
    assert apart.exit_code(fork_beside_grpc) == 0
