"""From a model and patients to explanations: reasons that add up to what sets a patient apart."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode
from fedrx_models.cohort.visits import FIRST_VALUE, TIME
from fedrx_models.contract import PatientModel
from fedrx_models.explain.attribution import Method, attribute
from fedrx_models.explain.game import Game, Grain, InputPart, PartKind, in_double
from fedrx_models.explain.outcome import Outcome, Question, outcome_of
from fedrx_protocol.study.schema import CategoryFeature, FeatureSchema, NumberFeature

Floats = NDArray[np.float64]

MAIN_REASONS = 3
UNKNOWN = "not known"


@dataclass(frozen=True)
class Reason:
    """What one part of a patient adds to the prediction.

    Attributes:
        kind: feature, gene, block, missing_block, marker, treatment or responses.
        name: in the study.
        block: of a gene; "" for all else.
        visit: row of the patient's visits, from 0; `None` where all of them count together.
        time: of that visit in the study's unit.
        value: what the patient has, in words: "*3/*3", "52 kg", "yes", "not known"; "" for a block.
        effect: in the outcome's unit; 0 where the patient is as the reference.
    """

    kind: PartKind
    name: str
    block: str
    visit: int | None
    time: float | None
    value: str
    effect: float

    @property
    def key(self) -> str:
        """One text for what the effect belongs to, alike for all patients of a study."""
        of_block = f"{self.block}: " if self.block else ""
        at_visit = "" if self.visit is None else f" @ visit {self.visit + 1}"
        missing = " missing" if self.kind == "missing_block" else ""
        return f"{of_block}{self.name}{missing}{at_visit}"


@dataclass(frozen=True)
class Explanation:
    """Why one patient's prediction differs from the study's public reference.

    Attributes:
        patient: the id at the site; an explanation is patient data and stays there.
        model: its name.
        method: what gave the effects: exact, kernel_shap, shapley_sampling, lime or
            integrated_gradients.
        outcome: the number that is explained.
        baseline: what the model predicts for the reference.
        prediction: what it predicts for the patient.
        reasons: every part, in the study's order; effects add up to prediction minus baseline.
    """

    patient: str
    model: str
    method: str
    outcome: Outcome
    baseline: float
    prediction: float
    reasons: tuple[Reason, ...]

    @property
    def missed(self) -> float:
        """Prediction minus baseline minus all effects: rounding."""
        return self.prediction - self.baseline - sum(reason.effect for reason in self.reasons)

    def main(self, most: int = MAIN_REASONS) -> tuple[Reason, ...]:
        """Return the reasons with the largest effects, largest first; none without an effect."""
        ranked = sorted(self.reasons, key=lambda reason: -abs(reason.effect))
        return tuple(reason for reason in ranked[:most] if reason.effect)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class CohortReason:
    """What one part of a study adds to predictions, over patients.

    Attributes:
        key: see `Reason.key`.
        mean_absolute: mean over patients of the effect's size, in the outcome's unit.
        mean: mean effect; near 0 where the same part raises one patient's and lowers another's.
    """

    key: str
    mean_absolute: float
    mean: float


@dataclass(frozen=True)
class CohortExplanation:
    """Mean effects over a cohort: they speak of patients, and leave a site as a release only.

    Attributes:
        patients: how many.
        outcome: the number that is explained.
        reasons: by mean absolute effect, largest first.
    """

    patients: int
    outcome: Outcome
    reasons: tuple[CohortReason, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as for JSON."""
        return dataclasses.asdict(self)


def explain(
    model: PatientModel,
    cohort: Cohort,
    *,
    method: Method = "auto",
    question: Question | None = None,
    grain: Grain | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> tuple[Explanation, ...]:
    """Explain the model's prediction for each patient of a cohort.

    The same model, patient, method and seed give the same explanation; no patient's depends on
    another. A forecast is explained from each patient's newest visit.

    Args:
        model: trained, or a private copy of one.
        cohort: patients, read for the model's schema.
        method: see `attribution.attribute`.
        question: which drug, or which marker and horizon; `None` takes the first and the longest.
        grain: how finely blocks and courses are divided; `None` takes genes, and whole markers.
        samples: of a method that samples.
        seed: of the samples.

    Raises:
        DataError: the cohort was read for another schema.
        MisuseError: the question or method does not fit, or a patient has no visit.
    """
    outcome = outcome_of(model.schema, question or Question())
    batch = encode(cohort, model.schema).to(torch.float64)
    exact = in_double(model)
    grain = grain or ("parts" if model.schema.visits is None else "whole")
    found = []
    for i, patient in enumerate(cohort.patients):
        game = Game(exact, batch.select(torch.tensor([i])), outcome, grain)
        effects, used = attribute(game, method, samples=samples, seed=seed)
        every = np.zeros(len(game.parts))
        every[list(game.active)] = effects.numpy()
        ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, len(game.active))
        with torch.no_grad():
            baseline, prediction = game.worth(ends).tolist()
        reasons = tuple(
            Reason(
                part.kind,
                part.name,
                part.block,
                part.visit,
                None if part.visit is None else float(cohort.visits[i, part.visit, TIME]),
                value_in_words(cohort, i, part),
                float(effect),
            )
            for part, effect in zip(game.parts, every, strict=True)
        )
        found.append(Explanation(patient, model.name, used, outcome, baseline, prediction, reasons))
    return tuple(found)


def effects_by_key(explanations: Sequence[Explanation]) -> dict[str, Floats]:
    """Line up effects of several patients, `(n,)` by `Reason.key`; 0 where a patient lacks one.

    Raises:
        MisuseError: the explanations are of different outcomes.
    """
    if len({explanation.outcome for explanation in explanations}) > 1:
        raise MisuseError("explanations of different outcomes do not belong together.")
    found: dict[str, Floats] = {}
    for i, explanation in enumerate(explanations):
        for reason in explanation.reasons:
            found.setdefault(reason.key, np.zeros(len(explanations)))[i] = reason.effect
    return found


def summed_up(explanations: Sequence[Explanation]) -> CohortExplanation:
    """Average explanations over patients, at their site.

    Raises:
        MisuseError: there are none, or they are of different outcomes.
    """
    if not explanations:
        raise MisuseError("there is no explanation to sum up.")
    reasons = [
        CohortReason(key, float(np.abs(effects).mean()), float(effects.mean()))
        for key, effects in effects_by_key(explanations).items()
    ]
    reasons.sort(key=lambda reason: -reason.mean_absolute)
    return CohortExplanation(len(explanations), explanations[0].outcome, tuple(reasons))


def value_in_words(cohort: Cohort, patient: int, part: InputPart) -> str:
    """Write what a patient has of one part, with its unit: "*3/*3", "52 kg", "yes"."""
    schema = cohort.schema
    if part.kind == "feature":
        return _feature_value(cohort, patient, part.name)
    if part.kind == "gene":
        block = next(one for one in schema.blocks if one.name == part.block)
        value = cohort.blocks[block.name][patient, block.genes.index(part.name)]
        return with_unit(float(value), block.unit)
    if part.kind == "missing_block":
        return UNKNOWN if np.isnan(cohort.blocks[part.name][patient]).all() else "measured"
    if part.kind in ("marker", "treatment"):
        return _course_value(cohort, patient, part)
    return ""


def with_unit(value: float, unit: str) -> str:
    """Write a number to three digits with its unit; NaN is "not known"."""
    if np.isnan(value):
        return UNKNOWN
    plural = (
        "s" if unit in ("decade", "year", "month", "week", "day", "hour") and value != 1 else ""
    )
    return f"{value:.3g} {unit}{plural}".strip()


def _feature_value(cohort: Cohort, patient: int, name: str) -> str:
    feature = next(one for one in cohort.schema.features if one.name == name)
    value = cohort.values[name][patient]
    if isinstance(feature, NumberFeature):
        return with_unit(float(value), feature.unit)
    if int(value) < 0:
        return UNKNOWN
    if isinstance(feature, CategoryFeature):
        return feature.values[int(value)]
    return "yes" if value else "no"


def _course_value(cohort: Cohort, patient: int, part: InputPart) -> str:
    """The value at a visit, or the newest one of the course."""
    column, unit = _course_column(cohort.schema, part)
    values = cohort.visits[patient, :, column]
    if part.visit is None:
        valid = values[~np.isnan(cohort.visits[patient, :, TIME])]
        if part.kind == "marker":
            valid = valid[~np.isnan(valid)]
        value = float(valid[-1]) if len(valid) else np.nan
    else:
        value = float(values[part.visit])
    if part.kind == "treatment" and unit is None:
        return "yes" if value > 0 else "no"
    return with_unit(value, unit or "")


def _course_column(schema: FeatureSchema, part: InputPart) -> tuple[int, str | None]:
    """Column of a cohort's visits, and unit; no unit for a treatment that is a flag."""
    if part.kind == "marker":
        names = [marker.name for marker in schema.markers]
        place = names.index(part.name)
        return FIRST_VALUE + place, schema.markers[place].unit
    names = [treatment.name for treatment in schema.treatments]
    place = names.index(part.name)
    treatment = schema.treatments[place]
    unit = treatment.unit if treatment.kind == "amount" else None
    return FIRST_VALUE + len(schema.markers) + place, unit
