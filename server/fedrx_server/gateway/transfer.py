"""Messages with their objects in and out of the mailbox, while memory stays flat.

Objects are stored as they come and read as they go. What is under way at a time is limited for all
connections together; the rest waits at its sender, whose connection is simply not read.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar, cast

from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from google.protobuf.message import Message  # type: ignore[import-untyped]  # ships no types
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from fedrx_protocol.messages import frames
from fedrx_server.gateway.endpoints import FRAMES_MEDIA_TYPE
from fedrx_server.gateway.limits import GatewayLimits
from fedrx_server.gateway.mailbox import Intake, Mailbox, Parcel
from fedrx_server.gateway.ownership import refuse
from fedrx_server.gateway.slots import Slot, TransferSlots

M = TypeVar("M", bound=Message)
T = TypeVar("T")


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
        FlowerError: It is not one.
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
        lot: Held while an object is on its way that is not small; the code that stores it lets go.

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


_THREADS: Final = 3
# TLS keeps some copies of what is written at a time.
_WRITE_BYTES: Final = 2**18


class Transfer:
    """Moves objects; see the module.

    Args:
        mailbox: Where objects come from and go to.
        limits: Sizes.
    """

    def __init__(self, mailbox: Mailbox, limits: GatewayLimits) -> None:
        self._mailbox, self._limits = mailbox, limits
        self._lots = TransferSlots(limits.lots, limits.lot_within_s)
        self._own_lots = TransferSlots(1, limits.lot_within_s)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="link")

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Do something with the store, in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(work, *arguments))

    def lot(self, node: int) -> Slot:
        """Where the large objects of a site's connection will be, one batch at a time."""
        return Slot(self._lots, node)

    def own_lot(self) -> Slot:
        """The same for the coordinator's own process, which waits for no site."""
        return Slot(self._own_lots)

    def frames(self, request: Request, head_bytes: int, lot: Slot) -> AsyncIterator[bytes]:
        """A request's frames; see `read_frames`."""
        return read_frames(request, head_bytes, self._limits, lot)

    async def store(
        self, bodies: AsyncIterator[bytes], announce: Callable[[], Intake], lot: Slot
    ) -> None:
        """Store objects as they come; a small message is one transaction.

        Raises:
            HTTPException: They are not what was announced.
        """
        intake: Intake | None = None

        def step(batch: list[bytes], *, last: bool) -> Intake:
            with self._mailbox.writing():
                at = intake or announce()
                self._mailbox.put(at, batch)
                if last:
                    self._mailbox.finish(at)
            return at

        batch: list[bytes] = []
        held = 0
        try:
            async for frame in bodies:
                batch.append(frame)
                held += len(frame)
                if held >= self._limits.batch_bytes:
                    del frame
                    intake = await self.run(partial(step, batch, last=False))
                    batch, held = [], 0
                    lot.release()
                elif held > self._limits.small_bytes:
                    await lot.acquire()
            await self.run(partial(step, batch, last=True))
        finally:
            lot.release()

    def parcels(self, kind: type[Message], found: list[Parcel], lot: Slot) -> Response:
        """A head of this kind, and after it each parcel's objects."""
        head = kind(
            messages_list=[parcel.head for parcel in found],
            message_object_trees=[parcel.tree for parcel in found],
        ).SerializeToString()
        sizes = [size for parcel in found for size in parcel.sizes.values()]
        length = frames.body_bytes([len(head), *sizes])
        return _Closed(
            self._contents(head, found, lot),
            media_type=FRAMES_MEDIA_TYPE,
            headers={"content-length": str(length)},
        )

    async def _contents(
        self, head: bytes, found: list[Parcel], lot: Slot
    ) -> AsyncIterator[bytes | memoryview]:
        waiting = [head]
        try:
            for parcel in found:
                for batch in batches(parcel.sizes, self._limits.batch_bytes):
                    if sum(parcel.sizes[name] for name in batch) > self._limits.small_bytes:
                        await lot.acquire()
                    contents = await self.run(self._mailbox.read, batch)
                    for piece in _slices(frames.pieces([*waiting, *contents])):
                        yield piece
                    del contents
                    lot.release()
                    waiting = []
            for last in frames.pieces(waiting):
                yield last
        finally:
            lot.release()


def _slices(pieces: Iterable[bytes]) -> Iterator[memoryview]:
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), _WRITE_BYTES):
            yield view[start : start + _WRITE_BYTES]


class _Closed(StreamingResponse):
    """A response that releases what its body holds as soon as it is read no more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await cast("Any", self.body_iterator).aclose()
