"""Gaussian releases merged by kind: all that the accountant needs to know about many of them."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from fedrx_protocol.privacy.events import Release

Kind = tuple[float, float]
"""(noise multiplier, sample rate)."""


@dataclass(frozen=True)
class Composition:
    """How many Gaussian steps of each kind were released, in any order.

    Attributes:
        counts: ((noise multiplier, sample rate), steps), sorted, each kind once.
        grid_slack: eta, summed over the releases.
    """

    counts: tuple[tuple[Kind, int], ...] = ()
    grid_slack: float = 0.0

    @classmethod
    def of(cls, releases: Iterable[Release]) -> Self:
        """Merge releases of equal noise multiplier and sample rate."""
        counts: Counter[Kind] = Counter()
        slacks = []
        for release in releases:
            counts[release.noise_multiplier, release.sample_rate] += release.steps
            slacks.append(release.grid_slack)
        return cls(tuple(sorted(counts.items())), math.fsum(slacks))

    @classmethod
    def repeated(cls, kind: Kind, steps: int, grid_slack: float = 0.0) -> Self:
        """`steps` steps of one kind, with their total slack."""
        return cls(((kind, steps),) if steps else (), grid_slack)

    def __add__(self, other: "Composition") -> "Composition":
        counts = Counter(dict(self.counts))
        counts.update(dict(other.counts))
        return Composition(tuple(sorted(counts.items())), self.grid_slack + other.grid_slack)

    def without(self, kind: Kind) -> tuple[tuple[Kind, int], ...]:
        """The counts of every other kind."""
        return tuple(item for item in self.counts if item[0] != kind)

    @property
    def unprotected(self) -> bool:
        """Whether something left without any noise."""
        return any(sigma == 0 for (sigma, _), _ in self.counts)
