"""Why a model says so, of one patient, in sentences."""

from collections.abc import Sequence
from functools import lru_cache

from fedrx_models.cohort.cohort import Cohort
from fedrx_models.contract import PatientModel
from fedrx_models.explain.explanation import Explanation, explain
from fedrx_models.explain.game import in_double
from fedrx_models.explain.words import main_reasons
from fedrx_models.files import ModelFile


@lru_cache(maxsize=32)
def _exact(model: PatientModel) -> PatientModel:
    """Copy a finished model once, in the precision in which reasons add up."""
    return in_double(model)


def why(model: ModelFile, patient: Cohort) -> Explanation:
    """Explain the prediction for a cohort of one."""
    (found,) = explain(_exact(model.model), patient)
    return found


def reasons(model: ModelFile, patient: Cohort) -> Sequence[str]:
    """List the three main reasons of a prediction, the weightiest first.

    Args:
        model: what predicts.
        patient: a cohort of one.
    """
    found = main_reasons(why(model, patient), model.model.schema)
    return [f"{sentence}." for sentence in found]
