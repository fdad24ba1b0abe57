"""Becomes a program that ends with the process that started it, however that one ends.

    python leash.py PARENT PROGRAM [ARGUMENT…]

Run as a file, with the standard library alone, so that it costs a blink. On Linux the kernel sends
SIGTERM when the parent is gone; elsewhere the program is started all the same, and is stopped by
its supervisor only.
"""

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Bind this process to its parent and become the program."""
    # Not Linux, or no prctl: then there is nothing to bind with.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:
        sys.exit("the supervisor is gone already.")
    os.execv(command[0], command)  # noqa: S606 - what the supervisor asked for


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
