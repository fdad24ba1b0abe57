"""The Flower ServerApp of the coordinator: a thin adapter around a run."""

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrx_server.rounds.exchange import Exchange


def make_server_app(drive: Callable[[Exchange], None]) -> ServerApp:
    """Build the ServerApp.

    Args:
        drive: Runs the study over an exchange, e.g. by `StudyRun.run`.
    """
    app = ServerApp()

    def main(grid: Grid, context: Context) -> None:
        del context  # what a run must keep is in its run folder
        drive(Exchange(grid))

    app.main()(main)
    return app
