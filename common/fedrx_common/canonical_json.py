"""One way to write a value as bytes, so that two parties can hash, sign and compare it.

Canonical JSON: sorted keys, no white space, ASCII, bytes as standard base64. Reading is as strict
as writing, so a document has one spelling and no duplicate keys. Fields that are hashed or signed
are length-prefixed, so that no two tuples of fields give the same bytes.
"""

import base64
import binascii
import json
import math
from typing import Any

from fedrx_common.documents import DocumentInvalid, read_json
from fedrx_common.errors import PeerError


class MalformedMessage(PeerError):
    """Bytes or fields that no honest party writes; refused before they reach any state."""


def to_json(document: dict[str, Any]) -> bytes:
    """Write the one JSON spelling of `document`."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def from_json(data: bytes, *, source: str) -> dict[str, Any]:
    """Read a canonical JSON object.

    Raises:
        MalformedMessage: not JSON, not an object, or spelled in another way than `to_json` does.
    """
    try:
        document = read_json(data)
    except DocumentInvalid as error:
        raise MalformedMessage(f"{source} is {error}.") from None
    if not isinstance(document, dict):
        raise MalformedMessage(f"{source} is not a JSON object.")
    try:
        canonical = to_json(document) == data
    except (ValueError, RecursionError):
        canonical = False
    if not canonical:
        raise MalformedMessage(f"{source} is not canonical JSON: a key twice, or other spacing.")
    return document


def finite_or_none(value: float | None) -> float | None:
    """Give a number as JSON can hold it: an epsilon without bound is null; the mode says why."""
    return value if value is not None and math.isfinite(value) else None


def to_base64(data: bytes) -> str:
    """Write bytes as standard base64 text."""
    return base64.b64encode(data).decode("ascii")


def from_base64(value: object, *, source: str) -> bytes:
    """Read bytes from standard base64 text, exactly as `to_base64` writes it.

    Raises:
        MalformedMessage: `value` is not a string, or not canonical base64.
    """
    if not isinstance(value, str):
        raise MalformedMessage(f"{source} must be base64 text.")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedMessage(f"{source} is not valid base64.") from None
    if to_base64(data) != value:
        raise MalformedMessage(f"{source} is not canonical base64.")
    return data


def packed(label: str, *fields: bytes | str | int) -> bytes:
    """Put label and fields into one unambiguous byte string.

    Text is UTF-8 and an integer is 8 bytes, big-endian; every field is preceded by its length in
    4 bytes, big-endian; the label ends with a zero byte.
    """
    parts = [label.encode("ascii"), b"\x00"]
    for field in fields:
        if isinstance(field, int):
            data = field.to_bytes(8, "big")
        else:
            data = field.encode("utf-8") if isinstance(field, str) else field
        parts += [len(data).to_bytes(4, "big"), data]
    return b"".join(parts)
