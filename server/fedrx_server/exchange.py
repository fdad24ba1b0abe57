"""Requests to many sites, and their replies as they come: the coordinator's only use of a `Grid`.

A reply is handed on as soon as it arrives and is not kept, so that memory does not grow with the
number of sites. Waiting is ours: short at first, then longer, because Flower's own wait sleeps
three seconds a turn.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

_SHORTEST_WAIT_S = 0.005
_LONGEST_WAIT_S = 0.25
_RECORD = "fedrx"
# A refusal is the name of an error class; anything else a site writes there is not repeated.
_REASON = re.compile(r"[A-Za-z]{1,64}")


@dataclass(frozen=True)
class Reply:
    """What a node answered.

    Args:
        node: Flower's node id.
        header: The encoded protocol message; empty if there is none.
        payload: The large vector, if the message has one.
        refusal: Name of the site's reason, if it refused.
        lost: Whether the node could not be reached or broke down.
    """

    node: int
    header: bytes = b""
    payload: bytes = b""
    refusal: str = ""
    lost: bool = False


@dataclass
class Traffic:
    """Bytes of protocol messages, as the coordinator counts them."""

    up: int = 0
    down: int = 0


class Exchange:
    """Sends one request to each of some nodes and yields their replies.

    Args:
        grid: Flower's grid, or the simulator's.
        clock: Monotonic seconds.
        sleep: Waits some seconds; the in-process engine never needs it.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid = grid
        self._clock = clock
        self._sleep = sleep
        self.traffic = Traffic()

    def nodes(self) -> list[int]:
        """Ids of the nodes that are connected."""
        return list(self._grid.get_node_ids())

    def send(
        self,
        kind: str,
        headers: Mapping[int, bytes],
        *,
        attempt: str,
        deadline_s: float,
        payload: NDArray[np.float32] | None = None,
    ) -> Iterator[Reply]:
        """Send and yield replies in the order of arrival; nodes that miss the deadline are lost.

        Args:
            kind: Flower message type, e.g. `train.masked`.
            headers: Encoded request for each node id.
            attempt: Round and attempt, for Flower's `group_id`.
            deadline_s: Seconds to wait for the last reply.
            payload: A vector that all nodes get beside the header.
        """
        record = None if payload is None else _array_record(payload)
        messages = [
            Message(_content(header, record), node, kind, group_id=attempt, ttl=deadline_s)
            for node, header in headers.items()
        ]
        size = 0 if payload is None else payload.nbytes
        self.traffic.down += sum(len(header) + size for header in headers.values())
        ids = list(self._grid.push_messages(messages))
        # Flower gives None for a message it could not push, and no list if all were too large.
        pushed = dict(zip(headers, ids, strict=False))
        yield from (Reply(node, lost=True) for node in headers if not pushed.get(node))
        waiting = {message_id: node for node, message_id in pushed.items() if message_id}
        yield from self._collect(waiting, deadline_s)

    def _collect(self, waiting: dict[str, int], deadline_s: float) -> Iterator[Reply]:
        end, wait = self._clock() + deadline_s, _SHORTEST_WAIT_S
        while waiting and self._clock() < end:
            arrived = list(self._grid.pull_messages(list(waiting)))
            for message in arrived:
                node = waiting.pop(message.metadata.reply_to_message_id, None)
                if node is not None:
                    yield self._reply(node, message)
            if arrived:
                wait = _SHORTEST_WAIT_S
            elif waiting:
                self._sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_S)
        for node in waiting.values():
            yield Reply(node, lost=True)

    def _reply(self, node: int, message: Message) -> Reply:
        if message.has_error():
            return Reply(node, lost=True)
        config = message.content.config_records.get(_RECORD) or ConfigRecord()
        header, refusal = config.get("header", b""), config.get("refusal", "")
        payload = _payload(message.content)
        if not isinstance(header, bytes) or not isinstance(refusal, str):
            return Reply(node, lost=True)
        if refusal and not _REASON.fullmatch(refusal):
            refusal = "Unreadable"
        self.traffic.up += len(header) + len(payload)
        return Reply(node, header, payload, refusal)


def _content(header: bytes, payload: ArrayRecord | None) -> RecordDict:
    content = RecordDict({_RECORD: ConfigRecord({"header": header})})
    if payload is not None:
        content["payload"] = payload
    return content


def _array_record(vector: NDArray[np.float32]) -> ArrayRecord:
    little_endian = np.ascontiguousarray(vector, dtype="<f4")
    array = Array("float32", little_endian.shape, "fedrx.raw", little_endian.tobytes())
    return ArrayRecord({"vector": array})


def _payload(content: RecordDict) -> bytes:
    record = content.array_records.get("payload")
    return record["vector"].data if record is not None and "vector" in record else b""
