"""A long array from the parts that Flower makes of it, with one copy of it in memory.

An array's own object lists its parts and how they follow each other, and its sender may list one
part a million times; so the length of the result is limited here. Pure: bytes in, bytes out.
"""

from collections import Counter
from io import BytesIO
from typing import Any, Final, NamedTuple

from fedrx_common.canonical_json import MalformedMessage
from fedrx_common.documents import read_json

# Flower's form of an object: kind, ids of children, bytes of the body; a zero byte; the body.
_END_OF_HEAD: Final = b"\x00"
_ARRAY: Final = b"Array "
_PART: Final = b"ArrayChunk "

# An array of 2 GB has some 400 parts, whose list takes 2 KB.
_LIST_BYTES: Final = 2**16


class Assembled(NamedTuple):
    """An array as it was sent: the names of its type, its shape, its bytes."""

    dtype: str
    shape: tuple[int, ...]
    stype: str
    data: bytes


def is_array(content: bytes) -> bool:
    """Say whether an object is an array."""
    return content.startswith(_ARRAY)


def assemble(content: bytes, contents: dict[str, bytes], longest: int) -> Assembled:
    """Put an array together; takes its parts out of `contents`, which gives the memory back.

    Args:
        content: The array's own object.
        contents: Objects by id.
        longest: Bytes that the array may have.

    Raises:
        MalformedMessage: A part is missing, is not a part, or the array is too long.
    """
    head, _, body = content.partition(_END_OF_HEAD)
    if len(body) > _LIST_BYTES:
        raise MalformedMessage("an array lists too many parts.")
    try:
        children = dict(enumerate(head.decode("ascii").split(" ")[1].split(",")))
        fields = read_json(body)
        names = [children[index] for index in fields["arraychunk_ids"]]
        data = _joined(names, contents, longest)
        return Assembled(_text(fields["dtype"]), _shape(fields), _text(fields["stype"]), data)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise MalformedMessage(f"an array cannot be read ({type(error).__name__}).") from None


def _joined(names: list[str], contents: dict[str, bytes], longest: int) -> bytes:
    uses, buffer = Counter(names), BytesIO()
    for name in names:
        part = contents[name]
        at = part.find(_END_OF_HEAD)
        if at < 0 or not part.startswith(_PART):
            raise MalformedMessage("an array's part is none.")
        if buffer.tell() + len(part) > longest:
            raise MalformedMessage(f"an array is longer than {longest} bytes.")
        buffer.write(memoryview(part)[at + 1 :])
        uses[name] -= 1
        if not uses[name]:
            del contents[name]
    return buffer.getvalue()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _shape(fields: dict[str, Any]) -> tuple[int, ...]:
    shape = tuple(fields["shape"])
    if not all(type(size) is int and size >= 0 for size in shape):
        raise TypeError
    return shape
