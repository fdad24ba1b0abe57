"""Requests to many sites, and their replies as they come: the coordinator's only use of a `Grid`.

A reply is handed on as soon as it arrives and is not kept, so that memory does not grow with the
number of sites. Waiting is ours: short at first, then longer, because Flower's own wait sleeps
three seconds a turn.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from types import MappingProxyType

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedrx_common.backoff import Backoff
from fedrx_protocol.messages.refusal import Refusal

_WAITS = Backoff(first=0.005, longest=0.25)  # while no reply arrives
_LOOK_EVERY_S = 3.0
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
        witness: The signed head of the site's audit log that came with the answer; or empty.
    """

    node: int
    header: bytes = b""
    payload: bytes = b""
    refusal: str = ""
    lost: bool = False
    witness: bytes = b""


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
        self._posted: dict[str, tuple[int, float]] = {}
        self._come: list[Reply] = []
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
        witness: Mapping[int, bytes] = MappingProxyType({}),
    ) -> Iterator[Reply]:
        """Send and yield replies in the order of arrival; nodes that miss the deadline are lost.

        Args:
            kind: Flower message type, e.g. `train.masked`.
            headers: Encoded request for each node id.
            attempt: Round and attempt, for Flower's `group_id`.
            deadline_s: Seconds to wait for the last reply.
            payload: A vector that all nodes get beside the header.
            witness: What goes to a node beside its header: the head that is kept of its site.
        """
        pushed = self._push(kind, headers, attempt, deadline_s, payload, witness=witness)
        # While this generator waits for replies it keeps nothing of what was sent.
        del payload
        yield from (Reply(node, lost=True) for node, message_id in pushed.items() if not message_id)
        waiting = {message_id: node for node, message_id in pushed.items() if message_id}
        end, waits = self._clock() + deadline_s, iter(_WAITS)
        look, gone = self._clock() + _LOOK_EVERY_S, frozenset[int]()
        while waiting and self._clock() < end:
            arrived = self._arrived(waiting)
            idle = not arrived
            while arrived:
                yield arrived.pop(0)  # nothing here refers to it while the next one comes
            if not idle:
                waits = iter(_WAITS)
            elif waiting:
                self._sleep(next(waits))
            if waiting and self._clock() >= look:
                look = self._clock() + _LOOK_EVERY_S
                # One that is away at two looks in a row has not merely been restarted.
                away = frozenset(waiting.values()).difference(self.nodes())
                for message_id in [m for m, node in waiting.items() if node in away & gone]:
                    yield Reply(waiting.pop(message_id), lost=True)
                gone = away
        for node in waiting.values():
            yield Reply(node, lost=True)

    def post(
        self,
        kind: str,
        headers: Mapping[int, bytes],
        *,
        attempt: str,
        deadline_s: float,
        witness: Mapping[int, bytes] = MappingProxyType({}),
    ) -> None:
        """Send requests without waiting; their replies come in beside those of `send`.

        Args:
            kind: Flower message type.
            headers: Encoded request for each node id.
            attempt: For Flower's `group_id`.
            deadline_s: A node that has not answered by then is lost.
            witness: As for `send`.
        """
        pushed = self._push(kind, headers, attempt, deadline_s, witness=witness)
        end = self._clock() + deadline_s
        for node, message_id in pushed.items():
            if message_id:
                self._posted[message_id] = (node, end)
            else:
                self._come.append(Reply(node, lost=True))

    def posted(self, *, ask: bool) -> list[Reply]:
        """Replies to `post` that have come, and nodes whose time is over.

        Args:
            ask: Whether to ask the grid now; otherwise only what came beside other replies.
        """
        if ask and self._posted:
            self._arrived({})
        now = self._clock()
        for message_id in [m for m, (_, end) in self._posted.items() if end <= now]:
            self._come.append(Reply(self._posted.pop(message_id)[0], lost=True))
        come, self._come = self._come, []
        return come

    def _push(
        self,
        kind: str,
        headers: Mapping[int, bytes],
        attempt: str,
        deadline_s: float,
        payload: NDArray[np.float32] | None = None,
        *,
        witness: Mapping[int, bytes],
    ) -> dict[int, str | None]:
        """Hand requests to the grid; the message's id by node, none where it could not be sent."""
        shared, size = {}, 0
        if payload is not None:
            size = payload.nbytes
            little_endian = np.ascontiguousarray(payload, dtype="<f4")
            array = Array("float32", little_endian.shape, "fedrx.raw", little_endian.tobytes())
            shared["payload"] = ArrayRecord({"vector": array})
        messages = []
        for node, header in headers.items():
            beside = {"witness": witness[node]} if witness.get(node) else {}
            record = ConfigRecord({"header": header, **beside})
            content = RecordDict({_RECORD: record, **shared})
            messages.append(Message(content, node, kind, group_id=attempt, ttl=deadline_s))
        self.traffic.down += sum(len(header) + size for header in headers.values())
        # Flower gives None for a message it could not push, and no list if all were too large.
        ids = list(self._grid.push_messages(messages))[: len(headers)]
        return dict(zip_longest(headers, ids))

    def _arrived(self, waiting: dict[str, int]) -> list[Reply]:
        """Replies that have come; takes their requests out of `waiting`."""
        come = []
        for message in self._grid.pull_messages([*self._posted, *waiting]):
            request = message.metadata.reply_to_message_id
            if request in waiting:
                come.append(self._reply(waiting.pop(request), message))
            elif request in self._posted:
                self._come.append(self._reply(self._posted.pop(request)[0], message))
        return come

    def _reply(self, node: int, message: Message) -> Reply:
        if message.has_error():
            return Reply(node, lost=True)
        # Flower's typed views (`config_records` and the like) refer to themselves, and so would
        # keep the vector until Python's next search for cycles.
        record = message.content.get(_RECORD)
        config = record if isinstance(record, ConfigRecord) else ConfigRecord()
        header, refusal = config.get("header", b""), config.get("refusal", "")
        vectors, payload = message.content.get("payload"), b""
        if isinstance(vectors, ArrayRecord) and "vector" in vectors:
            payload = vectors["vector"].data
        if not isinstance(header, bytes) or not isinstance(refusal, str):
            return Reply(node, lost=True)
        if refusal and not _REASON.fullmatch(refusal):
            refusal = Refusal.UNREADABLE
        self.traffic.up += len(header) + len(payload)
        witness = config.get("witness", b"")
        kept = witness if isinstance(witness, bytes) else b""
        return Reply(node, header, payload, refusal, witness=kept)
