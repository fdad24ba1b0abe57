"""Discrete Gaussian noise on the integers, drawn by rejection.

Proposals are discrete Laplace, as in Canonne, Kamath and Steinke (2020, arXiv:2004.00010,
algorithm 3), drawn for whole arrays. Rounding a floating-point Gaussian would be simpler, but its
53 bits leave a pattern on the grid whose cost grows with the standard deviation; integers drawn
exactly and one accept-or-reject leave a relative error below 2^-40 in every probability within 12
standard deviations (further out lies 4e-33 of the mass), whatever the standard deviation.
"""

import numpy as np
import numpy.typing as npt

from fedrx_client.training.errors import TrainingInvalid

LARGEST_SD = 2.0**40
"""Grid units; beyond it 64-bit arithmetic would lose whole units."""

_BLOCKS = 16
_EXPONENT_AT_ONCE = 30.0

IntArray = npt.NDArray[np.int64]


def discrete_gaussian(sd: float, size: int, generator: np.random.Generator) -> IntArray:
    """Independent draws of P(k) ~ exp(-k^2 / (2 sd^2)) over all integers k.

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
    while filled < size:
        # About 74 % are accepted, so a second pass over the rest is short.
        kept = _accepted(sd, int((size - filled) * 1.4) + 16, generator)[: size - filled]
        result[filled : filled + len(kept)] = kept
        filled += len(kept)
    return result


def _accepted(sd: float, candidates: int, generator: np.random.Generator) -> IntArray:
    """Those of some discrete Laplace proposals that rejection turns into the Gaussian."""
    block = max(1, round(sd / _BLOCKS))
    scale = block * _BLOCKS
    bits = generator.integers(0, 2 * block, candidates)
    negative, inside = (bits & 1).astype(bool), bits >> 1
    # floor(16 E) is geometric: the number of whole blocks below a Laplace variable of this scale.
    blocks = np.floor(_BLOCKS * generator.standard_exponential(candidates)).astype(np.int64)
    magnitude = inside + block * blocks
    with np.errstate(over="ignore"):  # an infinite exponent is rightly never accepted
        exponent = inside / scale + (magnitude / sd - sd / scale) ** 2 / 2
    keep = _happens(exponent, generator) & ~(negative & (magnitude == 0))
    signed: IntArray = np.where(negative, -magnitude, magnitude)[keep]
    return signed


def _happens(
    exponent: npt.NDArray[np.float64], generator: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """True with probability exp(-exponent), elementwise, precise far into the tail.

    Comparing exponential variables keeps relative precision where exp(-exponent) is below 2^-53;
    a large exponent is paid in parts, as exp(-a-b) = exp(-a) exp(-b).
    """
    happens = generator.standard_exponential(exponent.shape) > np.minimum(
        exponent, _EXPONENT_AT_ONCE
    )
    for position in np.flatnonzero(happens & (exponent > _EXPONENT_AT_ONCE)):
        rest = exponent[position] - _EXPONENT_AT_ONCE
        while rest > 0 and happens[position]:
            happens[position] = generator.standard_exponential() > min(rest, _EXPONENT_AT_ONCE)
            rest -= _EXPONENT_AT_ONCE
    return happens
