"""What a simulated forecast's report draws: chosen patients' courses, calibration, ripple.

A simulation owns its patients. Nothing here is ever called for a live run, and no id of a patient
goes into a picture.
"""

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode
from fedrx_models.cohort.visits import EPISODE, FIRST_VALUE, TIME, forecast_target, visits_section
from fedrx_models.contract import PatientModel
from fedrx_models.flux.pathway_gnn import PathwayNetwork
from fedrx_models.flux.ripple import ripple
from fedrx_models.heads import FORECAST_LEVEL
from fedrx_models.metrics.forecast import ForecastMetrics, pair_spread, patient_scores
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_server.report.forecast_data import (
    ForecastPictures,
    MarkerCourse,
    PairResult,
    PatientCourse,
    QuantileShares,
    RippleRow,
)

Floats = NDArray[np.float64]

_RANKS = (
    (0.25, "A forecast better than three in four"),
    (0.5, "A forecast in the middle"),
    (0.75, "A forecast worse than three in four"),
)
_MOST_TO_COMPARE = 0.75  # patients are chosen among the quarter of whom most was measured later
_BEFORE, _AFTER = 2.0, 1.2  # how much of a course is shown, in longest horizons
_NOMINAL = (
    50.0,
    50.0 * (1 - FORECAST_LEVEL),
    50.0 * (1 + FORECAST_LEVEL),
)  # in the order of a forecast's quantiles
_RIPPLE_PATIENTS = 100  # enough for a mean; a study of twenty markers asks them forty times


def forecast_pictures(
    model: PatientModel,
    everyone: Cohort,
    predicted: Floats,
    metrics: ForecastMetrics,
    *,
    invented: bool,
) -> ForecastPictures:
    """Draw all pictures of the held-out patients.

    Args:
        model: the federated model.
        everyone: the held-out patients of all sites.
        predicted: its forecasts for them, `(n, T, H, M, 3)`.
        metrics: their exact metrics.
        invented: whether the patients are synthetic.
    """
    schema, spread = everyone.schema, pair_spread(predicted, everyone.target)
    # Patients at three ranks of the mean error over the course, among those with much to compare.
    scores = patient_scores(predicted, everyone.target)
    judged = (~np.isnan(everyone.target[..., 0])).sum(axis=(2, 3))
    patients = []
    if np.isfinite(scores).any():  # else no marker of any patient ever changed
        there = judged.max(axis=1)
        enough = np.quantile(there[np.isfinite(scores)], _MOST_TO_COMPARE)
        candidates = np.flatnonzero(np.isfinite(scores) & (there >= enough))
        ordered = candidates[np.argsort(scores[candidates], kind="stable")]
        for rank, words in _RANKS:
            patient = int(ordered[round(rank * (len(ordered) - 1))])
            courses = _courses(everyone, predicted, patient, judged[patient])
            patients.append(PatientCourse(words, courses))
    target = forecast_target(schema)
    places = [(name, horizon.at) for horizon in target.horizons for name in target.markers]
    reaches = zip(_known(spread.ratio), _known(spread.coverage), strict=True)
    return ForecastPictures(
        time_unit=visits_section(schema).time_unit,
        level=100 * FORECAST_LEVEL,
        held_out=len(everyone),
        invented=invented,
        patients=patients,
        pairs=[
            PairResult(marker, horizon, pair.ratio, pair.coverage, *reach)
            for (marker, horizon), pair, reach in zip(places, metrics.pairs, reaches, strict=True)
        ],
        quantiles=_quantiles(schema, predicted, everyone.target),
        ripple=_ripple(model, everyone),
    )


def _courses(
    everyone: Cohort, predicted: Floats, patient: int, judged: NDArray[np.int64]
) -> list[MarkerCourse]:
    """Show every marker of one patient, from the latest visit at which most can be compared."""
    origin = len(judged) - 1 - int(judged[::-1].argmax())
    target = forecast_target(everyone.schema)
    visits = everyone.visits[patient]
    times = visits[:, TIME] - visits[origin, TIME]
    longest = target.horizons[-1].at
    shown = (visits[:, EPISODE] == visits[origin, EPISODE]) & (
        (times >= -_BEFORE * longest) & (times <= _AFTER * longest)
    )
    ahead = [horizon.at for horizon in target.horizons]
    columns = {marker.name: FIRST_VALUE + i for i, marker in enumerate(everyone.schema.markers)}
    found = []
    for m, marker in enumerate(everyone.schema.forecast_markers):
        values = visits[:, columns[marker.name]]
        there = shown & np.isfinite(times) & np.isfinite(values)
        known = values[there & (times <= 0)]
        forecast = predicted[patient, origin, :, m]
        made = bool(np.isfinite(forecast).all())
        median, lower, upper = forecast.T if made else np.empty((3, 0))
        course = MarkerCourse(
            marker=marker.name,
            unit=marker.unit,
            times=times[there].tolist(),
            values=values[there].tolist(),
            last=float(known[-1]) if made and len(known) else None,
            ahead=ahead if made else [],
            median=median.tolist(),
            lower=lower.tolist(),
            upper=upper.tolist(),
        )
        found.append(course)
    return found


def _known(values: Floats) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _quantiles(schema: FeatureSchema, predicted: Floats, actual: Floats) -> list[QuantileShares]:
    """Average outcomes below each quantile: over a patient's visits, horizons, then patients."""
    outcome = actual[..., 0, None]
    below = np.where(np.isnan(outcome), np.nan, predicted >= outcome)
    ascending = np.argsort(_NOMINAL)
    found = []
    for m, marker in enumerate(schema.forecast_markers):
        mine = below[:, :, :, m].reshape(len(below), -1, below.shape[-1])
        mine = mine[~np.isnan(mine).all(axis=(1, 2))]
        if len(mine):
            shares = 100 * np.nanmean(mine, axis=1).mean(axis=0)
            nominal = np.array(_NOMINAL)
            quantiles = nominal[ascending].tolist(), shares[ascending].tolist()
            found.append(QuantileShares(marker.name, *quantiles))
    return found


def _ripple(model: PatientModel, everyone: Cohort) -> list[RippleRow]:
    """Move each marker by one public scale; nothing for a model without a network of markers."""
    if not isinstance(getattr(model, "network", None), PathwayNetwork):
        return []
    some = everyone.select(np.arange(min(len(everyone), _RIPPLE_PATIENTS)))
    batch = encode(some, everyone.schema)
    scales = np.array([marker.unit_scale for marker in everyone.schema.forecast_markers])
    found = []
    for marker in everyone.schema.markers:
        try:
            moved = ripple(model, batch, marker.name, marker.unit_scale)
        except MisuseError:  # no patient has it at the newest visit, or it cannot move so far
            continue
        scaled = moved.mean / scales
        most = np.nan_to_num(np.abs(scaled)).argmax(axis=0)  # each follower, where it moves most
        moves = [
            None if name == moved.marker or np.isnan(scaled[most[i], i]) else scaled[most[i], i]
            for i, name in enumerate(moved.markers)
        ]
        leader = f"{moved.marker} {moved.amount:+.3g} {marker.unit}"
        horizons = [moved.horizons[place] for place in most]
        found.append(RippleRow(leader, moved.markers, moves, horizons))
    return found
