"""Several byte strings in one HTTP body: each is preceded by its length, four bytes big-endian.

Pure: bytes in, bytes out. What the frames hold is for the caller; here only their lengths are
checked, so that no party can make the other keep more than it agreed to.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from fedrx_common.errors import PeerError

_LENGTH: Final = struct.Struct(">I")
HEADER_BYTES: Final = _LENGTH.size

# Small frames leave together, as one piece of about this size.
_PIECE_BYTES: Final = 2**18


class FrameInvalid(PeerError):
    """A body ends within a frame, or a frame is longer than this side takes."""


def pieces(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Write the body of these frames, in pieces; a long frame is not copied."""
    small = bytearray()
    for frame in frames:
        small += _LENGTH.pack(len(frame))
        if len(frame) < _PIECE_BYTES:
            small += frame
        if len(small) >= _PIECE_BYTES or len(frame) >= _PIECE_BYTES:
            yield bytes(small)
            small.clear()
        if len(frame) >= _PIECE_BYTES:
            yield frame
    if small:
        yield bytes(small)


def body(frames: Iterable[bytes]) -> bytes:
    """Write the body of these frames."""
    return b"".join(pieces(frames))


def body_bytes(lengths: Iterable[int]) -> int:
    """Count the bytes of the body of frames of these lengths."""
    return sum(HEADER_BYTES + length for length in lengths)


def bodies(parts: Iterable[bytes], longest: int) -> Iterator[bytes]:
    """Read the frames of a body that comes in any parts; each is given as soon as it is whole.

    Args:
        parts: The body.
        longest: Bytes of the longest frame that is taken.

    Raises:
        FrameInvalid: A frame is too long, or the body ends within one.
    """
    reader = FrameReader(longest)
    for part in parts:
        yield from reader.feed(part)
    reader.close()


class FrameReader:
    """Takes a body as it comes and gives the frames that are whole.

    Args:
        longest: Bytes of the longest frame that is taken; may be changed between two frames.
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self._parts: list[bytes] = []
        self._held = 0
        self._wanted: int | None = None

    @property
    def awaited(self) -> int:
        """Bytes of the frame that has begun to come; 0 between two frames."""
        return self._wanted or 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes of the body and give each frame that they complete.

        Raises:
            FrameInvalid: A frame is too long.
        """
        view = memoryview(data)
        while view or self._wanted == 0:
            need = (HEADER_BYTES if self._wanted is None else self._wanted) - self._held
            part, view = view[:need], view[need:]
            self._parts.append(bytes(part))
            self._held += len(part)
            if len(part) < need:
                return
            content = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts, self._held = [], 0
            if self._wanted is not None:
                self._wanted = None
                yield content
                continue
            (self._wanted,) = _LENGTH.unpack(content)
            if self._wanted > self.longest:
                raise FrameInvalid(f"a frame of {self._wanted} bytes exceeds {self.longest}.")

    def close(self) -> None:
        """Say that the body is over.

        Raises:
            FrameInvalid: It ends within a frame.
        """
        if self._held or self._wanted is not None:
            raise FrameInvalid("a body ended within a frame.")
