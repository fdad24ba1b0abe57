"""How much noise a promise needs: solved on the same accountant that later checks it.

Each answer is the least noise found that keeps the promise, never less than that.
"""

import math
from collections.abc import Callable, Iterable

from dp_accounting import get_sigma_gaussian

from fedrx_protocol.privacy.accountant import Composition, epsilon_of
from fedrx_protocol.privacy.errors import AccountingInvalid, TargetUnreachable
from fedrx_protocol.privacy.events import Release

TOLERANCE = 1e-4
"""Relative width at which a search for a noise multiplier stops."""

_MOST_NOISE = 1e9
_LEAST_NOISE = 1e-3
_LEAST_EPSILON = 1e-4
_SHAVE = 1e-6
"""Relative safety of closed forms, so that rounding cannot push an answer above its target."""


def training_noise_multiplier(
    epsilon: float,
    delta: float,
    sample_rate: float,
    releases: int,
    spent: Iterable[Release] = (),
    *,
    grid_slack: float = 0.0,
) -> float:
    """Noise of each of `releases` equal releases, so that with those already spent all fit.

    Args:
        epsilon: the promise for everything together, above 0.
        delta: in (0, 1).
        sample_rate: Poisson rate of each release, in (0, 1].
        releases: how many are to come, repeated attempts included.
        spent: releases of the past about the same patients.
        grid_slack: eta of each release to come; one computed for less noise than the answer's
            is an upper bound, as eta falls with the noise.

    Raises:
        TargetUnreachable: the past has spent the promise.
        AccountingInvalid: a number is impossible.
    """
    _check_target(epsilon, delta)
    if not (0 < sample_rate <= 1 and releases >= 1 and grid_slack >= 0):
        raise AccountingInvalid(
            f"No noise for {releases!r} releases at sample rate {sample_rate!r} and grid slack "
            f"{grid_slack!r}: at least one release, and a rate in (0, 1]."
        )
    past = Composition.of(spent)

    def keeps(sigma: float) -> bool:
        coming = Composition.repeated((sigma, sample_rate), releases, releases * grid_slack)
        return epsilon_of(past + coming, delta) <= epsilon

    return _least_noise(keeps, epsilon)


def local_noise_multiplier(
    epsilon: float,
    delta: float,
    *,
    sample_rate: float,
    rounds: int,
    steps_per_round: int,
    spent: Iterable[Release] = (),
) -> float:
    """Noise of each DP-SGD step of a site that trains alone, over the whole study.

    Raises:
        TargetUnreachable: the past has spent the promise.
        AccountingInvalid: a number is impossible.
    """
    if rounds < 1 or steps_per_round < 1:
        raise AccountingInvalid(f"No noise for {rounds} rounds of {steps_per_round} steps.")
    return training_noise_multiplier(epsilon, delta, sample_rate, rounds * steps_per_round, spent)


def metrics_noise_multipliers(
    epsilon: float,
    delta: float,
    evaluations: int,
    final_share: float,
    *,
    grid_slack: float = 0.0,
) -> tuple[float, float]:
    """Noise of each evaluation in between, and of the last, which gets the larger part.

    The budget is divided in zCDP, where a Gaussian release costs rho = 1 / (2 sigma^2) and costs
    add (Bun, Steinke 2016, arXiv:1605.02065): the last gets `final_share`, the others share the
    rest equally. All of them take part with rate 1.

    Args:
        epsilon: the promise for all evaluations together, above 0.
        delta: in (0, 1).
        evaluations: how many besides the last; 0 gives the last one everything.
        final_share: in (0, 1).
        grid_slack: eta of each release.

    Returns:
        (noise multiplier in between, noise multiplier of the last); the first is infinite where
        there are no evaluations in between.
    """
    _check_target(epsilon, delta)
    if not (0 < final_share < 1 and evaluations >= 0 and grid_slack >= 0):
        raise AccountingInvalid(
            f"Cannot share a budget over {evaluations!r} evaluations with {final_share!r} for the "
            "last: the share must lie in (0, 1)."
        )
    slack = grid_slack * (evaluations + 1)
    if epsilon <= 2 * slack:
        raise TargetUnreachable(
            f"The grid alone costs epsilon {2 * slack:.3g}, and the target is {epsilon:g}: raise "
            "the fixed-point scale."
        )
    inner_epsilon = (epsilon - 2 * slack) * (1 - _SHAVE)
    inner_delta = delta * math.exp(-slack) * (1 - _SHAVE)
    whole = float(get_sigma_gaussian(inner_epsilon, inner_delta)) * (1 + _SHAVE)
    if evaluations == 0:
        return math.inf, whole
    return whole * math.sqrt(evaluations / (1 - final_share)), whole / math.sqrt(final_share)


def collusion_table(
    spent: Composition,
    *,
    delta: float,
    min_honest: int,
    participants: int,
    colluders: int,
) -> list[tuple[int, float]]:
    """Epsilon of the same releases against 0, 1, ... colluding sites among those that took part.

    Each site adds noise of standard deviation sigma*S/sqrt(`min_honest`). Colluders know and
    subtract theirs, so the honest rest protects with sigma*sqrt((participants - c)/min_honest).

    Args:
        spent: what was released, each sigma met exactly when `min_honest` sites are honest.
        delta: in (0, 1).
        min_honest: h, which sets a site's share of noise.
        participants: sites whose noise is in the sum.
        colluders: the largest number to show.

    Returns:
        (colluding sites, epsilon) from 0 to the smaller of `colluders` and `participants`.
    """
    if not (min_honest >= 1 and participants >= 1 and colluders >= 0):
        raise AccountingInvalid(
            f"No collusion table for {participants!r} sites, {colluders!r} colluding and "
            f"{min_honest!r} honest."
        )
    most = min(colluders, participants)
    table = []
    for count in range(most + 1):
        share = (participants - count) / min_honest  # of the noise's variance
        counts = tuple(
            ((sigma * math.sqrt(share), rate), steps) for (sigma, rate), steps in spent.counts
        )
        # With less noise eta grows by at most 1/share^2; more noise is post-processing.
        slack = spent.grid_slack / min(share, 1.0) ** 2 if share else 0.0
        table.append((count, epsilon_of(Composition(counts, slack), delta)))
    return table


def _check_target(epsilon: float, delta: float) -> None:
    if not (_LEAST_EPSILON <= epsilon < math.inf and 0 < delta < 1):
        raise AccountingInvalid(
            f"A privacy target needs an epsilon of at least {_LEAST_EPSILON:g} and a delta in "
            f"(0, 1), but they are "
            f"{epsilon!r} and {delta!r}."
        )


def _least_noise(keeps: Callable[[float], bool], target: float) -> float:
    """The least noise that keeps the promise, by bracketing and bisection on a log scale."""
    high = 1.0
    while not keeps(high):
        high *= 4
        if high > _MOST_NOISE:
            raise TargetUnreachable(
                f"No noise meets epsilon {target:g}: releases of the past, or the grid, have "
                "already spent it."
            )
    low = high / 4
    while keeps(low):
        high, low = low, low / 4
        if high < _LEAST_NOISE:
            return high
    while high / low > 1 + TOLERANCE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high
