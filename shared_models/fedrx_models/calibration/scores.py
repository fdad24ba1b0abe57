"""How far outcomes are from predictions, in half-widths of the model's own band, and wider bands.

A score is the distance on the scale that the model is trained on (a square root of a dose, a
logarithm of a marker), divided by the half-width of its band there on the outcome's side. So a band
that a patient's inputs make wide stays wider than others', and what calibration adds is one factor.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import MisuseError
from fedrx_models.calibration.conformal import Radius
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import (
    encode,
    normalise_panel,
    normalise_target,
    restore_panel,
    restore_target,
)
from fedrx_models.cohort.visits import (
    EPISODE,
    FIRST_VALUE,
    TIME,
    VisitColumns,
    forecast_target,
    normalise_marker,
    restore_marker,
)
from fedrx_models.contract import AnyPrediction, Forecast, PatientModel, Prediction
from fedrx_protocol.study.schema import ContinuousTarget, FeatureSchema, PanelTarget

Floats = NDArray[np.float64]

_THINNEST = 1e-6
"""Half-width, normalised, below which a band counts as that wide: one cut off by a limit."""
_TOLERANCE = 1e-9  # of times


@dataclass(frozen=True, eq=False)
class Bands:
    """Predictions on the scale that the model is trained on.

    Attributes:
        middle: `(B, ...)`.
        below: half-width on the lower side, of the same shape.
        above: half-width on the upper side.
    """

    middle: Floats
    below: Floats
    above: Floats

    def scores(self, actual: Floats) -> Floats:
        """Signed distance of normalised outcomes in half-widths, of the shape of `actual`."""
        apart = actual - self.middle
        found: Floats = apart / np.where(apart < 0, self.below, self.above)
        return found


def pair_name(marker: str, horizon: float) -> str:
    """Name a marker at a horizon, as `metrics.forecast.pair_names` does: 'inr 7'."""
    return f"{marker} {horizon:g}"


def scores_by_outcome(model: PatientModel, cohort: Cohort) -> dict[str, tuple[Floats, ...]]:
    """Score a cohort's outcomes: signed distances of each patient, by outcome.

    A dose has one outcome with one score a patient; a panel one with a score for each drug given; a
    forecast one for each marker and horizon, with a score for each visit that an outcome follows.

    Raises:
        DataError: the cohort was read for another schema.
        MisuseError: the outcome has no interval.
    """
    predicted = model.predict(encode(cohort, model.schema))
    return scores_of(model.schema, predicted, cohort.target)


def scores_of(
    schema: FeatureSchema, predicted: AnyPrediction, outcomes: Floats
) -> dict[str, tuple[Floats, ...]]:
    """Score predictions of a cohort; see `scores_by_outcome`.

    Args:
        schema: the study's.
        predicted: what a model says of each patient.
        outcomes: the cohort's `target`.

    Raises:
        MisuseError: the outcome has no interval.
    """
    bands, target = bands_of_predictions(schema, predicted), schema.target
    if isinstance(target, ContinuousTarget | PanelTarget):
        actual = _normalised(target, outcomes)
        columns = 1 if isinstance(target, ContinuousTarget) else len(target.drugs)
        scores = bands.scores(actual).reshape(len(outcomes), columns)
        known = ~np.isnan(actual).reshape(len(outcomes), columns)
        rows = tuple(row[there] for row, there in zip(scores, known, strict=True))
        return {target.name: rows}
    found = {}
    for m, marker in enumerate(schema.forecast_markers):
        for h, horizon in enumerate(forecast_target(schema).horizons):
            actual = normalise_marker(marker, outcomes[:, :, h, m, 0])
            one = Bands(*(part[:, :, h, m] for part in (bands.middle, bands.below, bands.above)))
            by_visit = one.scores(actual)
            name = pair_name(marker.name, horizon.at)
            found[name] = tuple(row[~np.isnan(row)] for row in by_visit)
    return found


def interval(
    model: PatientModel, cohort: Cohort, radii: Mapping[str, Radius]
) -> Prediction | Forecast:
    """Predict with bands of calibrated width, in the outcome's unit, inside its plausible range.

    Args:
        model: the model that was calibrated.
        cohort: patients; their outcomes are not looked at.
        radii: by outcome as `scores_by_outcome` names them, all of one level.

    Raises:
        MisuseError: a radius is missing, levels differ, or the outcome has no interval.
    """
    return widened(model.schema, model.predict(encode(cohort, model.schema)), radii)


def widened(
    schema: FeatureSchema, predicted: AnyPrediction, radii: Mapping[str, Radius]
) -> Prediction | Forecast:
    """Give predictions bands of calibrated width; see `interval`.

    Raises:
        MisuseError: a radius is missing, levels differ, or the outcome has no interval.
    """
    target, bands = schema.target, bands_of_predictions(schema, predicted)
    levels = {radius.level for radius in radii.values()}
    if len(levels) != 1:
        raise MisuseError("an interval needs radii of one level.")
    level = levels.pop()
    if isinstance(target, ContinuousTarget | PanelTarget):
        radius = _of(radii, target.name).value
        ends = (
            bands.middle,
            bands.middle - radius * bands.below,
            bands.middle + radius * bands.above,
        )
        if isinstance(target, PanelTarget):
            mean, lower, upper = (restore_panel(target, end) for end in ends)
        else:
            mean, lower, upper = (restore_target(target, end) for end in ends)
        return Prediction(mean, lower, upper, level)
    found = np.empty((*bands.middle.shape, 3))
    for m, marker in enumerate(schema.forecast_markers):
        for h, horizon in enumerate(forecast_target(schema).horizons):
            radius = _of(radii, pair_name(marker.name, horizon.at)).value
            middle = bands.middle[:, :, h, m]
            found[:, :, h, m, 0] = restore_marker(marker, middle)
            low, high = bands.below[:, :, h, m], bands.above[:, :, h, m]
            found[:, :, h, m, 1] = restore_marker(marker, middle - radius * low)
            found[:, :, h, m, 2] = restore_marker(marker, middle + radius * high)
    return Forecast(found, level)


def bands_of(model: PatientModel, cohort: Cohort) -> Bands:
    """Predict on the scale that the model is trained on, with the band's half-widths.

    Raises:
        MisuseError: the outcome is a probability or a curve, which has no band of its own.
    """
    return bands_of_predictions(model.schema, model.predict(encode(cohort, model.schema)))


def bands_of_predictions(schema: FeatureSchema, predicted: AnyPrediction) -> Bands:
    """Bring predictions to the scale that models are trained on; see `bands_of`.

    Raises:
        MisuseError: the outcome is a probability or a curve, which has no band of its own.
    """
    target = schema.target
    if isinstance(predicted, Prediction) and isinstance(target, ContinuousTarget | PanelTarget):
        ends = predicted.mean, predicted.lower, predicted.upper
        middle, lower, upper = (_normalised(target, end) for end in ends)
        # One half-width for both sides, from the side that no limit cuts off.
        reach = np.maximum(np.maximum(middle - lower, upper - middle), _THINNEST)
        return Bands(middle, reach, reach)
    if isinstance(predicted, Forecast):
        parts = np.empty(predicted.mean.shape)
        for m, marker in enumerate(schema.forecast_markers):
            parts[:, :, :, m] = normalise_marker(marker, predicted.mean[:, :, :, m])
        middle, lower, upper = (parts[..., i] for i in range(3))
        below, above = np.maximum(middle - lower, _THINNEST), np.maximum(upper - middle, _THINNEST)
        return Bands(middle, below, above)
    raise MisuseError(
        f"a {target.kind} outcome has no interval: a probability is its own uncertainty, see "
        "'responders'."
    )


@dataclass(frozen=True, eq=False)
class Arrivals:
    """One episode of a patient's course: when a marker was measured, and how far off its forecast.

    Attributes:
        patient: position in the cohort.
        start: when following began, in the study's time unit.
        end: the episode's last visit.
        times: of visits with a measurement that was forecast, `(k,)`, rising.
        scores: signed distances from the forecasts, in half-widths, `(k, streams)`; NaN where a
            stream has none at that time.
    """

    patient: int
    start: float
    end: float
    times: Floats
    scores: Floats


def arrivals(
    model: PatientModel, cohort: Cohort, streams: tuple[tuple[str, float], ...]
) -> tuple[Arrivals, ...]:
    """Hold each measurement against the newest forecast that was made for its time.

    Args:
        model: a flux model.
        cohort: patients with courses.
        streams: markers and horizons to follow.

    Raises:
        MisuseError: the study does not forecast one of them.
    """
    columns, schema = VisitColumns.of(model.schema), model.schema
    bands, target = bands_of(model, cohort), forecast_target(model.schema)
    places = []
    for marker, at in streams:
        times = [horizon.at for horizon in target.horizons]
        if marker not in target.markers or at not in times:
            raise MisuseError(f"the study forecasts no '{pair_name(marker, at)}'.")
        places.append((target.markers.index(marker), times.index(at)))
    found = []
    for i in range(len(cohort)):
        course = cohort.visits[i]
        valid = ~np.isnan(course[:, TIME])
        for episode in np.unique(course[valid, EPISODE]):
            rows = np.flatnonzero(valid & (course[:, EPISODE] == episode))
            scores = np.full((len(rows), len(places)), np.nan)
            for s, (m, h) in enumerate(places):
                one = Bands(
                    bands.middle[i, rows, h, m],
                    bands.below[i, rows, h, m],
                    bands.above[i, rows, h, m],
                )
                values = normalise_marker(
                    schema.forecast_markers[m], course[rows, FIRST_VALUE + columns.forecast[m]]
                )
                scores[:, s] = _held_against(
                    one, course[rows, TIME], values, target.horizons[h].window
                )
            known = ~np.isnan(scores).all(axis=1)
            times = course[rows, TIME]
            found.append(
                Arrivals(i, float(times[0]), float(times[-1]), times[known], scores[known])
            )
    return tuple(found)


def months_per_unit(schema: FeatureSchema) -> float:
    """Length of the study's time unit in months of 30.44 days."""
    unit = "month" if schema.visits is None else schema.visits.time_unit
    return {"hour": 1 / 730.5, "day": 1 / 30.4375, "month": 1.0, "year": 12.0}[unit]


def absolute(scores: tuple[Floats, ...]) -> tuple[Floats, ...]:
    """Distances without their sign, for an interval."""
    return tuple(np.abs(own) for own in scores)


def _held_against(
    bands: Bands, times: Floats, values: Floats, window: tuple[float, float]
) -> Floats:
    """Score each visit's value by the newest forecast whose window holds its time, `(visits,)`."""
    found = np.full(len(times), np.nan)
    for here in np.flatnonzero(~np.isnan(values)):
        ago = times[here] - times[:here]
        fits = (ago >= window[0] - _TOLERANCE) & (ago <= window[1] + _TOLERANCE)
        origins = np.flatnonzero(fits & ~np.isnan(bands.middle[:here]))
        if len(origins):
            origin = origins[-1]
            one = Bands(bands.middle[origin], bands.below[origin], bands.above[origin])
            found[here] = one.scores(values[here])
    return found


def _normalised(target: ContinuousTarget | PanelTarget, values: Floats) -> Floats:
    if isinstance(target, PanelTarget):
        return normalise_panel(target, values)
    return normalise_target(target, values)


def _of(radii: Mapping[str, Radius], name: str) -> Radius:
    if name not in radii:
        raise MisuseError(f"there is no calibrated radius of '{name}'.")
    return radii[name]
