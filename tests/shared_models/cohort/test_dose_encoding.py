"""Columns come from the schema alone, and the target's transform can be undone."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedrx_common.errors import DataError
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import (
    column_names,
    columns_by_feature,
    encode,
    normalise_target,
    reference_target,
    restore_target,
)
from fedrx_protocol.study.schema import ContinuousTarget, FeatureSchema


def _target(transform, minimum=1.0):
    return ContinuousTarget(
        name="dose",
        unit="mg/week",
        minimum=minimum,
        maximum=400,
        transform=transform,
        mean=3.0,
        scale=0.7,
    )


def test_columns_are_named_in_the_schemas_order(schema):
    assert column_names(schema) == (
        "weight_kg",
        "weight_kg=missing",
        "vkorc1=A/G",
        "vkorc1=A/A",
        "vkorc1=missing",
        "smoker",
    )


def test_each_feature_knows_its_columns(schema):
    by_feature = columns_by_feature(schema)
    assert by_feature == {"weight_kg": (0, 1), "vkorc1": (2, 3, 4), "smoker": (5,)}


def test_patients_are_encoded_by_the_public_reference(make_cohort, schema):
    cohort = dataclasses.replace(
        make_cohort(3),
        values={
            "weight_kg": np.array([100.0, np.nan, 80.0]),
            "vkorc1": np.array([0, 2, -1], np.int16),
            "smoker": np.array([True, False, False]),
        },
        target=np.array([5.4**2, 6.8**2, 4.0**2]),
    )
    batch = encode(cohort, schema)
    expected = [[1, 0, 0, 0, 0, 1], [0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]]
    assert torch.equal(batch.x, torch.tensor(expected, dtype=torch.float32))
    assert torch.allclose(batch.y[:, 0], torch.tensor([0.0, 1.0, -1.0]), atol=1e-6)


def test_nobody_can_be_encoded(make_cohort, schema):
    batch = encode(make_cohort(3).select(np.zeros(3, bool)), schema)
    assert batch.x.shape == (0, 6)
    assert len(batch) == 0


def test_a_cohort_of_another_study_is_refused(make_cohort, schema):
    document = schema.model_dump()
    document["features"][0]["mean"] = 81
    with pytest.raises(DataError, match="read for other features"):
        encode(make_cohort(3), FeatureSchema.model_validate(document))


def test_a_batch_selects_and_moves(make_cohort, schema):
    batch = encode(make_cohort(5), schema)
    picked = batch.select(torch.tensor([4, 0])).to("cpu")
    assert torch.equal(picked.x[1], batch.x[0])
    assert len(batch.select(batch.y[:, 0] > 100)) == 0


@pytest.mark.parametrize(("x", "y"), [((3,), (3,)), ((3, 2), (4,)), ((3, 2), (3, 1, 1))])
def test_a_batch_of_odd_shapes_is_refused(x, y):
    with pytest.raises(DataError, match="shape"):
        PatientBatch.tabular(torch.zeros(x), torch.zeros(y))


@given(
    dose=st.floats(min_value=1, max_value=400),
    transform=st.sampled_from(["identity", "sqrt", "log"]),
)
def test_restoring_undoes_normalising(dose, transform):
    target = _target(transform)
    assert restore_target(target, normalise_target(target, dose)) == pytest.approx(dose)


@given(
    normalised=st.floats(allow_nan=False), transform=st.sampled_from(["identity", "sqrt", "log"])
)
def test_restored_targets_stay_in_range(normalised, transform):
    assert 1 <= restore_target(_target(transform), normalised) <= 400


def test_the_reference_is_the_restored_mean():
    assert reference_target(_target("sqrt")) == pytest.approx(9.0)
    assert reference_target(_target("log")) == pytest.approx(np.exp(3.0))
