"""Who calls: known from a call's header, before a byte of its body is read.

A site signs the time in a header, not the body, so a stranger's call is refused while its body is
still outside. What a site may have under way at a time is limited too: its key can be stolen.
"""

from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from starlette.requests import Request

from fedrx_server.gateway.endpoints import FLEET
from fedrx_server.gateway.limits import GatewayLimits
from fedrx_server.gateway.ownership import refuse

# As Flower says it where the key of a call to come online is not known.
_NOT_ACTIVATED: Final = 412


class Callers:
    """Sites with calls under way.

    Args:
        state: The SuperLink's state.
        limits: How many calls a site may have under way.
    """

    def __init__(self, state: SqlLinkState, limits: GatewayLimits) -> None:
        self._state, self._limits = state, limits
        self._under_way: Counter[int] = Counter()

    def node_of(self, request: Request) -> int:
        """The registered node whose key signed the header, lately.

        That the body names the same node is for Flower's own check to see, once it is here.

        Raises:
            HTTPException: 401, or 412 for a call to come online with a key that is not registered.
        """
        try:
            key = b64decode(request.headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER, ""))
        except ValueError:
            raise refuse("the public key is not in Base64", 401) from None
        # A call that says no more than the header does; Flower compares the two.
        request.state.protobuf_request = ActivateNodeRequest(public_key=key)
        try:
            authenticate_node(request)
        finally:
            del request.state.protobuf_request
        node = self._state.get_node_id_by_public_key(key)
        if node is None:
            activates = request.url.path == f"{FLEET}activate-node"
            raise refuse("this key is not registered", _NOT_ACTIVATED if activates else 401)
        return int(node)

    @contextmanager
    def counted(self, node: int) -> Iterator[None]:
        """Count a call of this node while it is under way.

        Raises:
            HTTPException: 503 if it has too many already.
        """
        if self._under_way[node] >= self._limits.calls_of_a_site:
            raise refuse("this site has too many calls under way; try again", 503)
        self._under_way[node] += 1
        try:
            yield
        finally:
            self._under_way[node] -= 1
            if not self._under_way[node]:
                del self._under_way[node]
