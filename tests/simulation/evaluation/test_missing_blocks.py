"""The curve of a model as blocks are dropped: in a simulation's report, and honest at both ends."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omics_cohorts import TARGETS, omics_cohort, omics_schema

from fedrx_models.cohort.encoding import encode, without_blocks
from fedrx_models.contract import get_vector
from fedrx_models.fitting import fit, predict
from fedrx_models.metrics.registry import exact_metrics
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection
from fedrx_simulation.evaluation import evaluate
from fedrx_simulation.evaluation.missing_blocks import SHARES, block_curve

SMALL = ModelSection(name="multiomics_vae", latent=4, hidden=8, head_hidden=8)


@pytest.fixture(scope="module")
def schema():
    return omics_schema("continuous")


@pytest.fixture(scope="module")
def model(schema):
    return fit(build_model(SMALL, schema, seed=0), omics_cohort(schema, 400, seed=1), seed=0)


def test_errors_grow_from_the_models_own_to_those_without_any_block(model, schema):
    held_out = omics_cohort(schema, 300, seed=2)
    curve = block_curve(model, held_out, seed=0, shares=(*SHARES, 1.0))
    own = exact_metrics(schema.target, predict(model, held_out), held_out.target).mae
    assert curve.value[0] == pytest.approx(own)
    assert curve.value == sorted(curve.value)
    assert curve.value[-1] > 1.5 * own
    # Graceful: nobody who lacks a part is worse off than one who lacks everything.
    assert max(curve.value[:-1]) < curve.value[-1]
    ends = zip(curve.low, curve.value, curve.high, strict=True)
    assert all(low < value < high for low, value, high in ends)


def test_the_same_seed_draws_the_same_curve(model, schema):
    held_out = omics_cohort(schema, 60, seed=2)
    first, again, other = (block_curve(model, held_out, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("kind", TARGETS)
def test_every_outcome_has_one(kind):
    schema = omics_schema(kind)
    curve = block_curve(build_model(SMALL, schema, seed=0), omics_cohort(schema, 80), seed=0)
    assert np.isfinite([*curve.value, *curve.low, *curve.high]).all()


def test_there_is_none_where_it_cannot_be_drawn():
    schema = omics_schema("binary")
    few = omics_cohort(schema, 80, seed=3)
    one_responder = few.select(np.r_[np.flatnonzero(few.target == 0), few.target.argmax()])
    assert block_curve(build_model(SMALL, schema, seed=0), one_responder, seed=0) is None


def not_one_pair():
    """Survivals of which none can be told to be longer: an event in the last bin, and leavers."""
    schema = omics_schema("survival")
    few = omics_cohort(schema, 6)
    early = np.array([[20.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    return dataclasses.replace(few, target=early)


def test_there_is_none_where_no_two_patients_can_be_compared():
    held_out = not_one_pair()
    assert block_curve(build_model(SMALL, held_out.schema, seed=0), held_out, seed=0) is None


def test_a_learning_curve_has_no_point_where_no_two_patients_can_be_compared():
    held_out = not_one_pair()
    model = build_model(SMALL, held_out.schema, seed=0)
    kept = SimpleNamespace(weights=get_vector(model))
    study = SimpleNamespace(target=held_out.schema.target, final_round=3)
    run = SimpleNamespace(study=study, kept_rounds=(1, 2), rounds=(), checkpoint=lambda _: kept)
    assert evaluate._curve(run, model, held_out).exact_rounds == []


def test_a_dropped_block_is_like_one_that_was_never_there(schema):
    cohort = omics_cohort(schema, 30)
    nothing = {name: np.full_like(block, np.nan) for name, block in cohort.blocks.items()}
    bare = type(cohort)(cohort.site, schema, cohort.patients, cohort.values, cohort.target, nothing)
    dropped = without_blocks(encode(cohort, schema), schema, torch.zeros(30, 2, dtype=torch.bool))
    assert torch.equal(dropped.omics, encode(bare, schema).omics)
    assert torch.equal(dropped.omics_observed, encode(bare, schema).omics_observed)
