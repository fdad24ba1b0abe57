"""Histograms of scores as a study releases them, and what their noisy sum says.

A site sums its held-out patients' shares; the sum is released beside the metrics' state.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import MisuseError
from fedrx_models.calibration.conformal import Radius, ScoreGrid, ScoreTotals
from fedrx_models.calibration.scores import absolute, pair_name, scores_of, widened
from fedrx_models.card import CalibratedOutcome, Calibration
from fedrx_models.cohort.visits import forecast_target
from fedrx_models.contract import AnyPrediction, Forecast, Prediction
from fedrx_protocol.study.schema import (
    ContinuousTarget,
    FeatureSchema,
    ForecastTarget,
    PanelTarget,
)

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
"""Probability over the noise that a released radius covers as promised, for each outcome."""
_SHARED_UNITS = 240  # divides evenly among up to six scores, and by most numbers of visits nearly
_MARGIN = 1 + 1e-9  # keeps a patient's norm below 1 after float64 rounding


@dataclass(frozen=True)
class CalibrationPlan:
    """What a study releases of its intervals: one histogram of scores for each outcome.

    Attributes:
        schema: the study's.
        outcomes: their names, see `scores.scores_by_outcome`.
        grid: of each histogram.
        level: nominal coverage, that of the model's own intervals.
    """

    schema: FeatureSchema
    outcomes: tuple[str, ...]
    grid: ScoreGrid
    level: float

    @classmethod
    def of(cls, schema: FeatureSchema) -> "CalibrationPlan":
        """Build the plan of a study.

        Raises:
            MisuseError: the outcome has no interval.
        """
        target = schema.target
        if isinstance(target, ContinuousTarget):
            return cls(schema, (target.name,), ScoreGrid.of_study(), Prediction.level)
        grid = ScoreGrid.of_study(_SHARED_UNITS)
        if isinstance(target, PanelTarget):
            return cls(schema, (target.name,), grid, Prediction.level)
        if not isinstance(target, ForecastTarget):
            raise MisuseError(f"a {target.kind} outcome has no interval to calibrate.")
        names = tuple(
            pair_name(marker.name, horizon.at)
            for marker in schema.forecast_markers
            for horizon in forecast_target(schema).horizons
        )
        return cls(schema, names, grid, Forecast.level)

    @property
    def size(self) -> int:
        """Number of components: bins of all outcomes, one outcome after another."""
        return len(self.outcomes) * self.grid.bins

    @property
    def scale(self) -> float:
        """What one unit is in the state: a patient adds all units to each outcome's histogram."""
        return 1 / (self.grid.sensitivity * math.sqrt(len(self.outcomes)) * _MARGIN)

    def contributions(self, predicted: AnyPrediction, actual: Floats) -> Floats:
        """Compute each patient's share, `(n, size)`, of a norm of at most 1; it stays at the site.

        Args:
            predicted: of the held-out patients; a score that is not a number counts as far away.
            actual: their cohort's `target`.

        Raises:
            MisuseError: the outcome has no interval.
        """
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            scores = scores_of(self.schema, predicted, actual)
        units = [self.grid.contributions(absolute(scores[name])) for name in self.outcomes]
        found: Floats = np.concatenate(units, axis=1).astype(np.float64) * self.scale
        return found

    def read(self, state: Floats, noise_sd: float) -> Calibration:
        """Find each outcome's radius in a summed state, noisy or not.

        Args:
            state: `(size,)`.
            noise_sd: standard deviation of the noise on each component; 0 for none.

        Raises:
            MisuseError: the state has another size.
        """
        if np.shape(state) != (self.size,):
            raise MisuseError(
                f"a state of {self.size} numbers was expected, not {np.shape(state)}."
            )
        units = np.asarray(state, dtype=np.float64) / self.scale
        if not noise_sd:
            units = np.rint(units)  # they are whole; the grid of the sum may be off by a little
        found, patients = [], []
        for name, counts in zip(self.outcomes, np.split(units, len(self.outcomes)), strict=True):
            totals = ScoreTotals(self.grid, counts, noise_sd / self.scale)
            radius = totals.calibrate(self.level, CONFIDENCE)
            value = radius.value if math.isfinite(radius.value) else None
            covered = None if value is None else totals.share_within(value)
            plain = totals.share_within(1.0)
            found.append(CalibratedOutcome(of=name, radius=value, plain=plain, covered=covered))
            patients.append(totals.patients)
        return Calibration(
            level=self.level,
            confidence=CONFIDENCE if noise_sd else 1.0,
            patients=max(0.0, *patients),
            noise_sd=noise_sd / self.scale / self.grid.units,
            outcomes=tuple(found),
        )


def calibrated(
    schema: FeatureSchema, predicted: AnyPrediction, calibration: Calibration
) -> AnyPrediction:
    """Give predictions calibrated intervals; outcomes without a radius keep the model's own.

    Args:
        schema: the model's.
        predicted: what the model says.
        calibration: from its card.

    Raises:
        MisuseError: the calibration belongs to other outcomes.
    """
    if not any(one.radius is not None for one in calibration.outcomes):
        return predicted
    return widened(schema, predicted, radii_of(calibration))


def radii_of(calibration: Calibration) -> Mapping[str, Radius]:
    """Read the radii by outcome, 1 where none could be told."""
    level, patients = calibration.level, calibration.patients
    return {
        one.of: Radius(1.0 if one.radius is None else one.radius, level, patients)
        for one in calibration.outcomes
    }
