"""Dose metrics as sums over patients, each patient's share bounded, so that they can be released.

A site turns its held-out patients into one state vector. States add up over patients and sites, and
`MetricPlan.from_state` reads the metrics from the noisy total. A simulation owns its patients and
may also use `exact`.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import DataError, MisuseError
from fedrx_models.cohort.encoding import reference_target, restore_target
from fedrx_models.metrics.base import (
    PERCENT_TELLS,
    Plan,
    clip_error,
    interval,
    known,
    limits,
    mean_error_sd,
    mean_sd,
    noisy_r2,
    ratio_sd,
    require_bound,
    scales,
    told,
    unscaled,
)
from fedrx_protocol.study.schema import ContinuousTarget, PanelTarget
from fedrx_protocol.study.study import Study

Doses = NDArray[np.float64]

DOSE_GROUPS = (21.0, 49.0)
"""Weekly doses (mg) that separate low (<= first) from middle from high (>= second): IWPC 2009."""

# Relative weights of the components, squared. One patient's vector has norm 1 after scaling, so a
# heavier component has less relative noise. Noise of the count enters the MAE multiplied by
# MAE / bound, about 1/7: by Lagrange, the best squared weights of count and error are as 1/7 to 1.
_TOTAL = {"n": 0.14, "error": 1.0, "within": 0.10}
_GROUP = {"n": 0.05, "error": 0.15, "within": 0.05}
_VARIANCE = {"offset": 0.05, "square": 0.15, "residual": 0.15}


@dataclass(frozen=True)
class GroupMetrics:
    """Metrics of the patients whose actual dose is in one range.

    A figure is `None` where the range has no patients, or where noise hides it.
    """

    name: str
    n: float
    mae: float | None
    within_20_percent: float | None


@dataclass(frozen=True)
class DoseMetrics:
    """How well doses were predicted.

    Attributes:
        n: number of patients; an estimate where noise was added.
        mae: mean absolute error, in the target's unit (mg/week for warfarin).
        within_20_percent: percentage (0 to 100) predicted within 20 % of the actual dose; `None`
            where noise hides it.
        r2: share of the doses' variance explained, where it was released.
        groups: the same by actual dose, where released.
        mae_interval: 95 % interval of `mae` for the noise alone, where noise was added.
        mae_ci: 95 % interval of `mae` for the choice of patients, and the noise; `None` where the
            errors' squares were not released.
    """

    n: float
    mae: float
    within_20_percent: float | None
    r2: float | None = None
    groups: tuple[GroupMetrics, ...] = ()
    mae_interval: tuple[float, float] | None = None
    mae_ci: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as for JSON."""
        return asdict(self)

    def flat(self) -> dict[str, float]:
        """Return the values by name, without absent ones."""
        values = {
            "n": self.n,
            "mae": self.mae,
            "within_20_percent": self.within_20_percent,
            "r2": self.r2,
            **limits("mae", self.mae_interval),
            **limits("mae_ci", self.mae_ci),
        }
        for group in self.groups:
            values[f"mae {group.name}"] = group.mae
            values[f"within_20_percent {group.name}"] = group.within_20_percent
        return known(values)


@dataclass(frozen=True)
class MetricPlan(Plan):
    """What one evaluation releases, and how each patient's share in it is bounded.

    An intermediate evaluation has three components: the count, the absolute error cut at
    `error_bound` and divided by it, and whether the prediction is within 20 %. The final one adds
    the three for each dose group (a patient is in exactly one; only a weekly dose has groups) and
    three for R²: the distance of the actual dose from the public reference, its square, and the
    squared error, distances cut at `error_bound`. Each component is weighted so that one patient's
    whole vector has an L2 norm of at most `sensitivity` = 1, whatever the prediction.

    With Gaussian noise of standard deviation 10 on every summed component, 1,082 held-out
    patients, `error_bound` 60 and a true MAE of 8.2 mg/week, the noise on the MAE has a standard
    deviation of 0.66 mg/week in an intermediate evaluation and 0.80 in the final one.

    Attributes:
        final: whether everything is released, or only what a learning curve needs.
        error_bound: where errors are cut, in the target's unit.
        reference: public reference value of the target, in its unit.
        groups: limits of the dose groups, in the target's unit; `None` for none.
        tells: what a mean error can tell, in the target's unit; see `figures.hides`.
    """

    final: bool
    error_bound: float
    reference: float
    groups: tuple[float, float] | None = DOSE_GROUPS
    tells: float = math.inf

    def __post_init__(self) -> None:
        require_bound(self.error_bound)
        if self.groups is not None and not 0 < self.groups[0] < self.groups[1]:
            raise MisuseError(f"groups is {self.groups}: the limits must rise from above 0.")

    @classmethod
    def for_study(cls, study: Study, *, final: bool) -> "MetricPlan":
        """Build the plan that a study of a continuous outcome agreed on.

        Raises:
            MisuseError: if the study's outcome is of another kind.
        """
        if not isinstance(study.target, ContinuousTarget):
            raise MisuseError(f"a {study.target.kind} outcome has no dose metrics.")
        return cls(
            final=final,
            error_bound=study.metrics.error_bound,
            reference=reference_target(study.target),
            groups=dose_groups(study.target),
            tells=mean_error_tells(study.target),
        )

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the state's components, in order."""
        return tuple(name for name, _ in self._weights())

    def contributions(self, predicted: Doses, actual: Doses) -> Doses:
        """Compute each patient's share, `(n, m)`; it never leaves a site.

        Args:
            predicted: `(n,)`, in the target's unit; a value that is not finite counts as an
                error of `error_bound`.
            actual: `(n,)`, in the target's unit.
        """
        predicted, actual = _pair(predicted, actual)
        error = clip_error(predicted, actual, self.error_bound)
        total = np.stack([np.ones_like(error), error, _within(predicted, actual)])
        columns = list(total)
        if self.final:
            for member in _membership(actual, self.groups):
                columns.extend(np.where(member, total, 0.0))
            offset = np.clip((actual - self.reference) / self.error_bound, -1.0, 1.0)
            columns.extend([offset, offset**2, error**2])
        return np.stack(columns, axis=1) * self._scales()

    def from_state(self, state: Doses, *, noise_sd: float | None = None) -> DoseMetrics:
        """Read the metrics from a summed state, noisy or not.

        A count is at least 1; percentages are cut to 0..100, R² to -1..1. The MAE is always
        present, with its interval, by which `figures.Figure` hides it. Other figures that noise
        hides are `None`.

        Args:
            state: `(m,)`, as `state` returns it, summed over sites.
            noise_sd: standard deviation of the noise on each component, for the MAE's interval.

        Raises:
            MisuseError: if the state has another size.
        """
        noise, by = noise_sd or 0.0, dict(zip(self.components, self._scales(), strict=True))
        sums = unscaled(self.components, state, self._scales())
        n, mae, within = self._triple(sums, "")
        of_noise, ends = self.mae_noise_sd(mae, n, noise), None
        if self.final:
            patients = mean_sd(mae, self.error_bound**2 * sums["residual"] / n, n)
            ends = interval(mae, math.hypot(of_noise, patients), 0.0, self.error_bound)
        within_sd = ratio_sd(within, n, 100 * noise / by["within"], noise / by["n"])
        return DoseMetrics(
            n=n,
            mae=mae,
            within_20_percent=told(within, within_sd, PERCENT_TELLS),
            r2=noisy_r2(sums, n, by, noise) if self.final else None,
            groups=tuple(self._groups(sums, noise)) if self.final else (),
            mae_interval=None
            if noise_sd is None
            else interval(mae, of_noise, 0.0, self.error_bound),
            mae_ci=ends,
        )

    def mae_noise_sd(self, mae: float, n: float, noise_sd: float) -> float:
        """Compute the MAE's standard deviation, in the target's unit, by the delta method.

        Args:
            mae: the (estimated) MAE.
            n: the (estimated) number of patients.
            noise_sd: standard deviation of the noise on each component of the state.
        """
        return mean_error_sd(mae, n, noise_sd, self.error_bound, self._scales())

    def _groups(self, sums: dict[str, float], noise_sd: float) -> Iterator[GroupMetrics]:
        """Read each dose group's metrics from unscaled sums."""
        by = dict(zip(self.components, self._scales().tolist(), strict=True))
        for name in group_names(self.groups):
            n, mae, within = self._triple(sums, f"{name}:")
            noise = {part: noise_sd / by[f"{name}:{part}"] for part in _GROUP}
            mae_sd = ratio_sd(mae, n, self.error_bound * noise["error"], noise["n"])
            within_sd = ratio_sd(within, n, 100 * noise["within"], noise["n"])
            yield GroupMetrics(
                name=name,
                n=n,
                mae=told(mae, mae_sd, self.tells),
                within_20_percent=told(within, within_sd, PERCENT_TELLS),
            )

    def _triple(self, sums: dict[str, float], prefix: str) -> tuple[float, float, float]:
        """Read count, MAE and percentage within 20 % from unscaled sums."""
        n = max(1.0, float(sums[f"{prefix}n"]))
        error = min(max(float(sums[f"{prefix}error"]) / n, 0.0), 1.0)
        within = min(max(float(sums[f"{prefix}within"]) / n, 0.0), 1.0)
        return n, self.error_bound * error, 100.0 * within

    def _weights(self) -> Iterator[tuple[str, float]]:
        """Pair component names with their squared relative weights."""
        yield from _TOTAL.items()
        if self.final:
            for group in group_names(self.groups):
                yield from ((f"{group}:{name}", weight) for name, weight in _GROUP.items())
            yield from _VARIANCE.items()

    def _scales(self) -> Doses:
        """Compute the factor of each component, `(m,)`, so that a patient's norm is at most 1."""
        largest = sum(_TOTAL.values())
        if self.final:  # a patient is in one group only
            largest += sum(_VARIANCE.values()) + (sum(_GROUP.values()) if self.groups else 0.0)
        squared = np.array([weight for _, weight in self._weights()])
        return scales(squared, largest)


def exact(
    predicted: Doses, actual: Doses, groups: tuple[float, float] | None = DOSE_GROUPS
) -> DoseMetrics:
    """Compute unbounded, noiseless metrics, for the patients' owner.

    Args:
        predicted: `(n,)`, in the target's unit.
        actual: `(n,)`, in the target's unit.
        groups: limits of the dose groups, in the same unit; `None` for none.

    Raises:
        DataError: if there are no patients, or the lengths differ.
    """
    predicted, actual = _pair(predicted, actual)
    if not actual.size:
        raise DataError("there are no held-out patients to measure on.")
    errors, within = np.abs(predicted - actual), _within(predicted, actual)
    mae = float(errors.mean())
    patients = mean_sd(mae, float(np.square(errors).mean()), errors.size)
    variance = float(np.square(actual - actual.mean()).sum())
    by_group = []
    for name, member in zip(group_names(groups), _membership(actual, groups), strict=True):
        occupied = member.any()
        by_group.append(
            GroupMetrics(
                name=name,
                n=float(member.sum()),
                mae=float(errors[member].mean()) if occupied else None,
                within_20_percent=float(100 * within[member].mean()) if occupied else None,
            )
        )
    return DoseMetrics(
        n=float(actual.size),
        mae=mae,
        mae_ci=interval(mae, patients, 0.0, math.inf),
        within_20_percent=float(100 * within.mean()),
        r2=None if variance == 0 else 1.0 - float(np.square(errors).sum()) / variance,
        groups=tuple(by_group),
    )


def mean_error_tells(target: ContinuousTarget | PanelTarget) -> float:
    """Compute what a mean absolute error can tell, in the target's unit; see `figures.hides`.

    It is half the mean error of the public reference as the prediction for every patient. With
    outcomes that are normal around it before the target's transform, that error is sqrt(2 / pi)
    standard deviations. A panel has the mean over its drugs.
    """
    if isinstance(target, PanelTarget):
        sd = float(np.mean([drug.scale for drug in target.drugs]))
    else:
        low, high = restore_target(target, np.array([-1.0, 1.0]))
        sd = float(high - low) / 2
    return math.sqrt(2 / math.pi) * sd / 2


def dose_groups(target: ContinuousTarget) -> tuple[float, float] | None:
    """Return the limits of an outcome's dose groups; `None` unless it is a weekly dose."""
    return DOSE_GROUPS if target.is_weekly_dose else None


def group_names(groups: tuple[float, float] | None = DOSE_GROUPS) -> tuple[str, ...]:
    """Name the dose groups, lowest first; there are none without limits."""
    if groups is None:
        return ()
    low, high = groups
    return f"<={low:g}", f"{low:g}-{high:g}", f">={high:g}"


def _pair(predicted: Doses, actual: Doses) -> tuple[Doses, Doses]:
    predicted, actual = np.asarray(predicted, np.float64), np.asarray(actual, np.float64)
    if predicted.ndim != 1 or predicted.shape != actual.shape:
        raise DataError(
            f"predictions of shape {predicted.shape} do not match doses of shape {actual.shape}."
        )
    return predicted, actual


def _within(predicted: Doses, actual: Doses) -> Doses:
    return (np.abs(predicted - actual) <= 0.2 * np.abs(actual)).astype(np.float64)


def _membership(actual: Doses, groups: tuple[float, float] | None) -> list[NDArray[np.bool_]]:
    if groups is None:
        return []
    low, high = groups
    return [actual <= low, (actual > low) & (actual < high), actual >= high]
