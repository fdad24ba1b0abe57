"""Stay or pivot: the measured course of one patient against the course that was forecast.

Each marker is held against its newest forecasts by a sequential test (`calibration.monitor`). With
a site's own patients the scores are calibrated, and the level of an alarm is set by how high the
evidence of courses rose; without them the model's own band is taken at its word, and that is said.
A person decides: pivot means that someone looks at the therapy again.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from fedrx_client.clinic.predict import describe
from fedrx_common.documents import DocumentInvalid, read_json
from fedrx_common.errors import MisuseError
from fedrx_common.text import quoted
from fedrx_models.calibration.conformal import ScoreGrid, ScoreTotals
from fedrx_models.calibration.crossing import EarlyWarning, crossing_probability, early_warning
from fedrx_models.calibration.monitor import (
    PEAKS,
    Assessment,
    Monitor,
    alarm_level,
    follow,
    level_of_rate,
)
from fedrx_models.calibration.scores import Arrivals, arrivals, months_per_unit, pair_name
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.visits import (
    EPISODE,
    FIRST_VALUE,
    TIME,
    VisitColumns,
    forecast_target,
    visits_section,
)
from fedrx_models.contract import Forecast
from fedrx_models.files import ModelFile
from fedrx_models.heads import FORECAST_LEVEL
from fedrx_protocol.study.schema import FeatureSchema

Floats = NDArray[np.float64]
Streams = tuple[tuple[str, float], ...]

USUAL_RATE = 0.05
"""False alarms per patient-month where a site asks for no other rate."""
FORMAT = "fedrx-monitor/1"
_UNITS = 240  # that a patient's scores share
_AS_MANY = 100_000  # patients whose scores the model's own band stands for
_ENOUGH = 30  # patients with a score, below which nothing can be calibrated


@dataclass(frozen=True, eq=False)
class MonitorCalibration:
    """How a site's patients without change lie around the forecasts; sums only, no patient.

    Attributes:
        model: digest of the model.
        totals: signed scores by pair of marker and horizon, as `pair_name` names them.
        reached: the highest evidence of each patient, over all markers.
        months: patient-months that were followed.
    """

    model: str
    totals: Mapping[str, ScoreTotals]
    reached: ScoreTotals
    months: float

    def to_json(self) -> dict[str, Any]:
        """Describe it as a JSON object, to be kept at the site."""
        return {
            "format": FORMAT,
            "model": self.model,
            "units": _UNITS,
            "scores": {name: one.counts.tolist() for name, one in self.totals.items()},
            "reached": self.reached.counts.tolist(),
            "months": self.months,
        }

    @classmethod
    def load(cls, path: Path, model: ModelFile) -> "MonitorCalibration":
        """Read what `to_json` wrote, for this model.

        Raises:
            MisuseError: there is none, it is damaged, or belongs to another model.
        """
        repair = "make it again with --calibrate"
        try:
            found = read_json(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict) or found["format"] != FORMAT:
                raise MisuseError(f"{path}: is no calibration of a monitor: {repair}.")
            if found["model"] != model.digest:
                raise MisuseError(f"{path}: is the calibration of another model: {repair}.")
            grid, scores = ScoreGrid.of_signed(_UNITS), found["scores"]
            names = [pair_name(*pair) for pair in _streams(model.model.schema)]
            totals = {name: ScoreTotals(grid, np.array(scores[name], float)) for name in names}
            reached = ScoreTotals(PEAKS, np.array(found["reached"], float))
            return cls(found["model"], totals, reached, float(found["months"]))
        except FileNotFoundError:
            raise MisuseError(f"{path}: there is no such calibration: {repair}.") from None
        except (OSError, UnicodeDecodeError, DocumentInvalid, KeyError, TypeError, ValueError):
            raise MisuseError(f"{path}: cannot be read as a calibration: {repair}.") from None


@dataclass(frozen=True)
class Threshold:
    """A clinical limit of a marker, in its unit."""

    marker: str
    value: float


@dataclass(frozen=True)
class WatchedMarker:
    """One marker of a course.

    Attributes:
        marker: its name.
        unit: of the study's time axis.
        assessment: stay or pivot, with the evidence.
        alarmed: when the evidence first reached the alarm; None for not yet.
        measured: measurements of the latest episode that a forecast was made for.
    """

    marker: str
    unit: str
    assessment: Assessment
    alarmed: float | None
    measured: int

    @property
    def sentence(self) -> str:
        """The evidence in words: how far, how long, since when."""
        told = self.assessment
        if not self.measured:
            return f"{self.marker}: no measurement was forecast yet, so nothing can be said."
        side = "above" if told.distance > 0 else "below"
        lasted = f"{told.lasted:.3g} {self.unit}{'' if told.lasted == 1 else 's'}"
        odds = f"evidence {_factor(told.evidence)}, alarm from {_factor(told.level)}"
        seen = (
            f"{told.outside} of {told.seen} measurements since {self.unit} {told.since:.4g} "
            f"({lasted}) are outside the band, on average {abs(told.distance):.1f} half-widths "
            f"{side} the forecast; {odds}"
        )
        called = (
            f"; the alarm was first reached at {self.unit} {self.alarmed:.4g}"
            if self.alarmed is not None
            else ""
        )
        return f"{self.marker}: {told.decision}. {seen}{called}."


@dataclass(frozen=True)
class WatchedCourse:
    """What a monitor says of a patient's latest episode.

    Attributes:
        patient: the id.
        markers: each of the study's forecast.
        warnings: thresholds that are likely to be crossed.
        crossed: sentences on thresholds that were asked about and will probably hold, or were
            crossed already.
        rate: false alarms per patient-month that the site asked for.
        patients: on how many patients the calibration rests; None for the model's own band.
        basis: what the scores rest on, in a sentence.
    """

    patient: str
    markers: tuple[WatchedMarker, ...]
    warnings: tuple[EarlyWarning, ...]
    crossed: tuple[str, ...]
    rate: float
    patients: int | None
    basis: str

    @property
    def decision(self) -> str:
        """Pivot if any marker says so."""
        found = any(one.assessment.decision == "pivot" for one in self.markers)
        return "pivot" if found else "stay"

    def to_json(self, model: ModelFile) -> dict[str, Any]:
        """Describe it as a JSON object, with the model's card."""
        return {
            "patient": self.patient,
            "decision": self.decision,
            "markers": [
                {
                    "marker": one.marker,
                    **dataclasses.asdict(one.assessment),
                    "level": _finite(one.assessment.level),
                    "alarmed": one.alarmed,
                    "measured": one.measured,
                    "sentence": one.sentence,
                }
                for one in self.markers
            ],
            "warnings": [dataclasses.asdict(one) for one in self.warnings],
            "thresholds": list(self.crossed),
            "false_alarms": self.rate,
            "calibrated_on": self.patients,
            "basis": self.basis,
            "model": describe(model),
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _factor(logarithm: float) -> str:
    """Write evidence as a factor."""
    return f"{math.exp(min(logarithm, 20.0)):.3g}" if math.isfinite(logarithm) else "never"


def read_threshold(text: str, schema: FeatureSchema) -> Threshold:
    """Read `MARKER=VALUE`.

    Raises:
        MisuseError: it is not of that form, or the study forecasts no such marker, or the value
            is not plausible.
    """
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise MisuseError(f"--threshold {quoted(text)}: give MARKER=VALUE, as inr=4.")
    markers = {one.name: one for one in schema.forecast_markers}
    if name not in markers:
        raise MisuseError(
            f"--threshold {quoted(text)}: the study forecasts no {quoted(name)}, only: "
            f"{', '.join(markers) or 'none'}."
        )
    one = markers[name]
    if not one.minimum < value < one.maximum:
        raise MisuseError(
            f"--threshold {quoted(text)}: lies outside what is plausible, {one.minimum:g} to "
            f"{one.maximum:g} {one.unit}."
        )
    return Threshold(name, value)


def calibrate(model: ModelFile, cohort: Cohort) -> MonitorCalibration:
    """Learn from a site's courses how far measurements lie from forecasts without a change.

    Args:
        model: a flux model; it should not have trained on these patients.
        cohort: the patients. Changes among them make alarms rarer, never more frequent.

    Raises:
        MisuseError: the model forecasts nothing, or too few patients have a forecast measurement.
    """
    streams = _streams(model.model.schema)
    courses, grid = arrivals(model.model, cohort, streams), ScoreGrid.of_signed(_UNITS)
    totals = {}
    for place, pair in enumerate(streams):
        own: list[list[Floats]] = [[np.zeros(0)] for _ in range(len(cohort))]
        for course in courses:
            scores = course.scores[:, place]
            own[course.patient].append(scores[~np.isnan(scores)])
        totals[pair_name(*pair)] = ScoreTotals(
            grid, grid.total([np.concatenate(some) for some in own]).astype(float)
        )
    per_unit = months_per_unit(model.model.schema)
    monitors = _monitors(model.model.schema, totals, dict.fromkeys(_markers(streams), 0.0))
    tops: dict[int, float] = {}
    for course in courses:
        for marker, monitor in monitors.items():
            reached = follow(monitor, _of(course, streams, marker))
            if len(reached):
                top = float(reached.max())
                tops[course.patient] = max(top, tops.get(course.patient, -math.inf))
    if len(tops) < _ENOUGH:
        raise MisuseError(
            f"{len(tops)} patients with a measurement that was forecast are too few to calibrate: "
            f"bring at least {_ENOUGH}, or leave --calibrate out."
        )
    months = sum(course.end - course.start for course in courses) * per_unit
    highest = PEAKS.total([np.array([top]) for top in tops.values()]).astype(float)
    return MonitorCalibration(model.digest, totals, ScoreTotals(PEAKS, highest), months)


def watch(
    model: ModelFile,
    patient: Cohort,
    thresholds: Sequence[Threshold] = (),
    calibration: MonitorCalibration | None = None,
    rate: float = USUAL_RATE,
) -> WatchedCourse:
    """Follow a patient's latest episode and say stay or pivot.

    Args:
        model: a flux model.
        patient: a cohort of one.
        thresholds: clinical limits to warn of before they are crossed.
        calibration: of a site's own patients; None takes the model's own band at its word.
        rate: false alarms per patient-month, shared by all markers.

    Raises:
        ModelUnusable: the model is withdrawn or expired.
        MisuseError: not one patient, an impossible rate, or a model that forecasts nothing.
    """
    schema = model.model.schema
    streams = _streams(schema)
    if len(patient) != 1:
        raise MisuseError(f"a monitor follows one patient, but {len(patient)} were given.")
    level = level_of_rate(rate)
    forecast = model.predict(patient)
    if not isinstance(forecast, Forecast):
        raise MisuseError(f"a {schema.target.kind} outcome has no course to follow.")
    markers = _markers(streams)
    if calibration is None:
        totals: Mapping[str, ScoreTotals] = dict.fromkeys(
            [pair_name(*pair) for pair in streams], _own_band()
        )
        level, patients = level + math.log(len(markers)), None
        basis = (
            "Not calibrated: the model's own band is taken at its word, so the rate of false "
            "alarms may be another than asked for; --calibrate holds it against your own patients."
        )
    else:
        totals = calibration.totals
        level = alarm_level(calibration.reached, calibration.months, rate)
        patients = round(calibration.reached.patients)
        basis = (
            f"Calibrated on {patients} of your patients, {calibration.months:.3g} patient-months."
        )
        if math.isinf(level):
            basis += (
                f" They are too few to promise {rate:g} false alarms a patient-month, so no alarm "
                "is called; bring more of them, or ask for a higher rate."
            )
    course = arrivals(model.model, patient, streams)[-1]
    monitors = _monitors(schema, totals, dict.fromkeys(markers, level))
    unit = visits_section(schema).time_unit
    found = tuple(
        _watched(marker, unit, monitor, _of(course, streams, marker))
        for marker, monitor in monitors.items()
    )
    told = [_cross(schema, forecast, patient, one) for one in thresholds]
    return WatchedCourse(
        patient=patient.patients[0],
        markers=found,
        warnings=tuple(one for one, _ in told if one is not None),
        crossed=tuple(sentence for _, sentence in told),
        rate=rate,
        patients=patients,
        basis=basis,
    )


def _streams(schema: FeatureSchema) -> Streams:
    target = forecast_target(schema)
    return tuple((m, horizon.at) for m in target.markers for horizon in target.horizons)


def _markers(streams: Streams) -> list[str]:
    return list(dict.fromkeys(marker for marker, _ in streams))


def _own_band() -> ScoreTotals:
    """Scores as they are if a band is a normal distribution's, as wide as it promises."""
    grid = ScoreGrid.of_signed(_UNITS)
    below = norm.cdf(np.array(grid.edges) * norm.ppf((1 + FORECAST_LEVEL) / 2))
    shares = np.diff(np.concatenate([[0.0], below, [1.0]]))
    return ScoreTotals(grid, shares * _AS_MANY * _UNITS)


def _monitors(
    schema: FeatureSchema, totals: Mapping[str, ScoreTotals], levels: Mapping[str, float]
) -> dict[str, Monitor]:
    """A monitor of each marker, with a stream for each horizon."""
    streams = _streams(schema)
    make = partial(Monitor, direction="both", months_per_unit=months_per_unit(schema))
    return {
        marker: make(
            tuple(totals[pair_name(*pair)] for pair in streams if pair[0] == marker),
            level=levels[marker],
        )
        for marker in _markers(streams)
    }


def _of(course: Arrivals, streams: Streams, marker: str) -> Arrivals:
    """Keep what belongs to one marker."""
    mine = [place for place, (name, _) in enumerate(streams) if name == marker]
    scores = course.scores[:, mine]
    known = ~np.isnan(scores).all(axis=1)
    return dataclasses.replace(course, times=course.times[known], scores=scores[known])


def _watched(marker: str, unit: str, monitor: Monitor, course: Arrivals) -> WatchedMarker:
    state, alarmed = monitor.begin(course.start), None
    for time, scores in zip(course.times, course.scores, strict=True):
        state = monitor.update(state, float(time), scores)
        if alarmed is None and state.evidence >= monitor.level:
            alarmed = float(time)
    return WatchedMarker(marker, unit, monitor.judge(state), alarmed, len(course.times))


def _cross(
    schema: FeatureSchema, forecast: Forecast, patient: Cohort, limit: Threshold
) -> tuple[EarlyWarning | None, str]:
    """Warn of a threshold on the side that the patient is not on, and say so."""
    columns, unit = VisitColumns.of(schema), visits_section(schema).time_unit
    place = forecast_target(schema).markers.index(limit.marker)
    rows = patient.visits[0][~np.isnan(patient.visits[0, :, TIME])]
    episode = rows[rows[:, EPISODE] == rows[-1, EPISODE]]
    values = episode[:, FIRST_VALUE + columns.forecast[place]]
    marker = schema.forecast_markers[place]
    name = f"{limit.value:g} {marker.unit}"
    if np.isnan(values).all():
        return None, f"{limit.marker}: never measured, so nothing can be said of {name}."
    above = bool(values[~np.isnan(values)][-1] < limit.value)
    side = "above" if above else "below"
    chances = crossing_probability(schema, forecast, limit.marker, limit.value, above=above)
    mine = chances[0, len(rows) - 1]
    warning = early_warning(schema, mine, limit.marker, limit.value, above=above)
    ahead = [
        f"{100 * chance:.0f} % in {horizon.at:g} {unit}{'' if horizon.at == 1 else 's'}"
        for chance, horizon in zip(mine, forecast_target(schema).horizons, strict=True)
    ]
    told = f"chance to be {side} {name}: {', '.join(ahead)}"
    if warning is None:
        return None, f"{limit.marker}: no early warning; {told}."
    return warning, f"{limit.marker}: EARLY WARNING, probably {side} {name} then; {told}."
