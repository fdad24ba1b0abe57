"""Forecasts judged by sums, beside the last value: a patient counts once, whatever the visits.

There are three sums for each horizon and marker: the forecasts' error, the last value's error, and
how often the outcome is in the interval. Each patient adds a mean over that patient's visits. The
headline is the mean of the ratios of the first two, so the simplest rule reaches 1.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedrx_common.errors import DataError
from fedrx_models.cohort.visits import forecast_target
from fedrx_models.metrics.base import (
    MIN_SIGNAL_TO_NOISE,
    PERCENT_TELLS,
    RATIO_TELLS,
    Z95,
    Floats,
    Plan,
    clip_error,
    interval,
    known,
    limits,
    ratio_sd,
    require_bound,
    require_patients,
    scales,
    told,
    unscaled,
)
from fedrx_protocol.study.schema import FeatureSchema, ForecastTarget

# Squared relative weights, for each horizon and marker; see `metrics`.
_PAIR = {"error": 1.0, "last": 1.0}
_FINAL = {"patients": 0.4, "covered": 0.4}
_COUNT = 0.3
_LARGEST_RATIO = 10.0


@dataclass(frozen=True)
class PairMetrics:
    """One marker at one horizon; `None` where no patient has it, or noise hides it."""

    name: str
    patients: float | None
    ratio: float | None
    coverage: float | None


@dataclass(frozen=True)
class ForecastMetrics:
    """How well markers were forecast.

    Attributes:
        n: number of patients; an estimate where noise was added.
        ratio: mean over horizons and markers of the absolute error divided by the last value's;
            that of the sums over all, where noise hides single ones; None where it hides those.
        coverage: mean over the same of the share of outcomes within the interval, in percent.
        pairs: the same for each, where it was released.
        row_ratio: `ratio`, if every visit counts alike instead of every patient; exact only.
        ratio_interval: 95 % interval of `ratio` for the noise alone, where noise was added.
        ratio_ci: 95 % interval of `ratio` for the choice of patients; exact only, as the sums that
            are released do not say how much patients differ.
    """

    n: float
    ratio: float | None
    coverage: float | None = None
    pairs: tuple[PairMetrics, ...] = ()
    row_ratio: float | None = None
    ratio_interval: tuple[float, float] | None = None
    ratio_ci: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as for JSON."""
        return asdict(self)

    def flat(self) -> dict[str, float]:
        """Return the values by name, without absent ones."""
        values = {
            "n": self.n,
            "ratio": self.ratio,
            "coverage": self.coverage,
            "row_ratio": self.row_ratio,
            **limits("ratio", self.ratio_interval),
            **limits("ratio_ci", self.ratio_ci),
        }
        for pair in self.pairs:
            values[f"ratio {pair.name}"] = pair.ratio
            values[f"coverage {pair.name}"] = pair.coverage
        return known(values)


@dataclass(frozen=True)
class ForecastPlan(Plan):
    """What one evaluation of a forecast releases.

    Attributes:
        final: whether everything is released, or only what a learning curve needs.
        error_bound: where a single forecast's error is cut, in the marker's public scale.
        names: each horizon and marker, in the order of the outcomes.
        unit_scales: the public scale of each of those, in the marker's own unit.
    """

    final: bool
    error_bound: float
    names: tuple[str, ...]
    unit_scales: tuple[float, ...]

    def __post_init__(self) -> None:
        require_bound(self.error_bound)

    @classmethod
    def of(cls, schema: FeatureSchema, *, final: bool, error_bound: float) -> "ForecastPlan":
        """Build the plan of a study's forecast; raises `MisuseError` for another kind of target."""
        target = forecast_target(schema)
        unit_scales = [marker.unit_scale for marker in schema.forecast_markers]
        return cls(
            final=final,
            error_bound=error_bound,
            names=pair_names(target),
            unit_scales=tuple(unit_scales * len(target.horizons)),
        )

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the state's components, in order."""
        return ("n", *(f"{part} {name}" for part in self._parts() for name in self.names))

    def contributions(self, predicted: Floats, actual: Floats) -> Floats:
        """Compute each patient's share, `(n, m)`; it never leaves a site.

        Args:
            predicted: `(n, T, H, M, 3)`, as a `Forecast`'s mean; what is not finite counts as an
                error of `error_bound`.
            actual: `(n, T, H, M, 2)`, as `Courses.outcomes` gives it.
        """
        bounds = self.error_bound * np.array(self.unit_scales)
        means = _patient_means(predicted, actual, bounds)
        there = (means.counts > 0).astype(np.float64)
        parts = {
            "error": means.error,
            "last": means.last,
            "patients": there,
            "covered": means.covered,
        }
        columns = [np.ones((len(actual), 1)), *(parts[part] for part in self._parts())]
        return np.concatenate(columns, axis=1) * self._scales()

    def from_state(self, state: Floats, *, noise_sd: float | None = None) -> ForecastMetrics:
        """Read the metrics from a summed state, noisy or not; `noise_sd` is per component.

        Raises:
            MisuseError: if the state has another size.
        """
        sums = unscaled(self.components, state, self._scales())
        noise = 0.0 if noise_sd is None else noise_sd / float(self._scales()[1])
        error, last = (self._of(sums, part) for part in ("error", "last"))
        ratio, reach = _headline(error, last, noise)
        pairs = self._pairs(sums, error, last, noise) if self.final else ()
        ends = None
        if noise_sd is not None and ratio is not None:
            ends = interval(ratio, reach, 0.0, _LARGEST_RATIO)
        return ForecastMetrics(
            n=max(1.0, sums["n"]),
            ratio=ratio,
            coverage=self._coverage(sums, noise) if self.final else None,
            pairs=pairs,
            ratio_interval=ends,
        )

    def _coverage(self, sums: dict[str, float], noise: float) -> float | None:
        """Average over pairs whose patients are above their noise; `None` where noise hides it.

        It may be shown where no single pair's is: the noise of many pairs partly cancels.
        """
        patients, covered = (self._of(sums, part) for part in ("patients", "covered"))
        noise *= math.sqrt(_PAIR["error"] / _FINAL["patients"])
        there = patients > MIN_SIGNAL_TO_NOISE * noise
        if not there.any():
            return None
        shares = np.clip(covered[there] / patients[there], 0.0, 1.0)
        sd = noise * np.linalg.norm(np.hypot(1.0, shares) / patients[there]) / len(shares)
        return told(100 * float(shares.mean()), 100 * float(sd), PERCENT_TELLS)

    def _pairs(
        self, sums: dict[str, float], error: Floats, last: Floats, noise: float
    ) -> tuple[PairMetrics, ...]:
        """Read each pair's metrics; `error` and `last` are sums by pair, `noise` is theirs."""
        patients, covered = (self._of(sums, part) for part in ("patients", "covered"))
        of_count = noise * math.sqrt(_PAIR["error"] / _FINAL["patients"])
        found = []
        for i, name in enumerate(self.names):
            ratio = share = None
            if last[i] > MIN_SIGNAL_TO_NOISE * noise:
                ratio = _ratio(error[i], last[i])
                ratio = told(ratio, ratio_sd(ratio, last[i], noise, noise), RATIO_TELLS)
            if enough := patients[i] > MIN_SIGNAL_TO_NOISE * of_count:
                share = 100.0 * min(max(covered[i] / patients[i], 0.0), 1.0)
                sd = ratio_sd(share, patients[i], 100.0 * of_count, of_count)
                share = told(share, sd, PERCENT_TELLS)
            there = float(patients[i]) if enough else None
            found.append(PairMetrics(name=name, patients=there, ratio=ratio, coverage=share))
        return tuple(found)

    def _of(self, sums: dict[str, float], part: str) -> Floats:
        return np.array([sums[f"{part} {name}"] for name in self.names])

    def _parts(self) -> tuple[str, ...]:
        return (*_PAIR, *_FINAL) if self.final else tuple(_PAIR)

    def _scales(self) -> Floats:
        by_part = [{**_PAIR, **_FINAL}[part] for part in self._parts()]
        weights = np.array([_COUNT, *np.repeat(by_part, len(self.names))])
        return scales(weights, float(weights.sum()))


def pair_names(target: ForecastTarget) -> tuple[str, ...]:
    """Name each horizon and marker, in the order of the outcomes: horizons first."""
    return tuple(f"{name} {h.at:g}" for h in target.horizons for name in target.markers)


def exact_forecast(predicted: Floats, actual: Floats, target: ForecastTarget) -> ForecastMetrics:
    """Compute unbounded, noiseless metrics, for the patients' owner.

    Args:
        predicted: `(n, T, H, M, 3)`.
        actual: `(n, T, H, M, 2)`, NaN where there is nothing to judge.
        target: the forecast.

    Raises:
        DataError: if there are no patients, lengths differ, or nothing can be judged.
    """
    require_patients(predicted, actual)
    means = _patient_means(predicted, actual, None)
    there = means.counts > 0
    if not there.sum():
        raise DataError("no held-out patient has anything that a forecast can be judged on.")
    error, last = means.error.sum(axis=0), means.last.sum(axis=0)
    ratio, ratio_ci, judged = _headline(error, last, 0.0)[0], None, last > 0
    if ratio is not None:
        # By linearisation: a patient moves a ratio of sums by that patient's error minus the ratio
        # times the last value's error, divided by the sum of the latter. Source: Cochran, Sampling
        # Techniques, 3rd ed. 1977, eq. 6.13.
        ratios = error[judged] / last[judged]
        moved = (means.error[:, judged] - ratios * means.last[:, judged]) / last[judged]
        patients_sd = float(np.linalg.norm(moved.mean(axis=1)))
        ratio_ci = interval(ratio, patients_sd, 0.0, math.inf)
    rows = [(part * means.counts).sum(axis=0) for part in (means.error, means.last)]
    patients = there.sum(axis=0)
    coverage = 100.0 * means.covered.sum(axis=0) / np.maximum(patients, 1)
    return ForecastMetrics(
        n=float(len(actual)),
        ratio=ratio,
        ratio_ci=ratio_ci,
        coverage=float(coverage[patients > 0].mean()),
        pairs=tuple(
            PairMetrics(
                name=name,
                patients=float(patients[i]),
                ratio=_ratio(error[i], last[i]) if judged[i] else None,
                coverage=float(coverage[i]) if patients[i] else None,
            )
            for i, name in enumerate(pair_names(target))
        ),
        row_ratio=_headline(rows[0], rows[1], 0.0)[0],
    )


@dataclass(frozen=True, eq=False)
class PairSpread:
    """How far the choice of patients may move each pair's figures.

    Attributes:
        ratio: half a 95 % interval of the error relative to the last value's, `(H * M,)`; NaN
            where fewer than two patients can be judged.
        coverage: the same of the coverage, in percentage points.
    """

    ratio: Floats
    coverage: Floats


def pair_spread(predicted: Floats, actual: Floats) -> PairSpread:
    """Compute the spread of `exact_forecast`'s pairs if patients are drawn at random.

    The ratio's follows by linearisation: Cochran, Sampling Techniques, 3rd ed. 1977, eq. 6.13.
    """
    means = _patient_means(predicted, actual, None)
    there = means.counts > 0
    patients, last = there.sum(axis=0), means.last.sum(axis=0)
    enough = patients > 1
    count = np.where(enough, patients, np.nan)
    total = np.where(last > 0, last, np.nan)
    off_ratio = means.error - means.error.sum(axis=0) / total * means.last
    off_share = np.where(there, means.covered - means.covered.sum(axis=0) / count, 0.0)
    of_one = np.sqrt(count / (count - 1))  # an unbiased variance
    return PairSpread(
        ratio=Z95 * of_one * np.sqrt((off_ratio**2).sum(axis=0)) / total,
        coverage=Z95 * of_one * 100.0 * np.sqrt((off_share**2).sum(axis=0)) / count,
    )


def patient_scores(predicted: Floats, actual: Floats) -> Floats:
    """Compute each patient's error relative to the last value's, `(n,)`; NaN where none is judged.

    Each horizon and marker is divided by the last value's mean error in all of these patients, so
    that all count alike whatever their units. The scores compare models patient by patient.
    """
    means = _patient_means(predicted, actual, None)
    there = means.counts > 0
    usual = means.last.sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    there = there & (usual > 0)
    scaled = np.where(there, means.error, 0.0) / np.where(usual > 0, usual, 1.0)
    count = there.sum(axis=1)
    return np.where(count > 0, scaled.sum(axis=1) / np.maximum(count, 1), np.nan)


@dataclass(frozen=True, eq=False)
class _Means:
    """Each patient's means over that patient's visits, `(n, H * M)`; 0 where there are none."""

    counts: Floats
    error: Floats
    last: Floats
    covered: Floats


def _patient_means(predicted: Floats, actual: Floats, bounds: Floats | None) -> _Means:
    """Average by patient; with `bounds` `(H * M,)`, errors are cut there and divided by them."""
    patients, visits, horizons, markers, _ = actual.shape
    flat = (patients, visits, horizons * markers)
    outcome, last = (actual[..., i].reshape(*flat) for i in (0, 1))
    median, lower, upper = (predicted[..., i].reshape(*flat) for i in range(3))
    judged = ~np.isnan(outcome)
    counts = judged.sum(axis=1).astype(np.float64)

    def mean(values: Floats) -> Floats:
        found: Floats = np.where(judged, values, 0.0).sum(axis=1) / np.maximum(counts, 1.0)
        return found

    def error(values: Floats) -> Floats:
        return np.abs(values - outcome) if bounds is None else clip_error(values, outcome, bounds)

    inside = ((lower <= outcome) & (outcome <= upper)).astype(np.float64)
    return _Means(counts, mean(error(median)), mean(error(last)), mean(inside))


def _ratio(error: float, last: float) -> float:
    return float(min(max(error / last, 0.0), _LARGEST_RATIO))


def _headline(error: Floats, last: Floats, noise: float) -> tuple[float | None, float]:
    """Compute the headline and the standard deviation that noise gives it, by the delta method.

    It averages the single ratios if all denominators are above their noise. To leave out those that
    are not would favour denominators that noise made large. Otherwise it is the ratio of the sums
    over all pairs, or `None`.
    """
    distinct = last > 0 if noise == 0 else last > MIN_SIGNAL_TO_NOISE * noise
    if distinct.all() or (noise == 0 and distinct.any()):
        ratios, there = error[distinct] / last[distinct], last[distinct]
        spread = float(np.sqrt(((1.0 + ratios**2) / there**2).sum()) / len(there))
        return float(np.clip(ratios, 0.0, _LARGEST_RATIO).mean()), noise * spread
    total, of_total = float(last.sum()), noise * math.sqrt(len(last))
    if total <= MIN_SIGNAL_TO_NOISE * of_total:
        return None, 0.0
    ratio = _ratio(float(error.sum()), total)
    return ratio, of_total * math.hypot(1.0, ratio) / total
