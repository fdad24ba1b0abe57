"""A `Grid` that can be called off, around another one that cannot."""

import threading
from collections.abc import Iterable

from flwr.app import Message
from flwr.serverapp import Grid

from fedrx_common.errors import FedRxError
from fedrx_server.service.local_run import Run
from fedrx_simulation.federation.grid import SimulatorGrid


class EngineFailed(FedRxError):
    """Flower or Ray broke down or ended under a study; its finished rounds can be resumed."""


class WatchedGrid(SimulatorGrid):
    """Passes everything on until `over` is set, and raises from then on.

    Args:
        grid: The grid that does the work.
        over: Set when the engine ends.
    """

    def __init__(self, grid: Grid, over: threading.Event) -> None:
        self._grid = grid
        self._over = over

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._grid.run

    def get_node_ids(self) -> Iterable[int]:
        """Ids of all nodes."""
        return self._working().get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages for their nodes."""
        return self._working().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have come."""
        return self._working().pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, and pull until all replies are there."""
        return self._working().send_and_receive(messages, timeout=timeout)

    def _working(self) -> Grid:
        if self._over.is_set():
            raise EngineFailed("the engine under this study has ended; resume the run.")
        return self._grid
