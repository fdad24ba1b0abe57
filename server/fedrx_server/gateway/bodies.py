"""Bodies of calls as they come in, within the limits, and the batches in which they go out."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import TypeVar, cast

from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from google.protobuf.message import Message  # type: ignore[import-untyped]  # ships no types
from starlette.requests import Request

from fedrx_protocol.messages import frames
from fedrx_server.gateway.limits import GatewayLimits
from fedrx_server.gateway.ownership import refuse
from fedrx_server.gateway.slots import Slot

M = TypeVar("M", bound=Message)


def parse(kind: type[M], data: bytes) -> M:
    """Read Protobuf as Flower does, with the same refusal."""
    return cast("M", ProtobufTranslationMiddleware._parse_request(data, kind))  # noqa: SLF001 - same


async def read_protobuf(
    request: Request, kind: type[M], longest: int, limits: GatewayLimits, lot: Slot
) -> M:
    """The request's one Protobuf message, put where Flower's checks look for it.

    Args:
        request: The call of a site that is known.
        kind: Of the message.
        longest: Bytes of the longest message.
        limits: Sizes.
        lot: Held once the message is not small; the caller lets go.

    Raises:
        HTTPException: 413 if it is too long, 503 if it does not come in time.
        FlowerError: It is none.
    """
    ProtobufTranslationMiddleware._check_request_media_type(request)  # noqa: SLF001 - the same
    source, parts, held = _Parts(request, limits, lot), [], 0
    while part := await source.next():
        held += len(part)
        if held > longest:
            raise refuse("the request is too long", 413)
        if held > limits.small_bytes:
            await lot.acquire()
        parts.append(part)
    parsed = parse(kind, b"".join(parts))
    request.state.protobuf_request = parsed
    return parsed


async def read_frames(
    request: Request, head_bytes: int, limits: GatewayLimits, lot: Slot
) -> AsyncIterator[bytes]:
    """The request's frames: a head of limited length first, objects after it.

    Args:
        request: The call.
        head_bytes: Longest head.
        limits: Sizes.
        lot: Held while an object is on its way that is not small; whoever stores it lets go.

    Raises:
        HTTPException: 400 if a frame is too long or the body ends within one, 503 if one does not
            come in time.
    """
    reader = frames.FrameReader(head_bytes)
    source = _Parts(request, limits, lot)
    try:
        while True:
            if reader.awaited > limits.small_bytes:
                await lot.acquire()
            part = await source.next()
            if not part:
                break
            for frame in reader.feed(part):
                yield frame
                source.again()
                # Not before the head has shown who it is.
                reader.longest = max(limits.object_bytes, head_bytes)
        reader.close()
    except frames.FrameInvalid as error:
        raise refuse(str(error), 400) from error


class _Parts:
    """A body as it comes, each message of it within its time, however slowly it trickles."""

    def __init__(self, request: Request, limits: GatewayLimits, lot: Slot) -> None:
        self._stream = request.stream()
        self._within_s, self._lot = limits.lot_within_s, lot
        self.again()

    def again(self) -> None:
        """Begin the time of the next message."""
        self._until = asyncio.get_running_loop().time() + self._within_s

    async def next(self) -> bytes:
        """The next bytes, none at the end.

        Raises:
            HTTPException: 503 if they do not come in time.
        """
        try:
            async with asyncio.timeout_at(self._lot.until or self._until):
                return await anext(self._stream, b"")
        except TimeoutError:
            raise refuse("a message did not come in time; try again", 503) from None


async def first(bodies: AsyncIterator[bytes]) -> bytes:
    """The next frame, which must be there.

    Raises:
        HTTPException: 400 if it is not.
    """
    try:
        return await anext(bodies)
    except StopAsyncIteration:
        raise refuse("the request has no head", 400) from None


def batches(sizes: Mapping[str, int], batch_bytes: int) -> list[list[str]]:
    """Names of objects in their order, in groups of about so many bytes."""
    groups: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if groups[-1] and held + size > batch_bytes:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return [group for group in groups if group]
