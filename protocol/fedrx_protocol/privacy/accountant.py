"""Epsilon of a record of releases, for adding or removing one patient with all their records.

Where every patient takes part in every round, the closed form of the Gaussian mechanism is exact.
Otherwise Google's privacy loss distributions, rounded pessimistically. Renyi accounting is the
fast upper bound. Nothing here keeps a number that it could not derive again from the releases.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, get_epsilon_gaussian
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon

from fedrx_protocol.privacy.discretization import TAIL_DELTA
from fedrx_protocol.privacy.errors import AccountingInvalid
from fedrx_protocol.privacy.events import PURPOSES, Purpose, Release

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


Counts = tuple[tuple[Kind, int], ...]
VALUE_DISCRETIZATION = 1e-3
"""Bucket width of a privacy loss distribution; losses are rounded against us."""

MEANINGLESS_EPSILON = 500.0
"""Beyond this the Renyi bound is the answer: no finer one would help anybody."""

_SOLVER_ERROR = 1e-11
"""The closed form is found to 1e-12; what we claim is never below the truth."""

# Whole orders only: dp_accounting's series for fractional ones are slow and need not converge.
_ORDERS = (*range(2, 64), 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024, 4096)
_MOST_STUDIES_ENUMERATED = 6


@dataclass(frozen=True)
class PrivacySpent:
    """What a patient can have lost so far, at one delta.

    Attributes:
        training: epsilon for a patient always among those trained on.
        metrics: epsilon for a patient always among those held out.
        total: epsilon for any patient.
        delta: the delta of all three.
    """

    training: float
    metrics: float
    total: float
    delta: float


@dataclass
class Account:
    """A running record of releases that cannot lose one; cheap to ask before every round.

    In one study a patient is trained on or held out, never both, so the two purposes compose in
    parallel. In another study the same patient may be on the other side: over several studies the
    total is the worst choice of sides, one for each study. The caller sees to it that a patient's
    side is fixed within a study and independent of all other patients.
    """

    _sides: dict[str, dict[Purpose, Composition]] = field(default_factory=dict)

    @classmethod
    def of(cls, releases: Iterable[Release]) -> "Account":
        """The account of these releases, all of which may have touched one patient."""
        groups: dict[str, dict[Purpose, list[Release]]] = {}
        for release in releases:
            sides = groups.setdefault(release.study, {purpose: [] for purpose in PURPOSES})
            sides[release.purpose].append(release)
        return cls(
            {
                study: {purpose: Composition.of(some) for purpose, some in sides.items()}
                for study, sides in groups.items()
            }
        )

    def add(self, release: Release) -> None:
        """Count one more release."""
        sides = self._sides.setdefault(release.study, {p: Composition() for p in PURPOSES})
        sides[release.purpose] += Composition.of([release])

    def with_(self, new: Iterable[Release]) -> "Account":
        """A copy that also counts `new`."""
        copy = Account({study: dict(sides) for study, sides in self._sides.items()})
        for release in new:
            copy.add(release)
        return copy

    def spent(self, delta: float) -> PrivacySpent:
        """Epsilon of everything so far."""
        each = [
            epsilon_of(_sum(sides[purpose] for sides in self._sides.values()), delta)
            for purpose in PURPOSES
        ]
        total = max((epsilon_of(path, delta) for path in self.paths()), default=0.0)
        return PrivacySpent(training=each[0], metrics=each[1], total=total, delta=delta)

    def would_exceed(self, new: Iterable[Release], cap: float, delta: float) -> bool:
        """Whether `new`, on top of everything so far, breaks `cap` for some patient."""
        return any(_exceeds(path, cap, delta) for path in self.with_(new).paths())

    def paths(self) -> list[Composition]:
        """What one patient can have been part of: a side for each study."""
        studies = list(self._sides.values())
        if len(studies) > _MOST_STUDIES_ENUMERATED:
            # Too many choices to try: charge both sides of every study, which bounds them all.
            return [_sum(side for sides in studies for side in sides.values())]
        choices = [[side for side in sides.values() if side.counts] for sides in studies]
        return [_sum(path) for path in itertools.product(*choices)]


def _sum(parts: Iterable[Composition]) -> Composition:
    return sum(parts, start=Composition())


def epsilon(releases: Iterable[Release], delta: float) -> float:
    """Epsilon of these releases together, all about the same patients.

    Args:
        releases: in any order; empty costs nothing, one without noise costs everything.
        delta: in (0, 1).

    Raises:
        AccountingInvalid: delta is not in (0, 1).
    """
    return epsilon_of(Composition.of(releases), delta)


def epsilon_upper(releases: Iterable[Release], delta: float) -> float:
    """An upper bound on `epsilon` from Renyi accounting, in well under a millisecond once warm."""
    return _upper_of(Composition.of(releases), delta)


def privacy_spent(releases: Iterable[Release], delta: float) -> PrivacySpent:
    """Epsilon by purpose and in total; see `Account` for how purposes and studies compose."""
    return Account.of(releases).spent(delta)


def would_exceed(releases: Iterable[Release], new: Release, cap: float, delta: float) -> bool:
    """Whether one more release would break `cap`; ask before it is made.

    A site that asks every round keeps an `Account`, and is spared merging its whole past.
    """
    return Account.of(releases).would_exceed([new], cap, delta)


def epsilon_of(composition: Composition, delta: float) -> float:
    """Epsilon of merged releases: exact if all rates are 1, pessimistic to about 1e-3 if not."""
    inner = _inner_delta(delta, composition.grid_slack)
    if not composition.counts:
        return 0.0
    if composition.unprotected or inner <= 0:
        return math.inf
    return _gaussian_epsilon(composition.counts, inner) + 2 * composition.grid_slack


def _upper_of(composition: Composition, delta: float) -> float:
    inner = _inner_delta(delta, composition.grid_slack)
    if not composition.counts:
        return 0.0
    if composition.unprotected or inner <= 0:
        return math.inf
    if _all_take_part(composition.counts):
        return _gaussian_epsilon(composition.counts, inner) + 2 * composition.grid_slack
    return _renyi_epsilon(composition.counts, inner) + 2 * composition.grid_slack


def _inner_delta(delta: float, grid_slack: float) -> float:
    """The delta left for the continuous mechanisms; see `fedrx_protocol.privacy.discretization`."""
    if not 0 < delta < 1:
        raise AccountingInvalid(f"Delta must lie in (0, 1), but is {delta!r}.")
    return delta * math.exp(-grid_slack) - (TAIL_DELTA if grid_slack > 0 else 0.0)


def _all_take_part(counts: Counts) -> bool:
    return all(rate == 1 for (_, rate), _ in counts)


def _effective_sigma(counts: Counts) -> float:
    """Gaussian mechanisms of noise sigma_i compose to one of 1/sqrt(sum 1/sigma_i^2), exactly."""
    return 1 / math.sqrt(math.fsum(steps / sigma**2 for (sigma, _), steps in counts))


@lru_cache(maxsize=4096)
def _gaussian_epsilon(counts: Counts, delta: float) -> float:
    if _all_take_part(counts):
        with np.errstate(divide="ignore"):  # log(0) is right where delta underflows
            exact = float(get_epsilon_gaussian(_effective_sigma(counts), delta))
        return exact + _SOLVER_ERROR
    upper = _renyi_epsilon(counts, delta)
    if upper > MEANINGLESS_EPSILON:
        return upper
    # One privacy loss distribution of all kinds; those of rate 1 are first merged into one.
    everybody = tuple(item for item in counts if item[0][1] == 1)
    parts = [_loss(sigma, rate).self_compose(steps) for (sigma, rate), steps in counts if rate < 1]
    if everybody:
        parts.append(_loss(_effective_sigma(everybody), 1.0))
    composed = parts[0]
    for part in parts[1:]:
        composed = composed.compose(part)
    return min(upper, float(composed.get_epsilon_for_delta(delta)))


@lru_cache(maxsize=64)
def _loss(sigma: float, rate: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(
        standard_deviation=sigma,
        sampling_prob=rate,
        pessimistic_estimate=True,
        value_discretization_interval=VALUE_DISCRETIZATION,
        neighboring_relation=pld.NeighborRel.ADD_OR_REMOVE_ONE,
    )


def _renyi_epsilon(counts: Counts, delta: float) -> float:
    total = sum(steps * _renyi(sigma, rate) for (sigma, rate), steps in counts)
    return float(compute_epsilon(_ORDERS, np.asarray(total), delta)[0])


@lru_cache(maxsize=1024)
def _renyi(sigma: float, rate: float) -> npt.NDArray[np.float64]:
    """Renyi divergence of one step at each of `_ORDERS`."""
    accountant = RdpAccountant(_ORDERS)
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(sigma)))
    return np.asarray(accountant.rdp, dtype=np.float64)


def _exceeds(composition: Composition, cap: float, delta: float) -> bool:
    """Whether epsilon is above `cap`, by the cheapest question that settles it."""
    if _upper_of(composition, delta) <= cap:
        return False
    if composition.unprotected or _all_take_part(composition.counts):
        return True
    # The kind with most steps is the one that grows: one search serves all its coming rounds.
    kind, steps = max(
        (item for item in composition.counts if item[0][1] < 1), key=lambda item: item[1]
    )
    # Up to the next power of 2, so that a slack that grows every round is one cache entry.
    slack = composition.grid_slack
    slack = 2.0 ** math.ceil(math.log2(slack)) if slack > 0 else 0.0
    inner = _inner_delta(delta, slack)
    if inner > 0:
        most = _most_steps(composition.without(kind), kind, cap - 2 * slack, inner)
        if steps <= most:
            return False
    return epsilon_of(composition, delta) > cap


@lru_cache(maxsize=1024)
def _most_steps(rest: Counts, kind: Kind, cap: float, delta: float) -> int:
    """The largest number of steps of `kind` that, on top of `rest`, stays within `cap`."""

    def fits(steps: int) -> bool:
        counts = tuple(sorted((*rest, (kind, steps)))) if steps else rest
        return not counts or _gaussian_epsilon(counts, delta) <= cap

    if not fits(0):
        return -1
    most, too_many = 0, 1
    while fits(too_many):
        most, too_many = too_many, too_many * 2
    while too_many - most > 1:
        middle = (most + too_many) // 2
        most, too_many = (middle, too_many) if fits(middle) else (most, middle)
    return most
