"""The wire between a site and the SuperLink: all that the site's agent needs of Flower's internals.

It only opens connections outwards. It never fetches a run's bundle, so no code can come over the
wire. Flower is pinned to one version, because these names are not a public interface; nothing
else at a site imports them.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from typing import Final

import httpx
from flwr.app import Array, Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.version import package_version
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

from fedrx_client.connection.endpoint import (
    Endpoint,
    Interrupted,
    NotAdmitted,
    Undeliverable,
    Unreachable,
    load_transport_key,
)
from fedrx_client.connection.route import Route, proxy_for
from fedrx_common.backoff import Backoff
from fedrx_common.errors import MisuseError, PeerError
from fedrx_protocol.messages import frames
from fedrx_protocol.messages.array_chunks import assemble, is_array

__all__ = [
    "Endpoint",
    "Fleet",
    "NotAdmitted",
    "Undeliverable",
    "Unreachable",
    "check_flower",
    "load_transport_key",
]

FLOWER_VERSION: Final = "1.41.0"

# Flower's minimum. A site counts as gone after two intervals without a heartbeat.
HEARTBEAT_INTERVAL_S: Final = 10.0

# The coordinator keeps `take` open for twenty seconds while there is no request.
_TAKE_WITHIN_S: Final = 60.0
_CALL_WITHIN_S: Final = 60.0
_KEEP_S: Final = 100.0
_LONGEST_FRAME_BYTES: Final = 2**24
_FRAMES: Final = "application/vnd.fedrx.frames"

_RETRY_WAITS: Final = Backoff(first=0.1, longest=2.0)
_GATEWAY_CODES: Final = frozenset({500, 502, 503, 504})


def check_flower(installed: str = package_version) -> None:
    """Refuse to run on another Flower than the one this module was tested with.

    Raises:
        MisuseError: Both versions are named.
    """
    if installed != FLOWER_VERSION:
        raise MisuseError(
            f"FedRx needs Flower {FLOWER_VERSION} and found {installed}: "
            f"run `pip install flwr=={FLOWER_VERSION}`."
        )


class Fleet:
    """One site's connection; calls of different threads do not disturb each other.

    Args:
        door: The coordinator.
        longest_message_bytes: A longer request is not taken into memory.
        clock: Seconds since the epoch.
        sleep: Waits some seconds; a true answer means that the agent is to stop.
    """

    def __init__(
        self,
        door: Endpoint,
        *,
        longest_message_bytes: int = 2**31,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        check_flower()
        self._public_key = public_key_to_bytes(door.key.public_key())
        self._limit = longest_message_bytes
        self._clock = clock
        self._sleep = sleep
        self._node = Node()
        self._aside: list[str] = []
        self._listening = False
        signature = NodeAuthHttpInterceptor(door.key, door.key.public_key())
        self._sign = signature.intercept
        base = f"https://{door.place}"
        self._http = Route(proxy_for(door.place)).client(
            door.trust,
            f"{base}/v1/fleet/",
            httpx.Timeout(_CALL_WITHIN_S, read=_TAKE_WITHIN_S),
            _KEEP_S,
        )
        self._client = FleetHttpClient(
            base,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperNode"), signature],
            verify=door.trust,
        )
        # Flower's own client would choose a proxy from the same environment by other rules.
        self._client.close()
        self._client._client = self._http  # noqa: SLF001 - Flower has no other way to it

    def connect(self, known_node: int = 0) -> int:
        """Come online and return the node id.

        Flower does not activate a node that still counts as online, as one does for twenty
        seconds after its agent was killed. A heartbeat under the node id of last time helps.

        Args:
            known_node: The id of last time, 0 if there is none.

        Raises:
            Unreachable: Try again later.
            NotAdmitted: The key is not known, or not yet free again.
        """
        if known_node:
            self._node = Node(node_id=known_node)
            try:
                self.heartbeat()
            except NotAdmitted:
                pass  # the coordinator registered the key again, under another id
            else:
                return known_node
        request = ActivateNodeRequest(
            public_key=self._public_key, heartbeat_interval=HEARTBEAT_INTERVAL_S
        )
        with _translated():
            self._node = Node(node_id=self._client.ActivateNode(request).node_id)
        return int(self._node.node_id)

    def heartbeat(self) -> None:
        """Send a sign of life.

        Raises:
            Unreachable: The coordinator does not answer.
            NotAdmitted: It has no such node.
        """
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_INTERVAL_S)
        with _translated():
            if not self._client.SendNodeHeartbeat(request).success:
                raise NotAdmitted("the coordinator has forgotten this node.")

    def receive(self) -> Message | None:
        """Take the next request, whole, or None if there is none for a while.

        The same request comes again until it is answered or was found `Undeliverable`.

        Raises:
            Unreachable: The coordinator does not answer.
            NotAdmitted: It does not take the key any more.
            Undeliverable: A request was there and cannot be used; it will not come again.
        """
        try:
            with _translated():
                return self._take()
        except Interrupted:
            return None

    def interrupt(self) -> None:
        """End the wait for a request, from a signal handler of the thread that receives.

        Raises:
            Interrupted: The thread waits; `receive` turns this into None.
        """
        if self._listening:
            self._listening = False
            raise Interrupted

    def reply(self, message: Message) -> None:
        """Give an answer back, trying again until its time is over.

        Raises:
            Unreachable: No connection came in time.
            NotAdmitted: The coordinator does not take the key any more.
            Undeliverable: The run is over, or the answer came already.
        """
        message.metadata.__dict__["_message_id"] = message.object_id
        with no_object_id_recompute():
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(message))],
                message_object_trees=[get_object_tree(message)],
                clientapp_runtime_list=[0.0],  # how long a hospital computes is its own affair
            )
            objects = get_all_nested_objects(message)
        deadline = message.metadata.created_at + message.metadata.ttl
        for wait in _RETRY_WAITS:
            try:
                contents = (item.deflate() for item in objects.values())
                body = frames.pieces(chain([request.SerializeToString()], contents))
                with _translated(), self._opened("give", _FRAMES, body):
                    return
            except Unreachable:
                if self._clock() + wait > deadline or self._sleep(wait):
                    raise
            except Undeliverable:
                # Otherwise the coordinator would offer the request again and again.
                self._aside.append(message.metadata.reply_to_message_id)
                raise

    def close(self) -> None:
        """Deactivate the node if the coordinator answers, and close the connection."""
        try:
            if self._node.node_id:
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))
        except httpx.HTTPError:
            pass  # the coordinator finds out by the missing heartbeats
        finally:
            self._client.close()

    def _take(self) -> Message | None:
        request = PullMessagesRequest(node=self._node, message_ids=self._aside)
        with self._opened("take", PROTOBUF_MEDIA_TYPE, [request.SerializeToString()]) as response:
            self._aside = []
            bodies = frames.bodies(response.iter_raw(), _LONGEST_FRAME_BYTES)
            try:
                head = PullMessagesResponse.FromString(_next(bodies))
            except DecodeError:
                raise Undeliverable("the coordinator sent something that is no message.") from None
            if not head.messages_list:
                return None
            try:
                return self._whole(head, bodies)
            except PeerError:
                # The coordinator need not offer again what this site cannot use.
                self._aside.append(head.messages_list[0].metadata.message_id)
                raise

    def _whole(self, head: PullMessagesResponse, bodies: Iterator[bytes]) -> Message:
        tree, budget = head.message_object_trees[0], _Budget(self._limit)
        names = dict.fromkeys(node.object_id for node in iterate_object_tree(tree))
        contents = {name: budget.spend(_next(bodies)) for name in names}
        try:
            arrays: dict[str, InflatableObject] = {
                name: Array(*assemble(contents[name], contents, self._limit))
                for name in [name for name, content in contents.items() if is_array(content)]
            }
            message = inflate_object_from_contents(tree.object_id, contents, objects=arrays)
        except (PeerError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise Undeliverable(f"a request's parts do not fit ({type(error).__name__}).") from None
        if not isinstance(message, Message):
            raise Undeliverable("a request is no message.")
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    @contextmanager
    def _opened(self, call: str, kind: str, body: Iterable[bytes]) -> Iterator[httpx.Response]:
        """Make a signed call and yield its answer, whose body is not read yet."""
        request = self._http.build_request(
            "POST", call, content=iter(body), headers={"content-type": kind}
        )
        context = ProtobufRequestContext(call, Node(), request)
        self._listening = call == "take"
        try:
            response = self._sign(
                context, lambda signed: self._http.send(signed.request, stream=True)
            )
        finally:
            self._listening = False
        with closing(response):
            if response.is_error:
                response.read()
                response.raise_for_status()
            yield response


class _Budget:
    """Counts the bytes of one message and refuses those beyond the limit."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def spend(self, content: bytes) -> bytes:
        self._left -= len(content)
        if self._left < 0:
            raise Undeliverable("a request is longer than this site takes.")
        return content


def _next(bodies: Iterator[bytes]) -> bytes:
    try:
        return next(bodies)
    except StopIteration:
        raise Undeliverable("a request has objects missing.") from None


@contextmanager
def _translated() -> Iterator[None]:
    """Turn an error of HTTP into one that names what happened."""
    try:
        yield
    except frames.FrameInvalid as error:
        raise Undeliverable(f"a request cannot be read: {error}") from None
    except httpx.TransportError as error:
        raise Unreachable(f"no connection to the coordinator ({error}).") from None
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        if code in _GATEWAY_CODES:
            raise Unreachable(f"the coordinator is not ready (HTTP {code}).") from None
        if code in {401, 412}:
            raise NotAdmitted(
                "the coordinator does not admit this key: it is not enrolled or was revoked, the "
                "clocks differ by more than five seconds, or another agent of this site is online."
            ) from None
        raise Undeliverable(
            f"the coordinator refused (HTTP {code}); the run may be over."
        ) from None
