"""Samples the patients of a step, each independently, as the accountant assumes."""

import numpy as np
import numpy.typing as npt

from fedrx_client.training.errors import TrainingInvalid


def poisson_sample(
    patients: int, rate: float, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw the positions of a Poisson sample: each of `patients` with probability `rate`.

    An empty sample counts too: it is released as noise and charged like any other.

    Returns:
        ascending positions, int64; all of them at rate 1, without drawing.

    Raises:
        TrainingInvalid: the rate is not in (0, 1], or the number of patients is negative.
    """
    if not 0 < rate <= 1 or patients < 0:
        raise TrainingInvalid(
            f"Cannot sample {patients!r} patients at rate {rate!r}: the rate must lie in (0, 1]."
        )
    if rate == 1:
        return np.arange(patients, dtype=np.int64)
    return np.flatnonzero(generator.random(patients) < rate).astype(np.int64)
