"""What if: bands against the counterfactual that is known, and refusals out of support.

    .venv/bin/python benchmarks/whatif.py [--model linear_mixed] [--patients 800]

Synthetic PK/PD courses (`simulation/cohorts/flux`): warfarin-like therapy of a marker, weekly
visits. A patient of a test cohort is asked about at one visit: what if another dose were given from
there on? The generator then gives that dose to the same patient, with the same chance, and the
measurement that follows is held against the band.

Covered: share of those measurements inside the 80 % band of the what-if, by horizon; beside it the
same for the dose that was really given. Refused: questions that nobody answered, by both measures
of support. `beyond` asks for 3.5 to 5 times the public scale; `gap` is asked of a cohort in which
high doses were given to patients with a high marker only: a high dose with a low marker, the other
way round not at all. `fair` are questions that the cohort can answer: how often they are refused.
"""

import argparse

import numpy as np
import torch
from stay_or_pivot import schema as course_schema

from fedrx_models.calibration.support import LocalSupport, public_support
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode
from fedrx_models.cohort.visits import FIRST_VALUE, TIME
from fedrx_models.contract import Forecast, PatientModel
from fedrx_models.fitting import fit
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection
from fedrx_simulation.cohorts.flux import FluxCohorts, generate_flux
from fedrx_simulation.cohorts.flux_counterfactual import ended, other_dose

NEW_DOSE = (0.0, 0.5, 1.0, 2.0)  # in public scales
MARKERS = 3
DOSE = FIRST_VALUE + MARKERS
ASKED = frozenset({"drug"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="linear_mixed")
    parser.add_argument("--patients", type=int, default=800, help="of each part")
    told = parser.parse_args()
    torch.set_num_threads(1)
    train = _drawn(told.patients, 1)
    start = build_model(ModelSection(name=told.model), train.schema, seed=0)
    model = fit(start, train, 0)
    print(f"{told.model}, trained on {told.patients} synthetic patients")
    for name, shares in coverage(model, told.patients).items():
        print(f"{name:>22}: {', '.join(f'{100 * share:.1f} %' for share in shares)}")
    for name, share in refusals(train, told.patients).items():
        print(f"{name:>22}: {100 * share:.1f} % refused")


def _knobs(patients: int, seed: int) -> FluxCohorts:
    return FluxCohorts(
        course_schema(),
        1,
        (patients, patients),
        heterogeneity=0.0,
        measurement_shift=0.0,
        seed=seed,
    )


def _drawn(patients: int, seed: int) -> Cohort:
    (cohort,) = generate_flux(_knobs(patients, seed)).values()
    return cohort


def coverage(model: PatientModel, patients: int, seed: int = 3) -> dict[str, list[float]]:
    """Share of measurements inside the band: of all, then by horizon; as given and as asked."""
    drawn = other_dose(_knobs(patients, seed), NEW_DOSE, seed)
    found = {}
    arms = {"as given": (drawn.now, drawn.after_now), "what if": (drawn.then, drawn.after_then)}
    for name, (asked, after) in arms.items():
        last = (~np.isnan(asked.visits[:, :, TIME])).sum(axis=1) - 1
        forecast = model.predict(encode(asked, asked.schema))
        if not isinstance(forecast, Forecast):
            raise TypeError("a course has a forecast.")
        band, actual = forecast.mean[np.arange(len(last)), last, :, 0], after[:, :, 0]
        known = ~np.isnan(actual) & ~np.isnan(band[..., 0])
        inside = (actual >= band[..., 1]) & (actual <= band[..., 2])
        shares = [float(inside[known[:, h], h].mean()) for h in range(actual.shape[1])]
        found[f"covered, {name}"] = [float(inside[known].mean()), *shares]
    return found


def refusals(train: Cohort, patients: int, questions: int = 300) -> dict[str, float]:
    """Shares of refused questions."""
    rng, scale = np.random.default_rng(7), train.schema.treatments[0].scale
    seen = _drawn(patients, 4)
    count = (~np.isnan(seen.visits[:, :, TIME])).sum(axis=1)
    origin = (rng.random(len(seen)) * count).astype(int)
    fair = ended(seen, origin, None)
    beyond = ended(seen, origin, rng.uniform(3.5, 5.0, len(seen)) * scale)
    local = LocalSupport.of(train, ASKED)
    some = rng.permutation(len(seen))[:questions]
    found = {
        "beyond, public": _refused(fair, beyond, some),
        "beyond, cohort": _refused(fair, beyond, some, local),
        "fair, public": _refused(fair, fair, some),
        "fair, cohort": _refused(fair, fair, some, local),
    }
    gap = LocalSupport.of(_only_high(train), ASKED)
    newest = np.array([_newest(fair, i) for i in range(len(fair))])
    usual = seen.schema.markers[0]
    low = np.flatnonzero(newest < usual.mean - 0.5 * usual.scale)[:questions]
    other = ended(seen, origin, np.full(len(seen), 2.0 * scale))
    found["gap, public"] = _refused(fair, other, low)
    found["gap, cohort"] = _refused(fair, other, low, gap)
    return found


def _refused(
    now: Cohort, then: Cohort, which: np.ndarray, local: LocalSupport | None = None
) -> float:
    judged = [
        public_support(now, then, int(i), ASKED) if local is None else local.judge(then, int(i))
        for i in which
    ]
    return float(np.mean([not one.supported for one in judged]))


def _newest(cohort: Cohort, i: int) -> float:
    values = cohort.visits[i, :, FIRST_VALUE]
    values = values[~np.isnan(values)]
    return float(values[-1]) if len(values) else np.inf


def _only_high(cohort: Cohort) -> Cohort:
    """End each course before a dose above the scale meets a first marker below its mean."""
    marker, scale = cohort.schema.markers[0], cohort.schema.treatments[0].scale
    visits = cohort.visits.copy()
    for i in range(len(visits)):
        newest = np.nan
        for row in range(visits.shape[1]):
            value = visits[i, row, FIRST_VALUE]
            newest = value if not np.isnan(value) else newest
            if visits[i, row, DOSE] > scale and not newest >= marker.mean:
                visits[i, row:] = np.nan
                break
    kept = np.flatnonzero((~np.isnan(visits[:, :, TIME])).sum(axis=1) >= 2)
    ids = tuple(cohort.patients[i] for i in kept)
    nothing = np.zeros((len(kept), 0))
    return Cohort(cohort.site, cohort.schema, ids, {}, nothing, visits=visits[kept])


if __name__ == "__main__":
    main()
