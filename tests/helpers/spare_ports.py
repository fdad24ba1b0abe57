"""Ports for servers that tests start: nobody else takes one, before it is bound or between starts.

They lie outside those that the system hands out to outgoing connections. Each is claimed by a lock
that ends with this process, so that tests beside this one, of this run or another, get others.
"""

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that are given to nobody else while this process lives."""
    return [next(_PORTS) for _ in range(count)]


def _spare_ports() -> Iterator[int]:
    first, last = map(int, _RANGE.read_text().split()) if _RANGE.exists() else (32_768, 65_535)
    outside = [*range(10_000, first), *range(last + 1, 65_536)]
    path = Path(tempfile.gettempdir()) / f"fedrx-tests-ports-{os.getuid()}.lock"
    # Open for good: closing it would give up all claims. A byte of it stands for a port.
    claims = path.open("ab")
    for port in outside or range(10_000, 65_536):
        try:
            fcntl.lockf(claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            with socket.socket() as probe:
                probe.bind(("", port))
        except OSError:
            continue
        yield port


_PORTS = _spare_ports()
