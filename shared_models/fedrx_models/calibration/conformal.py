"""Split conformal calibration from a histogram that may be summed over sites and noised.

A patient adds a fixed number of integer units to the histogram of scores, however many scores the
patient has, so that the sum can be released like any metric: by secure aggregation, with noise, and
charged. From the sum, a radius follows that covers a new patient's outcome with at least the
nominal probability: of n patients like those to come, the k-th smallest score with
k = ceil((n + 1) * level) does (Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World,
2005, section 2; several scores a patient, each weighing one over their number: Lee, Barber, Willett
2023, arXiv:2306.06342).

Noise is met by testing radii from the largest down, and stopping at the first that noise could have
made to look large enough. The one that is really too small and comes first is accepted with
probability 1 - confidence at most, whatever comes after it: fixed-sequence testing (Angelopoulos,
Bates et al. 2021, arXiv:2110.01052, section 2).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from fedrx_common.errors import MisuseError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_FIRST, _FINE, _LAST = 0.4, 1.04, 2.2
MOST_UNITS = 2**20


@dataclass(frozen=True)
class ScoreGrid:
    """Bins of a score, and how many integer units one patient adds to them.

    Bin 0 holds scores up to the first edge, bin i those above edge i - 1 and up to edge i, and the
    last bin all above the last edge.

    Attributes:
        edges: finite, rising; public, chosen before any patient is seen.
        units: what a patient adds in all: 1 where each has one score, more where several scores
            share it.

    Raises:
        MisuseError: there are no edges, they do not rise, or `units` is impossible.
    """

    edges: tuple[float, ...]
    units: int = 1

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip(self.edges, self.edges[1:], strict=False))
        if not self.edges or not rising or not np.isfinite(self.edges).all():
            raise MisuseError("a grid of scores needs finite edges that rise.")
        if not 1 <= self.units <= MOST_UNITS:
            raise MisuseError(f"a patient adds 1 to {MOST_UNITS} units, not {self.units}.")

    @classmethod
    def of_widths(cls, units: int = 1) -> "ScoreGrid":
        """Build the usual grid for distances in half-widths of the model's own band.

        Steps of 4 % around 1, where the radius will be; the fewer bins above the radius, the less
        noise its tail has.
        """
        steps = math.ceil(math.log(_LAST / _FIRST) / math.log(_FINE))
        fine = [_FIRST * _FINE**i for i in range(steps + 1)]
        return cls((*(round(edge, 6) for edge in fine), 3.0, 5.0), units)

    @classmethod
    def of_study(cls, units: int = 1) -> "ScoreGrid":
        """Build the grid of a study, where a histogram shares its budget with metrics.

        It has an edge at 1, the model's own band. A radius is tested by the sum of all bins beyond
        it, whose noise grows with their number: hence steps of 8 %, and few bins far away.
        """
        return cls((0.5, 0.65, 0.75, 0.85, 0.92, 1.0, 1.08, 1.17, 1.27, 1.4, 1.7, 2.2), units)

    @classmethod
    def of_signed(cls, units: int = 1) -> "ScoreGrid":
        """Build the usual grid for signed distances, fine in both tails."""
        ends = [round(0.1 * i, 6) for i in range(1, 41)]
        return cls((*(-end for end in reversed(ends)), 0.0, *ends), units)

    @property
    def bins(self) -> int:
        """Number of bins."""
        return len(self.edges) + 1

    @property
    def sensitivity(self) -> float:
        """Bound on the L2 norm of one patient's units: all of them may fall into one bin."""
        return float(self.units)

    def contributions(self, scores: Sequence[Floats]) -> Counts:
        """Compute each patient's units by bin, `(n, bins)`; they never leave a site one by one.

        Args:
            scores: of each patient, `(any,)`. Those of one patient share `units` as evenly as whole
                numbers can. A score that is not a number falls into the last bin, as nothing is
                known of it; a patient without scores adds nothing.
        """
        lengths = np.array([len(own) for own in scores], dtype=np.int64)
        values = np.concatenate([np.zeros(0), *scores])
        places = np.searchsorted(self.edges, np.where(np.isnan(values), np.inf, values))
        shares = np.zeros((len(scores), self.bins))
        np.add.at(shares, (np.repeat(np.arange(len(scores)), lengths), places), 1.0)
        exact = shares * (self.units / np.maximum(lengths, 1)[:, None])
        found = np.floor(exact).astype(np.int64)
        left = np.where(lengths > 0, self.units - found.sum(axis=1), 0)
        for i in np.flatnonzero(left):
            # Largest remainders first; of equal ones the larger score, which errs to the safe side.
            order = np.lexsort((-np.arange(self.bins), found[i] - exact[i]))
            found[i, order[: left[i]]] += 1
        return found

    def total(self, scores: Sequence[Floats]) -> Counts:
        """Sum all patients' units by bin, `(bins,)`; zeros for no patients."""
        summed: Counts = self.contributions(scores).sum(axis=0)
        return summed


@dataclass(frozen=True)
class Radius:
    """How far a band must reach, in half-widths of the model's own.

    Attributes:
        value: what widths are multiplied by; infinite where too few patients were seen to say.
        level: nominal coverage, which holds at least.
        patients: how many it rests on; an estimate where noise was added.
        noise_sd: of each bin of the histogram, in units; 0 without noise.
        confidence: probability over the noise that the coverage holds; 1 without noise.
    """

    value: float
    level: float
    patients: float
    noise_sd: float = 0.0
    confidence: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as for JSON; an infinite radius is `None`."""
        value = self.value if math.isfinite(self.value) else None
        return {
            "value": value,
            "level": self.level,
            "patients": self.patients,
            "noise_sd": self.noise_sd,
            "confidence": self.confidence,
        }


@dataclass(frozen=True, eq=False)
class ScoreTotals:
    """A summed histogram of scores, noisy or not.

    Attributes:
        grid: its bins.
        counts: units by bin, `(bins,)`.
        noise_sd: standard deviation of the noise on each bin, in units.

    Raises:
        MisuseError: the histogram has another size, or the noise is impossible.
    """

    grid: ScoreGrid
    counts: Floats
    noise_sd: float = 0.0

    def __post_init__(self) -> None:
        counts = np.asarray(self.counts, dtype=np.float64)
        if counts.shape != (self.grid.bins,) or not np.isfinite(counts).all():
            raise MisuseError(
                f"a histogram of {self.grid.bins} bins was expected, not shape {counts.shape}."
            )
        if not (math.isfinite(self.noise_sd) and self.noise_sd >= 0):
            raise MisuseError(f"noise_sd is {self.noise_sd!r}: it must be finite and at least 0.")
        object.__setattr__(self, "counts", counts)

    @property
    def patients(self) -> float:
        """Number of patients, an estimate where noise was added."""
        return float(self.counts.sum()) / self.grid.units

    def calibrate(self, level: float, confidence: float = 0.95) -> Radius:
        """Find the smallest radius on the grid that covers a new patient with at least `level`.

        Args:
            level: nominal coverage, in (0, 1).
            confidence: probability over the noise that the promise holds, in [0.5, 1).
        """
        if not (0 < level < 1 and 0.5 <= confidence < 1):
            raise MisuseError(
                f"level {level!r} must lie in (0, 1) and confidence {confidence!r} in [0.5, 1)."
            )
        missed, sd = 1 - level, self.noise_sd / self.grid.units
        counts = self.counts / self.grid.units
        above = np.cumsum(counts[::-1])[::-1][1:]  # beyond edge i
        below = counts.sum() - above
        bins_above = np.arange(len(self.grid.edges), 0, -1)
        bins_below = self.grid.bins - bins_above
        spread = sd * np.sqrt(bins_above * level**2 + bins_below * missed**2)
        # At most missed * (n + 1) - 1 scores may be beyond; both sides carry noise.
        excess = level * above - missed * below + level
        enough = excess + norm.ppf(confidence) * spread <= 1e-9
        value = math.inf
        for edge, passes in zip(reversed(self.grid.edges), reversed(enough), strict=True):
            if not passes:
                break
            value = edge
        certain = confidence if sd > 0 else 1.0
        return Radius(value, level, self.patients, self.noise_sd, certain)

    def share_within(self, radius: float) -> float | None:
        """Estimate the share of scores up to an edge, in [0, 1]; `None` if no patient is left."""
        total = float(self.counts.sum())
        if total <= 0:
            return None
        inside = self.counts[: int(np.searchsorted(self.grid.edges, radius)) + 1]
        return min(max(float(inside.sum()) / total, 0.0), 1.0)

    def upper_tail(self, scores: Floats, confidence: float = 0.95) -> Floats:
        """Bound the chance that a score without change is at least as large, `(n,)` in (0, 1].

        A conformal p-value: (1 + number of scores in the same bin or above) / (1 + n), plus what
        noise may hide. It is too large, never too small, by at most a bin.
        """
        return self._tail(scores, confidence, from_above=True)

    def lower_tail(self, scores: Floats, confidence: float = 0.95) -> Floats:
        """Bound the chance that a score without change is at most as large; see `upper_tail`."""
        return self._tail(scores, confidence, from_above=False)

    def _tail(self, scores: Floats, confidence: float, *, from_above: bool) -> Floats:
        counts, sd = self.counts / self.grid.units, self.noise_sd / self.grid.units
        if not counts.sum() > 0:
            return np.ones(len(scores))
        if from_above:
            within, bins = np.cumsum(counts[::-1])[::-1], np.arange(self.grid.bins, 0, -1)
        else:
            within, bins = np.cumsum(counts), np.arange(1, self.grid.bins + 1)
        hidden = norm.ppf(confidence) * sd * np.sqrt(bins)
        share = np.clip((1 + np.maximum(within, 0.0) + hidden) / (1 + counts.sum()), 0.0, 1.0)
        # Noise may make a longer tail look lighter than a shorter one.
        share = (
            np.maximum.accumulate(share[::-1])[::-1] if from_above else np.maximum.accumulate(share)
        )
        places = np.searchsorted(self.grid.edges, np.where(np.isnan(scores), np.inf, scores))
        found: Floats = share[places]
        return found


def calibrate(
    histogram: Floats | Counts,
    level: float,
    noise_sd: float,
    *,
    grid: ScoreGrid,
    confidence: float = 0.95,
) -> Radius:
    """Find the radius that a summed histogram supports; see `ScoreTotals.calibrate`."""
    return ScoreTotals(grid, np.asarray(histogram, dtype=np.float64), noise_sd).calibrate(
        level, confidence
    )
