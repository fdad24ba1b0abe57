"""The same synthetic patients under another dose: what a what-if should have said.

A patient is asked about at one visit. The generator then gives another dose from there on, with the
same chance, so that nothing else differs; what is measured afterwards is the truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.visits import FIRST_VALUE, TIME
from fedrx_simulation.cohorts.flux import FluxCohorts, generate_flux

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OtherDose:
    """Patients of one site, each asked about at one visit.

    Attributes:
        now: courses up to that visit, with what was given there.
        then: the same, with the other dose there.
        after_now: what is measured afterwards at each horizon, `(n, H, M)`; NaN for no visit.
        after_then: the same under the other dose.
    """

    now: Cohort
    then: Cohort
    after_now: Floats
    after_then: Floats


def other_dose(knobs: FluxCohorts, amounts: Sequence[float], seed: int = 0) -> OtherDose:
    """Draw one site, a visit of each patient, and another dose from there on.

    Args:
        knobs: of one site; what is missing is missing before the visit only.
        amounts: of the first treatment, to draw from, in its public scale.
        seed: of visits and amounts.

    Raises:
        MisuseError: the knobs are of several sites, or the study has no treatment.
    """
    if knobs.sites != 1 or not knobs.schema.treatments:
        raise MisuseError("another dose is for one site of a study with a treatment.")
    (seen,) = generate_flux(knobs).values()
    rng, size = np.random.default_rng(seed), len(seen)
    count = (~np.isnan(seen.visits[:, :, TIME])).sum(axis=1)
    origin = (rng.random(size) * (count - 1)).astype(np.int64)
    amount = rng.choice(np.array(amounts), size) * knobs.schema.treatments[0].scale
    later = np.arange(seen.visits.shape[1])[None, :] >= origin[:, None]

    def regimen(_: NDArray[np.int64], given: Floats) -> Floats:
        changed = given.copy()
        changed[:, :, 0] = np.where(later, amount[:, None], given[:, :, 0])
        return changed

    whole = replace(knobs, missingness=0.0)
    (real,), (other,) = (generate_flux(whole, one).values() for one in (None, regimen))
    each = np.arange(size)
    return OtherDose(
        now=ended(seen, origin, None),
        then=ended(seen, origin, amount),
        after_now=real.target[each, origin, :, :, 0],
        after_then=other.target[each, origin, :, :, 0],
    )


def ended(cohort: Cohort, origin: NDArray[np.int64], amount: Floats | None) -> Cohort:
    """End each course at a visit, with another amount of the first treatment there.

    Args:
        cohort: patients.
        origin: position of each one's last visit, `(n,)`.
        amount: in the treatment's unit, `(n,)`; None leaves what was given.
    """
    visits = cohort.visits.copy()
    visits[np.arange(visits.shape[1])[None, :] > origin[:, None]] = np.nan
    if amount is not None:
        column = FIRST_VALUE + len(cohort.schema.markers)
        visits[np.arange(len(visits)), origin, column] = amount
    nothing = np.zeros((len(cohort), 0))
    return Cohort(
        cohort.site, cohort.schema, cohort.patients, cohort.values, nothing, visits=visits
    )
