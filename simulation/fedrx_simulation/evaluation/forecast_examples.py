"""What a simulated forecast's report draws: chosen patients' courses, calibration, ripple.

A simulation owns its patients. Nothing here is ever called for a live run, and no id of a patient
goes into a picture.
"""

import contextlib

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode
from fedrx_models.cohort.visits import EPISODE, FIRST_VALUE, TIME, forecast_target, visits_section
from fedrx_models.contract import PatientModel
from fedrx_models.flux.pathway_gnn import PathwayNetwork
from fedrx_models.flux.ripple import Ripple, ripple
from fedrx_models.heads import FORECAST_LEVEL
from fedrx_models.metrics.forecast import ForecastMetrics, PairSpread, pair_spread, patient_scores
from fedrx_protocol.study.schema import FeatureSchema, Marker
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
    """All pictures of the held-out patients.

    Args:
        model: the federated model.
        everyone: the held-out patients of all sites.
        predicted: its forecasts for them, `(n, T, H, M, 3)`.
        metrics: their exact metrics.
        invented: whether the patients are synthetic.
    """
    schema = everyone.schema
    return ForecastPictures(
        time_unit=visits_section(schema).time_unit,
        level=100 * FORECAST_LEVEL,
        held_out=len(everyone),
        invented=invented,
        patients=_patients(everyone, predicted),
        pairs=_pairs(schema, metrics, pair_spread(predicted, everyone.target)),
        quantiles=_quantiles(schema, predicted, everyone.target),
        ripple=_ripple(model, everyone),
    )


def _patients(everyone: Cohort, predicted: Floats) -> list[PatientCourse]:
    """Patients at three ranks of the mean error over the course, with much to compare."""
    scores = patient_scores(predicted, everyone.target)
    if not np.isfinite(scores).any():  # no marker of anybody ever changed
        return []
    judged = (~np.isnan(everyone.target[..., 0])).sum(axis=(2, 3))
    there = judged.max(axis=1)
    enough = np.quantile(there[np.isfinite(scores)], _MOST_TO_COMPARE)
    candidates = np.flatnonzero(np.isfinite(scores) & (there >= enough))
    ordered = candidates[np.argsort(scores[candidates], kind="stable")]
    chosen = {words: ordered[round(rank * (len(ordered) - 1))] for rank, words in _RANKS}
    return [
        PatientCourse(words, _courses(everyone, predicted, int(patient), judged[patient]))
        for words, patient in chosen.items()
    ]


def _courses(
    everyone: Cohort, predicted: Floats, patient: int, judged: NDArray[np.int64]
) -> list[MarkerCourse]:
    """Every marker of one patient, from the latest visit at which most can be compared."""
    origin = len(judged) - 1 - int(judged[::-1].argmax())
    target = forecast_target(everyone.schema)
    visits = everyone.visits[patient]
    times = visits[:, TIME] - visits[origin, TIME]
    longest = target.horizons[-1].at
    shown = (visits[:, EPISODE] == visits[origin, EPISODE]) & (
        (times >= -_BEFORE * longest) & (times <= _AFTER * longest)
    )
    ahead = np.array([horizon.at for horizon in target.horizons])
    names = [marker.name for marker in everyone.schema.markers]
    return [
        _course(
            marker,
            np.where(shown, times, np.nan),
            visits[:, FIRST_VALUE + names.index(marker.name)],
            ahead,
            predicted[patient, origin, :, m],
        )
        for m, marker in enumerate(everyone.schema.forecast_markers)
    ]


def _course(
    marker: Marker, times: Floats, values: Floats, ahead: Floats, forecast: Floats
) -> MarkerCourse:
    """One marker; `times` is NaN where nothing is shown, `forecast` is `(H, 3)`."""
    there = np.isfinite(times) & np.isfinite(values)
    known = values[there & (times <= 0)]
    made = np.isfinite(forecast).all()
    median, lower, upper = forecast.T if made else np.empty((3, 0))
    return MarkerCourse(
        marker=marker.name,
        unit=marker.unit,
        times=times[there].tolist(),
        values=values[there].tolist(),
        last=float(known[-1]) if made and len(known) else None,
        ahead=ahead.tolist() if made else [],
        median=median.tolist(),
        lower=lower.tolist(),
        upper=upper.tolist(),
    )


def _pairs(schema: FeatureSchema, metrics: ForecastMetrics, spread: PairSpread) -> list[PairResult]:
    target = forecast_target(schema)
    places = [(name, horizon.at) for horizon in target.horizons for name in target.markers]
    reaches = zip(_known(spread.ratio), _known(spread.coverage), strict=True)
    return [
        PairResult(marker, horizon, pair.ratio, pair.coverage, *reach)
        for (marker, horizon), pair, reach in zip(places, metrics.pairs, reaches, strict=True)
    ]


def _known(values: Floats) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _quantiles(schema: FeatureSchema, predicted: Floats, actual: Floats) -> list[QuantileShares]:
    """Share of outcomes below each quantile: over a patient's visits, horizons, then patients."""
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
    """Each marker moved by one public scale; nothing for a model without a network of markers."""
    if not isinstance(getattr(model, "network", None), PathwayNetwork):
        return []
    some = everyone.select(np.arange(min(len(everyone), _RIPPLE_PATIENTS)))
    batch = encode(some, everyone.schema)
    found = []
    for marker in everyone.schema.markers:
        # A marker that nobody has at the newest visit, or that cannot move so far, has no row.
        with contextlib.suppress(MisuseError):
            moved = ripple(model, batch, marker.name, marker.unit_scale)
            found.append(_ripple_row(everyone.schema, moved))
    return found


def _ripple_row(schema: FeatureSchema, moved: Ripple) -> RippleRow:
    """Each follower where it moves most, in its public scale at the mean."""
    scales = np.array([marker.unit_scale for marker in schema.forecast_markers])
    scaled = moved.mean / scales
    most = np.nan_to_num(np.abs(scaled)).argmax(axis=0)
    unit = next(marker.unit for marker in schema.markers if marker.name == moved.marker)
    return RippleRow(
        leader=f"{moved.marker} {moved.amount:+.3g} {unit}",
        followers=moved.markers,
        moves=[
            None if name == moved.marker or np.isnan(scaled[most[i], i]) else scaled[most[i], i]
            for i, name in enumerate(moved.markers)
        ],
        horizons=[moved.horizons[place] for place in most],
    )
