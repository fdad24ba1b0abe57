"""What the gateway refused, for the coordinator's log: the caller as far as known, and why.

A caller that tries the same again and again gets a line and then a count, so that a hostile peer
can neither fill the log nor push what others did out of it.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from starlette.requests import Request
from starlette.responses import Response

from fedrx_server.gateway.endpoints import ADDRESS_HEADER

logger = logging.getLogger(__name__)

_REASON_BYTES: Final = 200
_KINDS: Final = 256


@dataclass
class _Seen:
    since: float
    more: int = 0


class Refusals:
    """Writes each kind of refusal once in a while.

    Args:
        every_s: How long a kind is only counted after it was written.
        clock: Monotonic seconds.
    """

    def __init__(self, every_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._seen: OrderedDict[tuple[str, str], _Seen] = OrderedDict()

    def write(self, request: Request, response: Response) -> None:
        """Note a refusal."""
        # Where the call came from, as the proxy saw it, and which node and key it shows.
        caller = request.headers.get(ADDRESS_HEADER, "the coordinator's host")
        key = request.headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER, "")
        if key:
            caller += f" with key {sha256(key.encode()).hexdigest()[:16]}"
        parsed = getattr(request.state, "protobuf_request", None)
        node = getattr(getattr(parsed, "node", None), "node_id", 0)
        if node:
            caller += f", which says it is node {node}"
        reason = bytes(response.body)[:_REASON_BYTES]
        said = f"{request.url.path}: {response.status_code} {reason!r}"
        now, kind = self._clock(), (caller, said)
        seen = self._seen.get(kind)
        if seen is not None and now - seen.since < self._every_s:
            seen.more += 1
            return
        before = f" ({seen.more} more like it since the last line)" if seen and seen.more else ""
        logger.warning("refused %s: %s%s", caller, said, before)
        self._seen.pop(kind, None)
        self._seen[kind] = _Seen(now)
        while len(self._seen) > _KINDS:
            self._seen.popitem(last=False)
