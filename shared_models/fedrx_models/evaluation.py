"""What one evaluation of a study releases: its metrics and, at the end, its calibration.

Both share one vector, so that one secure sum, one noise and one line of the ledger hold them.
"""

from dataclasses import dataclass

import numpy as np

from fedrx_models.calibration.release import CalibrationPlan
from fedrx_models.card import Calibration
from fedrx_models.contract import AnyPrediction
from fedrx_models.metrics.base import Floats, Metrics, Plan
from fedrx_models.metrics.registry import metric_plan
from fedrx_protocol.study.study import Study


@dataclass(frozen=True)
class EvaluationPlan:
    """The vector of one evaluation: metrics, then the histograms of scores if there are any.

    With a share s for calibration, metrics are multiplied by sqrt(1 - s) and histograms by sqrt(s).
    One patient's share of either has a norm of at most 1, so that of both together has, too: the
    noise and its account are those of an evaluation without calibration. In zCDP, where a release
    of one part alone costs its squared sensitivity over twice the noise's variance, calibration
    takes the share s of the evaluation's budget and metrics the rest.

    Attributes:
        metrics: what is judged.
        weight: what metrics are multiplied by, in (0, 1].
        calibration: the histograms; None without them.
    """

    metrics: Plan
    weight: float = 1.0
    calibration: CalibrationPlan | None = None

    @property
    def size(self) -> int:
        """Number of components `m`."""
        return self.metrics.size + (self.calibration.size if self.calibration else 0)

    @property
    def sensitivity(self) -> float:
        """Bound on the L2 norm of one patient's share in the state."""
        return self.metrics.sensitivity

    def contributions(self, predicted: AnyPrediction, actual: Floats) -> Floats:
        """Compute each patient's share, `(n, m)`; it never leaves a site.

        Args:
            predicted: of the held-out patients.
            actual: their cohort's `target`.
        """
        found = self.metrics.contributions(predicted.mean, actual)
        if self.calibration is None:
            return found
        beside = np.sqrt(1 - self.weight**2) * self.calibration.contributions(predicted, actual)
        return np.concatenate([self.weight * found, beside], axis=1)

    def state(self, predicted: AnyPrediction, actual: Floats) -> Floats:
        """Sum all patients' shares, `(m,)` float64; zeros for no patients."""
        total: Floats = self.contributions(predicted, actual).sum(axis=0)
        return total

    def read(self, state: Floats, noise_sd: float) -> tuple[Metrics, Calibration | None]:
        """Read metrics and calibration from a summed state.

        Args:
            state: `(m,)`.
            noise_sd: standard deviation of the noise on each component; 0 for none.

        Raises:
            MisuseError: the state has another size.
        """
        if self.calibration is None:
            return self.metrics.from_state(state, noise_sd=noise_sd or None), None
        judged, scored = np.split(np.asarray(state), [self.metrics.size])
        metrics = self.metrics.from_state(
            judged / self.weight, noise_sd=noise_sd / self.weight or None
        )
        beside = float(np.sqrt(1 - self.weight**2))
        return metrics, self.calibration.read(scored / beside, noise_sd / beside)


def evaluation_plan(study: Study, *, final: bool) -> EvaluationPlan:
    """Build the plan that a study agreed on, for an intermediate or the final evaluation."""
    plan, weight = metric_plan(study, final=final), study.metric_weight(final=final)
    if not (final and study.metrics.calibration):
        return EvaluationPlan(plan)
    return EvaluationPlan(plan, weight, CalibrationPlan.of(study.feature_schema))
