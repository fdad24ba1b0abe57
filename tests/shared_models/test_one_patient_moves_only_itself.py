"""One patient moves a sum by the clipping norm at most, whatever weights a coordinator sends.

Every sum is taken with a model of its own, as two sites that differ by a patient would. Weights are
as bad as can be: at a scale of 60 a model is chaotic, and a last digit decides a whole gradient.
"""

from functools import cache

import numpy as np
import pytest
import torch
from flux_cohorts import flux_cohort, flux_schema
from omics_cohorts import TARGETS, omics_cohort, omics_schema

from fedrx_client.training import bookkeeping
from fedrx_client.training.clipping import clipped_gradient_sum
from fedrx_client.training.microbatches import ROWS_STEP, fixed_passes, precision, predictions
from fedrx_models.cohort.encoding import encode
from fedrx_models.cohort.made_up import made_up
from fedrx_models.contract import get_vector, set_vector
from fedrx_models.registry import build_model, models_of
from fedrx_protocol.study.study import ModelSection

NORM = 0.5
SMALL = {
    "mlp": {"hidden": [6]},
    "genomic_cnn": {"channels": 4, "hidden": 6},
    "genomic_transformer": {"size": 8, "heads": 2, "feed_forward": 8, "hidden": 16},
    "drug_gene_gnn": {"size": 4, "hidden": 6},
    "multiomics_vae": {"latent": 3, "hidden": 8, "head_hidden": 6},
    "tcn": {"channels": 6, "layers": 2},
    "lstm": {"size": 6},
}
PAIRS = [
    (1, (0.3, 1e12)), (2, (60.0,)), (3, (200.0,)), (8, (0.3, 60.0, 1e4)),
    (300, (60.0,)), (1000, (200.0,)),
]  # fmt: skip
CASES = [
    *((name, kind) for name in models_of("pharmacogenomic") for kind in TARGETS),
    *((name, "forecast") for name in models_of("flux")),
]


def model_of(name, kind, scale):
    """A model that nobody used before, its weights drawn at some scale."""
    schema = flux_schema() if kind == "forecast" else omics_schema(kind)
    sizes = SMALL.get(name, {})
    if kind == "forecast" and name == "transformer":
        sizes = {"size": 8, "heads": 2, "feed_forward": 8}
    model = build_model(ModelSection(name=name, **sizes), schema, seed=1)
    vector = get_vector(model)
    set_vector(model, vector + np.random.default_rng(0).normal(0, scale, vector.shape))
    return model


@cache
def batch_of(kind, patients):
    schema = flux_schema() if kind == "forecast" else omics_schema(kind)
    draw = flux_cohort if kind == "forecast" else omics_cohort
    return encode(draw(schema, patients, seed=5), schema)


def without(batch, patient):
    return batch.select(torch.arange(len(batch)) != patient)


def moved(case, scale, batch, patient):
    """How far leaving a patient out moves the sum, in clipping norms."""
    whole, others = (
        clipped_gradient_sum(model_of(*case, scale), some, NORM).vector
        for some in (batch, without(batch, patient))
    )
    return np.linalg.norm(whole - others) / NORM


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_at_any_scale_and_number_of_patients(case):
    for patients, scales in PAIRS:
        batch = batch_of(case[1], patients)
        moves = [moved(case, scale, batch, patients // 2) for scale in scales]
        assert max(moves) <= 1, (patients, moves)
        assert patients > 1 or moves[0] > 0


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_neither_company_nor_place_changes_a_bit(case):
    """What bounds the sum of many: each one's part is the same bits wherever and with whomever."""
    rows, watched = 2 * ROWS_STEP, 3
    batch = batch_of(case[1], rows + 5)
    for scale in (1.0, 60.0):
        model = model_of(*case, scale)
        found = []
        for place, company in ((0, 0), (1, 5), (37, 2), (rows - 1, 5)):
            positions = torch.arange(company, company + rows)
            positions[place] = watched
            with precision(model, clipped=True):
                gradients = bookkeeping.patient_gradients(model, batch.select(positions))
                gradients = gradients.only(gradients.norms <= bookkeeping.LONGEST)
                own = gradients.weighted_sum(torch.eye(rows)[place])
            found.append((gradients.norms[place], own))
        for norm, own in found[1:]:
            assert torch.equal(norm, found[0][0])
            assert torch.equal(own, found[0][1])


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_no_prediction_changes_by_a_bit_when_another_patient_leaves(case):
    batch = batch_of(case[1], ROWS_STEP + 3)
    whole = predictions(model_of(*case, 60.0), batch, ROWS_STEP).mean
    others = predictions(model_of(*case, 60.0), without(batch, 0), ROWS_STEP).mean
    assert np.array_equal(whole[1:], others, equal_nan=True)
    nobody = predictions(model_of(*case, 60.0), batch.select(torch.arange(0)), ROWS_STEP)
    assert len(nobody.mean) == 0


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_book_keeping_proves_right_whoever_the_patients_are(case):
    for scale in (0.0, 1e12):
        assert bookkeeping.is_admitted(model_of(*case, scale))


@pytest.mark.parametrize("case", [("genomic_transformer", "panel"), ("linear", "continuous")])
def test_a_patient_beyond_float32_contributes_nothing_and_changes_no_other(case):
    model, batch = model_of(*case, 1.0), batch_of(case[1], 12)
    batch = batch.select(torch.arange(12))  # a copy
    batch.x[4] = 1e30
    found = clipped_gradient_sum(model, batch, NORM)
    assert found.not_finite == 1
    assert np.isfinite(found.vector).all()
    others = clipped_gradient_sum(model, without(batch, 4), NORM).vector
    assert np.linalg.norm(found.vector - others) < 1e-5 * NORM


@pytest.mark.parametrize("kind", [*TARGETS, "forecast"])
def test_made_up_patients_are_the_same_each_time_and_fill_the_longest_course(kind):
    schema = flux_schema() if kind == "forecast" else omics_schema(kind)
    first, again = made_up(schema, 5), made_up(schema, 5)
    for name in ("x", "y", "y_observed", "omics", "omics_observed", "visits"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    real = batch_of(kind, 5)
    for name in ("x", "y", "omics", "omics_observed", "visits"):
        assert getattr(first, name).shape == getattr(real, name).shape
    if kind == "forecast":
        assert int(first.lengths()[0]) == first.visits.shape[1]


@pytest.mark.parametrize("count", [1, 31, 32, 33, 70])
def test_every_pass_has_as_many_rows_and_every_patient_is_in_one(count):
    batch = batch_of("forecast", count)
    seen = 0
    for some, patients in fixed_passes(batch, ROWS_STEP):
        assert len(some) == ROWS_STEP
        assert 0 < patients <= ROWS_STEP
        seen += patients
    assert seen == count
