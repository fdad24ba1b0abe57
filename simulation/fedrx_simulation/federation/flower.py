"""Flower's own simulation engine: sites are answered by Ray workers, many at a time.

A worker may meet any site at any message. What a site must remember is in its folder and in
Flower's context; its patients are written once to a temporary folder that only this run can read,
so that they do not travel with every message.
"""

import logging
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrx_client.app import make_client_app
from fedrx_client.participation.site import Site
from fedrx_common.errors import MisuseError
from fedrx_models.cohort.cohort import Cohort
from fedrx_simulation.federation.cancellable import EngineFailed, WatchedGrid
from fedrx_simulation.federation.faults import faults_mod
from fedrx_simulation.federation.setup import EngineSetup
from fedrx_simulation.federation.sites import SimulatedConsortium

# One core a worker: the sites' models are small, and Flower's default of two would halve the
# number of workers. Ray's own messages are about Ray; those of the sites are in the sites' logs.
_BACKEND: Final[dict[str, Any]] = {
    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    "init_args": {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "include_dashboard": False,
    },
}

# Flower starts the ServerApp before it has made the nodes.
_NODES_WAIT_S = 120.0
_LOOK_EVERY_S = 0.02


class FlowerEngine:
    """Runs server and sites on Ray.

    Args:
        setup: The simulated consortium.

    Raises:
        MisuseError: Ray is not installed.
    """

    def __init__(self, setup: EngineSetup) -> None:
        # Ray only announces with it that a later version will leave accelerators alone.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray  # noqa: F401, PLC0415 - an extra that saves a site gigabytes
        except ImportError:
            raise MisuseError(
                "engine 'flower' needs Ray: run `pip install 'fedrx[ray]'`, or use 'inprocess'."
            ) from None
        self._setup = setup
        self._over = threading.Event()

    def run(self, server_app: ServerApp) -> None:
        """Run the app to its end.

        Raises:
            FedRxError: What the app raised, or `EngineFailed` if Flower or Ray did.
        """
        from flwr.simulation import run_simulation  # noqa: PLC0415 - imports Ray

        setup = self._setup
        logging.getLogger("flwr").setLevel(logging.ERROR)
        with tempfile.TemporaryDirectory(prefix="fedrx-") as folder:
            for index, cohort in enumerate(setup.cohorts.values()):  # `_open` reads them
                columns = {f"value.{name}": column for name, column in cohort.values.items()}
                columns |= {f"block.{name}": block for name, block in cohort.blocks.items()}
                columns["patients"] = np.array(cohort.patients)
                columns |= {"target": cohort.target, "visits": cohort.visits}
                np.savez(Path(folder) / f"{index}.npz", allow_pickle=False, **columns)
            opener = _Opener(setup.consortium, Path(folder), setup.sites_folder.resolve())
            app = make_client_app(opener, [faults_mod(setup.faults, setup.sites)])
            watched, nodes = self._watched(server_app), len(setup.sites)
            try:
                run_simulation(watched, app, nodes, backend_config=dict(_BACKEND))
            except RuntimeError as error:
                raise EngineFailed(
                    f"Flower's simulation on Ray broke down ({error.__cause__ or error}): resume "
                    "the run, or use engine 'inprocess'."
                ) from error
            finally:
                # Flower's thread of the ServerApp would wait for sites that no engine runs.
                self._over.set()

    def _watched(self, server_app: ServerApp) -> ServerApp:
        """Wrap the app, to begin when all nodes are there and to end when the engine does."""
        watched = ServerApp()

        def main(grid: Grid, context: Context) -> None:
            own = WatchedGrid(grid, self._over)
            end = time.monotonic() + _NODES_WAIT_S
            while len(list(own.get_node_ids())) < len(self._setup.sites):
                if time.monotonic() > end:
                    raise EngineFailed("Flower made no nodes; use engine 'inprocess'.")
                time.sleep(_LOOK_EVERY_S)
            server_app(own, context)

        watched.main()(main)
        return watched


@dataclass(frozen=True)
class _Opener:
    """Finds the site that a message is for; small, because it travels to every worker."""

    consortium: SimulatedConsortium
    cohorts: Path
    sites_folder: Path

    def __call__(self, context: Context) -> Site:
        torch.set_num_threads(1)
        return _open(self, int(context.node_config["partition-id"]))


@lru_cache(maxsize=256)
def _open(opener: _Opener, index: int) -> Site:
    """Open a worker's own copy of a site, kept warm; the workers share the site's folder."""
    consortium, site = opener.consortium, opener.consortium.sites[index]
    schema = consortium.study.feature_schema
    with np.load(opener.cohorts / f"{index}.npz") as arrays:
        cohort = Cohort(
            site=site,
            schema=schema,
            patients=tuple(str(patient) for patient in arrays["patients"]),
            values={f.name: arrays[f"value.{f.name}"] for f in schema.features},
            target=arrays["target"],
            blocks={block.name: arrays[f"block.{block.name}"] for block in schema.blocks},
            visits=arrays["visits"],
        )
    return consortium.open_site(cohort, opener.sites_folder / site)
