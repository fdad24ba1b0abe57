"""The warfarin twin of one patient of a study: the same doses, the same age and genotypes.

Virtual patients count by how well they explain the INRs that were measured so far, so that the twin
follows the patient; what remains is the published spread between patients and the error of a
measurement.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.visits import EPISODE, FIRST_VALUE, TIME, forecast_target, visits_section
from fedrx_models.twin.warfarin import (
    CLEARANCE_LEFT,
    EC50_MG_PER_L,
    INR_RESIDUAL_SD,
    YEARS,
    draw_patients,
    inr_course,
)
from fedrx_protocol.study.schema import CategoryFeature, FeatureSchema, NumberFeature

Floats = NDArray[np.float64]

INR, WARFARIN = "inr", "warfarin"
"""Names of marker and treatment in a study that has a twin."""
SOURCE = "Hamberg et al., Clin Pharmacol Ther 2007;81:529-38"
LEVEL = 0.8

_PER_DAY = {"mg/day": 1.0, "mg/d": 1.0, "mg/week": 1 / 7, "mg/wk": 1 / 7}
_HOURS = {"hour": 1.0, "day": 24.0, "month": 730.5, "year": 8766.0}
_UNTREATED = 1.4  # an INR up to which a first value is taken as the baseline
_BEFORE_DAYS = 28  # on the first dose, where a patient arrives under warfarin
_LONGEST_DAYS = 400
_VIRTUAL, _SEED = 400, 20070404
_FEW = 20.0
_MEDIAN_AGE = 71.0  # of the paper's patients


@dataclass(frozen=True, eq=False)
class TwinForecast:
    """What the published model says of a patient's INR at each horizon.

    Attributes:
        at: times from the last visit, in the study's unit, `(H,)`.
        value: median, `(H,)`.
        low: lower end of the band, `(H,)`.
        high: upper end.
        level: nominal coverage of the band.
        notes: sentences on what was assumed.
    """

    at: tuple[float, ...]
    value: Floats
    low: Floats
    high: Floats
    level: float
    notes: tuple[str, ...]


def has_twin(schema: FeatureSchema) -> bool:
    """Say whether a study forecasts the INR under warfarin, by these names and a known unit."""
    units = {one.name: one.unit for one in schema.treatments}
    forecast = [marker.name for marker in schema.forecast_markers]
    return INR in forecast and units.get(WARFARIN) in _PER_DAY


def twin_forecast(cohort: Cohort, i: int) -> TwinForecast:
    """Forecast a patient's INR from the last visit by the published model.

    What was given at the last visit goes on. Doses are swallowed once a day, counted from the first
    visit of the latest episode.

    Args:
        cohort: patients of a study that has a twin.
        i: position of the patient.

    Raises:
        MisuseError: the study has no twin, or the patient is outside what the model knows.
    """
    schema = cohort.schema
    if not has_twin(schema):
        raise MisuseError("the study does not forecast 'inr' under 'warfarin' in mg/day.")
    hours_per_unit = _HOURS[visits_section(schema).time_unit]
    rows = _latest_episode(cohort.visits[i])
    times = (rows[:, TIME] - rows[0, TIME]) * hours_per_unit
    markers = [marker.name for marker in schema.markers]
    drugs = [one.name for one in schema.treatments]
    measured = rows[:, FIRST_VALUE + markers.index(INR)]
    drug = schema.treatments[drugs.index(WARFARIN)]
    given = rows[:, FIRST_VALUE + len(markers) + drugs.index(WARFARIN)]
    given = np.nan_to_num(given) * _PER_DAY[drug.unit]
    at = tuple(horizon.at for horizon in forecast_target(schema).horizons)
    end = times[-1] + at[-1] * hours_per_unit
    if end > _LONGEST_DAYS * 24:
        raise MisuseError(f"the warfarin model follows a patient for {_LONGEST_DAYS} days at most.")
    age, genotypes, notes = _known(cohort, i)
    first = float(measured[0])
    before = _BEFORE_DAYS * 24 if first > _UNTREATED and given[0] > 0 else 0
    baseline = first if first <= _UNTREATED else 1.0
    if before:
        notes.append(f"The first INR is raised: the first dose was taken for {_BEFORE_DAYS} days.")
    doses = np.zeros(before + math.ceil(end) + 1)
    days = np.arange(0, len(doses), 24)
    newest = np.searchsorted(times, days - before + 1e-6, side="right") - 1
    doses[days] = given[np.maximum(newest, 0)]
    course = inr_course(draw_patients(_VIRTUAL, _SEED, age, *genotypes), doses, baseline)

    def of(hours: Floats) -> Floats:
        found: Floats = course[:, np.maximum(before + np.round(hours).astype(int) - 1, 0)]
        return found

    seen = ~np.isnan(measured) & ((np.arange(len(rows)) > 0) | (before > 0))
    apart = (np.log(measured[seen]) - np.log(of(times[seen]))) / INR_RESIDUAL_SD
    fits = -np.square(apart).sum(axis=1) / 2
    weights = np.exp(fits - fits.max())
    weights /= weights.sum()
    if 1 / np.square(weights).sum() < _FEW:
        notes.append("Hardly any of the published patients has a course like this one.")
    ahead = of(times[-1] + np.array(at) * hours_per_unit)
    error = np.random.default_rng(_SEED + 1).standard_normal(ahead.shape)
    low, value, high = _quantiles(ahead * np.exp(INR_RESIDUAL_SD * error), weights)
    return TwinForecast(at, value, low, high, LEVEL, tuple(notes))


def _latest_episode(visits: Floats) -> Floats:
    rows = visits[~np.isnan(visits[:, TIME])]
    found: Floats = rows[rows[:, EPISODE] == rows[-1, EPISODE]]
    return found


def _known(cohort: Cohort, i: int) -> tuple[float, tuple[str | None, str | None], list[str]]:
    """Give age and genotypes as the study knows them, and say what it does not."""
    notes, age = [], math.nan
    names: dict[str, str] = {}
    for feature in cohort.schema.features:
        value = cohort.values[feature.name][i]
        if isinstance(feature, NumberFeature) and feature.name == "age":
            age = float(value)
        elif isinstance(feature, NumberFeature) and feature.name == "age_decade":
            age = 10 * float(value) + 5
        elif isinstance(feature, CategoryFeature) and value >= 0:
            names[feature.name] = "/".join(sorted(feature.values[value].upper().split("/")))
    if math.isnan(age):
        age = _MEDIAN_AGE
        notes.append(f"The age is not known: {age:g} years, as in the publication.")
    elif not YEARS[0] <= age <= YEARS[1]:
        raise MisuseError(
            f"the warfarin model is for {YEARS[0]:g} to {YEARS[1]:g} years, not {age:g}."
        )
    found: list[str | None] = []
    for gene, alleles in (("cyp2c9", CLEARANCE_LEFT), ("vkorc1", EC50_MG_PER_L)):
        genotype = names.get(gene)
        found.append(genotype if genotype in alleles else None)
        if found[-1] is None:
            notes.append(
                f"The {gene.upper()} genotype is not known, or not to the publication: it is drawn "
                "as frequent as there."
            )
    return age, (found[0], found[1]), notes


def _quantiles(values: Floats, weights: Floats) -> Floats:
    """Weighted quantiles of each column, `(3, H)`: lower end, median, upper end."""
    order = np.argsort(values, axis=0)
    ranked = np.take_along_axis(values, order, axis=0)
    reached = np.cumsum(weights[order], axis=0)
    found = []
    for share in ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2):
        place = np.minimum((reached < share).sum(axis=0), len(values) - 1)
        found.append(np.take_along_axis(ranked, place[None], axis=0)[0])
    quantiles: Floats = np.stack(found)
    return quantiles
