"""Ways to run the same ServerApp and ClientApp on one machine."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from flwr.serverapp import ServerApp

from fedrx_simulation.federation.flower import FlowerEngine
from fedrx_simulation.federation.inprocess import InProcessEngine
from fedrx_simulation.federation.setup import EngineSetup


class Engine(Protocol):
    """Carries messages between a ServerApp and the simulated sites."""

    def run(self, server_app: ServerApp) -> None:
        """Run the app to its end; its error is raised here."""


ENGINES: Mapping[str, Callable[[EngineSetup], Engine]] = MappingProxyType(
    {"inprocess": InProcessEngine, "flower": FlowerEngine}
)
