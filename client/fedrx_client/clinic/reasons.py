"""Why a model says so, of one patient, in sentences."""

from collections.abc import Sequence

from fedrx_models.cohort.cohort import Cohort
from fedrx_models.explain.explanation import explain
from fedrx_models.explain.words import main_reasons
from fedrx_models.files import ModelFile


def reasons(model: ModelFile, patient: Cohort) -> Sequence[str]:
    """List the three main reasons of a prediction, the weightiest first.

    Args:
        model: what predicts.
        patient: a cohort of one.
    """
    (found,) = explain(model.model, patient)
    return [f"{sentence}." for sentence in main_reasons(found, model.model.schema)]
