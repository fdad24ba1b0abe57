"""Yes-or-no outcomes judged by sums: a patient falls into one bin of scores, of one outcome.

The counts give ROC AUC, average precision, sensitivity and specificity at the study's threshold,
and calibration. The bins are equally wide in log-odds around the public rate, so that they resolve
a rare outcome as well as a frequent one.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedrx_common.errors import DataError, MisuseError
from fedrx_models.metrics.base import (
    MIN_SIGNAL_TO_NOISE,
    SHARE_TELLS,
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
    told,
    unscaled,
)

_REACH = 4.0  # log-odds on each side of the public rate that the inner bins cover
_BINS = {False: 10, True: 20}  # in between, and at the end
_CALIBRATION_BINS = 10
_CALIBRATION_NOISE = 0.04  # where noise alone would make a larger error, none is shown


@dataclass(frozen=True)
class BinaryMetrics:
    """How well yes and no were separated; `None` where the counts do not say, or noise hides it.

    Attributes:
        n: number of patients; an estimate where noise was added.
        auc: area under the ROC curve.
        average_precision: precision averaged over recall.
        sensitivity: share of "yes" patients at or above the study's threshold.
        specificity: share of "no" patients below it.
        brier: mean squared difference of probability and outcome, where it was released.
        calibration_error: mean difference of probability and observed share, over bins.
        auc_interval: 95 % interval of `auc` for the noise alone, where noise was added.
        auc_ci: 95 % interval of `auc` for the choice of patients, and the noise.
    """

    n: float
    auc: float | None
    average_precision: float | None
    sensitivity: float | None
    specificity: float | None
    brier: float | None = None
    calibration_error: float | None = None
    auc_interval: tuple[float, float] | None = None
    auc_ci: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as for JSON."""
        return asdict(self)

    def flat(self) -> dict[str, float]:
        """Return the values by name, without absent ones."""
        values = {k: v for k, v in asdict(self).items() if k not in {"auc_interval", "auc_ci"}}
        ends = limits("auc", self.auc_interval)
        return known({**values, **ends, **limits("auc_ci", self.auc_ci)})


@dataclass(frozen=True)
class BinaryPlan(Plan):
    """What one evaluation of a yes-or-no outcome releases.

    A patient adds 1 to one of the counts, "score in bin i and outcome yes" or "... no"; the final
    evaluation adds the squared difference of probability and outcome, which is at most 1.

    Attributes:
        final: whether everything is released, or only what a learning curve needs.
        rate: public reference share of "yes".
        threshold: probability from which a patient counts as "yes"; it is an edge of two bins.
    """

    final: bool
    rate: float
    threshold: float

    def __post_init__(self) -> None:
        for name in ("rate", "threshold"):
            if not 0 < getattr(self, name) < 1:
                raise MisuseError(f"{name} is {getattr(self, name):g}: it must lie in 0..1.")

    @property
    def edges(self) -> Floats:
        """Inner edges of the score bins, as probabilities, rising."""
        reach = np.linspace(-_REACH, _REACH, _BINS[self.final] - 1)
        inner = 1.0 / (1.0 + np.exp(-(math.log(self.rate / (1 - self.rate)) + reach)))
        found: Floats = np.unique([*inner, self.threshold])
        return found

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the state's components, in order."""
        bins = range(len(self.edges) + 1)
        counts = tuple(f"{outcome}:{i}" for outcome in ("no", "yes") for i in bins)
        return (*counts, "brier") if self.final else counts

    def contributions(self, predicted: Floats, actual: Floats) -> Floats:
        """Compute each patient's share, `(n, m)`; it never leaves a site.

        Args:
            predicted: probability of "yes", `(n,)`; one that is not finite counts as the public
                rate.
            actual: 0 or 1, `(n,)`.
        """
        scores = np.where(np.isfinite(predicted), np.clip(predicted, 0.0, 1.0), self.rate)
        bins = len(self.edges) + 1
        place = np.searchsorted(self.edges, scores, side="right")
        counts = one_hot(place + bins * (actual > 0.5), 2 * bins)
        if self.final:
            counts = np.concatenate([counts, np.square(scores - actual)[:, None]], axis=1)
        return counts * self._scales()

    def from_state(self, state: Floats, *, noise_sd: float | None = None) -> BinaryMetrics:
        """Read the metrics from a summed state, noisy or not; `noise_sd` is per component.

        Noise can make counts negative. They are summed as they are: if they were cut, noise would
        grow with the number of bins. Only figures computed from sums are cut to their range.

        Raises:
            MisuseError: if the state has another size.
        """
        scales = self._scales()
        sums = unscaled(self.components, state, scales)
        bins = len(self.edges) + 1
        counts = np.array([sums[name] for name in self.components[: 2 * bins]])
        no, yes = counts[:bins], counts[bins:]
        n = max(1.0, float(counts.sum()))
        noise = (noise_sd or 0.0) / float(scales[0])
        auc, auc_noise, auc_patients = _auc(no, yes, noise)
        cut = int(np.searchsorted(self.edges, self.threshold)) + 1
        brier = None
        if self.final:
            brier = brier_score(sums["brier"], n, noise, scales, self.rate)
        return BinaryMetrics(
            n=n,
            auc=auc,
            average_precision=self._average_precision(no, yes, noise),
            sensitivity=_share(yes[cut:], yes, noise),
            specificity=_share(no[:cut], no, noise),
            brier=brier,
            calibration_error=self._calibration(no, yes, noise) if self.final else None,
            auc_interval=None if noise_sd is None else _auc_interval(auc, auc_noise),
            auc_ci=_auc_interval(auc, math.hypot(auc_noise, auc_patients)),
        )

    def _average_precision(self, no: Floats, yes: Floats, noise: float) -> float | None:
        """Compute the average precision of bins, in which the order of patients is unknown.

        The noise's standard deviation follows from the slopes by the counts. They are computed
        numerically, with counts raised to their noise: a precision has no stable slope at a count
        of 0.
        """
        if float(yes.sum()) <= MIN_SIGNAL_TO_NOISE * noise * math.sqrt(len(yes)):
            return None
        raised = np.maximum([no, yes], noise)
        value = _average_precision(raised[0], raised[1], within=0.5)
        steps = np.eye(raised.size).reshape(-1, *raised.shape)
        slopes = [
            _average_precision(raised[0] + of_no, raised[1] + of_yes, within=0.5) - value
            for of_no, of_yes in steps
        ]
        found = _average_precision(no, yes, within=0.5)
        return told(found, noise * math.hypot(*slopes), (1 - self.rate) / 2)

    def _calibration(self, no: Floats, yes: Floats, noise: float) -> float | None:
        """Compute the mean over patients of |middle of the bin - observed share in it|.

        Noise lengthens every gap, so its variance is subtracted from the gap's square first. Where
        noise would be too much of the whole, there is no calibration error.
        """
        ends = np.array([0.0, *self.edges, 1.0])
        middle, total = (ends[:-1] + ends[1:]) / 2, float((no + yes).sum())
        spread = noise * np.hypot(middle, 1 - middle)
        expected = math.sqrt(2 / math.pi) * float(spread.sum())  # of a gap that is noise alone
        if total <= 0 or expected > _CALIBRATION_NOISE * total:
            return None
        squared = np.square(yes - (no + yes) * middle) - np.square(spread)
        return min(float(np.sqrt(np.maximum(squared, 0.0)).sum()) / total, 1.0)

    def _scales(self) -> Floats:
        return count_scales(2 * (len(self.edges) + 1), brier=self.final)


def exact_binary(predicted: Floats, actual: Floats, threshold: float) -> BinaryMetrics:
    """Compute unbinned, noiseless metrics, for the patients' owner.

    Args:
        predicted: probability of "yes", `(n,)`.
        actual: 0 or 1, `(n,)`.
        threshold: probability from which a patient counts as "yes".

    Raises:
        DataError: if there are no patients, lengths differ, or all have the same outcome.
    """
    require_patients(predicted, actual)
    yes = actual > 0.5
    if yes.all() or not yes.any():
        raise DataError(
            f"all {len(actual)} held-out patients have the same outcome: ROC AUC needs both."
        )
    scores, where = np.unique(predicted, return_inverse=True)
    counts = [np.bincount(where[members], minlength=len(scores)) for members in (~yes, yes)]
    no_by_score, yes_by_score = (one.astype(np.float64) for one in counts)
    auc, _, auc_sd = _auc(no_by_score, yes_by_score)
    return BinaryMetrics(
        n=float(len(actual)),
        auc=auc,
        average_precision=_average_precision(no_by_score, yes_by_score),
        sensitivity=float((predicted[yes] >= threshold).mean()),
        specificity=float((predicted[~yes] < threshold).mean()),
        brier=float(np.square(predicted - actual).mean()),
        calibration_error=_exact_calibration(scores, no_by_score, yes_by_score),
        auc_ci=_auc_interval(auc, auc_sd),
    )


def _auc(no: Floats, yes: Floats, noise: float = 0.0) -> tuple[float | None, float, float]:
    """Compute the area under the ROC curve from counts by score, each with noise of this sd.

    Returns:
        The area, its standard deviation for the noise (infinite where noise may have made the
        patients themselves), and that for the choice of patients.
    """
    negatives, positives = float(no.sum()), float(yes.sum())
    if negatives < 1 or positives < 1:
        return None, math.inf, 0.0
    ordered, by_yes, by_no = concordance_of_counts(yes, no)
    auc = ordered / (positives * negatives)
    slopes = [(by_no / positives - auc) / negatives, (by_yes / negatives - auc) / positives]
    distinct = min(negatives, positives) > MIN_SIGNAL_TO_NOISE * noise * math.sqrt(len(no))
    noise_sd = noise * float(np.linalg.norm(slopes)) if distinct else math.inf
    return min(max(auc, 0.0), 1.0), noise_sd, sampling_sd(np.array([no, yes]), np.array(slopes))


def _auc_interval(auc: float | None, sd: float) -> tuple[float, float] | None:
    return None if auc is None else interval(auc, sd, 0.0, 1.0)


def _average_precision(no: Floats, yes: Floats, within: float = 1.0) -> float:
    """Average the precision at each score, weighted by the recall that the score adds.

    Args:
        no: counts by score.
        yes: likewise.
        within: share of a score's patients that its precision counts: all of them where scores
            are exact, half where they are bins, in which the order of patients is unknown.
    """
    positives = float(yes.sum())
    found, false = (np.cumsum(one) - (1 - within) * one for one in (yes[::-1], no[::-1]))
    precision = np.clip(found / np.maximum(found + false, 1e-12), 0.0, 1.0)
    return min(max(float((precision * yes[::-1]).sum() / positives), 0.0), 1.0)


def _exact_calibration(scores: Floats, no: Floats, yes: Floats) -> float:
    """Compute the mean |mean probability - observed share| over about ten equally full bins.

    Patients of the same score fall into the same bin, that of the middle one of them: their order
    must not matter.

    Args:
        scores: each probability that was predicted, rising, `(scores,)`.
        no: patients of that score without the outcome.
        yes: likewise with it.
    """
    count = no + yes
    middle = (np.cumsum(count) - count / 2) / count.sum()
    gaps = np.bincount((middle * _CALIBRATION_BINS).astype(int), weights=count * scores - yes)
    return float(np.abs(gaps).sum() / count.sum())


def _share(part: Floats, whole: Floats, noise: float) -> float | None:
    """Compute the share of some counts in all; `None` where noise of that sd on each hides it."""
    total = float(whole.sum())
    if total <= MIN_SIGNAL_TO_NOISE * noise * math.sqrt(len(whole)):
        return None
    share = min(max(float(part.sum()) / total, 0.0), 1.0)
    rest = len(whole) - len(part)
    sd = noise * math.sqrt((1 - share) ** 2 * len(part) + share**2 * rest) / total
    return told(share, sd, SHARE_TELLS)
