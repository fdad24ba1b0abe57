"""From a cohort to the columns a model sees; both sides derive the same columns from the schema.

Numbers are centred and scaled by the schema's public reference, never by the patients at hand,
so that normalising costs no privacy.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fedrx_common.errors import DataError
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.cohort import MISSING_CATEGORY, Cohort
from fedrx_models.cohort.visits import Courses, VisitColumns, encode_changes
from fedrx_protocol.study.schema import (
    CategoryFeature,
    ContinuousTarget,
    Feature,
    FeatureSchema,
    FlagFeature,
    ForecastTarget,
    NumberFeature,
    PanelTarget,
    SurvivalTarget,
    Target,
)

APART = 0.2
"""Share of the patients of a forecast who are set apart; see `set_apart`."""

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


def encode(cohort: Cohort, schema: FeatureSchema) -> PatientBatch:
    """All patients of a cohort as one batch, columns as in `column_names` and `block_columns`.

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
    patients = len(cohort)
    columns = [_columns(feature, cohort) for feature in schema.features]
    blocks, there = [], []
    for block in schema.blocks:
        values = cohort.blocks[block.name]
        scaled = (values - np.asarray(block.mean)) / np.asarray(block.scale)
        blocks.append(np.where(np.isnan(scaled), 0.0, scaled))
        there.append((~np.isnan(values)).sum(axis=1) > 0)
    if isinstance(schema.target, ForecastTarget):
        y, observed = encode_changes(schema, cohort.target)
        visits = Courses(schema, cohort.visits).tensor()
        apart = np.array([set_apart(patient) for patient in cohort.patients], dtype=np.float32)
    else:
        y, observed = encode_outcome(schema.target, cohort.target)
        visits = torch.zeros(patients, 0, 0)
        apart = np.zeros(patients, dtype=np.float32)
    return PatientBatch(
        x=_tensor(patients, columns),
        y=torch.from_numpy(y.astype(np.float32)),
        y_observed=torch.from_numpy(observed.astype(np.float32)),
        omics=_tensor(patients, blocks),
        omics_observed=_tensor(patients, [one[:, None] for one in there]),
        visits=visits,
        apart=torch.from_numpy(apart[:, None]),
    )


def set_apart(patient: str) -> bool:
    """Whether a patient of a forecast is one of those on whom its band is stretched.

    It follows from the id alone, so that no other patient and no outcome has a say in it.
    """
    digest = hashlib.sha256(b"fedrx/1 band\x00" + patient.encode()).digest()
    return int.from_bytes(digest[:8], "big") < APART * 2**64


def _tensor(patients: int, parts: list[NDArray[Any]]) -> torch.Tensor:
    """Parts `(patients, ·)` side by side, float32; `(patients, 0)` for none."""
    joined = np.concatenate([np.zeros((patients, 0)), *parts], axis=1)
    return torch.from_numpy(joined.astype(np.float32))


def block_columns(schema: FeatureSchema) -> dict[str, slice]:
    """Which columns of `PatientBatch.omics` are each block's; a block's flag has its position."""
    found: dict[str, slice] = {}
    start = 0
    for block in schema.blocks:
        found[block.name] = slice(start, start + len(block.genes))
        start += len(block.genes)
    return found


def flat_inputs(batch: PatientBatch) -> torch.Tensor:
    """Everything a model without structure sees, `(B, flat_width)`: columns, genes, missing."""
    return torch.cat([batch.x, batch.omics, 1.0 - batch.omics_observed], dim=1)


def without_blocks(batch: PatientBatch, schema: FeatureSchema, kept: torch.Tensor) -> PatientBatch:
    """The same patients, who lack a block where `kept`, bool `(B, blocks)`, is false."""
    observed = batch.omics_observed * kept
    omics = batch.omics.clone()
    for i, place in enumerate(block_columns(schema).values()):
        omics[:, place] *= observed[:, i : i + 1]
    return replace(batch, omics=omics, omics_observed=observed)


def flat_width(schema: FeatureSchema) -> int:
    """Number of columns of `flat_inputs`."""
    genes = sum(len(block.genes) for block in schema.blocks)
    return len(column_names(schema)) + genes + len(schema.blocks)


def output_count(schema: FeatureSchema) -> int:
    """How many numbers a model gives: for a patient, or at each visit of a forecast."""
    if isinstance(schema.target, ForecastTarget):
        return VisitColumns.of(schema).outputs
    return outcome_count(schema.target)


def outcome_count(target: Target) -> int:
    """K: how many numbers a model gives for a patient; a forecast has `output_count`."""
    if isinstance(target, PanelTarget):
        return len(target.drugs)
    return len(target.edges) if isinstance(target, SurvivalTarget) else 1


def encode_outcome(
    target: Target, values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Outcomes as a `Cohort` holds them, as `(y, observed)`, both `(n, K)`; see `PatientBatch`."""
    if isinstance(target, SurvivalTarget):
        return _bins(target, values)
    if isinstance(target, PanelTarget):
        observed = ~np.isnan(values)
        return np.where(observed, normalise_panel(target, values), 0.0), observed
    if isinstance(target, ContinuousTarget):
        values = normalise_target(target, values)
    return values[:, None], np.ones((len(values), 1), dtype=np.bool_)


def _bins(
    target: SurvivalTarget, values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Event and being at risk in each bin, `(n, bins)`.

    A patient is at risk in a bin if it begins before the event, and, without an event, if the
    patient was seen until its end. An event after the last edge counts as none.
    """
    time, event = values[:, :1], values[:, 1:] == 1
    ends = np.array(target.edges)[None, :]
    begins = np.array([0.0, *target.edges[:-1]])[None, :]
    # The first bin holds an event at time 0 too.
    here = event & (time <= ends) & ((time > begins) | (begins == 0))
    at_risk = here | (time >= ends)
    return here.astype(np.float64), at_risk


def column_names(schema: FeatureSchema) -> tuple[str, ...]:
    """Names of the columns of `PatientBatch.x`, in order."""
    return tuple(name for feature in schema.features for name in _names(feature))


def columns_by_feature(schema: FeatureSchema) -> dict[str, tuple[int, ...]]:
    """The columns of `PatientBatch.x` of each feature, for explanations."""
    found: dict[str, tuple[int, ...]] = {}
    start = 0
    for feature in schema.features:
        width = len(_names(feature))
        found[feature.name] = tuple(range(start, start + width))
        start += width
    return found


def normalise_target(target: ContinuousTarget, values: ArrayLike) -> NDArray[np.float64]:
    """(transform(value) - mean) / scale, elementwise; `values` in the target's unit."""
    transformed = _FORWARD[target.transform](np.asarray(values, dtype=np.float64))
    return (transformed - target.mean) / target.scale


def restore_target(target: ContinuousTarget, normalised: ArrayLike) -> NDArray[np.float64]:
    """Inverse of `normalise_target`, kept inside the target's range; in the target's unit."""
    transformed = np.asarray(normalised, dtype=np.float64) * target.scale + target.mean
    with np.errstate(over="ignore"):  # an overflow is infinite, and then clipped
        restored = _INVERSE[target.transform](transformed)
    return np.clip(restored, target.minimum, target.maximum)


def reference_target(target: ContinuousTarget) -> float:
    """The target's public reference value, in its unit: what predicting 'zero' means."""
    return float(restore_target(target, 0.0))


def normalise_panel(target: PanelTarget, values: ArrayLike) -> NDArray[np.float64]:
    """(value - mean) / scale drug by drug, `(n, drugs)`; NaN stays NaN."""
    means, scales = _panel_reference(target)
    return (np.asarray(values, dtype=np.float64) - means) / scales


def restore_panel(target: PanelTarget, normalised: ArrayLike) -> NDArray[np.float64]:
    """Inverse of `normalise_panel`, kept inside the panel's range; in the panel's unit."""
    means, scales = _panel_reference(target)
    restored = np.asarray(normalised, dtype=np.float64) * scales + means
    return np.clip(restored, target.minimum, target.maximum)


def _panel_reference(target: PanelTarget) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    means = np.array([drug.mean for drug in target.drugs])
    return means, np.array([drug.scale for drug in target.drugs])


def _names(feature: Feature) -> tuple[str, ...]:
    if isinstance(feature, NumberFeature):
        return (feature.name, f"{feature.name}=missing")
    if isinstance(feature, CategoryFeature):
        levels = (*feature.values[1:], "missing")
        return tuple(f"{feature.name}={level}" for level in levels)
    return (feature.name, f"{feature.name}=missing") if feature.optional else (feature.name,)


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
    elif isinstance(feature, FlagFeature) and feature.optional:
        column = column[:, None] == np.array([1, MISSING_CATEGORY])[None, :]
    return column.reshape(len(cohort), len(_names(feature))).astype(np.float64)
