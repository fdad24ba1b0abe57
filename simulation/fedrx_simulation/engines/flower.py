"""Flower's own simulation engine: sites are answered by Ray workers, many at a time.

A worker may meet any site at any message. What a site must remember lies in its folder and in
Flower's context; its patients are written once to a temporary folder that only this run can read,
so that they do not travel with every message.
"""

import logging
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context
from flwr.serverapp import ServerApp

from fedrx_client.app import make_client_app
from fedrx_client.site import Site
from fedrx_models.cohort import Cohort
from fedrx_protocol.errors import MisuseError
from fedrx_protocol.schema import FeatureSchema
from fedrx_simulation.engines.setup import EngineSetup
from fedrx_simulation.faults import faults_mod
from fedrx_simulation.sites import Consortium

# One core a worker: the sites' models are small, and Flower's default of two would halve the
# number of workers.
_BACKEND = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}


class FlowerEngine:
    """Runs server and sites on Ray.

    Args:
        setup: The simulated consortium.

    Raises:
        MisuseError: Ray is not installed.
    """

    def __init__(self, setup: EngineSetup) -> None:
        try:
            import ray  # noqa: F401, PLC0415 - an extra that saves a site gigabytes
        except ImportError:
            raise MisuseError(
                "engine 'flower' needs Ray: run `pip install 'fedrx[ray]'`, or use 'inprocess'."
            ) from None
        self._setup = setup

    def run(self, server_app: ServerApp) -> None:
        """Run the app to its end; Flower raises its error here."""
        from flwr.simulation import run_simulation  # noqa: PLC0415 - imports Ray

        setup = self._setup
        with tempfile.TemporaryDirectory(prefix="fedrx-") as folder:
            for site, cohort in setup.cohorts.items():
                _save(cohort, Path(folder) / f"{site}.npz")
            opener = _Opener(setup.consortium, Path(folder), setup.sites_folder.resolve())
            app = make_client_app(opener, [faults_mod(setup.faults, setup.sites)])
            logging.getLogger("flwr").setLevel(logging.ERROR)
            run_simulation(server_app, app, len(setup.sites), backend_config=dict(_BACKEND))


@dataclass(frozen=True)
class _Opener:
    """Finds the site that a message is for; small, because it travels to every worker."""

    consortium: Consortium
    cohorts: Path
    sites_folder: Path

    def __call__(self, context: Context) -> Site:
        torch.set_num_threads(1)
        return _open(self, self.consortium.sites[int(context.node_config["partition-id"])])


@lru_cache(maxsize=256)
def _open(opener: _Opener, site: str) -> Site:
    """A worker's own copy of a site, kept warm; its folder is shared with the other workers."""
    cohort = _load(opener.cohorts / f"{site}.npz", site, opener.consortium.study.feature_schema)
    return opener.consortium.open_site(cohort, opener.sites_folder / site)


def _save(cohort: Cohort, path: Path) -> None:
    columns = {f"value.{name}": column for name, column in cohort.values.items()}
    np.savez(path, patients=np.array(cohort.patients), target=cohort.target, **columns)


def _load(path: Path, site: str, schema: FeatureSchema) -> Cohort:
    with np.load(path) as arrays:
        return Cohort(
            site=site,
            schema=schema,
            patients=tuple(str(patient) for patient in arrays["patients"]),
            values={f.name: arrays[f"value.{f.name}"] for f in schema.features},
            target=arrays["target"],
        )
