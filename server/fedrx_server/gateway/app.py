"""The SuperLink's fleet paths and our fused ones, before Flower's own application.

Flower's handlers answer Flower's calls, behind Flower's own check of the caller; each object is
compared with its owner first. The fused calls do the same work in one call: `take` and `give` for
sites, `send` and `collect` for the coordinator's process. All other paths go to Flower unchanged;
no fleet path does.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

from fastapi import FastAPI
from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.dependencies.task import authenticate_task
from flwr.supercore.error import http_error_translator
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import Message  # type: ignore[import-untyped]  # ships no types
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from fedrx_server.gateway.access_log import Refusals
from fedrx_server.gateway.callers import Callers
from fedrx_server.gateway.endpoints import FLEET, RUNTIME, WAIT_HEADER
from fedrx_server.gateway.limits import GatewayLimits
from fedrx_server.gateway.mailbox import Intake, Mailbox, Parcel
from fedrx_server.gateway.notifier import Notifier
from fedrx_server.gateway.ownership import Owners, refuse, require_announcement
from fedrx_server.gateway.transfer import Transfer, first, parse, read_protobuf

Handler = Callable[..., Message]
Check = Callable[..., None]


@dataclass(frozen=True)
class FlowerEndpoint:
    """One of Flower's fleet calls.

    Args:
        answer: Flower's handler.
        needs_store: Whether it wants the object store besides the state.
        check: Refuses what is not the node's own.
    """

    answer: Handler
    needs_store: bool = False
    check: Check | None = None


def stock_calls(owners: Owners) -> Mapping[str, FlowerEndpoint]:
    """Flower's fleet calls; registering is the coordinator's, and so is not among them."""
    handlers = fleet_handlers
    calls = {
        "activate-node": FlowerEndpoint(handlers.activate_node),
        "deactivate-node": FlowerEndpoint(handlers.deactivate_node),
        "send-node-heartbeat": FlowerEndpoint(handlers.send_node_heartbeat),
        "pull-messages": FlowerEndpoint(handlers.pull_messages, needs_store=True),
        "push-messages": FlowerEndpoint(handlers.push_messages, check=owners.check_push_messages),
        "get-run": FlowerEndpoint(handlers.get_run),
        "get-fab": FlowerEndpoint(handlers.get_fab),
        "push-object": FlowerEndpoint(handlers.push_object, check=owners.check_push_object),
        "pull-object": FlowerEndpoint(handlers.pull_object, check=owners.check_pull_object),
        "confirm-message-received": FlowerEndpoint(
            handlers.confirm_message_received, needs_store=True, check=owners.check_confirm
        ),
    }
    return {f"{FLEET}{name}": call for name, call in calls.items()}


logger = logging.getLogger(__name__)
# A run also waits for sites to be gone, of which no notice comes.
_LOOK_AGAIN_S: Final = 2.0
Fused = Callable[[Request], Awaitable[Response]]


class Link:
    """The ASGI application that the SuperLink's process serves.

    Args:
        app: Flower's own application.
        state: Its state.
        limits: Sizes and waits.
    """

    def __init__(self, app: FastAPI, state: SqlLinkState, limits: GatewayLimits) -> None:
        self._app = app
        self._state = state
        self._limits = limits
        self._mailbox = Mailbox(state, limits)
        self._bell = Notifier()
        self._stopping = False
        self._transfer = Transfer(self._mailbox, limits)
        self._callers = Callers(state, limits)
        self._refusals = Refusals()
        self._stock = stock_calls(Owners(state, limits))
        self._fused: Mapping[str, Fused] = {
            f"{FLEET}take": self._take,
            f"{FLEET}give": self._give,
            f"{RUNTIME}send": self._send,
            f"{RUNTIME}collect": self._collect,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI has it."""
        path = scope.get("path", "")
        if scope["type"] == "http" and (path.startswith(FLEET) or path in self._fused):
            request = Request({**scope, "app": self._app, "state": {}}, receive, send)
            with ExitStack() as under_way:
                answer = partial(self._answer, under_way=under_way)
                response = await http_error_translator(request, answer)
                if response.status_code >= 400:
                    self._refusals.write(request, response)
                try:
                    await response(scope, receive, self._timely(request, send))
                except TimeoutError:
                    logger.warning("%s: its taker is too slow and has to try again", path)
            return
        await self._app(scope, receive, send)
        if path == "/v1/control/unregister-node":
            self._bell.ring_all()  # a site that was shut out gets its refusal now

    def stop(self) -> None:
        """Let waiting calls end."""
        self._stopping = True
        self._bell.ring_all()

    def _timely(self, request: Request, send: Send) -> Send:
        """Give up on a site that does not take what it asked for."""

        async def sent(message: AsgiMessage) -> None:
            async with asyncio.timeout(self._limits.send_within_s):
                await send(message)

        return sent if request.url.path.startswith(FLEET) else send

    async def _answer(self, request: Request, under_way: ExitStack) -> Response:
        path = request.url.path
        if request.method != "POST":
            raise refuse("only POST", 405)
        if path not in self._stock and path not in self._fused:
            raise refuse("no such call", 404)
        if path.startswith(FLEET):
            node = await self._transfer.run(self._callers.node_of, request)
            under_way.enter_context(self._callers.counted(node))
            request.state.node = node
        if path in self._fused:
            return await self._fused[path](request)
        kind, call = PROTOBUF_REQUEST_TYPES["POST", path], self._stock[path]
        longest = self._limits.object_bytes + self._limits.head_bytes
        lot = self._transfer.lot(request.state.node)
        try:
            parsed = await read_protobuf(request, kind, longest, self._limits, lot)
            response = await self._transfer.run(self._serve_stock, request, call, parsed)
        finally:
            lot.release()
        if isinstance(parsed, PushMessagesRequest):
            self._bell.notify(("run", parsed.messages_list[0].metadata.run_id))
        elif isinstance(parsed, PushObjectRequest):
            self._bell.notify(("run", parsed.run_id))
        return Response(response.SerializeToString(), media_type=PROTOBUF_MEDIA_TYPE)

    def _serve_stock(self, request: Request, call: FlowerEndpoint, parsed: Message) -> Message:
        authenticate_node(request)
        if call.check is not None:
            call.check(parsed)
        if call.needs_store:
            return call.answer(parsed, self._state, self._state.object_store)
        return call.answer(parsed, self._state)

    # Sites.

    async def _take(self, request: Request) -> Response:
        """Hand a node its next request, whole; wait for one if there is none."""
        lot, longest = self._transfer.lot(request.state.node), self._limits.head_bytes
        parsed = await read_protobuf(request, PullMessagesRequest, longest, self._limits, lot)
        node, aside = parsed.node.node_id, list(parsed.message_ids)

        def look() -> list[Parcel]:
            authenticate_node(request)  # each time: it may have been shut out in between
            self._mailbox.put_aside(node, aside)
            aside.clear()
            parcel = self._mailbox.next_request(node)
            return [parcel] if parcel else []

        found = await self._wait_for(("node", node), look, request, self._limits.wait_s)
        return self._transfer.parcels(PullMessagesResponse, found, lot)

    async def _give(self, request: Request) -> Response:
        """Take a node's reply with all its objects; its request is then done."""
        lot = self._transfer.lot(request.state.node)
        bodies = self._transfer.frames(request, self._limits.head_bytes, lot)
        parsed = parse(PushMessagesRequest, await first(bodies))
        request.state.protobuf_request = parsed
        await self._transfer.run(authenticate_node, request)
        reply = require_announcement(parsed.node.node_id, parsed, self._limits)
        tree = parsed.message_object_trees[0]
        announce = partial(self._mailbox.announce_reply, reply, tree)
        await self._transfer.store(bodies, announce, lot)
        self._bell.notify(("run", reply.metadata.run_id))
        return Response(status_code=204)

    # The coordinator's own process.

    async def _send(self, request: Request) -> Response:
        """Take requests to sites with all their objects."""
        run = await self._transfer.run(self._task_run, request)
        lot = self._transfer.own_lot()
        bodies = self._transfer.frames(request, self._limits.own_head_bytes, lot)
        parsed = parse(PushAppMessagesRequest, await first(bodies))
        done = parse(PullAppMessagesRequest, await first(bodies))
        ids: list[str] = []

        def announce() -> Intake:
            self._mailbox.forget(run, done.message_ids)
            heads, trees = parsed.messages_list, parsed.message_object_trees
            known, intake = self._mailbox.announce_requests(run, heads, trees)
            ids[:] = known
            return intake

        await self._transfer.store(bodies, announce, lot)
        for head in parsed.messages_list:
            self._bell.notify(("node", head.metadata.dst_node_id))
        answer = PushAppMessagesResponse(message_ids=ids)
        return Response(answer.SerializeToString(), media_type=PROTOBUF_MEDIA_TYPE)

    async def _collect(self, request: Request) -> Response:
        """Hand out replies to some requests; wait for one if there is none."""
        run = await self._transfer.run(self._task_run, request)
        lot = self._transfer.own_lot()
        bodies = self._transfer.frames(request, self._limits.own_head_bytes, lot)
        waiting = parse(PullAppMessagesRequest, await first(bodies))
        done = parse(PullAppMessagesRequest, await first(bodies))
        finished = list(done.message_ids)

        def look() -> list[Parcel]:
            with self._mailbox.writing():
                self._mailbox.forget(run, finished)
            finished.clear()
            return self._mailbox.next_replies(run, waiting.message_ids)

        found = await self._wait_for(("run", run), look, request, _LOOK_AGAIN_S)
        return self._transfer.parcels(PullAppMessagesResponse, found, lot)

    def _task_run(self, request: Request) -> int:
        token = request.headers.get(TASK_TOKEN_HEADER)
        return int(authenticate_task(request, token, self._state).run_id)

    # What they share.

    async def _wait_for(
        self, key: Hashable, look: Callable[[], list[Parcel]], request: Request, again_s: float
    ) -> list[Parcel]:
        """Look, and again on a notice or after `again_s`, until there is something."""
        longest = self._limits.wait_s
        try:
            asked = float(request.headers.get(WAIT_HEADER, longest))
        except ValueError:
            asked = longest
        end = time.monotonic() + min(max(asked, 0.0), longest)
        while True:
            ticket = self._bell.subscription(key)
            found = await self._transfer.run(look)
            left = end - time.monotonic()
            if found or left <= 0 or self._stopping:
                return found
            await self._bell.wait(ticket, min(left, again_s))
