"""Messages with their objects in and out of the mailbox, while memory stays flat.

Objects are stored as they come and read as they go. What is under way at a time is limited for all
connections together; the rest waits at its sender, whose connection is simply not read.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar, cast

from google.protobuf.message import Message  # type: ignore[import-untyped]  # ships no types
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from fedrx_protocol.messages import frames
from fedrx_server.gateway.bodies import batches, read_frames
from fedrx_server.gateway.endpoints import FRAMES_MEDIA_TYPE
from fedrx_server.gateway.limits import GatewayLimits
from fedrx_server.gateway.mailbox import Intake, Mailbox, Parcel
from fedrx_server.gateway.slots import Slot, TransferSlots

_THREADS: Final = 3

# TLS keeps some copies of what is written at a time.
_WRITE_BYTES: Final = 2**18

T = TypeVar("T")


class Transfer:
    """Moves objects; see the module.

    Args:
        mailbox: Whence and whither.
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
    """Gives back what its body holds as soon as nobody reads it any more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await cast("Any", self.body_iterator).aclose()
