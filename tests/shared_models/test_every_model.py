"""One suite over every model and every kind of outcome: what the privacy promise rests on.

Tabular dosing models have a suite of their own beside this one; here patients bring blocks, some
of them missing, and outcomes of every kind.
"""

import dataclasses

import numpy as np
import pytest
import torch
from omics_cohorts import TARGETS, omics_cohort, omics_schema

from fedrx_client.training.clipping import leave_one_out_sensitivity
from fedrx_common.errors import StudyError
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import get_vector, set_vector, weight_spec
from fedrx_models.files import load_model, save_model
from fedrx_models.metrics.registry import exact_metrics, measures_of
from fedrx_models.registry import build_model, models_of
from fedrx_protocol.study.study import ModelSection

MODELS = models_of("pharmacogenomic")

KINDS = list(TARGETS)
PATIENTS = 12
# Small, so that the whole suite is quick; the wiring is the same.
SMALL = {
    "mlp": {"hidden": [6]},
    "genomic_cnn": {"channels": 4, "hidden": 6},
    "genomic_transformer": {"size": 8, "heads": 2, "feed_forward": 8, "hidden": 16},
    "drug_gene_gnn": {"size": 4, "hidden": 6},
    "multiomics_vae": {"latent": 3, "hidden": 8, "head_hidden": 6},
}
BLIND = [
    pytest.param((ModelSection(name=name, **SMALL.get(name, {})), kind), id=f"{name}-{kind}")
    for name in MODELS
    for kind in KINDS
]
"""Whose predictions do not look at the outcome."""
_KNOWING = ModelSection(name="drug_gene_gnn", size=4, hidden=6, known_responses=True)
CASES = [*BLIND, pytest.param((_KNOWING, "panel"), id="drug_gene_gnn-known_responses")]


@pytest.fixture(params=CASES)
def case(request):
    section, kind = request.param
    return section, omics_schema(kind)


@pytest.fixture
def model(case):
    section, schema = case
    return shaken(build_model(section, schema, seed=1))


@pytest.fixture
def batch(case):
    return encode(omics_cohort(case[1], PATIENTS), case[1])


def shaken(model):
    """Away from the start weights, where zeros could hide a mistake."""
    vector = get_vector(model)
    noise = np.random.default_rng(0).normal(0, 0.3, vector.shape)
    set_vector(model, vector + noise)
    return model


def test_one_loss_a_patient_and_nobody_changes_anothers(model, batch):
    together = model(batch)
    assert together.shape == (PATIENTS,)
    assert together.dtype == torch.float32
    alone = torch.cat([model(batch.select(torch.tensor([i]))) for i in range(PATIENTS)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_one_patient_moves_the_clipped_sum_by_at_most_the_norm(model, batch):
    moved = leave_one_out_sensitivity(model, batch, 0.5)
    assert 0 < moved <= 0.5


def test_the_fast_clipping_method_agrees_with_the_oracle(model, batch):
    sums = [
        leave_one_out_sensitivity(model, batch.select(torch.arange(4)), 0.5, method=method)
        for method in ("auto", "vmap")
    ]
    assert sums[0] == pytest.approx(sums[1], rel=1e-3)


def test_an_empty_batch_has_no_losses(model, batch):
    assert model(batch.select(torch.zeros(PATIENTS, dtype=torch.bool))).shape == (0,)


def test_a_patient_without_any_block_or_outcome_gives_numbers(model, batch):
    nothing = dataclasses.replace(
        batch,
        x=torch.zeros_like(batch.x),
        omics=torch.zeros_like(batch.omics),
        omics_observed=torch.zeros_like(batch.omics_observed),
        y=torch.zeros_like(batch.y),
        y_observed=torch.zeros_like(batch.y_observed),
    )
    assert torch.isfinite(model(nothing)).all()
    assert np.isfinite(model.predict(nothing).mean).all()


def test_what_is_missing_is_not_looked_at(model, batch):
    filled = torch.where(batch.y_observed > 0, batch.y, torch.full_like(batch.y, 7.0))
    assert torch.equal(model(dataclasses.replace(batch, y=filled)), model(batch))


@pytest.mark.parametrize("case", BLIND, indirect=True)
def test_predictions_are_repeatable_and_do_not_look_at_the_outcome(model, batch):
    first, again = model.predict(batch).mean, model.predict(batch).mean
    other = dataclasses.replace(batch, y=batch.y + 3)
    assert np.array_equal(first, again)
    assert np.array_equal(first, model.predict(other).mean)
    assert len(first) == PATIENTS


def test_absurd_weights_give_predictions_in_range(case, model, batch):
    set_vector(model, np.full(weight_spec(model).size, 1e3))
    found = model.predict(batch).mean
    low, high = (-50, 50) if case[1].target.kind in {"continuous", "panel"} else (0, 1)
    assert ((found >= low) & (found <= high)).all()


def test_the_same_seed_gives_the_same_weights_whatever_the_global_one(case):
    vectors = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        vectors.append(get_vector(build_model(*case, seed=5)))
    assert np.array_equal(*vectors)


def test_a_file_brings_the_model_back(model, batch, tmp_path):
    path = save_model(tmp_path / "m.safetensors", model, "ab" * 32)
    loaded = load_model(path, expected_digest="ab" * 32).model
    assert np.array_equal(get_vector(loaded), get_vector(model))
    assert np.array_equal(loaded.predict(batch).mean, model.predict(batch).mean)


def test_it_learns_a_planted_signal(case):
    """Better than the public reference by far; the same for everybody has AUC and C of a half."""
    section, schema = case
    training, test = omics_cohort(schema, 600, seed=1), omics_cohort(schema, 300, seed=2)
    model, batch = build_model(section, schema, seed=0), encode(training, schema)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(120):
        optimizer.zero_grad()
        model(batch).mean().backward()
        optimizer.step()
    predicted = model.predict(encode(test, schema)).mean
    found = exact_metrics(schema.target, predicted, test.target).flat()
    least = {"continuous": ("r2", 0.5), "panel": ("correlation", 0.6)}
    key, value = least.get(schema.target.kind, (measures_of(schema.target)[0].key, 0.7))
    assert found[key] > value


def test_features_are_explained_once(model, batch):
    columns = [c for group in model.explainable_inputs.values() for c in group]
    assert sorted(columns) == list(range(batch.x.shape[1]))


@pytest.mark.parametrize("name", MODELS)
def test_blocks_alone_are_enough(name):
    schema = omics_schema("panel", features=False)
    section = ModelSection(name=name, **SMALL.get(name, {}))
    model = build_model(section, schema, seed=0)
    losses = model(encode(omics_cohort(schema, 5), schema))
    assert losses.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_an_unknown_hyper_parameter_is_one_sentence(name):
    with pytest.raises(
        StudyError, match=rf"unknown key 'model\.depht' for model '{name}'; allowed"
    ):
        build_model(ModelSection(name=name, depht=3), omics_schema(), seed=0)


def test_the_gpu_agrees_with_the_cpu(model, batch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: CPU = GPU was not checked")
    on_cpu = model(batch).detach()
    on_gpu = model.to("cuda")(batch.to("cuda")).detach().cpu()
    assert torch.allclose(on_cpu, on_gpu, atol=1e-4)
