"""Survival judged by sums: a patient falls into one bin of risk, of time, of event or not.

From the counts comes Harrell's concordance on binned risks and times: of two patients of whom one
is known to have had the event earlier, how often was that one's risk higher. Source: Harrell et
al., JAMA 1982;247:2543-6.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrx_models.encoding import encode_outcome
from fedrx_models.metrics_shares import (
    Floats,
    Plan,
    concordance_of_counts,
    count_scales,
    interval,
    known,
    limits,
    one_hot,
    require_patients,
    unscaled,
)
from fedrx_protocol.errors import DataError
from fedrx_protocol.schema import SurvivalTarget

_RISK_BINS = 10
_REACH = 2.0  # logarithm of the cumulative hazard, on each side of the public reference
_MOST_TIMES = 5  # coarser than the study's bins where those are many: each count has its noise
_SMALLEST = 1e-12


@dataclass(frozen=True)
class SurvivalMetrics:
    """How well times until the event were ranked; `None` where the counts do not say.

    Attributes:
        n: number of patients; an estimate where noise was added.
        concordance: share of comparable pairs that are ordered rightly, ties counting half.
        brier: Brier score of the hazards, where it was released; see `patient_errors`.
        concordance_interval: 95 % interval for the noise alone, where noise was added.
    """

    n: float
    concordance: float | None
    brier: float | None = None
    concordance_interval: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as for JSON."""
        return asdict(self)

    def flat(self) -> dict[str, float]:
        """Values by name; absent ones are left out."""
        values = {"n": self.n, "concordance": self.concordance, "brier": self.brier}
        return known({**values, **limits("concordance", self.concordance_interval)})


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

    def shares(self, predicted: Floats, actual: Floats) -> Floats:
        """Each patient's share, `(n, m)`; it never leaves a site.

        Args:
            predicted: survival at the end of each time bin, `(n, bins)`.
            actual: time and event, `(n, 2)`.
        """
        happened, at_risk = encode_outcome(self.target, actual)
        place = _history(happened, at_risk, self._joined()) * _RISK_BINS + self._risk_bin(predicted)
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
        sums = unscaled(self.components, state, self._scales())
        counts = np.array(list(sums.values())[: (2 * self.times + 1) * _RISK_BINS])
        n = max(1.0, float(counts.sum()))
        concordance, sd = _concordance(counts.reshape(-1, _RISK_BINS), self.times)
        noise = None if noise_sd is None else noise_sd / float(self._scales()[0])
        return SurvivalMetrics(
            n=n,
            concordance=concordance,
            brier=min(max(sums["brier"] / n, 0.0), 1.0) if self.final else None,
            concordance_interval=None
            if noise is None or concordance is None
            else interval(concordance, noise * sd, 0.0, 1.0),
        )

    def _joined(self) -> NDArray[np.int64]:
        """The joined bin of each of the study's bins, `(bins,)`."""
        bins = len(self.target.edges)
        return np.arange(bins) * self.times // bins

    def _risk_bin(self, predicted: Floats) -> NDArray[np.int64]:
        """Bin of the cumulative hazard at the last edge, against the public reference."""
        reference = -len(self.target.edges) * np.log1p(-self.target.hazard)
        risk = np.log(_cumulative_hazard(predicted) / reference)
        edges = np.linspace(-_REACH, _REACH, _RISK_BINS - 1)
        return np.searchsorted(edges, np.where(np.isnan(risk), 0.0, risk), side="right")

    def _scales(self) -> Floats:
        return count_scales((2 * self.times + 1) * _RISK_BINS, brier=self.final)


def exact_survival(predicted: Floats, actual: Floats, target: SurvivalTarget) -> SurvivalMetrics:
    """Concordance on exact risks and the study's time bins, for whoever owns the patients.

    Args:
        predicted: survival at the end of each time bin, `(n, bins)`.
        actual: time and event, `(n, 2)`.
        target: the outcome.

    Raises:
        DataError: if there are no patients, lengths differ, or nobody had the event.
    """
    require_patients(predicted, actual)
    happened, at_risk = encode_outcome(target, actual)
    if not happened.any():
        raise DataError(
            f"none of the {len(actual)} held-out patients had the event before the last edge: "
            "concordance needs some."
        )
    risks, place = np.unique(_cumulative_hazard(predicted), return_inverse=True)
    bins = len(target.edges)
    counts = np.zeros((2 * bins + 1, len(risks)))
    np.add.at(counts, (_history(happened, at_risk, np.arange(bins)), place), 1.0)
    concordance, _ = _concordance(counts, bins)
    return SurvivalMetrics(
        n=float(len(actual)),
        concordance=concordance,
        brier=float(_hazard_errors(predicted, happened, at_risk).mean()),
    )


def patient_errors(predicted: Floats, actual: Floats, target: SurvivalTarget) -> Floats:
    """Squared difference of hazard and event, summed over the bins at risk, `(n,)`, in 0..1.

    The sum is divided by the number of all bins, which is public. Divided by the number of bins at
    risk, which hangs on the outcome, it would favour hazards that are too high. Source: the Brier
    score (Monthly Weather Review 1950;78:1-3) of each bin's conditional event.

    Args:
        predicted: survival at the end of each time bin, `(n, bins)`.
        actual: time and event, `(n, 2)`; who leaves unharmed counts for the bins seen to the end.
        target: the outcome.
    """
    return _hazard_errors(predicted, *encode_outcome(target, actual))


def _history(
    happened: Floats, at_risk: NDArray[np.bool_], joined: NDArray[np.int64]
) -> NDArray[np.int64]:
    """What is known of each patient: event in joined bin k, or free through k joined bins.

    `joined` is the joined bin of each of the study's bins, `(bins,)`; the second kind of history
    is numbered on from the first.
    """
    event = happened.any(axis=1)
    when = joined[happened.argmax(axis=1)]
    # A joined bin counts as survived only if its last bin was.
    last = np.append(np.flatnonzero(np.diff(joined)), len(joined) - 1)
    through = (at_risk & ~happened.astype(bool))[:, last].sum(axis=1)
    history: NDArray[np.int64] = np.where(event, when, len(last) + through)
    return history


def _concordance(counts: Floats, times: int) -> tuple[float | None, float]:
    """Concordance from counts `(2 times + 1, risks)`, and its sd for noise of 1 on each count.

    Rows 0..times-1 are events in each time bin, row times + k is free of it through k bins.
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
        return None, np.inf
    concordance = ordered / pairs
    slope = (by_ordered - concordance * by_pairs) / pairs
    return min(max(concordance, 0.0), 1.0), float(np.linalg.norm(slope))


def _cumulative_hazard(predicted: Floats) -> Floats:
    found: Floats = -np.log(np.clip(predicted[:, -1], _SMALLEST, 1 - _SMALLEST))
    return found


def _hazard_errors(predicted: Floats, happened: Floats, at_risk: NDArray[np.bool_]) -> Floats:
    before = np.concatenate([np.ones((len(predicted), 1)), predicted[:, :-1]], axis=1)
    hazard = np.clip(1 - predicted / np.maximum(before, _SMALLEST), 0.0, 1.0)
    hazard = np.where(np.isfinite(hazard), hazard, 1.0)
    found: Floats = (np.square(hazard - happened) * at_risk).mean(axis=1)
    return found
