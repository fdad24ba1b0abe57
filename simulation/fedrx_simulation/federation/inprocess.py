"""A Flower `Grid` that calls the ClientApp directly: no processes, no sockets, no sleeping.

The coordinator's code cannot tell it from Flower's own grid. Messages are answered in the order
they were sent, one node at a time, so a seeded study is repeatable.
"""

from collections.abc import Iterable
from itertools import count

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedrx_client.app import make_client_app
from fedrx_client.participation.site import Site
from fedrx_server.service.local_run import SUPERLINK_NODE_ID, Run, begin_local_run
from fedrx_simulation.federation.faults import faults_mod
from fedrx_simulation.federation.grid import SimulatorGrid
from fedrx_simulation.federation.setup import EngineSetup

# Flower's number for the run; ours is in the run folder, and nothing reads this one.
_RUN_NUMBER = 1

# Any number but the SuperLink's own.
_FIRST_NODE = 1000


class InProcessGrid(SimulatorGrid):
    """Runs `app` for every node in this process.

    Args:
        app: The sites' ClientApp, the same that a real SuperNode would run.
        nodes: Number of sites; their partition ids are 0, 1, ...
        run_id: Flower's number for this run.
    """

    def __init__(self, app: ClientApp, nodes: int, run_id: int) -> None:
        self._app = app
        self._contexts = {
            _FIRST_NODE + i: _context(run_id, _FIRST_NODE + i, i, nodes) for i in range(nodes)
        }
        self._waiting: dict[str, Message] = {}
        self._ids = count(1)
        self._run = begin_local_run(run_id)

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def get_node_ids(self) -> Iterable[int]:
        """Ids of all nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages for their nodes."""
        ids = []
        for message in messages:
            message_id = f"message-{next(self._ids)}"
            message.metadata.__dict__["_message_id"] = message_id
            self._waiting[message_id] = message
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let the next node answer, and hand out its reply.

        One at a time, so that the coordinator adds each reply to its sum before the next one
        exists: memory does not grow with the number of sites.
        """
        for message_id in message_ids:
            message = self._waiting.pop(message_id, None)
            if message is not None:
                return [self._app(message, self._contexts[message.metadata.dst_node_id])]
        return []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, then pull every reply; nothing arrives later, so there is nothing to wait for."""
        del timeout
        ids = self.push_messages(messages)
        return [reply for id_ in ids for reply in self.pull_messages([id_])]


def _context(run_id: int, node: int, partition: int, partitions: int) -> Context:
    """The same context that Flower's own simulation gives a node."""
    config: UserConfig = {"partition-id": partition, "num-partitions": partitions}
    return Context(
        run_id=run_id,
        node_id=node,
        node_config=config,
        state=RecordDict(),
        run_config={},
    )


class InProcessEngine:
    """Runs server and sites in this process, each site kept warm.

    Args:
        setup: The simulated consortium.
    """

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self._open: dict[str, Site] = {}

    def run(self, server_app: ServerApp) -> None:
        """Run the app to its end."""
        setup = self._setup
        mods = [faults_mod(setup.faults, setup.sites)]
        grid = InProcessGrid(make_client_app(self._site, mods), len(setup.sites), _RUN_NUMBER)
        try:
            server_app(grid, _context(_RUN_NUMBER, SUPERLINK_NODE_ID, 0, 0))
        finally:
            for site in self._open.values():
                site.close()

    def _site(self, context: Context) -> Site:
        name = self._setup.sites[int(context.node_config["partition-id"])]
        if name not in self._open:
            self._open[name] = self._setup.consortium.open_site(
                self._setup.cohorts[name], self._setup.sites_folder / name
            )
        return self._open[name]
