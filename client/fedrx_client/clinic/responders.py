"""Whom a trial should enrol: calibrated probabilities of a response, at a site, for its own use.

Probabilities are calibrated on patients of the site whose outcome is known, and judged on those
whom their own calibration did not see.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrx_client.clinic.predict import describe
from fedrx_common.errors import MisuseError
from fedrx_models.calibration.responders import (
    DecisionCurve,
    Enrolment,
    Recalibration,
    decision_curve,
    enrolment,
    outcome_counts,
    threshold_for,
)
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.contract import Probability
from fedrx_models.files import ModelFile
from fedrx_protocol.study.schema import BinaryTarget

Floats = NDArray[np.float64]

FEWEST = 50
"""Patients with a known outcome, below which nothing is calibrated."""
THRESHOLD = 0.5
_FOLDS = 5


@dataclass(frozen=True, eq=False)
class ResponderPlan:
    """Whom a threshold enrols, and what it is worth.

    Attributes:
        outcome: name of the outcome.
        judged: patients with a known outcome.
        rate: share of them with it.
        brier: of the calibrated probabilities, each calibrated without its patient.
        brier_before: of the model's own.
        patients: the candidates' ids, which stay at the site.
        probabilities: their calibrated probabilities, `(n,)`.
        chosen: whom the threshold enrols.
        curve: net benefit by threshold, on the patients with a known outcome.
    """

    outcome: str
    judged: int
    rate: float
    brier: float
    brier_before: float
    patients: tuple[str, ...]
    probabilities: Floats
    chosen: Enrolment
    curve: DecisionCurve

    def to_json(self, model: ModelFile) -> dict[str, Any]:
        """Describe it as a JSON object, with the model's card."""
        inside = self.probabilities >= self.chosen.threshold
        return {
            "outcome": self.outcome,
            **asdict(self.chosen),
            "calibration": {
                "patients": self.judged,
                "rate": self.rate,
                "brier": self.brier,
                "brier_before": self.brier_before,
            },
            "candidates": [
                {"patient": patient, "probability": float(chance), "enrol": bool(enrol)}
                for patient, chance, enrol in zip(
                    self.patients, self.probabilities, inside, strict=True
                )
            ],
            "net_benefit": {
                "threshold": self.curve.thresholds.tolist(),
                "model": self.curve.model.tolist(),
                "everybody": self.curve.everybody.tolist(),
                "useful": [list(one) for one in self.curve.useful],
            },
            "model": describe(model),
        }


def plan_enrolment(
    model: ModelFile,
    known: Cohort,
    candidates: Cohort | None = None,
    *,
    threshold: float | None = None,
    responders: float | None = None,
) -> ResponderPlan:
    """Calibrate a model's probabilities at a site, and say whom a trial should enrol.

    Args:
        model: predicts a yes or no.
        known: patients whose outcome is known.
        candidates: for the trial; None takes the same patients, each calibrated without itself.
        threshold: calibrated probability from which to enrol, in (0, 1); 0.5 if neither is given.
        responders: expected number wanted, instead of a threshold.

    Raises:
        ModelUnusable: the model is withdrawn or expired.
        MisuseError: the outcome is no yes or no, too few patients are known, or the threshold or
            number is impossible.
    """
    target = model.model.schema.target
    if not isinstance(target, BinaryTarget):
        raise MisuseError(
            f"a {target.kind} outcome has no responders: give a model of a yes or no, such as a "
            "response."
        )
    if threshold is not None and responders is not None:
        raise MisuseError("give a threshold or a number of responders, not both.")
    if len(known) < FEWEST:
        raise MisuseError(
            f"{len(known)} patients with a known outcome are too few to calibrate: bring at least "
            f"{FEWEST}."
        )
    said, happened = _probabilities(model, known), known.target.astype(np.float64)
    fitted = _without_oneself(said, happened)
    if candidates is None:
        patients, chances = known.patients, fitted
    else:
        fit = Recalibration.of(outcome_counts(said, happened))
        patients, chances = candidates.patients, fit(_probabilities(model, candidates))
    if responders is not None:
        threshold = threshold_for(chances, responders)
    return ResponderPlan(
        outcome=target.name,
        judged=len(known),
        rate=float(happened.mean()),
        brier=float(((fitted - happened) ** 2).mean()),
        brier_before=float(((said - happened) ** 2).mean()),
        patients=tuple(patients),
        probabilities=chances,
        chosen=enrolment(chances, THRESHOLD if threshold is None else threshold),
        curve=decision_curve(fitted, happened),
    )


def _without_oneself(said: Floats, happened: Floats) -> Floats:
    """Calibrate each patient by the others' folds; folds are as like each other as can be."""
    fold = np.empty(len(said), dtype=np.int64)
    # Dealt out by outcome and probability: the order of a file may mean something.
    fold[np.lexsort((said, happened))] = np.arange(len(said)) % _FOLDS
    found = np.empty(len(said))
    for one in range(_FOLDS):
        own = fold == one
        found[own] = Recalibration.of(outcome_counts(said[~own], happened[~own]))(said[own])
    return found


def _probabilities(model: ModelFile, cohort: Cohort) -> Floats:
    predicted = model.predict(cohort)
    if not isinstance(predicted, Probability):
        raise TypeError(f"{type(predicted).__name__} is no probability.")
    return predicted.mean
