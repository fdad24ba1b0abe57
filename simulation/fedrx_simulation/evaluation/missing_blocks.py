"""How a finished model fares as held-out patients lose omics blocks at random.

Exact, on patients that a simulation owns; a coordinator never sees it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fedrx_common.errors import DataError
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode, without_blocks
from fedrx_models.contract import PatientModel
from fedrx_models.metrics.base import Z95
from fedrx_models.metrics.registry import exact_metrics, measures_of
from fedrx_server.report.data import BlockCurve

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8)
DRAWS = 20
_ALL = slice(None)

Floats = NDArray[np.float64]


def block_curve(
    model: PatientModel, held_out: Cohort, seed: int, shares: Sequence[float] = SHARES
) -> BlockCurve | None:
    """Compute the headline by the share of blocks dropped; None for a study without blocks.

    None as well where some draw of patients allows no judgement, as when none of them responds.

    Args:
        model: as trained.
        held_out: patients that it has not seen.
        seed: of the draws.
        shares: chances that a block of a patient is dropped, ascending.
    """
    if not held_out.schema.blocks:
        return None
    batch, rng = encode(held_out, model.schema), np.random.default_rng(seed)

    def draw(share: float) -> tuple[float, float]:
        """Give the headline on all patients, and on as many of them drawn with replacement."""
        kept = torch.from_numpy(rng.random(tuple(batch.omics_observed.shape)) >= share)
        predicted = model.predict(without_blocks(batch, model.schema, kept)).mean
        others = rng.integers(0, len(held_out), len(held_out))
        return _headline(held_out, predicted), _headline(held_out, predicted, others)

    points = []
    for share in shares:
        try:
            draws = [draw(share) for _ in range(DRAWS)]
        except DataError:
            return None
        everybody, others = np.array(draws).T
        value, reach = float(everybody.mean()), Z95 * float(others.std(ddof=1))
        points.append((value, value - reach, value + reach))
    means, low, high = np.array(points).T.tolist()
    return BlockCurve(list(shares), means, low, high)


def _headline(
    held_out: Cohort, predicted: Floats, chosen: NDArray[np.int64] | slice = _ALL
) -> float:
    """Compute the study's first metric on the patients at `chosen`.

    Raises:
        DataError: if they have none, as when no two of them can be compared.
    """
    target = held_out.schema.target
    headline = measures_of(target)[0].key
    metrics = exact_metrics(target, predicted[chosen], held_out.target[chosen]).flat()
    if headline not in metrics:
        raise DataError(f"these {len(held_out)} held-out patients have no {headline}.")
    return metrics[headline]
