"""What all metric plans share: weights that bound a patient's share, checks, intervals.

A figure has two kinds of error. Noise is what was added to the released sums; the delta method
gives the figure's standard deviation from theirs. Sampling error exists because other patients
would have given another figure; it is estimated from the same sums. Where these are counts, the
infinitesimal jackknife estimates it: a patient's influence is the figure's slope by the count that
the patient is in (Efron, The Jackknife, the Bootstrap and Other Resampling Plans, SIAM 1982,
chapter 6).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import DataError, MisuseError
from fedrx_protocol.privacy.figures import hides

Floats = NDArray[np.float64]

Z95 = 1.959963984540054
MIN_SIGNAL_TO_NOISE = 4.0
"""A sum of fewer standard deviations of its noise than this is not a usable divisor."""
RANKING_TELLS = 0.25
"""What an AUC or a concordance can tell: half the way from 0.5 to 1; see `figures.hides`."""
RATIO_TELLS = 0.5
"""The same for an error relative to the last value's: half the way from 1 to 0."""
SHARE_TELLS = 0.5
"""The same for a share, such as R² or a sensitivity: half the way from 0 to 1."""
PERCENT_TELLS = 20.0
"""The same for a percentage of patients, in points. A fixed warfarin dose has 29 % within 20 %, the
best equation 46 % (IWPC, N Engl J Med 2009;360:753-64, supplementary appendix, S10)."""
MARGIN = 1 + 1e-9  # keeps a patient's norm below 1 after float64 rounding
_BRIER_WEIGHT = 0.1  # squared, relative to a count


class Metrics(Protocol):
    """How well outcomes of one kind were predicted."""

    @property
    def n(self) -> float:
        """Number of patients; an estimate where noise was added."""

    def flat(self) -> dict[str, float]:
        """Return the values by name, without absent ones.

        The headline has up to two 95 % intervals: for its noise alone under `KEY_low` and
        `KEY_high`, for patients and noise together under `KEY_ci_low` and `KEY_ci_high`.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as for JSON."""


class Plan(ABC):
    """What one evaluation releases: sums over patients; each patient's share is bounded."""

    @property
    @abstractmethod
    def components(self) -> tuple[str, ...]:
        """Names of the state's components, in order."""

    @abstractmethod
    def contributions(self, predicted: Floats, actual: Floats) -> Floats:
        """Compute each patient's share, `(n, m)`; it never leaves a site."""

    @abstractmethod
    def from_state(self, state: Floats, *, noise_sd: float | None = None) -> Metrics:
        """Read the metrics from a summed state, noisy or not; `noise_sd` is per component.

        Raises:
            MisuseError: if the state has another size.
        """

    @property
    def sensitivity(self) -> float:
        """Bound on the L2 norm of one patient's share in the state; `scales` enforces it."""
        return 1.0

    @property
    def size(self) -> int:
        """Number of components `m`."""
        return len(self.components)

    def state(self, predicted: Floats, actual: Floats) -> Floats:
        """Sum all patients' shares, `(m,)` float64; zeros for no patients.

        No component exceeds the number of patients in absolute value.
        """
        total: Floats = self.contributions(predicted, actual).sum(axis=0)
        return total


def scales(squared: Floats, largest: float) -> Floats:
    """Compute the factor of each component, `(m,)`, so that one patient's norm is at most 1.

    Args:
        squared: relative weights of the components, squared; a heavier one has less relative noise.
        largest: the largest sum of squared weights that one patient can fill.
    """
    scaled: Floats = np.sqrt(squared / largest) / MARGIN
    return scaled


def count_scales(counts: int, *, brier: bool) -> Floats:
    """Compute scales where a patient adds 1 to one count, and at most 1 to a Brier score after."""
    squared = np.ones(counts)
    if not brier:
        return scales(squared, 1.0)
    return scales(np.append(squared, _BRIER_WEIGHT), 1.0 + _BRIER_WEIGHT)


def brier_score(total: float, n: float, noise: float, by: Floats, rate: float) -> float | None:
    """Brier score from its released sum; `None` where noise hides it.

    Args:
        total: the unscaled sum of squared differences.
        n: the (estimated) number of patients, the sum of all counts.
        noise: standard deviation of the noise on each unscaled count.
        by: `count_scales` of the state, with a Brier score.
        rate: public reference chance; half the score of that chance alone is what can be told.
    """
    sum_noise, count_noise = noise * float(by[0] / by[-1]), noise * math.sqrt(len(by) - 1)
    sd = ratio_sd(total / n, n, sum_noise, count_noise)
    return told(min(max(total / n, 0.0), 1.0), sd, rate * (1 - rate) / 2)


def unscaled(components: tuple[str, ...], state: Floats, by: Floats) -> dict[str, float]:
    """Return the sums by name, each divided by its scale.

    Raises:
        MisuseError: if the state has another size.
    """
    if np.shape(state) != (len(components),):
        raise MisuseError(
            f"a state of {len(components)} numbers was expected, not {np.shape(state)}."
        )
    return dict(zip(components, (np.asarray(state) / by).tolist(), strict=True))


def one_hot(position: NDArray[np.int64], size: int) -> Floats:
    """Return `(n, size)` zeros with a 1 at each patient's position."""
    found = np.zeros((len(position), size))
    found[np.arange(len(position)), position] = 1.0
    return found


def known(values: Mapping[str, float | None]) -> dict[str, float]:
    """Return the values that are not absent, as plain floats."""
    return {name: float(value) for name, value in values.items() if value is not None}


def limits(name: str, ends: tuple[float, float] | None) -> dict[str, float | None]:
    """Return an interval as two named values, `None` where there is no interval."""
    low, high = ends or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def interval(value: float, sd: float, low: float, high: float) -> tuple[float, float]:
    """Compute the 95 % interval of a noisy value, cut to its range."""
    return max(low, value - Z95 * sd), min(high, value + Z95 * sd)


def told(value: float, sd: float, tells: float) -> float | None:
    """Return a figure, or `None` where noise of that standard deviation hides it."""
    return None if hides(Z95 * sd, tells) else value


def ratio_sd(ratio: float, whole: float, part_noise: float, whole_noise: float) -> float:
    """Compute the standard deviation that noise gives a ratio of two sums, by the delta method."""
    return math.hypot(part_noise, ratio * whole_noise) / whole


def sampling_sd(counts: Floats, slopes: Floats) -> float:
    """Compute a figure's standard deviation for the choice of patients, by the jackknife.

    Args:
        counts: patients by cell, noisy or not.
        slopes: the figure's derivative by each count, of the same shape.
    """
    return math.sqrt(max(float((counts * np.square(slopes)).sum()), 0.0))


def mean_sd(mean: float, square: float, n: float) -> float:
    """Compute the standard error of a mean of n values, from the mean of their squares."""
    return math.sqrt(max(square - mean**2, 0.0) / n)


def require_bound(error_bound: float) -> None:
    """Refuse a bound at which no error can be cut, with a `MisuseError`."""
    if not (math.isfinite(error_bound) and error_bound > 0):
        raise MisuseError(f"error_bound is {error_bound:g}: it must be above 0.")


def clip_error(predicted: Floats, actual: Floats, bound: float | Floats) -> Floats:
    """Compute the absolute error divided by `bound`, in 0..1; 1 where it is not finite."""
    error = np.abs(predicted - actual) / bound
    return np.where(np.isfinite(error), np.minimum(error, 1.0), 1.0)


def mean_error_sd(mean: float, n: float, noise_sd: float, bound: float, by: Floats) -> float:
    """Compute the standard deviation of a mean of cut errors, in their unit, by the delta method.

    Args:
        mean: the (estimated) mean.
        n: the (estimated) number of patients.
        noise_sd: standard deviation of the noise on each component of the state.
        bound: where errors are cut.
        by: the state's scales, those of the count and of the error first.
    """
    count_scale, error_scale, *_ = by
    from_error = bound * noise_sd / error_scale
    from_count = mean * noise_sd / count_scale
    return float(math.hypot(from_error, from_count) / max(n, 1.0))


def noisy_r2(
    sums: Mapping[str, float], n: float, by: Mapping[str, float], noise_sd: float
) -> float | None:
    """Compute R² from cut distances; `None` where noise hides it or leaves no variance to explain.

    Args:
        sums: by name.
        n: the (estimated) number of patients.
        by: the state's scales, by name.
        noise_sd: standard deviation of the noise on each component of the state.
    """
    variance = sums["square"] - sums["offset"] ** 2 / n
    if variance <= 0:
        return None
    unexplained = sums["residual"] / variance
    middle = sums["offset"] / n
    slopes = {  # of the unexplained share, times the variance
        "square": unexplained,
        "offset": 2 * unexplained * middle,
        "n": unexplained * middle**2,
        "residual": 1.0,
    }
    sd = math.hypot(*(slope * noise_sd / by[name] for name, slope in slopes.items())) / variance
    return told(min(max(1.0 - unexplained, -1.0), 1.0), sd, SHARE_TELLS)


def concordance_of_counts(first: Floats, second: Floats) -> tuple[float, Floats, Floats]:
    """Count pairs in which `first` is in a higher bin than `second`; ties count half.

    Args:
        first: counts by bin, `(bins,)`.
        second: likewise.

    Returns:
        The number of pairs so ordered, and its derivatives by `first` and by `second`.
    """
    below = np.cumsum(second) - second / 2  # derivative by `first`: second in lower bins
    above = first.sum() - np.cumsum(first) + first / 2
    return float(first @ below), below, above


def require_patients(predicted: Floats, actual: Floats) -> None:
    """Check predictions against outcomes.

    Raises:
        DataError: if there are no patients, or the lengths differ.
    """
    if len(predicted) != len(actual):
        raise DataError(
            f"predictions of shape {np.shape(predicted)} do not match outcomes of shape "
            f"{np.shape(actual)}."
        )
    if not len(actual):
        raise DataError("there are no held-out patients to measure on.")
