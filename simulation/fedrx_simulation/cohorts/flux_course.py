"""How invented markers move: a patient's own level, a network with lags, and a therapy.

Time is a grid of steps, each as long as the study's first horizon. Values are in the markers'
public scales until the very end. Sources:

- around their own level, markers wander and return (Ornstein and Uhlenbeck, Phys Rev 1930;36:823);
- a therapy acts by indirect response: a drug, eliminated at a constant rate, inhibits the
  production of what it acts on, which is lost at a constant rate (Dayneka, Garg and Jusko,
  J Pharmacokinet Biopharm 1993;21:457-78, model I);
- for warfarin and the INR that is the activity of the clotting factors: Nagashima, O'Reilly and
  Levy, Clin Pharmacol Ther 1969;10:22-35. The INR is taken as the inverse of that activity, and
  half-lives are round numbers from textbooks (warfarin 40 h, factors 14 h), fitted to no patient.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fedrx_models.cohort.visits import forecast_target, normalise_marker, visits_section
from fedrx_protocol.study.schema import FeatureSchema, Marker

Floats = NDArray[np.float64]

LEVEL_SD = 0.6  # between patients
WANDER_SD = 0.5  # within a patient
_SUBSTEPS = 4  # of the therapy's equations in one step of the grid
_HOURS = {"hour": 1.0, "day": 24.0, "month": 730.5, "year": 8766.0}
_WARFARIN_HALF_LIFE_H, _FACTORS_HALF_LIFE_H = 40.0, 14.0
_LEAST_ACTIVITY = 0.1  # no patient is without any; an INR of 10 at a usual start


@dataclass(frozen=True)
class PlantedCourse:
    """What is planted in a study's synthetic courses, by name; the truth that tests look for.

    Attributes:
        edges: (leader, follower): when the leader moves by 1 of its scale, the follower moves by
            `coupling` of its own, `lag` later.
        lag: in the study's time unit.
        treated: the marker that the therapy acts on; None without a treatment.
        treatment: the therapy.
        rises: whether the marker rises under therapy, as the INR does.
        half_life: of the drug, in the study's time unit.
        response_half_life: of what the drug's effect builds up by.
    """

    edges: tuple[tuple[str, str], ...]
    lag: float
    treated: str | None
    treatment: str | None
    rises: bool
    half_life: float
    response_half_life: float


def planted_course(schema: FeatureSchema) -> PlantedCourse:
    """What is planted for a study.

    Edges are those of its graph, each from the first marker named to the second; without a graph,
    the second marker of the target leads the third, where there are as many. The first treatment
    acts on the target's first marker.

    Raises:
        MisuseError: the study is no forecast.
    """
    target, hours = forecast_target(schema), _HOURS[visits_section(schema).time_unit]
    if schema.graph is not None:
        edges = tuple((first, second) for first, second in schema.graph.edges)
    else:
        edges = ((target.markers[1], target.markers[2]),) if len(target.markers) > 2 else ()
    middle = target.horizons[len(target.horizons) // 2].at
    treated = target.markers[0] if schema.treatments else None
    inr = treated == "inr"
    return PlantedCourse(
        edges=edges,
        lag=middle,
        treated=treated,
        treatment=schema.treatments[0].name if schema.treatments else None,
        rises=inr,
        half_life=_WARFARIN_HALF_LIFE_H / hours if inr else middle,
        response_half_life=_FACTORS_HALF_LIFE_H / hours if inr else middle / 2,
    )


@dataclass(frozen=True)
class Dynamics:
    """How strongly things act; see `FluxCohorts`."""

    step: float
    coupling: float
    therapy: float


def wandering(
    rng: Generator, schema: FeatureSchema, levels: Floats, steps: int, dynamics: Dynamics
) -> Floats:
    """All markers without therapy, `(patients, steps, M)`, in their scales.

    Args:
        rng: where chance comes from.
        schema: the study's.
        levels: each patient's own level, `(patients, M)`.
        steps: of the grid.
        dynamics: the length of a step, and the coupling.
    """
    planted = planted_course(schema)
    names = [marker.name for marker in schema.markers]
    lag = round(planted.lag / dynamics.step)
    keeps = math.exp(-dynamics.step / forecast_target(schema).horizons[-1].at)
    own = np.empty((len(levels), steps + lag, len(names)))
    own[:, 0] = WANDER_SD * rng.standard_normal(own[:, 0].shape)
    for i in range(1, steps + lag):
        pushed = math.sqrt(1 - keeps**2) * WANDER_SD * rng.standard_normal(own[:, 0].shape)
        own[:, i] = keeps * own[:, i - 1] + pushed
    found = levels[:, None] + own[:, lag:]
    for leader, follower in planted.edges:
        earlier = own[:, :steps, names.index(leader)]
        found[:, :, names.index(follower)] += dynamics.coupling * earlier
    return found


def activity(
    schema: FeatureSchema, doses: Floats, sensitivity: Floats, dynamics: Dynamics
) -> Floats:
    """What the drug leaves of the production it inhibits, 1 before any, `(patients, steps)`.

    Args:
        schema: the study's.
        doses: in the treatment's public scale, `(patients, steps)`; 1 for ever inhibits half of
            the production in a patient of sensitivity 1.
        sensitivity: each patient's, `(patients,)`.
        dynamics: the length of a step, and how strong the therapy is; 0 for none.
    """
    planted = planted_course(schema)
    step = dynamics.step / _SUBSTEPS
    leaves = 1 - math.exp(-math.log(2) / planted.half_life * step)
    builds = 1 - math.exp(-math.log(2) / planted.response_half_life * step)
    drug, response = np.zeros(len(doses)), np.ones(len(doses))
    found = np.empty(doses.shape)
    for i in range(doses.shape[1]):
        found[:, i] = response
        for _ in range(_SUBSTEPS):
            drug = drug + leaves * (doses[:, i] - drug)
            acting = dynamics.therapy * sensitivity * drug
            response = response + builds * (1 / (1 + acting) - response)
    return found


def under_therapy(marker: Marker, values: Floats, left: Floats, *, rises: bool) -> Floats:
    """A marker's values in its scale, once production is reduced to `left`; of their shape.

    One that falls does so by as many scales as there are from its mean to the lower end of its
    plausible range, at most four, when nothing is left. One that rises is divided by what is left.
    """
    if not rises:
        low = float(normalise_marker(marker, np.array(marker.minimum)))
        return values - min(4.0, max(1.0, -low)) * (1 - left)
    usual = values * marker.scale + marker.mean
    if marker.transform == "log":
        return values - np.log(np.maximum(left, _LEAST_ACTIVITY)) / marker.scale
    return (usual / np.maximum(left, _LEAST_ACTIVITY) - marker.mean) / marker.scale
