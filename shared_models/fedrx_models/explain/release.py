"""A patient's bounded share in a cohort's mean effects, so that they can leave a site as a metric.

A site sums its patients' shares. The sum is released as any metric's state is: summed securely,
noised for the plan's sensitivity, and charged; `from_state` reads the noisy total.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import MisuseError
from fedrx_models.explain.explanation import Explanation, effects_by_key
from fedrx_models.metrics.base import Z95, scales, unscaled

Floats = NDArray[np.float64]

_COUNT_WEIGHT = 0.1  # squared, relative to all effects: the count divides every mean


@dataclass(frozen=True)
class ReleasedEffect:
    """A part's mean absolute effect as released.

    Attributes:
        key: see `explanation.Reason.key`.
        mean_absolute: in the outcome's unit, of effects cut at the plan's norm.
        reach: half the length of the noise's 95 % interval.
    """

    key: str
    mean_absolute: float
    reach: float


@dataclass(frozen=True)
class EffectPlan:
    """What a release of cohort-level effects holds, and how each patient's share is bounded.

    Attributes:
        keys: the parts, agreed on before any patient is explained.
        norm: a patient whose effects have a larger L2 norm, in the outcome's unit, is scaled down.

    Raises:
        MisuseError: there are no keys, one repeats, or the norm is not above 0.
    """

    keys: tuple[str, ...]
    norm: float

    def __post_init__(self) -> None:
        if not self.keys or len(set(self.keys)) != len(self.keys):
            raise MisuseError("a release of effects needs distinct keys.")
        if not (math.isfinite(self.norm) and self.norm > 0):
            raise MisuseError(f"norm is {self.norm!r}: it must be finite and above 0.")

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the state's components, in order: the count, then the keys."""
        return ("n", *self.keys)

    @property
    def sensitivity(self) -> float:
        """Bound on the L2 norm of one patient's share in the state."""
        return 1.0

    def contributions(self, explanations: Sequence[Explanation]) -> Floats:
        """Compute each patient's share, `(n, 1 + keys)`; it never leaves a site.

        Raises:
            MisuseError: an explanation has an effect that the plan does not name.
        """
        found = effects_by_key(explanations)
        unknown = sorted(
            key for key, values in found.items() if values.any() and key not in self.keys
        )
        if unknown:
            raise MisuseError(
                f"the plan of this release does not name '{unknown[0]}': agree on it."
            )
        none = np.zeros(len(explanations))
        columns = [np.abs(found.get(key, none)) for key in self.keys]
        effects = np.stack(columns, axis=1) / self.norm
        effects = np.where(np.isfinite(effects), effects, 0.0)
        lengths = np.linalg.norm(effects, axis=1, keepdims=True)
        effects = effects / np.maximum(lengths, 1.0)
        count = np.ones((len(explanations), 1))
        shares: Floats = np.concatenate([count, effects], axis=1) * self._scales()
        return shares

    def state(self, explanations: Sequence[Explanation]) -> Floats:
        """Sum all patients' shares, `(1 + keys,)`; zeros for no patients."""
        if not explanations:
            return np.zeros(len(self.components))
        total: Floats = self.contributions(explanations).sum(axis=0)
        return total

    def from_state(self, state: Floats, *, noise_sd: float = 0.0) -> tuple[ReleasedEffect, ...]:
        """Read mean effects from a summed state, largest first.

        Args:
            state: `(1 + keys,)`, noisy or not.
            noise_sd: of each component.

        Raises:
            MisuseError: the state has another size.
        """
        by = self._scales()
        sums = unscaled(self.components, state, by)
        n = max(sums["n"], 1.0)
        found = []
        for key in self.keys:
            mean = max(self.norm * sums[key] / n, 0.0)
            sd = math.hypot(self.norm * noise_sd / by[1], mean * noise_sd / by[0]) / n
            found.append(ReleasedEffect(key, mean, Z95 * sd))
        return tuple(sorted(found, key=lambda effect: -effect.mean_absolute))

    def _scales(self) -> Floats:
        """The count's factor, then that of all effects, whose L2 norm is at most 1 together."""
        squared = np.array([_COUNT_WEIGHT, *np.ones(len(self.keys))])
        return scales(squared, 1.0 + _COUNT_WEIGHT)
