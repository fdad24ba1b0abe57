"""Probabilities of a response that fit what happened, and whom a trial should enrol by them.

Calibration rests on a histogram in which a patient adds one count, so that it can be summed over
sites and noised. Net benefit: Vickers, Elkin, Med Decis Making 2006;26:565-74.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from fedrx_common.errors import MisuseError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

BINS = 20
_PRIOR = 2.0  # patients that each bin's own probability is worth beside what happened in it


def outcome_counts(probabilities: Floats, happened: Floats, bins: int = BINS) -> Counts:
    """Count patients by predicted probability and outcome, `(2, bins)`: without it, then with it.

    A patient adds one count, so one patient moves the counts by at most 1 in L2 norm.

    Args:
        probabilities: predicted, `(n,)` in 0..1.
        happened: 0 or 1, `(n,)`.
        bins: equal steps of the probability.
    """
    probabilities, happened = _checked(probabilities, happened)
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    found = np.zeros((2, bins), dtype=np.int64)
    np.add.at(found, (happened.astype(np.int64), place), 1)
    return found


@dataclass(frozen=True, eq=False)
class Recalibration:
    """A rising map from predicted to observed probabilities: straight lines between bin centres.

    Attributes:
        observed: share with the outcome at the centre of each bin, `(bins,)`, rising.
    """

    observed: Floats

    @classmethod
    def of(cls, counts: Floats | Counts, noise_sd: float = 0.0) -> "Recalibration":
        """Fit the map to summed counts, `(2, bins)`, noisy or not, by pooling adjacent violators.

        Each bin's own probability counts as two more patients, and as more where noise is large,
        so that an empty bin stays as predicted.

        Raises:
            MisuseError: the counts have no two rows, or are not numbers.
        """
        counts = np.asarray(counts, dtype=np.float64)
        if counts.ndim != 2 or counts.shape[0] != 2 or not np.isfinite(counts).all():
            raise MisuseError("counts of outcomes have two rows of finite numbers.")
        bins = counts.shape[1]
        centres = (np.arange(bins) + 0.5) / bins
        prior = _PRIOR + noise_sd
        without, happened = np.maximum(counts, 0.0)
        weight = without + happened + prior
        share = (happened + prior * centres) / weight
        return cls(np.clip(isotonic_regression(share, weights=weight).x, 0.0, 1.0))

    def __call__(self, probabilities: Floats) -> Floats:
        """Map predicted probabilities, `(n,)`, to calibrated ones."""
        bins = len(self.observed)
        centres = (np.arange(bins) + 0.5) / bins
        found: Floats = np.interp(probabilities, centres, self.observed)
        return found


@dataclass(frozen=True)
class Enrolment:
    """Whom a threshold enrols.

    Attributes:
        threshold: calibrated probability from which a patient is enrolled.
        enrolled: how many.
        expected: responders among them.
        low: lower end of their number's 95 % interval.
        high: upper end.
        missed: responders expected among those left out.
    """

    threshold: float
    enrolled: int
    expected: float
    low: float
    high: float
    missed: float


def enrolment(probabilities: Floats, threshold: float) -> Enrolment:
    """Say how many patients a threshold enrols, and how many of them are expected to respond.

    The interval is that of independent patients with these probabilities.

    Args:
        probabilities: calibrated, `(n,)`.
        threshold: in (0, 1).
    """
    probabilities, _ = _checked(probabilities, np.zeros(len(probabilities)))
    _check_threshold(threshold)
    inside = probabilities >= threshold
    chosen = probabilities[inside]
    expected = float(chosen.sum())
    reach = 1.96 * math.sqrt(float((chosen * (1 - chosen)).sum()))
    return Enrolment(
        threshold=threshold,
        enrolled=len(chosen),
        expected=expected,
        low=max(0.0, expected - reach),
        high=min(float(len(chosen)), expected + reach),
        missed=float(probabilities[~inside].sum()),
    )


def threshold_for(probabilities: Floats, responders: float) -> float:
    """Find the highest threshold that still enrols so many expected responders.

    Args:
        probabilities: calibrated, `(n,)`.
        responders: expected number wanted, above 0.

    Raises:
        MisuseError: all patients together are not expected to have so many.
    """
    probabilities, _ = _checked(probabilities, np.zeros(len(probabilities)))
    ranked = np.sort(probabilities)[::-1]
    reached = np.cumsum(ranked)
    if not responders > 0 or not len(ranked) or reached[-1] < responders:
        most = float(reached[-1]) if len(ranked) else 0.0
        raise MisuseError(
            f"{responders:g} responders were asked for, but these patients are expected to have "
            f"{most:.1f}: ask for fewer, or bring more patients."
        )
    return float(ranked[np.argmax(reached >= responders)])


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit by threshold: responders treated, less others treated at the threshold's odds.

    Attributes:
        thresholds: `(t,)` in (0, 1), rising.
        model: net benefit of treating by the model, per patient, `(t,)`.
        everybody: of treating all.
    """

    thresholds: Floats
    model: Floats
    everybody: Floats

    @property
    def useful(self) -> tuple[tuple[float, float], ...]:
        """Ranges of thresholds in which the model is better than treating all and than none."""
        better = self.model > np.maximum(self.everybody, 0.0) + 1e-12
        turns = np.diff(np.concatenate([[0], better.astype(np.int64), [0]]))
        begins, ends = self.thresholds[turns[:-1] == 1], self.thresholds[turns[1:] == -1]
        return tuple(zip(begins.tolist(), ends.tolist(), strict=True))


def decision_curve(
    probabilities: Floats, happened: Floats, thresholds: Floats | None = None
) -> DecisionCurve:
    """Compute net benefit: TP / n - FP / n * t / (1 - t), treating from probability t on.

    Args:
        probabilities: calibrated, `(n,)`.
        happened: 0 or 1, `(n,)`.
        thresholds: rising, in (0, 1); `None` takes 0.01 to 0.99.

    Raises:
        MisuseError: there are no patients, or a number is impossible.
    """
    probabilities, happened = _checked(probabilities, happened)
    if not len(happened):
        raise MisuseError("a net-benefit curve needs patients.")
    steps = np.arange(1, 100) / 100 if thresholds is None else np.asarray(thresholds, np.float64)
    if not (len(steps) and (np.diff(steps) > 0).all()):
        raise MisuseError("thresholds must rise.")
    _check_threshold(float(steps[0]))
    _check_threshold(float(steps[-1]))
    odds = steps / (1 - steps)
    treated = probabilities[None, :] >= steps[:, None]
    right, wrong = treated @ happened, treated @ (1 - happened)
    rate = happened.mean()
    return DecisionCurve(
        thresholds=steps,
        model=(right - wrong * odds) / len(happened),
        everybody=rate - (1 - rate) * odds,
    )


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold < 1:
        raise MisuseError(f"a threshold must lie in (0, 1), not {threshold!r}.")


def _checked(probabilities: Floats, happened: Floats) -> tuple[Floats, Floats]:
    first = np.asarray(probabilities, dtype=np.float64)
    second = np.asarray(happened, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise MisuseError(f"{first.shape} probabilities do not match {second.shape} outcomes.")
    if not ((first >= 0) & (first <= 1)).all():
        raise MisuseError("a probability lies outside 0 to 1.")
    if not np.isin(second, (0, 1)).all():
        raise MisuseError("an outcome is neither 0 nor 1.")
    return first, second
