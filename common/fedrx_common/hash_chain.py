"""A chain of lines: each carries a hash over itself and all lines before it.

Only bytes and rules; `fedrx_common.chained_log` keeps the lines on a disk. A chain shows that
something was changed, never who did it. A person who may write the file may also write another
whole chain: note the head elsewhere (paper, another machine) to see that too.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fedrx_common.canonical_json import MalformedMessage, from_json, packed, to_json
from fedrx_common.errors import MisuseError


class ChainBroken(MisuseError):
    """A line was changed, removed or reordered; what the log says is not what was written."""


class ChainHeadMistyped(MisuseError):
    """A noted head that is not COUNT:HASH, so nothing can be compared with it."""


@dataclass(frozen=True)
class ChainHead:
    """Number of lines and the hash of the last one."""

    count: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.count}:{self.hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> "ChainHead":
        """Read what `str` wrote.

        Raises:
            ChainHeadMistyped: not COUNT:HASH.
        """
        match = re.fullmatch(r"(\d{1,18}):([0-9a-fA-F]{64})", text.strip())
        if match is None:
            raise ChainHeadMistyped(
                f"{text!r} is no head of a log: copy COUNT:HASH as `--verify` printed it."
            )
        return cls(int(match[1]), bytes.fromhex(match[2]))


@dataclass(frozen=True)
class ChainLine:
    """One line: its number from 1, what it says, and the hash that binds it to those before."""

    number: int
    entry: dict[str, Any]
    hash: bytes

    @property
    def head(self) -> ChainHead:
        """The chain's head when this line is its last."""
        return ChainHead(self.number, self.hash)

    def to_bytes(self) -> bytes:
        """Canonical JSON, without a line end."""
        return to_json({"entry": self.entry, "hash": self.hash.hex(), "number": self.number})


def genesis(label: str) -> ChainHead:
    """Give the head of an empty chain; `label` distinguishes the chains of different logs."""
    return ChainHead(0, hashlib.sha256(packed("fedrx/1 chain", label)).digest())


def next_line(head: ChainHead, entry: dict[str, Any]) -> ChainLine:
    """Make the line that follows `head`."""
    number = head.count + 1
    digest = hashlib.sha256(packed("fedrx/1 line", head.hash, number, to_json(entry))).digest()
    return ChainLine(number, entry, digest)


def verify_lines(head: ChainHead, lines: Sequence[bytes]) -> Iterator[ChainLine]:
    """Read the lines that follow `head`, each one verified before it is handed on.

    Raises:
        ChainBroken: names the first line that was changed, removed or reordered.
    """
    for index, data in enumerate(lines):
        line = _read(data)
        if line is None or next_line(head, line.entry) != line:
            raise ChainBroken(_what_happened(head, line, lines[index + 1 :]))
        head = line.head
        yield line


def _read(data: bytes) -> ChainLine | None:
    try:
        document = from_json(data, source="The line")
        line = ChainLine(document["number"], document["entry"], bytes.fromhex(document["hash"]))
    except (MalformedMessage, KeyError, TypeError, ValueError):
        return None
    sound = type(line.number) is int and isinstance(line.entry, dict) and line.to_bytes() == data
    return line if sound else None


def _what_happened(head: ChainHead, line: ChainLine | None, later: Iterable[bytes]) -> str:
    """Distinguish a reordered, a removed and a changed line: does a later line fit here?"""
    expected = head.count + 1
    for other in map(_read, later):
        if other is not None and next_line(head, other.entry) == other:
            return f"line {expected} was reordered: it stands further down"
    if line is not None and line.number > expected:
        return f"line {expected} was removed"
    return f"line {expected} was changed"
