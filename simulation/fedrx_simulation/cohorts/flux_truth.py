"""What a perfect forecaster would say of synthetic courses: the truth beside what models find.

Both answers follow from how the courses are drawn, never from a trained model, and are in the
markers' public scales.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.visits import forecast_target, visits_section
from fedrx_simulation.cohorts.flux import (
    SENSITIVITY_SD,
    FluxCohorts,
    Steps,
    draw_treatment,
    on_grid,
    visit_steps,
)
from fedrx_simulation.cohorts.flux_course import (
    LEVEL_SD,
    WANDER_SD,
    activity,
    planted_course,
    under_therapy,
)

Floats = NDArray[np.float64]


def therapy_effect(knobs: FluxCohorts, patients: int = 2000, seed: int = 0) -> Floats:
    """How far the treated marker moves by each horizon if the therapy starts at a visit, `(H,)`.

    Against a patient who has not started then, and starts later or never as others do; mean over
    patients, doses and sensitivities. For a marker that a therapy scales and that is not seen as a
    logarithm, that of a patient at its public mean.

    Raises:
        MisuseError: the study has no treatment.
    """
    schema, planted = knobs.schema, planted_course(knobs.schema)
    if planted.treated is None:
        raise MisuseError("the study names no treatment, so there is no effect of one.")
    rng, treatment = np.random.default_rng(seed), schema.treatments[0]
    steps, _ = visit_steps(rng, visits_section(schema).most, patients)
    start, amounts = draw_treatment(rng, treatment, *steps.shape)
    origin = untreated_visit(rng, start, (steps >= 0).sum(axis=1))
    some = origin >= 0
    steps, start, origin = steps[some], start[some], origin[some]
    doses, visits = amounts[some] / treatment.scale, np.arange(steps.shape[1])[None, :]
    sensitivity = np.exp(SENSITIVITY_SD * rng.standard_normal(len(steps)))
    ahead = np.array([round(h.at / knobs.dynamics.step) for h in forecast_target(schema).horizons])
    length = int(steps.max() + ahead.max()) + 1
    begun = np.take_along_axis(steps, origin[:, None], axis=1)
    marker = next(one for one in schema.markers if one.name == planted.treated)
    arms = []
    for first in (origin, start):
        given = on_grid(np.where(visits >= first[:, None], doses, 0.0), steps, length)
        left = activity(schema, given, sensitivity, knobs.dynamics)
        then = np.take_along_axis(left, begun + ahead[None, :], axis=1)
        arms.append(under_therapy(marker, np.zeros_like(then), then, rises=planted.rises))
    effect: Floats = (arms[0] - arms[1]).mean(axis=0)
    return effect


def untreated_visit(rng: Generator, start: Steps, count: Steps) -> Steps:
    """One of each patient's visits before the therapy starts, by chance; -1 for none."""
    before = np.minimum(start, count)
    return np.where(before > 0, (rng.random(len(start)) * before).astype(np.int64), -1)


def leader_effect(knobs: FluxCohorts, patients: int = 200, seed: int = 0) -> Floats:
    """How far a follower's best forecast moves if its leader is measured 1 higher, `(H,)`.

    Of a newest visit, given everything measured of both before: less than the coupling, since a
    measurement is noisy, and part of it is the patient's own level, which moves nothing.

    Raises:
        MisuseError: nothing is planted between markers.
    """
    if not planted_course(knobs.schema).edges:
        raise MisuseError("the study has no graph, so no marker follows another.")
    rng = np.random.default_rng(seed)
    steps, _ = visit_steps(rng, visits_section(knobs.schema).most, patients)
    found = []
    for mine in steps:
        times = mine[mine >= 0] * knobs.dynamics.step
        seen = rng.random((2, len(times))) >= knobs.missingness
        seen[0, -1] = True
        found.append(_gain(knobs, times[seen[0]], times[seen[1]]))
    effect: Floats = np.mean(found, axis=0)
    return effect


def _gain(knobs: FluxCohorts, leader: Floats, follower: Floats) -> Floats:
    """Weight of the newest leader's value in the best linear forecast of the follower, `(H,)`.

    Args:
        knobs: how the courses are drawn.
        leader: times at which the leader was measured, the newest last.
        follower: times at which the follower was.
    """
    target = forecast_target(knobs.schema)
    lag, coupling = planted_course(knobs.schema).lag, knobs.coupling
    ahead = leader[-1] + np.array([horizon.at for horizon in target.horizons])

    def together(one: Floats, other: Floats) -> Floats:
        apart = np.abs(one[:, None] - other[None, :])
        return WANDER_SD**2 * np.exp(-apart / target.horizons[-1].at)

    def of_follower(one: Floats, other: Floats) -> Floats:
        own = LEVEL_SD**2 + together(one, other)
        return own + coupling**2 * together(one, other)

    across = coupling * together(leader, follower - lag)
    known = np.block(
        [
            [LEVEL_SD**2 + together(leader, leader), across],
            [across.T, of_follower(follower, follower)],
        ]
    )
    known += knobs.noise_sd**2 * np.eye(len(known))
    wanted = np.hstack([coupling * together(ahead - lag, leader), of_follower(ahead, follower)])
    weights: Floats = np.linalg.solve(known, wanted.T)[len(leader) - 1]
    return weights
