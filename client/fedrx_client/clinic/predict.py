"""Predicts for patients: a value with its interval, what was filled in, what is unusual.

The answer is for a person, who decides. A value outside the study's range is refused where the
patient is read; an unusual combination of values is allowed, and said.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedrx_models.cohort.cohort import MISSING_CATEGORY, Cohort
from fedrx_models.cohort.visits import TIME
from fedrx_models.contract import AnyPrediction, Forecast, Prediction, Probability, SurvivalCurves
from fedrx_models.files import ModelFile
from fedrx_protocol.study.schema import (
    CategoryFeature,
    Feature,
    FeatureSchema,
    FlagFeature,
    ForecastTarget,
    NumberFeature,
    PanelTarget,
    SurvivalTarget,
)

DECIDES = "A person decides: this is research software, and its answer is one reason among others."

# One patient in a thousand of the public reference is farther from its middle.
_UNUSUAL = 1e-3
# Standard deviations from the public mean from which a single value is named.
_FAR = 3.0


@dataclass(frozen=True)
class Point:
    """One predicted number.

    Attributes:
        of: what is predicted: the target, a drug, a marker, or survival.
        value: in `unit`; None where nothing can be said, as of a marker never measured.
        unit: its unit.
        low: lower end of the interval; None where the outcome has none, as a probability.
        high: upper end.
        at: time from the last visit (a forecast) or from the start (survival); None for others.
    """

    of: str
    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    at: float | None = None


@dataclass(frozen=True)
class Filled:
    """A value that the patient lacks.

    Attributes:
        feature: its name.
        how: what the model saw instead, in words.
    """

    feature: str
    how: str


@dataclass(frozen=True)
class PatientPrediction:
    """What a model says of one patient.

    Attributes:
        patient: the id.
        points: one for a number or a probability; several for a panel, a curve or a course.
        level: nominal coverage of the intervals; None without them.
        filled: what was missing.
        warnings: sentences on what makes the answer less sure.
    """

    patient: str
    points: tuple[Point, ...]
    level: float | None
    filled: tuple[Filled, ...]
    warnings: tuple[str, ...]

    def to_json(self, model: ModelFile) -> dict[str, Any]:
        """Describe it as a JSON object, with the model's card."""
        first = self.points[0]
        single = len(self.points) == 1
        found: dict[str, Any] = {
            "patient": self.patient,
            "value": first.value if single else None,
            "unit": first.unit,
            "low": first.low if single else None,
            "high": first.high if single else None,
            "level": self.level,
            "filled": [{"feature": one.feature, "how": one.how} for one in self.filled],
            "warnings": list(self.warnings),
            "model": describe(model),
        }
        if not single:
            found["points"] = [
                {"of": p.of, "at": p.at, "value": p.value, "unit": p.unit, "low": p.low}
                | {"high": p.high}
                for p in self.points
            ]
        return found


def describe(model: ModelFile) -> dict[str, Any]:
    """Say which model answers, under which promise, and that a person decides."""
    card = model.card
    return {
        "id": model.name,
        "digest": model.digest,
        "study": model.study_digest,
        "title": card.title if card else "",
        "epsilon": card.epsilon if card else None,
        "delta": card.delta if card else None,
        "intended_use": card.intended_use if card else "",
        "intervals": card.intervals if card else "",
        "decides": DECIDES,
    }


def predict(model: ModelFile, cohort: Cohort) -> list[PatientPrediction]:
    """Predict for each patient of a cohort.

    Args:
        model: a model of the study that the cohort was read for.
        cohort: patients; their outcomes are not looked at.

    Raises:
        ModelUnusable: the model is withdrawn or expired.
        DataError: the cohort was read for another study.
    """
    predicted = model.predict(cohort)
    level = predicted.level if isinstance(predicted, Prediction | Forecast) else None
    return [
        PatientPrediction(
            patient=patient,
            points=_points(model.model.schema, predicted, cohort, i),
            level=level,
            filled=_filled(cohort, i),
            warnings=_warnings(cohort, i),
        )
        for i, patient in enumerate(cohort.patients)
    ]


def _points(
    schema: FeatureSchema, predicted: AnyPrediction, cohort: Cohort, i: int
) -> tuple[Point, ...]:
    target = schema.target
    if isinstance(predicted, Probability):
        return (Point(target.name, float(predicted.mean[i]), "probability"),)
    if isinstance(predicted, SurvivalCurves):
        edges = target.edges if isinstance(target, SurvivalTarget) else ()
        return tuple(
            Point(f"free of {target.name}", float(value), "probability", at=edge)
            for edge, value in zip(edges, predicted.mean[i], strict=True)
        )
    if isinstance(predicted, Forecast):
        return _course(schema, predicted, cohort, i)
    names = [d.name for d in target.drugs] if isinstance(target, PanelTarget) else [target.name]
    parts = (predicted.mean[i], predicted.lower[i], predicted.upper[i])
    columns: NDArray[np.float64] = np.stack([np.atleast_1d(part) for part in parts], axis=-1)
    return tuple(
        Point(name, float(mean), target.unit, float(low), float(high))
        for name, (mean, low, high) in zip(names, columns, strict=True)
    )


def _course(
    schema: FeatureSchema, predicted: Forecast, cohort: Cohort, i: int
) -> tuple[Point, ...]:
    """Say where each marker will be, seen from the patient's last visit."""
    last = int((~np.isnan(cohort.visits[i, :, TIME])).sum()) - 1
    found = []
    target = schema.target
    horizons = target.horizons if isinstance(target, ForecastTarget) else ()
    for m, marker in enumerate(schema.forecast_markers):
        for h, horizon in enumerate(horizons):
            value, low, high = (
                None if np.isnan(part) else float(part) for part in predicted.mean[i, last, h, m]
            )
            found.append(Point(marker.name, value, marker.unit, low, high, at=horizon.at))
    return tuple(found)


def _filled(cohort: Cohort, i: int) -> tuple[Filled, ...]:
    """Say what the patient lacks, and what the model saw instead."""
    found = [
        Filled(one.name, how)
        for one in cohort.schema.features
        if (how := _instead(one, cohort.values[one.name][i]))
    ]
    found += [
        Filled(block.name, "the whole block is missing, and the model sees that")
        for block in cohort.schema.blocks
        if np.isnan(cohort.blocks[block.name][i]).all()
    ]
    return tuple(found)


def _instead(feature: Feature, value: Any) -> str:  # noqa: ANN401 - a float, a code or a flag
    """Say what a missing value was filled with; nothing for one that is there."""
    if isinstance(feature, NumberFeature) and np.isnan(value):
        return f"the study's public mean, {feature.mean:g} {feature.unit}, marked as missing"
    if isinstance(feature, CategoryFeature) and value == MISSING_CATEGORY:
        return "a level of its own, 'missing'"
    if isinstance(feature, FlagFeature) and feature.optional and value == MISSING_CATEGORY:
        return "neither yes nor no, marked as missing"
    return ""


def _warnings(cohort: Cohort, i: int) -> tuple[str, ...]:
    """Name values, and a combination, that are rare in the study's public reference."""
    scores = {
        one.name: (float(cohort.values[one.name][i]) - one.mean) / one.scale
        for one in cohort.schema.features
        if isinstance(one, NumberFeature) and not np.isnan(cohort.values[one.name][i])
    }
    units = {o.name: o.unit for o in cohort.schema.features if isinstance(o, NumberFeature)}
    found = [
        f"{name} is {float(cohort.values[name][i]):g} {units[name]}, {abs(z):.1f} standard "
        f"deviations {'above' if z > 0 else 'below'} the study's public mean."
        for name, z in scores.items()
        if abs(z) > _FAR
    ]
    distance = sum(z * z for z in scores.values())
    if not found and scores and stats.chi2.sf(distance, len(scores)) < _UNUSUAL:
        far = sorted(scores, key=lambda name: -abs(scores[name]))[:3]
        found.append(
            "The combination of values is unusual for the study's public reference (mostly "
            f"{', '.join(far)}): fewer than 1 patient in 1,000 is as far from its middle."
        )
    lacking = len(_filled(cohort, i))
    if 2 * lacking > len(cohort.schema.features) + len(cohort.schema.blocks):
        found.append("More than half of what the model asks for is missing.")
    return tuple(found)


def digits(value: float) -> str:
    """Write a predicted number with three digits that count, or as a whole number."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def as_rows(predictions: Sequence[PatientPrediction], model: ModelFile) -> list[dict[str, Any]]:
    """Write predictions as rows of a table, a row for each predicted number."""
    return [
        {
            "patient": one.patient,
            "of": point.of,
            "at": point.at,
            "value": point.value,
            "unit": point.unit,
            "low": point.low,
            "high": point.high,
            "filled": "; ".join(filled.feature for filled in one.filled),
            "warnings": " ".join(one.warnings),
            "model": model.name,
        }
        for one in predictions
        for point in one.points
    ]
