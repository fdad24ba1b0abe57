"""Survival judged by sums: a patient falls into one bin of risk, of time, of event or not.

The counts give Harrell's concordance on binned risks and times: of two patients of whom one is
known to have had the event earlier, how often that patient's risk was higher. Source: Harrell et
al., JAMA 1982;247:2543-6. A patient's risk is the time that the predicted curve takes away, up to
the last edge (see `mean_survival_time`). Survival at a single time would ignore the curve at all
other times.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import DataError
from fedrx_models.cohort.encoding import encode_outcome
from fedrx_models.metrics.base import (
    MIN_SIGNAL_TO_NOISE,
    Floats,
    Plan,
    brier_score,
    concordance_of_counts,
    count_scales,
    interval,
    known,
    limits,
    one_hot,
    require_patients,
    sampling_sd,
    unscaled,
)
from fedrx_protocol.study.schema import SurvivalTarget

_RISK_BINS = 10
_REACH = 2.0  # log-odds of the share of time lost, on each side of the public reference
_MOST_TIMES = 5  # coarser than the study's bins where those are many: each count has its noise
_SMALLEST = 1e-12


@dataclass(frozen=True)
class SurvivalMetrics:
    """How well times until the event were ranked; `None` where the counts do not say.

    Attributes:
        n: number of patients; an estimate where noise was added.
        concordance: share of comparable pairs in the right order; ties count half.
        brier: Brier score of the hazards, where it was released; see `patient_errors`.
        concordance_interval: 95 % interval for the noise alone, where noise was added.
        concordance_ci: 95 % interval for the choice of patients, and the noise.
    """

    n: float
    concordance: float | None
    brier: float | None = None
    concordance_interval: tuple[float, float] | None = None
    concordance_ci: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as for JSON."""
        return asdict(self)

    def flat(self) -> dict[str, float]:
        """Return the values by name, without absent ones."""
        values = {"n": self.n, "concordance": self.concordance, "brier": self.brier}
        ends = limits("concordance", self.concordance_interval)
        return known({**values, **ends, **limits("concordance_ci", self.concordance_ci)})


@dataclass(frozen=True)
class SurvivalPlan(Plan):
    """What one evaluation of a survival outcome releases.

    A patient adds 1 to one of the counts, "risk in bin i, event in time bin k" or "risk in bin i,
    free of the event through time bin k"; the final evaluation adds the patient's `patient_errors`,
    which are at most 1.

    Attributes:
        final: whether everything is released, or only what a learning curve needs.
        target: the outcome; its bins are joined to at most five.
    """

    final: bool
    target: SurvivalTarget

    @property
    def times(self) -> int:
        """Number of joined time bins."""
        return min(_MOST_TIMES, len(self.target.edges))

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the state's components, in order."""
        counts = [f"event:{k}:{i}" for k in range(self.times) for i in range(_RISK_BINS)]
        counts += [f"free:{k}:{i}" for k in range(self.times + 1) for i in range(_RISK_BINS)]
        return (*counts, "brier") if self.final else tuple(counts)

    def contributions(self, predicted: Floats, actual: Floats) -> Floats:
        """Compute each patient's share, `(n, m)`; it never leaves a site.

        Args:
            predicted: survival at the end of each time bin, `(n, bins)`.
            actual: time and event, `(n, 2)`.
        """
        happened, at_risk = encode_outcome(self.target, actual)
        bins = len(self.target.edges)
        joined = np.arange(bins) * self.times // bins
        # A risk is the log-odds of the share of time lost, against the public reference's.
        reference = np.cumprod(np.full((1, bins), 1 - self.target.hazard), axis=1)
        risk = _log_odds_lost(predicted, self.target) - _log_odds_lost(reference, self.target)
        edges = np.linspace(-_REACH, _REACH, _RISK_BINS - 1)
        risk_bin = np.searchsorted(edges, np.where(np.isnan(risk), 0.0, risk), side="right")
        place = _history(happened, at_risk, joined) * _RISK_BINS + risk_bin
        counts = one_hot(place, (2 * self.times + 1) * _RISK_BINS)
        if self.final:
            error = _hazard_errors(predicted, happened, at_risk)
            counts = np.concatenate([counts, error[:, None]], axis=1)
        return counts * self._scales()

    def from_state(self, state: Floats, *, noise_sd: float | None = None) -> SurvivalMetrics:
        """Read the metrics from a summed state, noisy or not; `noise_sd` is per component.

        Raises:
            MisuseError: if the state has another size.
        """
        scales = self._scales()
        sums = unscaled(self.components, state, scales)
        counts = np.array(list(sums.values())[: (2 * self.times + 1) * _RISK_BINS])
        n = max(1.0, float(counts.sum()))
        noise = (noise_sd or 0.0) / float(scales[0])
        found = _concordance(counts.reshape(-1, _RISK_BINS), self.times, noise)
        brier = None
        if self.final:
            brier = brier_score(sums["brier"], n, noise, scales, self.target.hazard)
        return SurvivalMetrics(
            n=n,
            concordance=found.value,
            brier=brier,
            concordance_interval=None if noise_sd is None else found.interval(sampling=False),
            concordance_ci=found.interval(sampling=True),
        )

    def _scales(self) -> Floats:
        return count_scales((2 * self.times + 1) * _RISK_BINS, brier=self.final)


def exact_survival(predicted: Floats, actual: Floats, target: SurvivalTarget) -> SurvivalMetrics:
    """Measure concordance on exact risks and the study's time bins, for the patients' owner.

    Args:
        predicted: survival at the end of each time bin, `(n, bins)`.
        actual: time and event, `(n, 2)`.
        target: the outcome.

    Raises:
        DataError: if there are no patients, lengths differ, or no patient had the event.
    """
    require_patients(predicted, actual)
    happened, at_risk = encode_outcome(target, actual)
    if not happened.any():
        raise DataError(
            f"none of the {len(actual)} held-out patients had the event before the last edge: "
            "concordance needs some."
        )
    risks, place = np.unique(-mean_survival_time(predicted, target), return_inverse=True)
    bins = len(target.edges)
    counts = np.zeros((2 * bins + 1, len(risks)))
    np.add.at(counts, (_history(happened, at_risk, np.arange(bins)), place), 1.0)
    found = _concordance(counts, bins)
    return SurvivalMetrics(
        n=float(len(actual)),
        concordance=found.value,
        brier=float(_hazard_errors(predicted, happened, at_risk).mean()),
        concordance_ci=found.interval(sampling=True),
    )


def mean_survival_time(predicted: Floats, target: SurvivalTarget) -> Floats:
    """Compute the restricted mean survival time, `(n,)`: mean time without event to the last edge.

    It is the area under the curve, which falls in a straight line within a bin. It ranks patients
    where one number must represent a curve: the shorter the time, the higher the risk.
    Source: Royston and Parmar, BMC Medical Research Methodology 2013;13:152.

    Args:
        predicted: survival at the end of each time bin, `(n, bins)`.
        target: the outcome.

    Returns:
        Times in the target's unit.
    """
    ends = np.array([0.0, *target.edges])
    curve = np.concatenate([np.ones((len(predicted), 1)), predicted], axis=1)
    # Not a matrix product, which may round equal curves differently and so break their tie.
    area: Floats = ((curve[:, 1:] + curve[:, :-1]) / 2 * np.diff(ends)).sum(axis=1)
    return area


def patient_errors(predicted: Floats, actual: Floats, target: SurvivalTarget) -> Floats:
    """Sum the squared differences of hazard and event over the bins at risk, `(n,)`, in 0..1.

    The sum is divided by the number of all bins, which is public. The number of bins at risk
    depends on the outcome; a division by it would favour hazards that are too high. Source: the
    Brier score (Monthly Weather Review 1950;78:1-3) of each bin's conditional event.

    Args:
        predicted: survival at the end of each time bin, `(n, bins)`.
        actual: time and event, `(n, 2)`; a patient who leaves without the event counts for the
            bins that were observed to their end.
        target: the outcome.
    """
    return _hazard_errors(predicted, *encode_outcome(target, actual))


def _history(
    happened: Floats, at_risk: NDArray[np.bool_], joined: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Number what is known of each patient: event in joined bin k, or free through k joined bins.

    `joined` is the joined bin of each of the study's bins, `(bins,)`; the second kind of history
    continues the numbers of the first.
    """
    event = happened.any(axis=1)
    when = joined[happened.argmax(axis=1)]
    # A joined bin counts as survived only if its last bin was.
    last = np.append(np.flatnonzero(np.diff(joined)), len(joined) - 1)
    through = (at_risk & ~happened.astype(bool))[:, last].sum(axis=1)
    history: NDArray[np.int64] = np.where(event, when, len(last) + through)
    return history


@dataclass(frozen=True)
class _Concordance:
    """A concordance with what noise and the choice of patients may move it by.

    Attributes:
        value: `None` where no two patients can be compared.
        noise_sd: for the noise; infinite where noise may have made the pairs themselves.
        patients_sd: for the choice of patients.
    """

    value: float | None
    noise_sd: float = 0.0
    patients_sd: float = 0.0

    def interval(self, *, sampling: bool) -> tuple[float, float] | None:
        """Return the 95 % interval for noise; with `sampling`, for the choice of patients too."""
        if self.value is None:
            return None
        sd = np.hypot(self.noise_sd, self.patients_sd) if sampling else self.noise_sd
        return interval(self.value, float(sd), 0.0, 1.0)


def _concordance(counts: Floats, times: int, noise: float = 0.0) -> _Concordance:
    """Compute concordance from counts `(2 times + 1, risks)`, each with noise of this sd.

    Rows 0..times-1 hold events in each time bin; row times + k holds patients free through k bins.
    """
    events = counts[:times]
    pairs = ordered = 0.0
    by_ordered, by_pairs = np.zeros_like(counts), np.zeros_like(counts)
    for k in range(times):
        later = np.r_[np.arange(k + 1, times), times + np.arange(k + 1, times + 1)]
        beyond = counts[later].sum(axis=0)
        found, by_event, by_later = concordance_of_counts(events[k], beyond)
        ordered += found
        pairs += float(events[k].sum() * beyond.sum())
        by_ordered[k] += by_event
        by_ordered[later] += by_later
        by_pairs[k] += beyond.sum()
        by_pairs[later] += events[k].sum()
    if pairs < 1:
        return _Concordance(None)
    concordance = ordered / pairs
    slopes = (by_ordered - concordance * by_pairs) / pairs
    distinct = pairs > MIN_SIGNAL_TO_NOISE * noise * float(np.linalg.norm(by_pairs))
    return _Concordance(
        value=min(max(concordance, 0.0), 1.0),
        noise_sd=noise * float(np.linalg.norm(slopes)) if distinct else np.inf,
        patients_sd=sampling_sd(counts, slopes),
    )


def _log_odds_lost(predicted: Floats, target: SurvivalTarget) -> Floats:
    """Compute the log-odds of the share of time to the last edge that a curve takes away, `(n,)`.

    For small and large hazards alike, it rises by 1 where all hazards are e times as high.
    """
    lost = np.clip(1 - mean_survival_time(predicted, target) / target.edges[-1], _SMALLEST, 1.0)
    found: Floats = np.log(lost / np.maximum(1 - lost, _SMALLEST))
    return found


def _hazard_errors(predicted: Floats, happened: Floats, at_risk: NDArray[np.bool_]) -> Floats:
    before = np.concatenate([np.ones((len(predicted), 1)), predicted[:, :-1]], axis=1)
    hazard = np.clip(1 - predicted / np.maximum(before, _SMALLEST), 0.0, 1.0)
    hazard = np.where(np.isfinite(hazard), hazard, 1.0)
    found: Floats = (np.square(hazard - happened) * at_risk).mean(axis=1)
    return found
