"""What all metric plans share: weights that bound a patient's share, checks, intervals."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedrx_protocol.errors import DataError, MisuseError

Floats = NDArray[np.float64]

Z95 = 1.959963984540054
MARGIN = 1 + 1e-9  # keeps a patient's norm below 1 after float64 rounding


def scales(squared: Floats, largest: float) -> Floats:
    """What each component is multiplied by, `(m,)`, so that one patient's norm is at most 1.

    Args:
        squared: relative weights of the components, squared: a heavier one hears less noise.
        largest: the largest sum of squared weights that one patient can fill.
    """
    scaled: Floats = np.sqrt(squared / largest) / MARGIN
    return scaled


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


def interval(value: float, sd: float, low: float, high: float) -> tuple[float, float]:
    """95 % interval of a noisy value, cut to its range."""
    return max(low, value - Z95 * sd), min(high, value + Z95 * sd)


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
