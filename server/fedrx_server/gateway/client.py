"""The coordinator's own process at the fused calls: requests out and replies in, on loopback.

The SuperLink hands large replies out one at a time, so that one of them is in memory here.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, cast

import httpx
from flwr.app import Array, Message
from flwr.app.message import make_message
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.inflatable.inflatable_object import InflatableObject
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.retry import RetryInvoker
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

from fedrx_common.canonical_json import MalformedMessage
from fedrx_protocol.messages import frames
from fedrx_protocol.messages.array_chunks import assemble, is_array
from fedrx_server.gateway.control import SuperLinkAddress
from fedrx_server.gateway.endpoints import FRAMES_MEDIA_TYPE, RUNTIME, WAIT_HEADER, ordered


def inflate_reply(
    head: ProtoMessage, root: str, contents: dict[str, bytes], longest: int
) -> Message:
    """The message; empties `contents`, which gives the memory back.

    Args:
        head: What the SuperLink knows of it.
        root: Id of the message among its objects.
        contents: All its objects.
        longest: Bytes of the longest array.

    Raises:
        MalformedMessage: Objects do not fit together, or an array is too long.
    """
    arrays: dict[str, InflatableObject] = {
        name: Array(*assemble(contents[name], contents, longest))
        for name in [name for name, content in contents.items() if is_array(content)]
    }
    try:
        message = inflate_object_from_contents(root, contents, objects=arrays)
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise MalformedMessage(f"objects do not fit together ({type(error).__name__}).") from None
    if not isinstance(message, Message):
        raise MalformedMessage("the objects are no message.")
    metadata = metadata_from_proto(head.metadata)
    if message.has_error():
        return make_message(metadata=metadata, error=message.error)
    return make_message(metadata=metadata, content=message.content)


_TIMEOUT_S: Final = 30.0
_KEEP_S: Final = 120.0


@dataclass(frozen=True)
class Arrived:
    """A reply as it came.

    Args:
        head: Its metadata, and its error if it is one.
        root: Id of the message itself among its objects; empty for an error.
        contents: Its objects by id.
    """

    head: ProtoMessage
    root: str
    contents: dict[str, bytes]


class LinkClient:
    """One task's connection.

    Args:
        superlink_address: The SuperLink.
        token: The task's token.
        retries: How to try again.
        longest: Bytes of the longest frame that is taken.
    """

    def __init__(
        self,
        superlink_address: SuperLinkAddress,
        token: str,
        retries: RetryInvoker,
        longest: int = 2**26,
    ) -> None:
        self._retries = retries
        self._longest = longest
        self._http = superlink_address.http(
            f"https://{superlink_address.address}{RUNTIME}",
            {TASK_TOKEN_HEADER: token, "content-type": FRAMES_MEDIA_TYPE},
            _KEEP_S,
        )

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def send(
        self,
        request: PushAppMessagesRequest,
        contents: Callable[[], Iterable[bytes]],
        done: Collection[str],
    ) -> list[str]:
        """Send requests to sites; gives their ids, empty where one cannot be sent.

        Args:
            request: Heads and trees.
            contents: The objects of all trees, each once, in their order; asked again if the
                connection breaks.
            done: Ids of replies that need not be kept any more.
        """
        heads = [request.SerializeToString(), _names(done)]

        def once() -> httpx.Response:
            body = frames.pieces(part for parts in (heads, contents()) for part in parts)
            response = self._http.post("send", content=body)
            response.raise_for_status()
            return response

        content = self._retries.invoke(once).content
        return list(PushAppMessagesResponse.FromString(content).message_ids)

    def collect(
        self, waiting: Collection[str], done: Collection[str], wait_s: float
    ) -> list[Arrived]:
        """Replies to these requests, one large or some small; none if none comes in time.

        Args:
            waiting: Ids of requests.
            done: Ids of replies that need not be kept any more.
            wait_s: How long the SuperLink may wait for a reply.
        """
        body = frames.body([_names(waiting), _names(done)])

        def once() -> list[Arrived]:
            with self._http.stream(
                "POST",
                "collect",
                content=body,
                headers={WAIT_HEADER: f"{wait_s:.3f}"},
                timeout=httpx.Timeout(_TIMEOUT_S, read=wait_s + _TIMEOUT_S),
            ) as response:
                if response.is_error:
                    response.read()
                    response.raise_for_status()
                bodies = frames.bodies(response.iter_raw(), self._longest)
                head = PullAppMessagesResponse.FromString(_next(bodies))
                arrived = []
                for message, tree in zip(
                    head.messages_list, head.message_object_trees, strict=True
                ):
                    contents = {name: _next(bodies) for name in ordered(tree) if name}
                    arrived.append(Arrived(message, tree.object_id, contents))
                return arrived

        return cast("list[Arrived]", self._retries.invoke(once))


def _next(bodies: Iterator[bytes]) -> bytes:
    try:
        return next(bodies)
    except StopIteration:
        raise DecodeError("an answer of the SuperLink has an end missing") from None


def _names(ids: Collection[str]) -> bytes:
    return bytes(PullAppMessagesRequest(message_ids=ids).SerializeToString())
