"""Requests to sites and their replies in Flower's own store, a whole message in one go.

Everything is handed out at least once: a request until the site has answered it or says that it
is done with it, a reply until the coordinator says that it has it. A message is handed out only
when all its objects are there. Called from threads; everything that writes does so in one
transaction and one at a time.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

from flwr.app import Message
from flwr.common.constant import Status
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.server.superlink.linkstate.utils import (
    convert_sint64_values_in_dict_to_uint64,
    create_message_error_unavailable_ins_message,
    create_message_error_unavailable_res_message,
    dict_to_message,
)
from flwr.supercore.state.schema.objectstore_models import StoredObject
from flwr.supercore.utils import int64_to_uint64, uint64_to_int64
from sqlalchemy import bindparam, select, text

from fedrx_server.gateway.endpoints import ordered
from fedrx_server.gateway.limits import GatewayLimits
from fedrx_server.gateway.ownership import refuse

_NUMBERS: Final = ["run_id", "src_node_id", "dst_node_id"]

_TREE: Final = """
    WITH RECURSIVE tree(id) AS (
        SELECT :root
        UNION SELECT child_id FROM object_children JOIN tree ON parent_id = tree.id
    )
"""
_SIZES: Final = f"""
    {_TREE}
    SELECT tree.id, LENGTH(content) AS size, COALESCE(is_available, 0) AS here
    FROM tree LEFT JOIN objects ON object_id = tree.id
"""  # noqa: S608 - ours
_EDGES: Final = f"""
    {_TREE}
    SELECT parent_id, child_id FROM object_children JOIN tree ON parent_id = tree.id
    ORDER BY object_children.rowid
"""  # noqa: S608 - ours
_OPEN_REQUESTS: Final = """
    SELECT message_ins.*, message_res.message_id AS reply FROM message_ins
    JOIN objects ON object_id = message_ins.message_id
    LEFT JOIN message_res ON message_res.reply_to_message_id = message_ins.message_id
    WHERE message_ins.dst_node_id = :node AND message_ins.created_at + message_ins.ttl > :now
    ORDER BY message_ins.created_at, message_ins.message_id
"""
_EXPIRED: Final = """
    SELECT message_ins.message_id, message_res.message_id AS reply FROM message_ins
    LEFT JOIN message_res ON message_res.reply_to_message_id = message_ins.message_id
    WHERE message_ins.run_id = :run AND message_ins.created_at + message_ins.ttl <= :now
"""
_GONE: Final = """
    SELECT message_ins.* FROM message_ins
    LEFT JOIN node ON node.node_id = message_ins.dst_node_id
    WHERE message_ins.message_id IN :ids AND (
        node.node_id IS NULL OR node.status = 'unregistered' OR node.online_until < :since
    )
"""


@dataclass(frozen=True)
class Parcel:
    """A message that can be handed out.

    Args:
        head: Its metadata.
        tree: Its objects.
        sizes: Bytes of each object, in the order in which they travel.
    """

    head: ProtoMessage
    tree: ObjectTree
    sizes: dict[str, int]


@dataclass
class Intake:
    """Objects that are announced and on their way.

    Args:
        expected: Ids in the order in which they come.
        missing: Those that the store has not yet.
        done: What to do when the last one is stored.
    """

    expected: list[str]
    missing: set[str]
    done: Callable[[], None]
    position: int = 0
    taken_bytes: int = 0


class Mailbox:
    """Flower's message store, as the fused calls use it.

    Args:
        state: The SuperLink's state.
        limits: Sizes and waits.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, state: SqlLinkState, limits: GatewayLimits, clock: Callable[[], float] = time.time
    ) -> None:
        self._state = state
        self._store = state.object_store
        self._limits = limits
        self._clock = clock
        self._begun = clock()
        self._writing = threading.RLock()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction, one at a time."""
        with self._writing, self._state.session():
            yield

    # What sites ask for.

    def next_request(self, node: int) -> Parcel | None:
        """The oldest request to a node that it has not answered and not put aside."""
        names = {"node": uint64_to_int64(node), "now": self._clock()}
        for row in self._state.query(_OPEN_REQUESTS, names):
            reply = row.pop("reply")
            if reply and self._sizes(reply) is not None:
                continue
            run = int64_to_uint64(row["run_id"])
            status = self._state.get_run_status({run}).get(run)
            running = status is not None and status.status == Status.RUNNING
            if running and (parcel := self._parcel(row)):
                return parcel
        return None

    def put_aside(self, node: int, message_ids: Collection[str]) -> None:
        """Take back requests that the node cannot use; those of others are left alone."""
        query = "SELECT 1 FROM message_ins WHERE message_id = :id AND dst_node_id = :node"
        for message_id in message_ids:
            names = {"id": message_id, "node": uint64_to_int64(node)}
            with self.writing():
                if self._state.query(query, names):
                    self._store.delete(message_id)

    def announce_reply(self, head: ProtoMessage, tree: ObjectTree) -> Intake:
        """Begin to take a reply; the node is its sender, which the caller has checked.

        Raises:
            HTTPException: 409 if no request waits for it any more, 400 if its tree cannot be.
        """
        reply = message_from_proto(head)
        meta = reply.metadata
        request = meta.reply_to_message_id
        # Drop a half-given reply of an agent that has since restarted.
        for row in self._rows("message_res", "reply_to_message_id", [request]):
            half = row["message_id"]
            if half != meta.message_id and self._sizes(half) is None:
                self._store.delete(half)
                self._state.query("DELETE FROM message_res WHERE message_id = :id", {"id": half})
        if self._state.store_message_res(reply) is None:
            raise refuse("nobody waits for this reply", 409)
        missing = self._register(meta.run_id, tree)
        return Intake(ordered(tree), missing, lambda: self._store.delete(request))

    def put(self, intake: Intake, contents: Collection[bytes]) -> None:
        """Store the next objects.

        Raises:
            HTTPException: 400 for an object that was not announced, 413 for too many bytes.
        """
        for content in contents:
            intake.taken_bytes += len(content)
            if intake.taken_bytes > self._limits.reply_bytes:
                raise refuse("the message is too long", 413)
            if intake.position >= len(intake.expected):
                raise refuse("more objects than announced", 400)
            object_id = intake.expected[intake.position]
            intake.position += 1
            if len(content) > self._limits.object_bytes:
                raise refuse("an object is too long", 413)
            if object_id in intake.missing:
                try:
                    self._store.put(object_id, content)
                except Exception as error:
                    # Flower has one class for each thing that can be wrong with an object.
                    why = f"an object cannot be stored ({type(error).__name__})"
                    raise refuse(why, 400) from error
            elif hashlib.sha256(content).hexdigest() != object_id:
                # Another sender's object may be named only by a sender that has it.
                raise refuse("an object is not the one announced", 400)

    def finish(self, intake: Intake) -> None:
        """Say that all objects are there.

        Raises:
            HTTPException: 400 if they are not.
        """
        if intake.position != len(intake.expected):
            raise refuse("objects are missing", 400)
        intake.done()

    # What the coordinator's process asks for.

    def announce_requests(
        self, run: int, heads: Collection[ProtoMessage], trees: Collection[ObjectTree]
    ) -> tuple[list[str], Intake]:
        """Begin to take requests to sites; gives their ids, empty where one cannot be sent."""
        # What expired without an answer is removed, so that the store does not grow.
        names = {"run": uint64_to_int64(run), "now": self._clock()}
        for row in self._state.query(_EXPIRED, names):
            self._remove(row["message_id"], row["reply"])
        ids: list[str] = []
        expected: dict[str, None] = {}
        missing: set[str] = set()
        for head, tree in zip(heads, trees, strict=True):
            message = message_from_proto(head)
            if message.metadata.run_id != run or message.metadata.message_id != tree.object_id:
                raise refuse("a request of another run", 400)
            known = self._state.store_message_ins(message)
            ids.append(known or "")
            expected.update(dict.fromkeys(ordered(tree)))
            if known:
                missing.update(self._register(run, tree))
        return ids, Intake(list(expected), missing, lambda: None)

    def next_replies(self, run: int, waiting: Collection[str]) -> list[Parcel]:
        """Replies that are whole: one, or several small ones; errors for sites that are gone."""
        found: list[Parcel] = []
        total = 0
        for row in self._rows("message_res", "reply_to_message_id", waiting):
            if row["run_id"] != uint64_to_int64(run):
                continue
            parcel = self._parcel(row)
            if parcel is None:
                continue
            total += sum(parcel.sizes.values())
            if found and total > self._limits.answer_bytes:
                return found
            found.append(parcel)
        return found or self._lost(run, waiting)

    def forget(self, run: int, reply_ids: Collection[str]) -> None:
        """Remove replies that the coordinator has, and what they answered."""
        for row in self._rows("message_res", "message_id", reply_ids):
            if row["run_id"] == uint64_to_int64(run):
                self._remove(row["reply_to_message_id"], row["message_id"])

    # What both need.

    def read(self, object_ids: Collection[str]) -> list[bytes]:
        """The objects' contents, in this order.

        Raises:
            LookupError: One has gone in between.
        """
        columns = select(StoredObject.object_id, StoredObject.content)
        with self._state.session() as session:
            rows = session.execute(columns.where(StoredObject.object_id.in_(object_ids)))
            contents = {name: content for name, content in rows if content}
        return [contents[name] for name in object_ids]

    def _register(self, run: int, tree: ObjectTree) -> set[str]:
        try:
            return set(self._store.preregister(run, tree))
        except ValueError as error:
            raise refuse("the tree of objects cannot be", 400) from error

    def _remove(self, request: str, reply: str | None) -> None:
        self._state.delete_messages({request})
        for message_id in filter(None, (request, reply)):
            self._store.delete(message_id)

    def _lost(self, run: int, waiting: Collection[str]) -> list[Parcel]:
        """Error replies for requests that are gone, or whose site is."""
        known = {row["message_id"] for row in self._rows("message_ins", "message_id", waiting)}
        errors = [
            create_message_error_unavailable_ins_message(message_id, run)
            for message_id in waiting
            if message_id not in known
        ]
        if self._clock() - self._begun > self._limits.grace_s:
            query = text(_GONE).bindparams(bindparam("ids", expanding=True))
            names = {"ids": list(waiting), "since": self._clock() - self._limits.gone_after_s}
            with self._state.session() as session:
                rows = [dict(row) for row in session.execute(query, names).mappings()]
            errors += [
                create_message_error_unavailable_res_message(_message(row).metadata, "node_unavail")
                for row in rows
            ]
        return [Parcel(message_to_proto(error), ObjectTree(), {}) for error in errors]

    def _rows(self, table: str, column: str, ids: Collection[str]) -> list[dict[str, Any]]:
        query = text(
            f"SELECT * FROM {table} WHERE {column} IN :ids ORDER BY created_at"  # noqa: S608 - ours
        ).bindparams(bindparam("ids", expanding=True))
        with self._state.session() as session:
            return [dict(row) for row in session.execute(query, {"ids": list(ids)}).mappings()]

    def _parcel(self, row: dict[str, Any]) -> Parcel | None:
        """A message with its tree; None while objects are missing."""
        root = cast("str", row["message_id"])
        sizes = self._sizes(root)
        if sizes is None:
            return None
        children: dict[str, list[str]] = {}
        for edge in self._state.query(_EDGES, {"root": root}):
            children.setdefault(edge["parent_id"], []).append(edge["child_id"])
        tree = _grown(root, children)
        return Parcel(
            message_to_proto(_message(row)), tree, {name: sizes[name] for name in ordered(tree)}
        )

    def _sizes(self, root: str) -> dict[str, int] | None:
        """Bytes of each object of a tree; None unless all of them are there."""
        rows = self._state.query(_SIZES, {"root": root})
        if not all(row["here"] for row in rows):
            return None
        return {row["id"]: row["size"] for row in rows}


def _grown(name: str, children: Mapping[str, list[str]]) -> ObjectTree:
    """Build the tree below an object."""
    below = [_grown(child, children) for child in children.get(name, ())]
    return ObjectTree(object_id=name, children=below)


def _message(row: dict[str, Any]) -> Message:
    numbers = dict(row)
    convert_sint64_values_in_dict_to_uint64(numbers, _NUMBERS)
    return dict_to_message(numbers)
