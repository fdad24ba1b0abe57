"""From a cohort to the columns a model sees; both sides derive the same columns from the schema.

Numbers are centred and scaled by the schema's public reference, never by the patients at hand,
so that normalising costs no privacy.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fedrx_models.cohort import MISSING_CATEGORY, Cohort
from fedrx_models.contract import DoseBatch
from fedrx_protocol.errors import DataError
from fedrx_protocol.schema import CategoryFeature, Feature, FeatureSchema, NumberFeature, Target

_FORWARD: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "identity": lambda y: y,
    "sqrt": np.sqrt,
    "log": np.log,
}
_INVERSE: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "identity": lambda z: z,
    "sqrt": lambda z: np.square(np.maximum(z, 0.0)),
    "log": np.exp,
}


def encode(cohort: Cohort, schema: FeatureSchema) -> DoseBatch:
    """All patients of a cohort as one batch, columns as in `column_names`.

    Args:
        cohort: patients, already checked against their own schema.
        schema: what the model was built for.

    Raises:
        DataError: if the cohort was read for another schema.
    """
    if cohort.schema != schema:
        raise DataError(
            f"site '{cohort.site}' was read for other features than this study's: "
            "read it again with the study's schema."
        )
    blocks = [_columns(feature, cohort) for feature in schema.features]
    x = np.concatenate(blocks, axis=1).astype(np.float32)
    y = normalise_target(schema.target, cohort.target).astype(np.float32)
    return DoseBatch(x=torch.from_numpy(x), y=torch.from_numpy(y))


def column_names(schema: FeatureSchema) -> tuple[str, ...]:
    """Names of the columns of `DoseBatch.x`, in order."""
    return tuple(name for feature in schema.features for name in _names(feature))


def columns_by_feature(schema: FeatureSchema) -> dict[str, tuple[int, ...]]:
    """Which columns of `DoseBatch.x` stand for each feature, for explanations."""
    found: dict[str, tuple[int, ...]] = {}
    start = 0
    for feature in schema.features:
        width = len(_names(feature))
        found[feature.name] = tuple(range(start, start + width))
        start += width
    return found


def normalise_target(target: Target, values: ArrayLike) -> NDArray[np.float64]:
    """(transform(value) - mean) / scale, elementwise; `values` in the target's unit."""
    transformed = _FORWARD[target.transform](np.asarray(values, dtype=np.float64))
    return (transformed - target.mean) / target.scale


def restore_target(target: Target, normalised: ArrayLike) -> NDArray[np.float64]:
    """Inverse of `normalise_target`, kept inside the target's range; in the target's unit."""
    transformed = np.asarray(normalised, dtype=np.float64) * target.scale + target.mean
    with np.errstate(over="ignore"):  # an overflow is infinite, and then clipped
        restored = _INVERSE[target.transform](transformed)
    return np.clip(restored, target.minimum, target.maximum)


def reference_target(target: Target) -> float:
    """The target's public reference value, in its unit: what predicting 'zero' means."""
    return float(restore_target(target, 0.0))


def _names(feature: Feature) -> tuple[str, ...]:
    if isinstance(feature, NumberFeature):
        return (feature.name, f"{feature.name}=missing")
    if isinstance(feature, CategoryFeature):
        levels = (*feature.values[1:], "missing")
        return tuple(f"{feature.name}={level}" for level in levels)
    return (feature.name,)


def _columns(feature: Feature, cohort: Cohort) -> NDArray[np.float64]:
    """The feature's block `(n, width)`; a missing number is 0, its own column says so."""
    column: NDArray[Any] = cohort.values[feature.name]
    if isinstance(feature, NumberFeature):
        missing = np.isnan(column)
        scaled = np.where(missing, 0.0, (column - feature.mean) / feature.scale)
        return np.stack([scaled, missing.astype(np.float64)], axis=1)
    if isinstance(feature, CategoryFeature):
        levels = np.array([*range(1, len(feature.values)), MISSING_CATEGORY])
        column = column[:, None] == levels[None, :]
    return column.reshape(len(cohort), len(_names(feature))).astype(np.float64)
