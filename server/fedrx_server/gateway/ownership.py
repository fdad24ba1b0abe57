"""Whose object is it: a site may touch what was sent to it and what it announced, nothing else.

Flower's store finds an object by its SHA-256 alone, and takes the sender of a reply from the
reply. Both are compared here with the node that has proved who it is.
"""

from typing import Final

from fastapi import HTTPException
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    Message,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.utils import uint64_to_int64

from fedrx_server.gateway.endpoints import ordered
from fedrx_server.gateway.limits import GatewayLimits

_OWN: Final = """
    WITH RECURSIVE mine(id) AS (
        SELECT message_id FROM {table} WHERE {column} = :node AND run_id = :run
        UNION SELECT child_id FROM object_children JOIN mine ON parent_id = mine.id
    )
"""
_SENT_TO: Final = f"""
    {_OWN.format(table="message_ins", column="dst_node_id")}
    SELECT 1 AS found FROM mine WHERE id = :object LIMIT 1
"""  # noqa: S608 - ours
_ANNOUNCED: Final = f"""
    {_OWN.format(table="message_res", column="src_node_id")}
    SELECT MAX(id = :object) AS found, SUM(LENGTH(content)) AS held
    FROM mine JOIN objects ON object_id = id
"""  # noqa: S608 - ours
_ADDRESSED: Final = """
    SELECT 1 AS found FROM message_ins
    WHERE message_id = :object AND dst_node_id = :node AND run_id = :run
"""


def refuse(what: str, status: int = 403) -> HTTPException:
    """The refusal of a request; says no more than the caller knew."""
    return HTTPException(status_code=status, detail=what)


def require_announcement(node: int, request: PushMessagesRequest, limits: GatewayLimits) -> Message:
    """One reply of this node, in its own name, whose tree is its own; gives it back.

    Raises:
        HTTPException: 403 for another's name, 400 for anything else.
    """
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise refuse("one reply at a time", 400)
    reply: Message = request.messages_list[0]
    tree = request.message_object_trees[0]
    if reply.metadata.src_node_id != node or not reply.metadata.reply_to_message_id:
        raise refuse("a site may only reply, and in its own name")
    if tree.object_id != reply.metadata.message_id:
        raise refuse("the reply's tree is of another message", 400)
    if len(ordered(tree)) > limits.objects:
        raise refuse("the reply has too many objects", 413)
    return reply


class Owners:
    """Checks Flower's own calls against what the SuperLink knows.

    Args:
        state: The SuperLink's state.
        limits: Sizes.
    """

    def __init__(self, state: SqlLinkState, limits: GatewayLimits) -> None:
        self._state = state
        self._limits = limits

    def check_push_messages(self, request: PushMessagesRequest) -> None:
        """A reply in the node's own name.

        Raises:
            HTTPException: It is not.
        """
        require_announcement(request.node.node_id, request, self._limits)

    def check_pull_object(self, request: PullObjectRequest) -> None:
        """An object of a message that was sent to the node.

        Raises:
            HTTPException: 403.
        """
        if not self._found(_SENT_TO, request, request.object_id):
            raise refuse("no object of a message to this site")

    def check_push_object(self, request: PushObjectRequest) -> None:
        """An object of a reply that the node announced, within the size of a reply.

        Raises:
            HTTPException: 403, or 413 if it is too much.
        """
        rows = self._state.query(_ANNOUNCED, self._names(request, request.object_id))
        if not rows or not rows[0]["found"]:
            raise refuse("no object of a reply that this site announced")
        length = len(request.object_content)
        if length > self._limits.object_bytes or length + rows[0]["held"] > (
            self._limits.reply_bytes
        ):
            raise refuse("the reply is too long", 413)

    def check_confirm(self, request: ConfirmMessageReceivedRequest) -> None:
        """A message that was sent to the node.

        Raises:
            HTTPException: 403.
        """
        if not self._found(_ADDRESSED, request, request.message_object_id):
            raise refuse("no message to this site")

    def _found(
        self,
        query: str,
        request: PullObjectRequest | ConfirmMessageReceivedRequest,
        object_id: str,
    ) -> bool:
        return bool(self._state.query(query, self._names(request, object_id)))

    @staticmethod
    def _names(
        request: PullObjectRequest | PushObjectRequest | ConfirmMessageReceivedRequest,
        object_id: str,
    ) -> dict[str, object]:
        return {
            "node": uint64_to_int64(request.node.node_id),
            "run": uint64_to_int64(request.run_id),
            "object": object_id,
        }
