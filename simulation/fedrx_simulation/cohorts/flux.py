"""Synthetic courses for any study that forecasts markers: irregular visits, and a known truth.

Everything is invented: for testing and teaching. How markers move, and what is planted, is in
`flux_course`. Visits come at irregular gaps, are fewer for some patients than for others, and what
looks abnormal is measured more often, as in a hospital: what is missing says something.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.visits import (
    EPISODE,
    FIRST_VALUE,
    TIME,
    forecast_target,
    restore_marker,
    visit_width,
    visits_section,
)
from fedrx_protocol.study.schema import FeatureSchema, ForecastTarget, Treatment
from fedrx_simulation.cohorts.federation import ImpossibleCohorts, check_knobs, draw_sites
from fedrx_simulation.cohorts.flux_course import (
    LEVEL_SD,
    Dynamics,
    activity,
    planted_course,
    under_therapy,
    wandering,
)
from fedrx_simulation.cohorts.genomic import draw_feature

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]
Regimen = Callable[[Steps, Floats], Floats]
"""From visits' steps `(n, T)` and what is given `(n, T, A)` to what is given instead."""

_GAPS, _GAP_CHANCES = (1, 2, 3), (0.6, 0.25, 0.15)  # in steps of the grid
_FEWEST_VISITS = 4
_SECOND_EPISODE = 0.2
_ABNORMAL = 0.8  # how much likelier one more scale from the mean makes a measurement, log odds
_NEW_DOSE = 0.25
SENSITIVITY_SD = 0.35  # of the logarithm, between patients
_HETEROGENEITY_SD = 0.6  # between sites, of a marker's level, at heterogeneity 1


@dataclass(frozen=True)
class FluxCohorts:
    """The knobs of a synthetic federation of courses; values are in the markers' public scales.

    Attributes:
        schema: the study's visits, markers, treatments and forecast.
        sites: number of sites.
        patients: smallest and largest site; sizes are drawn log-uniformly between them.
        coupling: how far a follower moves when its leader moves by 1.
        therapy: how strongly the treatment acts; 0 for not at all, 1 as in `activity`.
        heterogeneity: 0 to 1; how far sites' usual levels are apart.
        missingness: 0 to below 1; mean share of values that a visit lacks; what is abnormal is
            lacked less often.
        measurement_shift: standard deviation between sites of a constant offset of each marker.
        noise_sd: of a measurement.
        seed: same seed, same patients; a site's patients do not depend on the other sites.

    Raises:
        ImpossibleCohorts: naming the knob, the value and what is allowed.
    """

    schema: FeatureSchema
    sites: int = 8
    patients: tuple[int, int] = (100, 400)
    coupling: float = 1.2
    therapy: float = 1.0
    heterogeneity: float = 0.2
    missingness: float = 0.2
    measurement_shift: float = 0.1
    noise_sd: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        check_knobs(self, self.patients, coupling=(-10, 10), therapy=(0, 10))
        if not isinstance(self.schema.target, ForecastTarget):
            raise ImpossibleCohorts(
                f"courses are for forecasts, but the study's outcome is {self.schema.target.kind}."
            )

    @property
    def dynamics(self) -> Dynamics:
        """How things act, for `flux_course`."""
        step = forecast_target(self.schema).horizons[0].at
        return Dynamics(step=step, coupling=self.coupling, therapy=self.therapy)


def generate_flux(knobs: FluxCohorts, regimen: Regimen | None = None) -> dict[str, Cohort]:
    """Draw all sites, by name, in order.

    Args:
        knobs: how.
        regimen: what is given instead, as in a counterfactual: chance falls as without it, so
            that patients differ only by what they are given.
    """
    return draw_sites(
        partial(_draw_site, knobs, regimen),
        sites=knobs.sites,
        patients=knobs.patients,
        seed=knobs.seed,
    )


def _draw_site(
    knobs: FluxCohorts, regimen: Regimen | None, rng: Generator, name: str, size: int
) -> Cohort:
    """Draw one site: when visits are, what is given, how markers move, what of it is measured."""
    schema = knobs.schema
    values = {feature.name: draw_feature(rng, feature, size) for feature in schema.features}
    steps, episodes = visit_steps(rng, visits_section(schema).most, size)
    # Half of the patients start a treatment at once, the others later or never; amounts change now
    # and then. All treatments but the first do nothing.
    given = np.zeros((*steps.shape, len(schema.treatments)))
    for a, treatment in enumerate(schema.treatments):
        start, amounts = draw_treatment(rng, treatment, *steps.shape)
        begun = np.arange(steps.shape[1])[None, :] >= start[:, None]
        given[:, :, a] = np.where(begun, amounts, 0.0)
    given = given if regimen is None else regimen(steps, given)
    true = _true(rng, knobs, given, steps)
    visits = np.full((*steps.shape, visit_width(schema)), np.nan)
    visits[:, :, TIME] = _times(rng, schema, steps, episodes)
    visits[:, :, EPISODE] = episodes
    markers = len(schema.markers)
    visits[:, :, FIRST_VALUE : FIRST_VALUE + markers] = _measured(rng, knobs, true)
    visits[:, :, FIRST_VALUE + markers :] = given
    visits[steps < 0] = np.nan
    patients = tuple(f"{name}-p{i + 1:05d}" for i in range(size))
    return Cohort(name, schema, patients, values, np.zeros((size, 0)), visits=visits)


def visit_steps(rng: Generator, most: int, size: int) -> tuple[Steps, Floats]:
    """Steps of the grid at which visits are, -1 for padding, and episodes; `(size, most)` each.

    A second episode goes on along the same grid; its times begin again at zero.
    """
    count = rng.integers(min(_FEWEST_VISITS, most), min(most, 40) + 1, size)
    gaps = rng.choice(_GAPS, p=_GAP_CHANCES, size=(size, most))
    steps = np.cumsum(gaps, axis=1) - gaps[:, :1]
    episodes = np.zeros((size, most))
    again = rng.random(size) < _SECOND_EPISODE
    middle = np.maximum(count // 2, 1)
    episodes[again[:, None] & (np.arange(most)[None, :] >= middle[:, None])] = 1.0
    steps[np.arange(most)[None, :] >= count[:, None]] = -1
    return steps, episodes


def _times(rng: Generator, schema: FeatureSchema, steps: Steps, episodes: Floats) -> Floats:
    """Times of visits since their episode began, in the study's unit, `(size, most)`."""
    first = forecast_target(schema).horizons[0]
    begun = np.zeros(steps.shape, dtype=np.int64)
    for number in (0.0, 1.0):
        here = np.where((episodes == number) & (steps >= 0), steps, np.iinfo(np.int64).max)
        begun = np.where(episodes == number, here.min(axis=1)[:, None], begun)
    # As irregular as the first horizon's window can bear: a visit that was due stays inside it.
    width = min(first.window[1] - first.at, first.at - first.window[0], first.at / 2) / 2
    shaken = rng.uniform(-width, width, steps.shape) if width > 0 else np.zeros(steps.shape)
    at_start = steps == begun
    regular: Floats = ((steps - begun) * first.at).astype(np.float64)
    return regular + np.where(at_start, 0.0, shaken)


def draw_treatment(
    rng: Generator, treatment: Treatment, size: int, most: int
) -> tuple[Steps, Floats]:
    """The visit that each patient starts at `(size,)`, and what is given from then on."""
    start = np.where(rng.random(size) < 0.5, 0, rng.integers(1, 2 * _FEWEST_VISITS, size))
    change = rng.random((size, most)) < _NEW_DOSE
    change[:, 0] = True
    drawn = treatment.scale * rng.lognormal(0.0, 0.5, (size, most))
    latest = np.maximum.accumulate(np.where(change, np.arange(most)[None, :], 0), axis=1)
    amounts = np.minimum(np.take_along_axis(drawn, latest, axis=1), treatment.maximum)
    return start, amounts if treatment.kind == "amount" else np.ones((size, most))


def _true(rng: Generator, knobs: FluxCohorts, given: Floats, steps: Steps) -> Floats:
    """What each marker truly is at each visit, in its scale, `(size, most, M)`."""
    schema, planted = knobs.schema, planted_course(knobs.schema)
    size, length = len(steps), int(steps.max()) + 1
    usual = knobs.heterogeneity * _HETEROGENEITY_SD * rng.standard_normal(len(schema.markers))
    levels = usual + LEVEL_SD * rng.standard_normal((size, len(schema.markers)))
    grid = wandering(rng, schema, levels, length, knobs.dynamics)
    if planted.treated is not None:
        names = [marker.name for marker in schema.markers]
        m = names.index(planted.treated)
        doses = on_grid(given[:, :, 0] / schema.treatments[0].scale, steps, length)
        sensitivity = np.exp(SENSITIVITY_SD * rng.standard_normal(size))
        left = activity(schema, doses, sensitivity, knobs.dynamics)
        marker = schema.markers[m]
        grid[:, :, m] = under_therapy(marker, grid[:, :, m], left, rises=planted.rises)
    return np.take_along_axis(grid, np.maximum(steps, 0)[:, :, None], axis=1)


def on_grid(at_visits: Floats, steps: Steps, length: int) -> Floats:
    """What was given at each step of the grid: as at the newest visit, `(size, length)`."""
    visit = np.zeros((len(steps), length), dtype=np.int64)
    patient, place = np.nonzero(steps >= 0)
    visit[patient, steps[patient, place]] = place
    return np.take_along_axis(at_visits, np.maximum.accumulate(visit, axis=1), axis=1)


def _measured(rng: Generator, knobs: FluxCohorts, true: Floats) -> Floats:
    """What is written down, in the markers' units, NaN where nothing is; of the shape of `true`."""
    shift = knobs.measurement_shift * rng.standard_normal(true.shape[2])
    noisy = true + shift + knobs.noise_sd * rng.standard_normal(true.shape)
    markers = knobs.schema.markers
    values = [restore_marker(marker, noisy[:, :, m]) for m, marker in enumerate(markers)]
    found = np.stack(values, axis=2)
    if knobs.missingness > 0:
        usual = math.log((1 - knobs.missingness) / knobs.missingness)
        odds = usual + _ABNORMAL * (np.abs(true) - 0.8)
        found[rng.random(true.shape) > 1 / (1 + np.exp(-odds))] = np.nan
    return found
