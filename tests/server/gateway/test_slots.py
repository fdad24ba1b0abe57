"""Room for large objects: never more than there is, one for each owner, always given back."""

import asyncio
from dataclasses import replace

import pytest
from fastapi import HTTPException
from flwr.proto.node_pb2 import Node
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from fedrx_protocol.messages import frames
from fedrx_server.gateway.limits import GatewayLimits
from fedrx_server.gateway.slots import Slot, TransferSlots
from fedrx_server.gateway.transfer import read_frames, read_protobuf


@given(owners=st.lists(st.integers(0, 4), max_size=20), count=st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_never_more_at_a_time_than_there_are_and_one_for_each_owner(owners, count):
    held: list[int] = []
    most = 0

    async def use(lots: TransferSlots, owner: int) -> None:
        nonlocal most
        lot = Slot(lots, owner)
        await lot.acquire()
        await lot.acquire()  # held already
        assert owner not in held
        held.append(owner)
        most = max(most, len(held))
        await asyncio.sleep(0)
        held.remove(owner)
        lot.release()
        lot.release()

    async def play() -> None:
        lots = TransferSlots(count, 60.0)
        await asyncio.gather(*(use(lots, owner) for owner in owners))

    asyncio.run(play())
    assert held == []
    assert most <= min(count, len(set(owners)))


def test_whoever_gives_up_waiting_keeps_nothing():
    async def play() -> None:
        lots = TransferSlots(1, 60.0)
        first, second, third = (Slot(lots, owner) for owner in "aba")
        await first.acquire()
        for waiting in (second, third):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting.acquire(), 0.01)
        first.release()
        for again in (second, third):
            await asyncio.wait_for(again.acquire(), 60)
            again.release()

    asyncio.run(play())


def request_of(*parts: bytes, ends: bool = True) -> Request:
    """A call whose body comes in parts, and then ends or never does."""
    left = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    left += [{"type": "http.request", "body": b"", "more_body": False}] if ends else []

    async def receive():
        if not left:
            await asyncio.sleep(60)
        return left.pop(0)

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


LIMITS = GatewayLimits(head_bytes=100, small_bytes=100, object_bytes=10_000)


@pytest.mark.parametrize("size", [99, 5_000])
def test_a_large_object_waits_for_a_lot_and_a_small_one_does_not(size):
    body = frames.body([b"head", bytes(size)])

    async def play() -> None:
        lots = TransferSlots(1, 60.0)
        taken, lot = Slot(lots, "other"), Slot(lots, "own")
        await taken.acquire()
        found = read_frames(request_of(body[:20], body[20:]), 100, LIMITS, lot)
        assert await anext(found) == b"head"
        rest = asyncio.ensure_future(anext(found))
        for _ in range(100):  # turns of the loop, more than it needs
            await asyncio.sleep(0)
        assert rest.done() == (size == 99)
        taken.release()
        assert len(await rest) == size
        lot.release()

    asyncio.run(play())


def test_an_object_that_does_not_come_loses_its_lot():
    body = frames.body([b"head", bytes(5_000)])

    async def play() -> None:
        lots = TransferSlots(1, 0.05)
        lot = Slot(lots, "own")
        found = read_frames(request_of(body[:50], ends=False), 100, LIMITS, lot)
        assert await anext(found) == b"head"
        with pytest.raises(Exception, match="did not come in time") as caught:
            await anext(found)
        assert caught.value.status_code == 503  # the agent tries again

    asyncio.run(play())


def test_bytes_that_trickle_do_not_keep_a_call_open():
    """Each part comes in time, the message does not."""
    limits = replace(LIMITS, lot_within_s=0.2)

    async def receive():
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x", "more_body": True}

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": [(b"content-type", b"application/protobuf")],
    }

    async def play() -> None:
        lot = Slot(TransferSlots(1, limits.lot_within_s), "own")
        reads = (
            read_protobuf(Request(scope, receive), Node, 1_000_000, limits, lot),
            anext(read_frames(Request(scope, receive), 100_000, limits, lot)),
        )
        for read in reads:
            with pytest.raises(HTTPException, match="did not come in time") as caught:
                await asyncio.wait_for(read, 60)
            assert caught.value.status_code == 503

    asyncio.run(play())


@pytest.mark.parametrize("longest", [200, 1_000])
def test_one_message_is_within_its_length_and_waits_for_a_lot_once_it_is_large(longest):
    content = Node(node_id=1).SerializeToString() + b"\xa2\x06\xf3\x03" + bytes(499)
    request = request_of(content[:90], content[90:])
    request.scope["headers"] = [(b"content-type", b"application/protobuf")]

    async def play() -> None:
        lot = Slot(TransferSlots(1, 60.0), "own")
        read = read_protobuf(request, Node, longest, LIMITS, lot)
        if longest < len(content):
            with pytest.raises(HTTPException, match="too long"):
                await read
        else:
            assert (await read).node_id == 1
            assert lot.until is not None
        lot.release()

    asyncio.run(play())
