"""The file that holds a round between its masked sum and its unmasking.

Round number and a digest precede the state, so that a resumed coordinator neither counts a
round twice nor uses a damaged file.
"""

import hashlib
import struct
from pathlib import Path

from fedrx_common.errors import RunError

_MAGIC = b"FedRx1P\n"
_HEADER = struct.Struct(f"<{len(_MAGIC)}sQ32s")


def pack_pending(round_number: int, state: bytes) -> bytes:
    """Header (magic, round, SHA-256) and state."""
    return _HEADER.pack(_MAGIC, round_number, _digest(round_number, state)) + state


def unpack_pending(path: Path) -> tuple[int, bytes]:
    """Round number and state.

    Raises:
        RunError: the file is damaged.
    """
    data = path.read_bytes()
    if len(data) >= _HEADER.size:
        magic, round_number, digest = _HEADER.unpack_from(data)
        state = data[_HEADER.size :]
        if magic == _MAGIC and digest == _digest(round_number, state):
            return round_number, state
    raise RunError(
        f"{path}: is damaged; remove it to give this round up and try it again with new masks."
    )


def _digest(round_number: int, state: bytes) -> bytes:
    return hashlib.sha256(struct.pack("<Q", round_number) + state).digest()
