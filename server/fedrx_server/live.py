"""A run over the real SuperLink: our own process asks for it, takes its task and drives it.

Flower wants a bundle for every run. Ours holds a table of contents and no line of code, and nobody
runs it: the coordinator is the process that calls `live_run`, the sites are what each hospital
installed. All of this speaks to the SuperLink's Control and Runtime paths, on loopback.

Flower is pinned to one version, because the names used here are not a public interface.
"""

import hashlib
import io
import logging
import threading
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, cast

import httpx
from flwr.app import Message
from flwr.common.constant import SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.control_pb2 import (
    StartRunRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from fedrx_server.backstage import (
    Backstage,
    SuperLinkRefused,
    control_client,
    retries,
    task_queue,
    translated,
)
from fedrx_server.exchange import Exchange

logger = logging.getLogger(__name__)

# Flower gives a task up after 60 s without a heartbeat.
_HEARTBEAT_S: Final = 10.0
_PATIENCE_S: Final = 50.0

# A reply is announced before its parts are there; Flower's own first wait is a whole second.
_PART_WAIT_S: Final = 0.01
_PART_WAIT_LONGEST_S: Final = 0.25


@contextmanager
def live_run(backstage: Backstage, study: str) -> Iterator[Exchange]:
    """Open a run at the SuperLink and give the exchange with its sites.

    On a clean end the run counts as completed, on an exception as failed. After a crash the
    SuperLink gives the run up by itself within a minute; a new one can be opened at once.

    Args:
        backstage: The SuperLink.
        study: Name of the study, for the SuperLink's list of runs.

    Raises:
        SuperLinkRefused: The SuperLink is not there, or gave the run up.
    """
    run, token = _open_run(backstage, study)
    grid = LiveGrid(backstage, token)
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
    """Flower's grid of our own task, without its sleeps and with one reply in memory at a time.

    Args:
        backstage: The SuperLink.
        token: The task's token.
    """

    def __init__(self, backstage: Backstage, token: str) -> None:
        super().__init__(
            runtime_api_address=backstage.address,
            root_certificates=backstage.ca_certificate,
            token=token,
        )
        self._retry_invoker = retries(_PATIENCE_S)
        self._announced: deque[tuple[ProtoMessage, ObjectTree]] = deque()

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
            self.close()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The next reply that has arrived, if any: at most one, so that memory stays flat."""
        if not self._announced:
            request = PullAppMessagesRequest(message_ids=message_ids)
            response = self._runtime_client.PullMessages(request)
            trees = response.message_object_trees
            self._announced.extend(zip(response.messages_list, trees, strict=True))
        while self._announced:
            reply = self._fetch(*self._announced.popleft())
            if reply is not None:
                return [reply]
        return []

    def _fetch(self, head: ProtoMessage, tree: ObjectTree) -> Message | None:
        """Take a reply's parts; a reply that stays incomplete is dropped, and so its node lost."""
        meta = head.metadata
        pull = make_pull_object_fn_protobuf(self._runtime_client.PullObject, self.node, meta.run_id)
        try:
            contents = pull_objects(
                [node.object_id for node in iterate_object_tree(tree)],
                pull,
                max_time=_PATIENCE_S,
                max_tries_per_object=None,
                initial_backoff=_PART_WAIT_S,
                backoff_cap=_PART_WAIT_LONGEST_S,
            )
            reply = inflate_object_from_contents(tree.object_id, contents)
        except (ObjectPullError, ValueError, KeyError, TypeError) as error:
            logger.warning("a reply cannot be read (%s)", error)
            return None
        request = ConfirmMessageReceivedRequest(
            node=self.node, run_id=meta.run_id, message_object_id=meta.message_id
        )
        self._runtime_client.ConfirmMessageReceived(request)
        return cast("Message", reply)


def _open_run(backstage: Backstage, study: str) -> tuple[int, str]:
    """Run id and the token of its task."""
    bundle = empty_bundle()
    fab = Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle)
    with control_client(backstage) as control:
        run = int(control.StartRun(StartRunRequest(fab=fab)).run_id)
    logger.info("study %s is run %d", study, run)
    with task_queue(backstage) as queue:
        return run, _claim(queue, backstage, run)


def _claim(queue: RuntimeHttpClient, backstage: Backstage, run: int) -> str:
    request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
    while True:
        claim = queue.AcquireTask(request)
        if not claim.token:
            raise SuperLinkRefused(f"run {run}: another process took its task; look who did.")
        if claim.task.run_id == run:
            return str(claim.token)
        # What a coordinator left behind that died between opening a run and taking its task.
        logger.warning("run %d was never begun and is given up", claim.task.run_id)
        LiveGrid(backstage, claim.token).finish(SubStatus.FAILED)


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
