"""A site's agent: polls the coordinator for requests, which the installed ClientApp answers.

The coordinator keeps a poll open while there is no request. The agent survives a coordinator that
is away, and stops cleanly on SIGTERM. The ClientApp is the one installed here and stays in memory
between messages; the agent never fetches a bundle that the coordinator's Flower may offer.
"""

import logging
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import grpc  # type: ignore[import-untyped]  # ships no types
from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from fedrx_client.connection.endpoint import Endpoint, NotAdmitted, Undeliverable, Unreachable
from fedrx_client.connection.fleet import HEARTBEAT_INTERVAL_S, Fleet
from fedrx_common.backoff import Backoff
from fedrx_common.errors import MisuseError
from fedrx_common.signals import on_ending

logger = logging.getLogger(__name__)

_RUNS_REMEMBERED = 4


@dataclass(frozen=True)
class Pace:
    """How often an agent polls, in seconds.

    Args:
        shortest_s: First wait after a message.
        active_s: Longest wait while a run is active.
        idle_s: Longest wait when none is.
        quiet_s: How long a run counts as active after its last message.
        growth: Factor from each wait to the next.
        retry_s: First wait when the coordinator is away; doubles.
        retry_longest_s: Longest wait when it is away, or does not admit the site.
    """

    shortest_s: float = 0.05
    active_s: float = 0.25
    idle_s: float = 2.0
    quiet_s: float = 60.0
    growth: float = 1.25
    retry_s: float = 0.25
    retry_longest_s: float = 10.0

    def __post_init__(self) -> None:
        """Check the order of the waits."""
        if not 0 < self.shortest_s <= self.active_s <= self.idle_s or self.growth <= 1:
            raise MisuseError("an agent's waits must be positive and grow: shortest, active, idle.")
        if not 0 < self.retry_s <= self.retry_longest_s or self.quiet_s < 0:
            raise MisuseError("an agent's waits for a coordinator that is away must be positive.")

    @property
    def away(self) -> Backoff:
        """Waits for a coordinator that is away; random, so that its sites do not return at once."""
        return Backoff(self.retry_s, self.retry_longest_s, jitter=partial(random.uniform, 0.0, 0.5))


class Wire(Protocol):
    """What the agent needs of a fleet connection; see `Fleet` for what each call raises."""

    def connect(self, known_node: int = 0) -> int: ...  # noqa: D102 - see Fleet

    def heartbeat(self) -> None: ...  # noqa: D102 - see Fleet

    def receive(self) -> Message | None: ...  # noqa: D102 - see Fleet

    def reply(self, message: Message) -> None: ...  # noqa: D102 - see Fleet

    def close(self) -> None: ...  # noqa: D102 - see Fleet


class Health:
    """The state that a probe reads by `grpc.health.v1`; SERVING means connected and admitted."""

    def __init__(self) -> None:
        self._servicer = health.HealthServicer()
        self.set(serving=False)

    def set(self, *, serving: bool) -> None:
        """Change the state."""
        state = health_pb2.HealthCheckResponse
        self._servicer.set("", state.SERVING if serving else state.NOT_SERVING)

    @contextmanager
    def served(self, port: int) -> Iterator[int]:
        """Serve on loopback, on a free port if `port` is 0; yields the port.

        Raises:
            MisuseError: The port is taken.
        """
        server = grpc.server(ThreadPoolExecutor(max_workers=2), options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        try:
            bound = server.add_insecure_port(f"127.0.0.1:{port}")
        except RuntimeError:
            raise MisuseError(f"health port {port} is taken; choose another.") from None
        server.start()
        try:
            yield bound
        finally:
            server.stop(grace=None)


@dataclass
class Agent:
    """One site's loop: take a request, answer it, give the answer back.

    Args:
        wire: The connection to the coordinator.
        app: The installed ClientApp.
        stop: Set from outside to end the loop after the message in hand.
        node_file: Where the node id is kept for the next start.
        node_config: Flower's node config for the app.
        pace: How often to poll.
        health: What probes read.
        clock: Monotonic seconds.
    """

    wire: Wire
    app: ClientApp
    stop: threading.Event
    node_file: Path
    node_config: UserConfig = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    health: Health = field(default_factory=Health)
    clock: Callable[[], float] = time.monotonic
    _contexts: OrderedDict[int, Context] = field(default_factory=OrderedDict, init=False)
    _node: int = field(default=0, init=False)

    def run(self) -> None:
        """Serve until `stop` is set; nothing that the coordinator does ends the loop."""
        heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        heart.start()
        try:
            while not self.stop.is_set():
                self._connect()
                self._serve()
        finally:
            self.stop.set()
            self.health.set(serving=False)
            heart.join()
            self.wire.close()

    def _connect(self) -> None:
        """Come online, under the node id of last time if it is known; try until `stop` is set."""
        try:
            known = int(self.node_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            known = 0  # the coordinator has it
        waits = iter(self.pace.away)
        while not self.stop.is_set():
            try:
                self._node = self.wire.connect(known)
            except (Unreachable, NotAdmitted, Undeliverable) as error:
                logger.warning("not connected: %s", error)
                self.stop.wait(next(waits))
                continue
            try:
                self.node_file.write_text(str(self._node), encoding="ascii")
            except OSError as error:
                logger.warning("%s: cannot keep the node id (%s)", self.node_file, error)
            logger.info("connected as node %d", self._node)
            self.health.set(serving=True)
            return

    def _serve(self) -> None:
        """Answer requests until the coordinator does not admit the site any more."""
        wait, waits, last = self.pace.shortest_s, iter(self.pace.away), self.clock()
        while not self.stop.is_set():
            asked, served = self.clock(), True
            try:
                message = self.wire.receive()
                if message is None:
                    served = False
                else:
                    self.wire.reply(self._answer(message))
            except Undeliverable as error:
                logger.warning("dropped: %s", error)
            except Unreachable as error:
                logger.warning("away: %s", error)
                self.health.set(serving=False)
                self.stop.wait(next(waits))
                continue
            except NotAdmitted as error:
                logger.warning("shut out: %s", error)
                self.health.set(serving=False)
                self.stop.wait(self.pace.retry_s)
                return
            self.health.set(serving=True)
            waits = iter(self.pace.away)
            if served:
                wait, last = self.pace.shortest_s, self.clock()
                continue
            if self.clock() - asked > self.pace.idle_s:
                continue  # the coordinator has kept the request open
            self.stop.wait(wait)
            active = self.clock() - last < self.pace.quiet_s
            wait = min(wait * self.pace.growth, self.pace.active_s if active else self.pace.idle_s)

    def _answer(self, message: Message) -> Message:
        run = message.metadata.run_id
        context = self._contexts.pop(run, None)
        if context is None:
            context = Context(run, self._node, self.node_config, RecordDict(), {})
        # The last few runs are remembered, so that memory does not grow.
        self._contexts[run] = context
        while len(self._contexts) > _RUNS_REMEMBERED:
            self._contexts.popitem(last=False)
        try:
            return self.app(message, context)
        except Exception as error:
            # An error's text may quote a patient: only its class leaves the site.
            logger.exception("the ClientApp failed on %s", message.metadata.message_type)
            reason = type(error).__name__
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)

    def _beat(self) -> None:
        while not self.stop.wait(HEARTBEAT_INTERVAL_S * 0.4):
            if self._node:
                try:
                    self.wire.heartbeat()
                except (Unreachable, NotAdmitted, Undeliverable) as error:
                    logger.debug("heartbeat: %s", error)  # the loop meets the same and logs it


def run_agent(
    door: Endpoint,
    app: ClientApp,
    *,
    folder: Path,
    health_port: int,
    node_config: UserConfig | None = None,
    pace: Pace | None = None,
) -> None:
    """Run a site's agent in the main thread until SIGTERM or SIGINT.

    Args:
        door: The coordinator, and the site's key.
        app: The installed ClientApp, e.g. of `make_client_app`.
        folder: Where the agent keeps its node id.
        health_port: Port on loopback for probes; 0 takes a free one.
        node_config: Flower's node config for the app.
        pace: How often to poll.

    Raises:
        MisuseError: Another Flower is installed, or the health port is taken.
    """
    stop, state = threading.Event(), Health()
    fleet = Fleet(door, sleep=stop.wait)

    def end() -> None:
        stop.set()
        fleet.interrupt()  # also while it waits for a request

    on_ending(end)
    # Otherwise each request would be a line of the log.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    agent = Agent(
        wire=fleet,
        app=app,
        stop=stop,
        node_file=folder / "node",
        node_config=node_config or {},
        pace=pace or Pace(),
        health=state,
    )
    with state.served(health_port) as port:
        logger.info("health service on 127.0.0.1:%d", port)
        agent.run()
