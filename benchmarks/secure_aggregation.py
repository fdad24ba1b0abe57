"""What secure aggregation costs a whole study: on ÷ off, side by side in one run.

    .venv/bin/python benchmarks/secure_aggregation.py [--rounds 50] [--repeats 3]

`off` sends the same vectors, noise included, unmasked: no keys, no shares, no second exchange, no
guard on disk. It exists here only; no site can be told to skip its masks.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np

from fedrx.api import SyntheticSites, default_study, load_cohorts, override
from fedrx_models.cohort.cohort import Cohort
from fedrx_protocol.messages.secure_aggregation import (
    MaskedInput,
    RingVector,
    RoundRequest,
    UnmaskRequest,
)
from fedrx_protocol.secagg.coordinator import KeyDirectory, Opened
from fedrx_protocol.secagg.site import SiteParty
from fedrx_protocol.study.study import Study
from fedrx_simulation.simulate import SimulationOptions, start


class PlainParty(SiteParty):
    """A site that sends its vector as it is."""

    def check(self, request: RoundRequest) -> None:
        """Nothing is checked."""

    def mask(self, request: RoundRequest, vector: RingVector) -> MaskedInput:
        """The vector itself."""
        return MaskedInput(self.site, request.context, vector, bytes(32), {})


class PlainRound:
    """A coordinator that adds what it gets."""

    can_open = True

    def __init__(
        self, keys: KeyDirectory, request: RoundRequest, *, length: int, inputs: object
    ) -> None:
        del keys, inputs  # there are none to use, and nothing to take out again
        self.request = request
        self._sum = np.zeros(length, dtype=np.uint32)
        self._sites: list[str] = []

    def add(self, message: MaskedInput) -> None:
        """Add one vector."""
        self._sum += message.vector
        self._sites.append(message.site)

    def close(self) -> dict[str, Any]:
        """Nothing to resolve."""
        return {}

    def unmask_requests(self) -> dict[str, UnmaskRequest]:
        """Nothing to unmask."""
        return {}

    def to_bytes(self) -> bytes:
        """Nothing to keep."""
        return b""

    def result(self) -> Opened:
        """The sum."""
        return Opened(self._sum, tuple(self._sites))


@contextmanager
def without_masks() -> Iterator[None]:
    """Replace both sides of the protocol."""
    with (
        mock.patch("fedrx_simulation.federation.sites.SiteParty", PlainParty),
        mock.patch("fedrx_server.rounds.loop.CoordinatorRound", PlainRound),
    ):
        yield


def seconds(study: Study, cohorts: dict[str, Cohort]) -> float:
    """Wall seconds of one study without baselines."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        start(study, cohorts, Path(folder) / "run", SimulationOptions(seed=1, baselines=False))
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    base, _ = default_study()
    base = override(base, rounds=arguments.rounds)
    cohorts = load_cohorts(SyntheticSites(), base.feature_schema, seed=1)
    models = {
        "linear": {"name": "linear"},
        "mlp, 10,000 weights": {"name": "mlp", "hidden": [96, 70]},
    }
    print(f"21 sites, {arguments.rounds} rounds, median of {arguments.repeats} pairs")
    for label, model in models.items():
        study = Study.from_document(
            {**base.model_dump(mode="json"), "model": model}, source="benchmark"
        )
        seconds(override(study, rounds=2), cohorts)  # imports and first-use costs
        pairs = []
        for _ in range(arguments.repeats):
            with without_masks():
                off = seconds(study, cohorts)
            pairs.append((seconds(study, cohorts), off))
        on, off = (median(times) for times in zip(*pairs, strict=True))
        ratio = median(on / off for on, off in pairs)
        print(f"{label:>22}: on {on:6.2f} s, off {off:6.2f} s, on / off {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
