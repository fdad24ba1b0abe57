"""Large blocks of memory given back to the system as soon as they are free (glibc).

By default glibc moves blocks of a few MiB into its heap once one of them was freed, where the holes
between them stay: two thirds more memory for the process that adds up sites' vectors.
"""

import ctypes
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 2**20

# The same for a process that is still to be started.
SETTING: Final = {"MALLOC_MMAP_THRESHOLD_": str(_LARGE_BYTES)}


def give_back_large_blocks() -> bool:
    """Set it for this process; False where the system has no such thing."""
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES))
    except (OSError, AttributeError, TypeError):
        return False
