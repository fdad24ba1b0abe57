"""A panel of drugs judged by sums: a patient counts once, whatever the number of drugs.

Errors are averaged over the drugs that a patient was given, so that one patient's share is
bounded. The correlation drug by drug is for simulations only; they own their patients.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrx_models.metrics.base import (
    Floats,
    Plan,
    clip_error,
    interval,
    known,
    limits,
    mean_error_sd,
    mean_sd,
    noisy_r2,
    require_bound,
    require_patients,
    scales,
    unscaled,
)
from fedrx_protocol.study.schema import PanelTarget

# Squared relative weights, as for doses: see `metrics`.
_TOTAL = {"n": 0.14, "error": 1.0}
_VARIANCE = {"offset": 0.05, "square": 0.15, "residual": 0.15}
_FEWEST_LINES = 3  # patients that a drug needs for a correlation


@dataclass(frozen=True)
class PanelMetrics:
    """How well responses were predicted, over patients and drugs.

    Attributes:
        n: number of patients; an estimate where noise was added.
        mae: mean absolute error, in the panel's unit; each patient counts once.
        r2: share of the variance around each drug's public mean explained, where released.
        correlation: mean over drugs of the correlation over patients; exact metrics only.
        by_drug: that correlation by drug; exact metrics only.
        mae_interval: 95 % interval of `mae` for the noise alone, where noise was added.
        mae_ci: 95 % interval of `mae` for the choice of patients, and the noise.
    """

    n: float
    mae: float
    r2: float | None = None
    correlation: float | None = None
    by_drug: dict[str, float] | None = None
    mae_interval: tuple[float, float] | None = None
    mae_ci: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as for JSON."""
        return asdict(self)

    def flat(self) -> dict[str, float]:
        """Return the values by name, without absent ones."""
        values = {"n": self.n, "mae": self.mae, "r2": self.r2, "correlation": self.correlation}
        ends = limits("mae", self.mae_interval)
        return known({**values, **ends, **limits("mae_ci", self.mae_ci)})


@dataclass(frozen=True)
class PanelPlan(Plan):
    """What one evaluation of a panel releases.

    Attributes:
        final: whether everything is released, or only what a learning curve needs.
        error_bound: where errors are cut, in the panel's unit.
        target: the panel.
    """

    final: bool
    error_bound: float
    target: PanelTarget

    def __post_init__(self) -> None:
        require_bound(self.error_bound)

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the state's components, in order."""
        return (*_TOTAL, *_VARIANCE) if self.final else tuple(_TOTAL)

    def contributions(self, predicted: Floats, actual: Floats) -> Floats:
        """Compute each patient's share, `(n, m)`; it never leaves a site.

        Args:
            predicted: `(n, drugs)`, in the panel's unit; a value that is not finite counts as an
                error of `error_bound`.
            actual: likewise, NaN where a drug was not given.
        """
        given = ~np.isnan(actual)
        error = clip_error(predicted, actual, self.error_bound)
        columns = [np.ones(len(actual)), _mean(error, given)]
        if self.final:
            means = np.array([drug.mean for drug in self.target.drugs])
            offset = np.clip((np.nan_to_num(actual) - means) / self.error_bound, -1.0, 1.0)
            columns += [_mean(part, given) for part in (offset, offset**2, error**2)]
        return np.stack(columns, axis=1) * self._scales()

    def from_state(self, state: Floats, *, noise_sd: float | None = None) -> PanelMetrics:
        """Read the metrics from a summed state, noisy or not; `noise_sd` is per component.

        Raises:
            MisuseError: if the state has another size.
        """
        sums = unscaled(self.components, state, self._scales())
        n = max(1.0, sums["n"])
        mae = self.error_bound * min(max(sums["error"] / n, 0.0), 1.0)
        bound, by = self.error_bound, dict(zip(self.components, self._scales(), strict=True))
        noise = mean_error_sd(mae, n, noise_sd or 0.0, bound, self._scales())
        r2, ends = None, None
        if self.final:
            r2 = noisy_r2(sums, n, by, noise_sd or 0.0)
            # An upper bound: the mean of a patient's squares is never below the mean's square.
            patients = mean_sd(mae, bound**2 * sums["residual"] / n, n)
            ends = interval(mae, math.hypot(noise, patients), 0.0, bound)
        return PanelMetrics(
            n=n,
            mae=mae,
            r2=r2,
            mae_interval=None if noise_sd is None else interval(mae, noise, 0.0, bound),
            mae_ci=ends,
        )

    def _scales(self) -> Floats:
        weights = {**_TOTAL, **_VARIANCE} if self.final else _TOTAL
        return scales(np.array(list(weights.values())), sum(weights.values()))


def exact_panel(predicted: Floats, actual: Floats, target: PanelTarget) -> PanelMetrics:
    """Compute unbounded, noiseless metrics, for the patients' owner.

    Args:
        predicted: `(n, drugs)`, in the panel's unit.
        actual: likewise, NaN where a drug was not given.
        target: the panel.

    Raises:
        DataError: if there are no patients, or lengths differ.
    """
    require_patients(predicted, actual)
    given = ~np.isnan(actual)
    means = np.array([drug.mean for drug in target.drugs])
    filled = np.where(given, actual, means)
    offset, error = filled - means, np.where(given, predicted - filled, 0.0)
    square, middle = _mean(offset**2, given).sum(), _mean(offset, given).sum()
    spread = float(square - middle**2 / len(actual))
    by_drug = {}
    for i, drug in enumerate(target.drugs):
        forecast, outcome = (values[given[:, i], i] for values in (predicted, actual))
        if len(outcome) >= _FEWEST_LINES and outcome.std() != 0:
            # A constant prediction ranks no patients; Pearson's correlation is undefined there.
            constant = forecast.std() == 0
            by_drug[drug.name] = 0.0 if constant else float(np.corrcoef(forecast, outcome)[0, 1])
    errors = _mean(np.abs(error), given)
    mae = float(errors.mean())
    reach = mean_sd(mae, float(np.square(errors).mean()), len(errors))
    return PanelMetrics(
        n=float(len(actual)),
        mae=mae,
        mae_ci=interval(mae, reach, 0.0, math.inf),
        r2=1.0 - float(_mean(error**2, given).sum()) / spread if spread > 0 else None,
        correlation=float(np.mean(list(by_drug.values()))) if by_drug else None,
        by_drug=by_drug,
    )


def _mean(values: Floats, given: NDArray[np.bool_]) -> Floats:
    """Compute each patient's mean over the drugs given, `(n,)`."""
    found: Floats = (values * given).sum(axis=1) / np.maximum(given.sum(axis=1), 1)
    return found
