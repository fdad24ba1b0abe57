"""How many outcomes the intervals hold, site by site: plain beside calibrated.

Exact, because a simulation owns its patients. They are the patients whose scores set the radius;
one number found from n patients looks better on them by about 1 / n at most.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedrx_models.calibration.release import radii_of
from fedrx_models.calibration.scores import absolute, scores_by_outcome
from fedrx_models.card import Calibration
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.contract import PatientModel

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Coverage:
    """Share of outcomes inside the intervals.

    Attributes:
        patients: held-out patients of the site who have an outcome.
        plain: of the model's own intervals, 0..1; the mean over outcomes of the mean over patients.
        calibrated: of the calibrated ones.
    """

    patients: int
    plain: float
    calibrated: float


def coverage_by_site(
    model: PatientModel, held_out: Mapping[str, Cohort], calibration: Calibration
) -> dict[str, Coverage]:
    """Compute the coverage of each site, and of all of them under the empty name, which is first.

    A site without outcomes is left out.
    """
    scores = {
        site: {name: absolute(rows) for name, rows in scores_by_outcome(model, cohort).items()}
        for site, cohort in held_out.items()
    }
    found = {}
    for site in ("", *scores):
        some = list(scores.values()) if not site else [scores[site]]
        plain: list[float] = []
        calibrated: list[float] = []
        patients: set[tuple[int, int]] = set()
        for name, radius in radii_of(calibration).items():
            rows = [(i, j, row) for i, one in enumerate(some) for j, row in enumerate(one[name])]
            rows = [row for row in rows if len(row[2])]
            if not rows:
                continue
            patients |= {row[:2] for row in rows}
            for ends, shares in ((1.0, plain), (radius.value, calibrated)):
                inside = [float((row <= ends + _TOLERANCE).mean()) for _, _, row in rows]
                shares.append(float(np.mean(inside)))
        if plain:
            found[site] = Coverage(len(patients), float(np.mean(plain)), float(np.mean(calibrated)))
    return found
