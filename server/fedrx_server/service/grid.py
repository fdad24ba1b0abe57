"""A run over the real SuperLink: our own process asks for it, takes its task and drives it.

Flower wants a bundle for every run. Ours holds a table of contents and no line of code, and is
never run: the coordinator is the process that calls `live_run`, the sites are what each hospital
installed. All of this uses the SuperLink's Control and Runtime paths, on loopback.

Flower is pinned to one version, because the names used here are not a public interface.
"""

import hashlib
import io
import logging
import threading
import time
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import httpx
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SubStatus
from flwr.common.serde import message_from_proto, message_to_proto, run_from_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushAppMessagesRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
)
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from fedrx_common.errors import PeerError
from fedrx_server.gateway.client import Arrived, LinkClient, inflate_reply
from fedrx_server.gateway.control import (
    SuperLinkAddress,
    SuperLinkUnusable,
    control_client,
    retries,
    task_queue,
    translated,
)
from fedrx_server.gateway.endpoints import ordered
from fedrx_server.gateway.limits import DEFAULT_LIMITS
from fedrx_server.rounds.exchange import Exchange
from fedrx_server.service.process import give_back_large_blocks

logger = logging.getLogger(__name__)

# Flower gives a task up after 60 s without a heartbeat.
_HEARTBEAT_S: Final = 10.0
_PATIENCE_S: Final = 50.0


@contextmanager
def live_run(superlink_address: SuperLinkAddress, study: str) -> Iterator[Exchange]:
    """Open a run at the SuperLink and give the exchange with its sites.

    On a clean end the run counts as completed, on an exception as failed. After a crash the
    SuperLink gives the run up by itself within a minute; a new one can be opened at once.

    Args:
        superlink_address: The SuperLink.
        study: Name of the study, for the SuperLink's list of runs.

    Raises:
        SuperLinkUnusable: The SuperLink is not there, or gave the run up.
    """
    give_back_large_blocks()
    run, token = _open_run(superlink_address, study)
    grid = LiveGrid(superlink_address, token)
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(grid, over), name="run-heartbeat", daemon=True)
    outcome = SubStatus.FAILED
    try:
        with translated():
            grid.take_task()
        heart.start()
        logger.info("run %d is open", run)
        with translated():
            yield Exchange(grid)
        outcome = SubStatus.COMPLETED
    finally:
        over.set()
        if heart.is_alive():
            heart.join()
        grid.finish(outcome)


class LiveGrid(HttpGrid):
    """Flower's grid of our own task, on the fused calls, with one large reply in memory at a time.

    Args:
        superlink_address: The SuperLink.
        token: The task's token.
    """

    def __init__(self, superlink_address: SuperLinkAddress, token: str) -> None:
        super().__init__(
            runtime_api_address=superlink_address.address,
            root_certificates=superlink_address.ca_certificate,
            token=token,
        )
        self._superlink_address = superlink_address
        self._retry_invoker = retries(_PATIENCE_S)
        self._link = LinkClient(superlink_address, token, self._retry_invoker)
        self._arrived: deque[Arrived] = deque()
        self._had: list[str] = []
        self._answers_until = 0.0

    def _connect(self) -> None:
        """Connect as the coordinator does, without any proxy of the environment."""
        interceptors: list[ProtobufClientInterceptor] = [
            self._tracing,
            RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"),
            RuntimeTokenHttpInterceptor(token=self._token),
        ]
        self._client = self._superlink_address.reached_by(
            RuntimeHttpClient, interceptors, self._retry_invoker
        )

    def take_task(self) -> None:
        """Tell the SuperLink that the task runs, and learn what run it belongs to."""
        response = self._runtime_client.PullTaskInput(PullTaskInputRequest())
        self.set_run(run_from_proto(response.run))
        # Flower's messages take their sender from here; a process drives one run at a time.
        TaskIdentity.task_id = response.task_id
        TaskIdentity.run_id = response.run.run_id
        TaskIdentity.node_id = response.context.node_id

    def heartbeat(self) -> bool:
        """Say that the task is alive; False if the SuperLink gave it up."""
        return bool(self._runtime_client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)

    def finish(self, outcome: str) -> None:
        """Close the run and the connection; the SuperLink may be gone."""
        self._retry_invoker.max_time = 1.0
        try:
            self._runtime_client.PushTaskOutput(
                PushTaskOutputRequest(sub_status=outcome, details="")
            )
        except httpx.HTTPError as error:
            logger.warning("the SuperLink did not hear that the run is over (%s)", error)
        finally:
            self._link.close()
            self.close()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The next reply, at most one, so that memory stays flat; waits for it for a while."""
        waiting = list(message_ids)
        if not self._arrived and waiting:
            wait_s = min(max(self._answers_until - time.time(), 0.0), DEFAULT_LIMITS.wait_s)
            self._arrived.extend(self._link.collect(waiting, self._had, wait_s))
            self._had.clear()
        while self._arrived:
            arrived = self._arrived.popleft()
            if not arrived.root:
                return [message_from_proto(arrived.head)]
            self._had.append(arrived.root)
            try:
                longest = DEFAULT_LIMITS.reply_bytes
                return [inflate_reply(arrived.head, arrived.root, arrived.contents, longest)]
            except PeerError as error:
                # Its node counts as lost.
                logger.warning("a reply cannot be read: %s", error)
        return []

    def _try_push_messages(self, run_id: int, messages: Iterable[Message]) -> list[str]:
        """Send all messages and their objects in one call; called by Flower's `push_messages`."""
        objects: dict[str, InflatableObject] = {}
        request = PushAppMessagesRequest()
        for message in messages:
            request.messages_list.append(message_to_proto(remove_content_from_message(message)))
            request.message_object_trees.append(get_object_tree(message))
            objects.update(get_all_nested_objects(message))
            until = message.metadata.created_at + message.metadata.ttl
            self._answers_until = max(self._answers_until, until)
        names = dict.fromkeys(
            name for tree in request.message_object_trees for name in ordered(tree)
        )
        known = self._link.send(request, lambda: (objects[n].deflate() for n in names), self._had)
        self._had.clear()
        logger.debug("run %d: %d messages", run_id, len(known))
        return known


def _open_run(superlink_address: SuperLinkAddress, study: str) -> tuple[int, str]:
    """Run id and the token of its task."""
    bundle = empty_bundle()
    fab = Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle)
    with control_client(superlink_address) as control:
        run = int(control.StartRun(StartRunRequest(fab=fab)).run_id)
    logger.info("study %s is run %d", study, run)
    request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
    with task_queue(superlink_address) as queue:
        while True:
            claim = queue.AcquireTask(request)
            if not claim.token:
                raise SuperLinkUnusable(f"run {run}: another process took its task; look who did.")
            if claim.task.run_id == run:
                return run, str(claim.token)
            # A coordinator left it behind that died between opening a run and taking its task.
            logger.warning("run %d was never begun and is given up", claim.task.run_id)
            LiveGrid(superlink_address, claim.token).finish(SubStatus.FAILED)


def _beat(grid: LiveGrid, over: threading.Event) -> None:
    while not over.wait(_HEARTBEAT_S):
        try:
            if not grid.heartbeat():
                logger.error("the SuperLink has given this run up")
                return
        except httpx.HTTPError as error:
            logger.warning("run heartbeat: %s", error)


def empty_bundle() -> bytes:
    """The bundle that Flower asks for: names, and no code. The same bytes every time.

    It names the apps that are installed on each side, for a site that uses Flower's own
    SuperNode; FedRx's processes never read it.
    """
    project = (
        b'[project]\nname = "fedrx"\nversion = "1.0.0"\n\n'
        b'[tool.flwr.app]\npublisher = "fedrx"\n\n'
        b"[tool.flwr.app.components]\n"
        b'serverapp = "fedrx_server.app:app"\nclientapp = "fedrx_client.app:app"\n'
    )
    listing = f"pyproject.toml,{hashlib.sha256(project).hexdigest()},{len(project) * 8}\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        # A fixed date, so that all runs share one bundle.
        for name, content in (("pyproject.toml", project), (".info/CONTENT", listing.encode())):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()
