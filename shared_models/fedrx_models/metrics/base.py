"""What all metric plans share: weights that bound a patient's share, checks, intervals.

Two kinds of error are told apart. Noise is what was added to the released sums; its standard
deviation follows from theirs by the delta method. Sampling is that other patients would have given
another figure; it is estimated from the same sums, by the infinitesimal jackknife where they are
counts: a patient's influence is the figure's slope by the count that the patient is in (Efron,
The Jackknife, the Bootstrap and Other Resampling Plans, SIAM 1982, chapter 6).
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
"""A sum below so many standard deviations of its noise is nothing to divide by."""
RANKING_TELLS = 0.25
"""What an AUC or a concordance could tell, from 0.5 half-way to 1; see `figures.hides`."""
RATIO_TELLS = 0.5
"""The same of an error relative to the last value's, from 1 half-way to 0."""
SHARE_TELLS = 0.5
"""The same of a share, such as R² or a sensitivity, from 0 half-way to 1."""
PERCENT_TELLS = 20.0
"""The same of a percentage of patients, in points: a fixed dose of warfarin has 29 % within 20 %,
the best equation 46 % (IWPC, N Engl J Med 2009;360:753-64, supplementary appendix, S10)."""
MARGIN = 1 + 1e-9  # keeps a patient's norm below 1 after float64 rounding
_BRIER_WEIGHT = 0.1  # squared, relative to a count


class Metrics(Protocol):
    """How well outcomes of one kind were predicted."""

    @property
    def n(self) -> float:
        """Number of patients; an estimate where noise was added."""

    def flat(self) -> dict[str, float]:
        """One flat mapping; absent values are left out.

        The headline's 95 % intervals, where they are known: of its noise alone under `KEY_low` and
        `KEY_high`, of patients and noise together under `KEY_ci_low` and `KEY_ci_high`.
        """

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as for JSON."""


class Plan(ABC):
    """What one evaluation releases: a vector of sums over patients, each one's share bounded."""

    @property
    @abstractmethod
    def components(self) -> tuple[str, ...]:
        """Names of the state's components, in order."""

    @abstractmethod
    def contributions(self, predicted: Floats, actual: Floats) -> Floats:
        """Each patient's share, `(n, m)`; it never leaves a site."""

    @abstractmethod
    def from_state(self, state: Floats, *, noise_sd: float | None = None) -> Metrics:
        """Read the metrics from a summed state, noisy or not; `noise_sd` is per component.

        Raises:
            MisuseError: if the state has another size.
        """

    @property
    def sensitivity(self) -> float:
        """Bound on the L2 norm of one patient's share in the state: `scales` sees to it."""
        return 1.0

    @property
    def size(self) -> int:
        """Number of components `m`."""
        return len(self.components)

    def state(self, predicted: Floats, actual: Floats) -> Floats:
        """The sum of all patients' shares, `(m,)` float64; zeros for no patients.

        No component exceeds the number of patients in absolute value.
        """
        total: Floats = self.contributions(predicted, actual).sum(axis=0)
        return total


def scales(squared: Floats, largest: float) -> Floats:
    """What each component is multiplied by, `(m,)`, so that one patient's norm is at most 1.

    Args:
        squared: relative weights of the components, squared: a heavier one hears less noise.
        largest: the largest sum of squared weights that one patient can fill.
    """
    scaled: Floats = np.sqrt(squared / largest) / MARGIN
    return scaled


def count_scales(counts: int, *, brier: bool) -> Floats:
    """Scales where a patient adds 1 to one of the counts, and at most 1 to a Brier score after."""
    squared = np.ones(counts)
    if not brier:
        return scales(squared, 1.0)
    return scales(np.append(squared, _BRIER_WEIGHT), 1.0 + _BRIER_WEIGHT)


def unscaled(components: tuple[str, ...], state: Floats, by: Floats) -> dict[str, float]:
    """Sums by name.

    Raises:
        MisuseError: if the state has another size.
    """
    if np.shape(state) != (len(components),):
        raise MisuseError(
            f"a state of {len(components)} numbers was expected, not {np.shape(state)}."
        )
    return dict(zip(components, (np.asarray(state) / by).tolist(), strict=True))


def one_hot(position: NDArray[np.int64], size: int) -> Floats:
    """`(n, size)`, 1 at each patient's position."""
    found = np.zeros((len(position), size))
    found[np.arange(len(position)), position] = 1.0
    return found


def known(values: Mapping[str, float | None]) -> dict[str, float]:
    """The values that there are, as plain floats."""
    return {name: float(value) for name, value in values.items() if value is not None}


def limits(name: str, ends: tuple[float, float] | None) -> dict[str, float | None]:
    """An interval as two named values, `None` where there is none."""
    low, high = ends or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def interval(value: float, sd: float, low: float, high: float) -> tuple[float, float]:
    """95 % interval of a noisy value, cut to its range."""
    return max(low, value - Z95 * sd), min(high, value + Z95 * sd)


def told(value: float, sd: float, tells: float) -> float | None:
    """A figure, or `None` where noise of that standard deviation hides it."""
    return None if hides(Z95 * sd, tells) else value


def ratio_sd(ratio: float, whole: float, part_noise: float, whole_noise: float) -> float:
    """Standard deviation that noise gives a ratio of two sums, by the delta method."""
    return math.hypot(part_noise, ratio * whole_noise) / whole


def sampling_sd(counts: Floats, slopes: Floats) -> float:
    """Standard deviation of a figure for the choice of patients, by the infinitesimal jackknife.

    Args:
        counts: patients by cell, noisy or not.
        slopes: the figure's derivative by each count, of the same shape.
    """
    return math.sqrt(max(float((counts * np.square(slopes)).sum()), 0.0))


def mean_sd(mean: float, square: float, n: float) -> float:
    """Standard error of a mean of n values, from the mean of their squares."""
    return math.sqrt(max(square - mean**2, 0.0) / n)


def require_bound(error_bound: float) -> None:
    """Refuse a bound at which no error can be cut; raises `MisuseError`."""
    if not (math.isfinite(error_bound) and error_bound > 0):
        raise MisuseError(f"error_bound is {error_bound:g}: it must be above 0.")


def clip_error(predicted: Floats, actual: Floats, bound: float | Floats) -> Floats:
    """Absolute error divided by `bound`, in 0..1; what is no number counts as 1."""
    error = np.abs(predicted - actual) / bound
    return np.where(np.isfinite(error), np.minimum(error, 1.0), 1.0)


def mean_error_sd(mean: float, n: float, noise_sd: float, bound: float, by: Floats) -> float:
    """Standard deviation of a mean of cut errors, in their unit, by the delta method.

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
    """R² from cut distances; `None` where noise hides it, or left no variance to explain.

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
    slopes = {  # of the variance, in the share that is unexplained of it
        "square": unexplained,
        "offset": 2 * unexplained * middle,
        "n": unexplained * middle**2,
        "residual": 1.0,
    }
    sd = math.hypot(*(slope * noise_sd / by[name] for name, slope in slopes.items())) / variance
    return told(min(max(1.0 - unexplained, -1.0), 1.0), sd, SHARE_TELLS)


def concordance_of_counts(first: Floats, second: Floats) -> tuple[float, Floats, Floats]:
    """How often a member of `first` lies in a higher bin than one of `second`; ties count half.

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
    """Hold predictions against outcomes.

    Raises:
        DataError: if there is nobody, or the lengths differ.
    """
    if len(predicted) != len(actual):
        raise DataError(
            f"predictions of shape {np.shape(predicted)} do not match outcomes of shape "
            f"{np.shape(actual)}."
        )
    if not len(actual):
        raise DataError("there are no held-out patients to measure on.")
