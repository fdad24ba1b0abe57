"""What all metric plans share: weights that bound a patient's share, checks, intervals."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedrx_protocol.errors import DataError, MisuseError

Floats = NDArray[np.float64]

Z95 = 1.959963984540054
AUDIBLE = 4.0
"""A sum below so many standard deviations of its noise is nothing to divide by."""
MARGIN = 1 + 1e-9  # keeps a patient's norm below 1 after float64 rounding
_BRIER_WEIGHT = 0.1  # squared, relative to a count


class Metrics(Protocol):
    """How well outcomes of one kind were predicted."""

    @property
    def n(self) -> float:
        """Number of patients; an estimate where noise was added."""

    def flat(self) -> dict[str, float]:
        """One flat mapping; absent values are left out.

        The interval of the headline's noise, where there is one, stands under `KEY_low` and
        `KEY_high`.
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
    def shares(self, predicted: Floats, actual: Floats) -> Floats:
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
        total: Floats = self.shares(predicted, actual).sum(axis=0)
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


def require_bound(error_bound: float) -> None:
    """Refuse a bound at which no error can be cut; raises `MisuseError`."""
    if not (math.isfinite(error_bound) and error_bound > 0):
        raise MisuseError(f"error_bound is {error_bound:g}: it must be above 0.")


def cut_error(predicted: Floats, actual: Floats, bound: float | Floats) -> Floats:
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


def noisy_r2(sums: Mapping[str, float], n: float) -> float | None:
    """R² from cut distances; `None` where the noise left no variance to explain."""
    variance = sums["square"] - sums["offset"] ** 2 / n
    if variance <= 0:
        return None
    return min(max(1.0 - sums["residual"] / variance, -1.0), 1.0)


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
