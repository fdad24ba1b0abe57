"""Epsilon of a patient who is at two sites with the same records: a sound bound, computed.

The promise is about adding or removing a patient at one site. A patient at two sites is added
twice. "About twice the epsilon" is true for small epsilons only, because delta grows as well.
"""

import math
from itertools import combinations_with_replacement

from fedrx_protocol.privacy.accountant import Composition, epsilon_of

_STEP = 1e-3
"""Relative step upwards in the search for a fixed point."""


def epsilon_at_two_sites(
    training: Composition, metrics: Composition, delta: float, *, shared_noise: bool
) -> float:
    """Epsilon at `delta` for a patient at two sites, trained on or held out at each.

    The worst of the three choices of sides, and for each the smaller of two sound bounds:

    - Group privacy: the patient is added at one site, then at the other. Two steps that are
      (e, d)-DP each are (2e, d (1 + exp(e)))-DP together. It holds at any sample rate.
    - Where everybody takes part (rate 1) and both sites' patients go into one sum with one noise,
      one patient moves it by twice the sensitivity: half the noise multiplier, which is exact.
      Where each site adds the whole noise itself, both sites' releases compose.

    Args:
        training: all that a patient who is trained on at one site is part of.
        metrics: likewise for one who is held out.
        delta: in (0, 1).
        shared_noise: whether the sites share the noise of one sum (mode `distributed`).
    """
    sides = [side for side in (training, metrics) if side.counts]
    worst = 0.0
    for one, other in combinations_with_replacement(sides, 2):
        if not (shared_noise and one == other):
            direct = epsilon_of(one + other, delta)  # two sums, each with its own noise
        elif all(rate == 1 for (_, rate), _ in one.counts):
            # The same releases with twice the sensitivity; the grid's slack depends on noise alone.
            halved = tuple(((sigma / 2, rate), steps) for (sigma, rate), steps in one.counts)
            direct = epsilon_of(Composition(halved, one.grid_slack), delta)
        else:
            direct = math.inf
        worst = max(worst, min(direct, _as_a_group(one, other, delta)))
    return worst


def _as_a_group(one: Composition, other: Composition, delta: float) -> float:
    """Twice the least found x with epsilon(delta / (1 + exp(x))) <= x for both steps."""

    def needed(x: float) -> float:
        inner = delta * math.exp(-x) / (1 + math.exp(-x))
        return max(epsilon_of(side, inner) if inner > 0 else math.inf for side in {one, other})

    x = max(epsilon_of(side, delta) for side in (one, other))
    while math.isfinite(x):
        more = needed(x)
        if more <= x:
            return 2 * x
        x = more * (1 + _STEP)
    return math.inf
