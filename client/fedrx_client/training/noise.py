"""Discrete Gaussian noise on the integers, drawn by rejection.

Proposals are discrete Laplace, as in Canonne, Kamath and Steinke (2020, arXiv:2004.00010,
algorithm 3), drawn for whole arrays. Rounding a floating-point Gaussian would be simpler, but its
53 bits leave a pattern on the grid whose cost grows with the standard deviation; integers drawn
exactly and one accept-or-reject leave a relative error below 2^-40 in every probability within 12
standard deviations (further out is 4e-33 of the mass), whatever the standard deviation.

That rests on exponential variables that are right far into the tail. NumPy's come from uniform
numbers of 53 bits: P(E > x) is a multiple of about 2^-53, which is 2^-47 of exp(-4) and 2^-10 of
exp(-30). So they are drawn in parts of 4, and no comparison goes deeper in a part.
Twelve deviations need exponentials of at most 74 in all, to propose and to accept: 19 parts, which
with the rounding of sums (2^-44) and the edges of a block's sixteenth (2^-43) are below 2^-41.
"""

import numpy as np
import numpy.typing as npt

from fedrx_client.training.errors import TrainingInvalid

LARGEST_SD = 2.0**40
"""Grid units; beyond it 64-bit arithmetic would lose whole units."""

_BLOCKS = 16
_PART = 4.0

IntArray = npt.NDArray[np.int64]


def discrete_gaussian(sd: float, size: int, generator: np.random.Generator) -> IntArray:
    """Draw independently from P(k) ~ exp(-k^2 / (2 sd^2)) over all integers k.

    Args:
        sd: the parameter above in grid units, in [0, 2^40]; 0 gives zeros. For sd > 1 it is the
            standard deviation to seven digits.
        size: number of draws.
        generator: a cryptographic stream.

    Returns:
        `(size,)` int64.

    Raises:
        TrainingInvalid: `sd` or `size` is out of range.
    """
    if not 0 <= sd <= LARGEST_SD or size < 0:
        raise TrainingInvalid(
            f"No noise of standard deviation {sd!r} for {size!r} values: it must lie between 0 "
            "and 2^40 grid units."
        )
    result = np.zeros(size, dtype=np.int64)
    filled = size if sd == 0 else 0
    block = max(1, round(sd / _BLOCKS))
    scale = block * _BLOCKS
    while filled < size:
        # About 74 % are accepted, so a second pass over the rest is short.
        candidates = int((size - filled) * 1.4) + 16
        # Proposals are discrete Laplace.
        bits = generator.integers(0, 2 * block, candidates)
        negative, inside = (bits & 1).astype(bool), bits >> 1
        # floor(16 E) is geometric: the number of whole blocks below a Laplace variable of this
        # scale.
        blocks = np.floor(_BLOCKS * _exponential(candidates, generator)).astype(np.int64)
        magnitude = inside + block * blocks
        with np.errstate(over="ignore"):  # an infinite exponent is rightly never accepted
            exponent = inside / scale + (magnitude / sd - sd / scale) ** 2 / 2
        keep = _exponential(candidates, generator) > exponent  # with probability exp(-exponent)
        keep &= ~(negative & (magnitude == 0))
        kept = np.where(negative, -magnitude, magnitude)[keep][: size - filled]
        result[filled : filled + len(kept)] = kept
        filled += len(kept)
    return result


def _exponential(size: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw standard exponential variables, precise far into the tail.

    Beyond any value an exponential variable begins again: above `_PART` it is that plus a new one.
    """
    result, pending = np.zeros(size), np.arange(size)
    while pending.size:
        drawn = generator.standard_exponential(pending.size)
        result[pending] += np.minimum(drawn, _PART)
        pending = pending[drawn >= _PART]
    return result
