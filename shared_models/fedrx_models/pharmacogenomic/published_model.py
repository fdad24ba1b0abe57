"""A published equation as a model file, so that a hospital predicts with it as with any other."""

import numpy as np
import torch

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.cohort import MISSING_CATEGORY, Cohort, placeholder_outcomes
from fedrx_models.cohort.encoding import columns_by_feature, normalise_target
from fedrx_models.contract import PatientModel
from fedrx_models.pharmacogenomic.linear import LinearConfig, build_linear
from fedrx_models.pharmacogenomic.published import EQUATIONS, is_applicable
from fedrx_protocol.study.schema import (
    CategoryFeature,
    ContinuousTarget,
    FeatureSchema,
    FlagFeature,
    NumberFeature,
)

SOURCE = "International Warfarin Pharmacogenetics Consortium, N Engl J Med 2009;360:753-64"


def published_model(equation: str, schema: FeatureSchema) -> PatientModel:
    """Write an equation as a `linear` model of a study: its weights reproduce each dose.

    The equations are affine in the columns that a model sees, so one question for each column
    finds its weight. The interval is the study's public reference, as no published one exists.

    Args:
        equation: `pharmacogenetic`, `clinical` or `fixed`.
        schema: a study with the equation's features, and a dose by its square root.

    Raises:
        MisuseError: no such equation, or it does not fit the study.
    """
    target = schema.target
    if equation not in EQUATIONS:
        raise MisuseError(f"equation '{equation}' is not known; there are: {', '.join(EQUATIONS)}.")
    if (
        not is_applicable(schema)
        or not isinstance(target, ContinuousTarget)
        or target.transform != "sqrt"
        or schema.blocks
    ):
        raise MisuseError(
            "the published equations need a study of a dose in mg/week by its square root, with "
            "the features of the warfarin study and no blocks; give that study."
        )
    asked, places = _questions(schema)
    answers = normalise_target(target, EQUATIONS[equation](asked))
    model = build_linear(LinearConfig(), schema, torch.Generator())
    weights = {name: p for name, p in model.named_parameters() if name.startswith("network")}
    slope, offset = sorted(weights.values(), key=lambda p: -p.ndim)
    with torch.no_grad():
        offset.fill_(float(answers[0]))
        for column, answer in zip(places, answers[1:], strict=True):
            slope[0, column] = float(answer - answers[0])
    return model


def _questions(schema: FeatureSchema) -> tuple[Cohort, list[int]]:
    """Make a reference patient, and one more for each column that a patient can change.

    Returns:
        The patients, the reference first, and the column in which each other one differs.
    """
    columns = columns_by_feature(schema)
    changes: list[tuple[int, str, float]] = []
    for one in schema.features:
        first = columns[one.name][0]
        if isinstance(one, NumberFeature):
            # A missing number is the mean, to the equations as to the model: its weight stays 0.
            changes.append((first, one.name, one.mean + one.scale))
        elif isinstance(one, CategoryFeature):
            codes = [*range(1, len(one.values)), MISSING_CATEGORY]
            changes += [(first + i, one.name, code) for i, code in enumerate(codes)]
        else:
            changes.append((first, one.name, 1))
    patients = 1 + len(changes)
    values = {}
    for one in schema.features:
        start = one.mean if isinstance(one, NumberFeature) else 0
        column = np.full(patients, start, dtype=np.float64)
        for row, (_, name, value) in enumerate(changes, 1):
            if name == one.name:
                column[row] = value
        kind = np.bool_ if isinstance(one, FlagFeature) and not one.optional else np.int16
        values[one.name] = column if isinstance(one, NumberFeature) else column.astype(kind)
    asked = Cohort(
        site="questions",
        schema=schema,
        patients=tuple(f"{row}" for row in range(patients)),
        values=values,
        target=placeholder_outcomes(schema.target, patients),
    )
    return asked, [column for column, _, _ in changes]
