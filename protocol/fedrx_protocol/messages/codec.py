"""Messages as bytes and back: one spelling each, sizes limited, nothing trusted before it is read.

A header is canonical JSON with bytes as base64. The one large vector, a masked input's, travels
beside its header as raw little-endian uint32. A decoded message has passed its own checks; bytes
that any honest party would have written differently are refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from fedrx_common.canonical_json import MalformedMessage, from_base64, from_json, to_base64, to_json
from fedrx_protocol.messages.offer import OfferReply, RunOffer
from fedrx_protocol.messages.secure_aggregation import (
    Advert,
    AdvertList,
    AdvertRequest,
    MaskedInput,
    ResolveReply,
    ResolveRequest,
    RoundRequest,
    SecAggMessage,
    UnmaskReply,
    UnmaskRequest,
)

__all__ = [
    "CodecLimits",
    "MalformedMessage",
    "WireMessage",
    "decode",
    "decode_masked",
    "encode",
    "encode_masked",
]

VERSION = 1
_VECTOR_TYPE = np.dtype("<u4")

WireMessage = SecAggMessage | RunOffer | OfferReply
Message = TypeVar("Message", bound=WireMessage)


@dataclass(frozen=True)
class CodecLimits:
    """Largest sizes this side reads.

    Attributes:
        header_bytes: bytes of one header; an advert list of 4,096 sites needs about 2 MiB.
        sites: entries of any list or map of sites.
        vector_length: values of one masked vector.
    """

    header_bytes: int = 4 * 2**20
    sites: int = 4096
    vector_length: int = 2**26


DEFAULT_LIMITS = CodecLimits()


@dataclass(frozen=True)
class _Kind:
    """How one field is written and read."""

    write: Callable[[Any], Any]
    read: Callable[[Any, str, CodecLimits], Any]


def encode(message: WireMessage) -> bytes:
    """Write the header of `message`; a masked input's lacks the vector, see `encode_masked`."""
    name, fields = _FIELDS[type(message)]
    return to_json({"type": name, "v": VERSION, **_written(message, fields)})


def encode_masked(message: MaskedInput) -> tuple[bytes, bytes]:
    """Write header and payload of a masked input; the payload is the vector, 4 bytes a value."""
    return encode(message), message.vector.astype(_VECTOR_TYPE, copy=False).tobytes()


def decode(data: bytes, expected: type[Message], limits: CodecLimits = DEFAULT_LIMITS) -> Message:
    """Read a message of type `expected` (any but a masked input).

    Raises:
        MalformedMessage: another type or version, unknown or missing fields, a wrong type or
            length, another spelling, or more than `limits` allow.
    """
    if issubclass(expected, MaskedInput):
        raise MalformedMessage("A masked input comes with a payload; use decode_masked.")
    return expected(**_fields(data, expected, limits))


def decode_masked(
    header: bytes, payload: bytes, length: int | None = None, limits: CodecLimits = DEFAULT_LIMITS
) -> MaskedInput:
    """Read a masked input; its vector is a read-only view of the payload, where bytes allow it.

    Args:
        header: what `encode_masked` gave first.
        payload: what it gave second.
        length: values the round's vector has, if known.
        limits: sizes this side reads.

    Raises:
        MalformedMessage: as for `decode`, or a payload of another length.
    """
    if len(payload) % _VECTOR_TYPE.itemsize:
        raise MalformedMessage(f"A payload of {len(payload)} bytes is no row of uint32.")
    count = len(payload) // _VECTOR_TYPE.itemsize
    if count > limits.vector_length or (length is not None and count != length):
        raise MalformedMessage(
            f"A payload of {count} values was sent; expected: {length or limits.vector_length}."
        )
    vector = np.frombuffer(payload, dtype=_VECTOR_TYPE).astype(np.uint32, copy=False)
    return MaskedInput(vector=vector, **_fields(header, MaskedInput, limits))


def _fields(data: bytes, expected: type, limits: CodecLimits) -> dict[str, Any]:
    name, fields = _FIELDS[expected]
    if len(data) > limits.header_bytes:
        raise MalformedMessage(
            f"A {name} message of {len(data)} bytes exceeds {limits.header_bytes}."
        )
    document = from_json(data, source=f"The {name} message")
    if document.pop("type", None) != name or document.pop("v", None) != VERSION:
        raise MalformedMessage(f"The message is no {name} of protocol version {VERSION}.")
    if set(document) != set(fields):
        differing = ", ".join(sorted(set(document) ^ set(fields)))
        raise MalformedMessage(f"The {name} message has missing or unknown fields: {differing}.")
    return {
        field: kind.read(document[field], f"{name}.{field}", limits)
        for field, kind in fields.items()
    }


def _read_integer(value: object, source: str, _: CodecLimits) -> int:
    if type(value) is not int:
        raise MalformedMessage(f"{source} must be an integer.")
    return value


def _read_text(value: object, source: str, _: CodecLimits) -> str:
    if not isinstance(value, str):
        raise MalformedMessage(f"{source} must be text.")
    return value


def _read_bytes(value: object, source: str, _: CodecLimits) -> bytes:
    return from_base64(value, source=source)


def _read_texts(value: object, source: str, limits: CodecLimits) -> tuple[str, ...]:
    return tuple(_read_text(item, source, limits) for item in _listed(value, source, limits))


def _read_map(value: object, source: str, limits: CodecLimits) -> Mapping[str, bytes]:
    if not isinstance(value, dict) or len(value) > limits.sites:
        raise MalformedMessage(f"{source} must be a map of at most {limits.sites} sites.")
    return {key: from_base64(item, source=source) for key, item in value.items()}


def _read_adverts(value: object, source: str, limits: CodecLimits) -> tuple[Advert, ...]:
    adverts = []
    for item in _listed(value, source, limits):
        if not isinstance(item, dict) or set(item) != set(_ADVERT):
            raise MalformedMessage(f"{source} holds something that is no advert.")
        fields = {name: kind.read(item[name], source, limits) for name, kind in _ADVERT.items()}
        adverts.append(Advert(**fields))
    return tuple(adverts)


def _written(message: object, fields: Mapping[str, _Kind]) -> dict[str, Any]:
    return {name: kind.write(getattr(message, name)) for name, kind in fields.items()}


def _listed(value: object, source: str, limits: CodecLimits) -> list[Any]:
    if not isinstance(value, list) or len(value) > limits.sites:
        raise MalformedMessage(f"{source} must be a list of at most {limits.sites} entries.")
    return value


_INTEGER = _Kind(int, _read_integer)
_TEXT = _Kind(str, _read_text)
_BYTES = _Kind(to_base64, _read_bytes)
_TEXTS = _Kind(list, _read_texts)
_MAP = _Kind(lambda value: {key: to_base64(item) for key, item in value.items()}, _read_map)

_ADVERT = MappingProxyType(
    {
        "site": _TEXT,
        "session": _BYTES,
        "epoch": _INTEGER,
        "mask_public": _BYTES,
        "channel_public": _BYTES,
        "signature": _BYTES,
    }
)
_ADVERTS = _Kind(lambda value: [_written(advert, _ADVERT) for advert in value], _read_adverts)

_FIELDS: Mapping[type, tuple[str, Mapping[str, _Kind]]] = MappingProxyType(
    {
        RunOffer: (
            "run_offer",
            {
                "run": _TEXT,
                "study": _BYTES,
                "roster": _BYTES,
                "version": _TEXT,
                "time": _INTEGER,
            },
        ),
        OfferReply: ("offer_reply", {"version": _TEXT}),
        AdvertRequest: ("advert_request", {"session": _BYTES, "epoch": _INTEGER}),
        Advert: ("advert", _ADVERT),
        AdvertList: (
            "advert_list",
            {"session": _BYTES, "epoch": _INTEGER, "adverts": _ADVERTS},
        ),
        RoundRequest: (
            "round_request",
            {
                "session": _BYTES,
                "epoch": _INTEGER,
                "round": _INTEGER,
                "attempt": _INTEGER,
                "participants": _TEXTS,
                "threshold": _INTEGER,
                "model_digest": _BYTES,
            },
        ),
        MaskedInput: (
            "masked_input",
            {"site": _TEXT, "context": _BYTES, "commitment": _BYTES, "shares": _MAP},
        ),
        ResolveRequest: ("resolve_request", {"context": _BYTES, "dropped": _TEXTS}),
        ResolveReply: ("resolve_reply", {"site": _TEXT, "context": _BYTES, "seeds": _MAP}),
        UnmaskRequest: (
            "unmask_request",
            {"context": _BYTES, "survivors": _TEXTS, "shares": _MAP},
        ),
        UnmaskReply: (
            "unmask_reply",
            {"site": _TEXT, "context": _BYTES, "shares": _MAP, "unreadable": _TEXTS},
        ),
    }
)
