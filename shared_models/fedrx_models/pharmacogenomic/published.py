"""The warfarin dosing equations of the IWPC, as fixed rules to compare with.

Source: International Warfarin Pharmacogenetics Consortium, N Engl J Med 2009;360:753-64,
supplementary appendix, sections S1e (pharmacogenetic) and S1f (clinical). Both give the square
root of the weekly dose in mg. Not for treatment.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import DataError
from fedrx_models.cohort.cohort import Cohort
from fedrx_protocol.study.schema import (
    CategoryFeature,
    ContinuousTarget,
    FeatureSchema,
    FlagFeature,
    NumberFeature,
)

Doses = NDArray[np.float64]

FIXED_DOSE_MG_PER_WEEK = 35.0

PUBLISHED_ON = "as published, on 1,009 patients of that study"
PHARMACOGENETIC_ACCURACY: Mapping[str, float] = MappingProxyType({"mae": 8.8, "r2": 0.33})
FIXED_ACCURACY: Mapping[str, float] = MappingProxyType({"mae": 13.2, "r2": -0.04})
"""In mg/week, on the validation cohort: appendix, table S11."""

_NUMBERS = {"age_decade": "decade", "height_cm": "cm", "weight_kg": "kg"}
_CATEGORIES = ("vkorc1", "cyp2c9", "race")
_FLAGS = ("enzyme_inducer", "amiodarone")

# Square-root mg/week per level. A level that is not named adds nothing; `None` is a missing value.
_PHARMACOGENETIC_LEVELS: Mapping[str, Mapping[str | None, float]] = MappingProxyType(
    {
        "vkorc1": {"A/G": -0.8677, "A/A": -1.6974, None: -0.4854},
        "cyp2c9": {
            "*1/*2": -0.5211,
            "*1/*3": -0.9357,
            "*2/*2": -1.0616,
            "*2/*3": -1.9206,
            "*3/*3": -2.3312,
            None: -0.2188,
        },
        "race": {
            "Asian": -0.1092,
            "Black or African American": -0.2760,
            "Unknown": -0.1032,
            None: -0.1032,
        },
    }
)
_CLINICAL_LEVELS: Mapping[str, Mapping[str | None, float]] = MappingProxyType(
    {
        "race": {
            "Asian": -0.6752,
            "Black or African American": 0.4060,
            "Unknown": 0.0443,
            None: 0.0443,
        },
    }
)


def is_applicable(schema: FeatureSchema) -> bool:
    """Check that a schema's outcome is a dose in mg/week and it has the equations' features.

    Features must have the equations' units and levels.
    """
    features = {feature.name: feature for feature in schema.features}
    if not isinstance(schema.target, ContinuousTarget) or not schema.target.is_weekly_dose:
        return False
    for name, unit in _NUMBERS.items():
        number = features.get(name)
        if not isinstance(number, NumberFeature) or number.unit != unit:
            return False
    for name in _CATEGORIES:
        category = features.get(name)
        needed = {level for level in _PHARMACOGENETIC_LEVELS[name] if level is not None}
        if not isinstance(category, CategoryFeature) or not needed <= set(category.values):
            return False
    return all(isinstance(features.get(name), FlagFeature) for name in _FLAGS)


def pharmacogenetic_dose(cohort: Cohort) -> Doses:
    """Compute the IWPC pharmacogenetic equation, mg/week, `(n,)`.

    An unknown genotype or race has a coefficient of its own in the equation. An unknown age,
    height or weight has none: the schema's public reference mean replaces it. The published
    accuracy was measured on complete values; `is_complete` finds the patients who have them.

    Raises:
        DataError: if the cohort's schema lacks a feature of the equation, or has another outcome.
    """
    _check(cohort)
    root = (
        5.6044
        - 0.2614 * _number(cohort, "age_decade")
        + 0.0087 * _number(cohort, "height_cm")
        + 0.0128 * _number(cohort, "weight_kg")
        + _levels(cohort, _PHARMACOGENETIC_LEVELS)
        + 1.1816 * _flag(cohort, "enzyme_inducer")
        - 0.5503 * _flag(cohort, "amiodarone")
    )
    return _squared(root)


def clinical_dose(cohort: Cohort) -> Doses:
    """Compute the IWPC clinical equation (no genotypes), mg/week, `(n,)`; missing values as above.

    Raises:
        DataError: if the cohort's schema lacks a feature of the equation, or has another outcome.
    """
    _check(cohort)
    root = (
        4.0376
        - 0.2546 * _number(cohort, "age_decade")
        + 0.0118 * _number(cohort, "height_cm")
        + 0.0134 * _number(cohort, "weight_kg")
        + _levels(cohort, _CLINICAL_LEVELS)
        + 1.2799 * _flag(cohort, "enzyme_inducer")
        - 0.5695 * _flag(cohort, "amiodarone")
    )
    return _squared(root)


def fixed_dose(cohort: Cohort) -> Doses:
    """Return 35 mg/week for every patient, `(n,)`."""
    return np.full(len(cohort), FIXED_DOSE_MG_PER_WEEK)


EQUATIONS: Mapping[str, Callable[[Cohort], Doses]] = MappingProxyType(
    {
        "pharmacogenetic": pharmacogenetic_dose,
        "clinical": clinical_dose,
        "fixed": fixed_dose,
    }
)


def is_complete(cohort: Cohort) -> NDArray[np.bool_]:
    """Find the patients whose age, height and weight are all known, `(n,)`.

    Raises:
        DataError: as the equations do.
    """
    _check(cohort)
    known = [~np.isnan(cohort.values[name]) for name in _NUMBERS]
    complete: NDArray[np.bool_] = np.logical_and.reduce(known)
    return complete


def _check(cohort: Cohort) -> None:
    if not is_applicable(cohort.schema):
        needed = ", ".join((*_NUMBERS, *_CATEGORIES, *_FLAGS))
        raise DataError(
            f"site '{cohort.site}': the published equations need a dose in mg/week, and the "
            f"features {needed} with the units and levels of the warfarin study."
        )


def _number(cohort: Cohort, name: str) -> Doses:
    """Read a number, with its public reference mean where it is missing."""
    feature = next(f for f in cohort.schema.features if f.name == name)
    column: Doses = cohort.values[name]
    mean = feature.mean if isinstance(feature, NumberFeature) else np.nan
    return np.where(np.isnan(column), mean, column)


def _flag(cohort: Cohort, name: str) -> NDArray[np.bool_]:
    """Find the patients whose flag is known to be yes."""
    yes: NDArray[np.bool_] = cohort.values[name] == 1
    return yes


def _levels(cohort: Cohort, coefficients: Mapping[str, Mapping[str | None, float]]) -> Doses:
    """Sum the coefficients of each patient's levels."""
    total = np.zeros(len(cohort))
    for name, by_level in coefficients.items():
        feature = next(f for f in cohort.schema.features if f.name == name)
        values: tuple[Any, ...] = feature.values if isinstance(feature, CategoryFeature) else ()
        # Code -1 (missing) reads the last entry.
        table = np.array([by_level.get(level, 0.0) for level in (*values, None)])
        total += table[cohort.values[name]]
    return total


def _squared(root: Doses) -> Doses:
    """Compute a dose from its square root; a negative root, far outside the data, means no dose."""
    return np.square(np.maximum(root, 0.0))
