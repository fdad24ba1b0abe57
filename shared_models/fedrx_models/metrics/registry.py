"""Which metrics a kind of outcome has, and the plan by which they are released.

Every plan turns held-out patients into one vector of sums, in which a patient's share has an L2
norm of at most 1; sums add up over sites, get their noise, and are read back into metrics.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedrx_models.metrics.base import RANKING_TELLS, RATIO_TELLS, Floats, Metrics, Plan
from fedrx_models.metrics.binary import BinaryPlan, exact_binary
from fedrx_models.metrics.dose import MetricPlan, dose_groups, exact, mean_error_tells
from fedrx_models.metrics.forecast import ForecastPlan, exact_forecast
from fedrx_models.metrics.panel import PanelPlan, exact_panel
from fedrx_models.metrics.survival import SurvivalPlan, exact_survival
from fedrx_protocol.privacy.figures import Figure
from fedrx_protocol.study.schema import (
    BinaryTarget,
    ContinuousTarget,
    ForecastTarget,
    PanelTarget,
    Target,
)
from fedrx_protocol.study.study import Study


@dataclass(frozen=True)
class Measure:
    """One metric, as a table shows it.

    Attributes:
        key: its name in records and in `flat`.
        name: its name for a reader.
        unit: its unit; empty for a share or a coefficient.
        higher_is_better: which way is good.
        digits: decimals worth showing.
        short: its name where there is little room; the name if left out.
        tells: what a headline can tell; see `figures.hides`.
    """

    key: str
    name: str
    unit: str = ""
    higher_is_better: bool = True
    digits: int = 3
    short: str = ""
    tells: float = math.inf

    @property
    def label(self) -> str:
        """The shortest name."""
        return self.short or self.name

    @property
    def heading(self) -> str:
        """The label with its unit, for a column; a percentage has its unit in its name."""
        return f"{self.label} ({self.unit})" if self.unit and "%" not in self.unit else self.label

    def figure(self, values: Mapping[str, float]) -> Figure:
        """Read this metric from a flat mapping, with its intervals."""
        return Figure.of(values, self.key, self.tells)


def metric_plan(study: Study, *, final: bool) -> Plan:
    """Build the plan that a study agreed on, for an intermediate or the final evaluation."""
    target = study.target
    if isinstance(target, ContinuousTarget):
        return MetricPlan.for_study(study, final=final)
    if isinstance(target, BinaryTarget):
        return BinaryPlan(final=final, rate=target.rate, threshold=target.threshold)
    if isinstance(target, PanelTarget):
        return PanelPlan(final=final, error_bound=study.metrics.error_bound, target=target)
    if isinstance(target, ForecastTarget):
        bound = study.metrics.error_bound
        return ForecastPlan.of(study.feature_schema, final=final, error_bound=bound)
    return SurvivalPlan(final=final, target=target)


def exact_metrics(target: Target, predicted: Floats, actual: Floats) -> Metrics:
    """Compute unbounded, noiseless metrics, for the patients' owner.

    Args:
        target: the outcome.
        predicted: what a prediction's `mean` holds.
        actual: what a cohort's `target` holds.

    Raises:
        DataError: if there are no patients, lengths differ, or the outcome allows no judgement.
    """
    if isinstance(target, ContinuousTarget):
        return exact(predicted, actual, dose_groups(target))
    if isinstance(target, BinaryTarget):
        return exact_binary(predicted, actual, target.threshold)
    if isinstance(target, PanelTarget):
        return exact_panel(predicted, actual, target)
    if isinstance(target, ForecastTarget):
        return exact_forecast(predicted, actual, target)
    return exact_survival(predicted, actual, target)


def measures_of(target: Target) -> tuple[Measure, ...]:
    """The metrics of an outcome, the headline first."""
    if isinstance(target, ContinuousTarget):
        return (mean_absolute_error(target, digits=2), Measure("r2", "R²"), _WITHIN)
    if isinstance(target, BinaryTarget):
        return _BINARY
    if isinstance(target, PanelTarget):
        correlation = Measure("correlation", "Correlation, mean over drugs", short="correlation")
        return (mean_absolute_error(target, digits=3), Measure("r2", "R²"), correlation)
    return _FORECAST if isinstance(target, ForecastTarget) else _SURVIVAL


def mean_absolute_error(target: ContinuousTarget | PanelTarget, digits: int) -> Measure:
    """Build the headline of an outcome that is a number."""
    return Measure(
        "mae",
        "Mean absolute error",
        target.unit,
        higher_is_better=False,
        digits=digits,
        short="MAE",
        tells=mean_error_tells(target),
    )


_WITHIN = Measure(
    "within_20_percent", "Within 20 %", "% of patients", digits=1, short="within 20 %"
)
_BRIER = Measure("brier", "Brier score", higher_is_better=False, short="Brier")
_BINARY = (
    Measure("auc", "ROC AUC", short="AUC", tells=RANKING_TELLS),
    Measure("average_precision", "Average precision", short="AP"),
    Measure("sensitivity", "Sensitivity", short="sens."),
    Measure("specificity", "Specificity", short="spec."),
    _BRIER,
    Measure("calibration_error", "Calibration error", higher_is_better=False, short="calib."),
)
_SURVIVAL = (
    Measure("concordance", "Concordance", tells=RANKING_TELLS),
    Measure("brier", "Brier score of the hazards", higher_is_better=False, short="Brier"),
)
_FORECAST = (
    Measure(
        "ratio",
        "Mean error relative to the last value",
        higher_is_better=False,
        short="relative error",
        tells=RATIO_TELLS,
    ),
    Measure("coverage", "Outcomes within the 80 % interval", "%", digits=1, short="coverage, %"),
)

__all__ = [
    "Measure",
    "Metrics",
    "exact_metrics",
    "mean_absolute_error",
    "measures_of",
    "metric_plan",
]
