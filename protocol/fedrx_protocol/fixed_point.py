"""Real numbers as integers of the ring of 2^32, in which secure aggregation adds.

A site scales, rounds and checks its vector before anything is masked or sent: a value out of
range is an error, never a wrapped sum. The order is `quantise` (integers), then integer noise,
then `to_ring` (mod 2^32); the coordinator reads the sum back with `from_ring`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import MisuseError

RING_BITS = 32
HALF_RING = 2 ** (RING_BITS - 1)  # sums lie in [-2^31, 2^31)

FloatVector = NDArray[np.floating]
IntVector = NDArray[np.int64]
RingVector = NDArray[np.uint32]


class ValueOutOfRange(MisuseError):
    """A value is not finite, or too large for its grid; nothing was sent.

    Prevents a sum that wraps around and is silently wrong.
    """


class LayoutInvalid(MisuseError):
    """A segment or its vector does not fit the agreed layout."""


@dataclass(frozen=True)
class FixedPoint:
    """A grid of numbers `integer / scale`, with a bound on one site's integers.

    Attributes:
        scale: grid steps per unit; positive and finite.
        limit: largest absolute integer one site may encode, before noise; below 2^31.
    """

    scale: float
    limit: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise LayoutInvalid(f"A grid's scale must be positive and finite, not {self.scale}.")
        if not 1 <= self.limit < HALF_RING:
            raise LayoutInvalid(f"A grid's limit must lie in 1..2^31-1, not {self.limit}.")

    def encode(self, values: FloatVector) -> IntVector:
        """Nearest grid integers of `values`, same shape; ties to even.

        Raises:
            ValueOutOfRange: a value is not finite, or its integer exceeds `limit`.
        """
        with np.errstate(over="ignore"):  # an overflow becomes infinite and is refused below
            scaled = np.rint(np.asarray(values, dtype=np.float64) * self.scale)
        # Written so that NaN, which compares false with everything, is caught too.
        bad = np.flatnonzero(~(np.abs(scaled) <= self.limit))
        if bad.size:
            raise ValueOutOfRange(
                f"Value {np.ravel(values)[bad[0]]!s} at position {bad[0]} does not fit the grid: "
                f"at most {self.limit / self.scale:.6g} either way ({bad.size} such values)."
            )
        return scaled.astype(np.int64)

    def decode(self, integers: IntVector) -> NDArray[np.float64]:
        """Real values of grid integers (one site's or a sum's), same shape."""
        return integers.astype(np.float64) / self.scale


def to_ring(integers: IntVector) -> RingVector:
    """Signed integers as ring elements, same shape.

    Raises:
        ValueOutOfRange: an integer is not in [-2^31, 2^31), so it could not be read back.
    """
    if integers.size and not (integers.min() >= -HALF_RING and integers.max() < HALF_RING):
        raise ValueOutOfRange("An integer lies outside [-2^31, 2^31), noise included.")
    return integers.astype(np.uint32)


def from_ring(elements: RingVector) -> IntVector:
    """Ring elements as the signed integers in [-2^31, 2^31), same shape."""
    return elements.astype(np.int32).astype(np.int64)


def grid_scale(
    bound: float, *, sites: int, noise_bound: float = 0.0, noise_steps: float = 0.0
) -> float:
    """Largest power of two s for which no sum over up to `sites` sites can wrap.

    A coordinate of the sum is at most s * (bound + noise_bound) + sites / 2 + noise_steps grid
    steps, since each site rounds once; that must stay below 2^31. A power of two, so that scaling
    a float is exact.

    Args:
        bound: largest absolute value of one coordinate of the whole federation's exact sum.
        sites: sites on the roster.
        noise_bound: tail of the summed noise that grows with the scale, in the values' unit.
        noise_steps: tail of the summed noise that does not, in grid steps.

    Raises:
        LayoutInvalid: the bounds are not positive and finite, or leave no room for any grid.
    """
    room = HALF_RING - 1 - sites / 2 - noise_steps
    reach = bound + noise_bound
    if not (math.isfinite(reach) and bound > 0 and noise_bound >= 0 and noise_steps >= 0):
        raise LayoutInvalid(
            f"bound {bound}, noise_bound {noise_bound}, noise_steps {noise_steps}: all must be "
            "finite, bound above 0, the others at least 0."
        )
    if room < 1:
        raise LayoutInvalid(
            f"Noise of {noise_steps:.3g} grid steps over {sites} sites fills the ring of 2^32; "
            "lower the noise or the number of sites."
        )
    exponent = math.frexp(room / reach)[1] - 1  # 2^exponent <= room / reach < 2^(exponent + 1)
    return math.ldexp(1.0, exponent)


@dataclass(frozen=True)
class Segment:
    """A named stretch of the summed vector, on a grid of its own.

    Attributes:
        name: key in the dictionaries that go in and out.
        length: number of values, at least 1.
        scale: grid steps per unit.
        limit: largest absolute integer one site may encode here, before noise.
    """

    name: str
    length: int
    scale: float
    limit: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise LayoutInvalid(f"Segment '{self.name}' must have a length of at least 1.")
        _ = self.grid

    @property
    def grid(self) -> FixedPoint:
        """The segment's fixed point."""
        return FixedPoint(scale=self.scale, limit=self.limit)


@dataclass(frozen=True)
class SumLayout:
    """The layout of a round's summed vector."""

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        names = [segment.name for segment in self.segments]
        if not names or len(set(names)) != len(names):
            raise LayoutInvalid(f"A layout needs segments with distinct names, not {names}.")

    @property
    def length(self) -> int:
        """Number of values in the whole vector."""
        return sum(segment.length for segment in self.segments)

    def quantise(self, values: Mapping[str, FloatVector]) -> dict[str, IntVector]:
        """One site's real values as grid integers, by segment, ready for integer noise.

        Raises:
            LayoutInvalid: a segment is missing, unknown, or of another length.
            ValueOutOfRange: see `FixedPoint.encode`.
        """
        self._check(values)
        return {
            segment.name: segment.grid.encode(values[segment.name]) for segment in self.segments
        }

    def encode(self, values: Mapping[str, FloatVector | IntVector]) -> RingVector:
        """One uint32 vector of shape `(length,)` from a vector per segment.

        Float vectors are quantised and held against their segment's limit. Integer vectors are
        taken as grid integers, noise included, and held against the ring only.

        Raises:
            LayoutInvalid: a segment is missing, unknown, or of another length.
            ValueOutOfRange: a value does not fit.
        """
        self._check(values)
        parts = []
        for segment in self.segments:
            given = values[segment.name]
            if np.issubdtype(given.dtype, np.integer):
                parts.append(given.astype(np.int64))
            else:
                parts.append(segment.grid.encode(given.astype(np.float64)))
        return to_ring(np.concatenate(parts))

    def decode(self, total: RingVector) -> dict[str, NDArray[np.float64]]:
        """Real values of a summed vector of shape `(length,)`, by segment.

        Raises:
            LayoutInvalid: the vector has another length.
        """
        integers = self.split(total)
        return {
            segment.name: segment.grid.decode(integers[segment.name]) for segment in self.segments
        }

    def split(self, total: RingVector) -> dict[str, IntVector]:
        """Signed grid integers of a summed vector of shape `(length,)`, by segment.

        Raises:
            LayoutInvalid: the vector has another length.
        """
        if total.shape != (self.length,):
            raise LayoutInvalid(
                f"A vector of shape {total.shape} does not fit a layout of {self.length} values."
            )
        ends = np.cumsum([segment.length for segment in self.segments])
        parts = np.split(from_ring(total), ends[:-1])
        return {segment.name: part for segment, part in zip(self.segments, parts, strict=True)}

    def _check(self, values: Mapping[str, FloatVector | IntVector]) -> None:
        expected = [segment.name for segment in self.segments]
        if set(values) != set(expected):
            raise LayoutInvalid(f"The layout has segments {expected}, not {sorted(values)}.")
        for segment in self.segments:
            if np.shape(values[segment.name]) != (segment.length,):
                raise LayoutInvalid(
                    f"Segment '{segment.name}' has {segment.length} values, not shape "
                    f"{np.shape(values[segment.name])}."
                )
