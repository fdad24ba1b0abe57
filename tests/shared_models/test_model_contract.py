"""One suite for every model: what training and clipping rely on."""

import numpy as np
import pytest
import torch
from torch import nn

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import column_names, encode
from fedrx_models.contract import WeightsMismatch, get_vector, set_vector, weight_spec
from fedrx_models.metrics.dose import exact
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection

SECTIONS = {
    "linear": {"name": "linear"},
    "linear-half": {"name": "linear", "huber_delta": 0.5},
    "mlp": {"name": "mlp"},
    "mlp-norm": {"name": "mlp", "hidden": [8, 4], "activation": "relu", "layer_norm": True},
    "mlp-plain": {"name": "mlp", "hidden": [16], "activation": "tanh", "linear_path": False},
}


@pytest.fixture(params=list(SECTIONS))
def section(request):
    return ModelSection(**SECTIONS[request.param])


@pytest.fixture
def model(section, schema):
    return _shaken(build_model(section, schema, seed=1))


@pytest.fixture
def batch(make_cohort, schema):
    return encode(make_cohort(12), schema)


def _shaken(model):
    """Away from the start weights, where zeros could hide a mistake."""
    rng = np.random.default_rng(0)
    vector = get_vector(model)
    set_vector(model, vector + rng.normal(0, 0.3, vector.shape))
    return model


def _trained(model, batch, steps=400):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch).mean().backward()
        optimizer.step()
    return model


def _patient_gradient(model, batch, i):
    model.zero_grad()
    model(batch.select(torch.tensor([i]))).sum().backward()
    return torch.cat([p.grad.reshape(-1) for p in model.parameters()])


def test_the_loss_is_one_number_a_patient(model, batch):
    losses = model(batch)
    assert losses.shape == (12,)
    assert losses.dtype == torch.float32


def test_no_patient_changes_anothers_loss(model, batch):
    together = model(batch)
    alone = torch.cat([model(batch.select(torch.tensor([i]))) for i in range(12)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_the_batch_gradient_is_the_sum_of_the_patients(model, batch):
    each = sum(_patient_gradient(model, batch, i) for i in range(12))
    model.zero_grad()
    model(batch).sum().backward()
    together = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    assert torch.allclose(together, each, atol=1e-4)


def test_clipped_leave_one_out_sensitivity(model, batch):
    """Without noise, one patient moves the clipped sum by at most the clipping norm."""
    gradients = [_patient_gradient(model, batch, i) for i in range(12)]
    clipped = torch.stack([g / max(1.0, float(g.norm()) / 0.5) for g in gradients])
    without = [clipped.sum(0) - clipped[[j for j in range(12) if j != i]].sum(0) for i in range(12)]
    assert max(float(change.norm()) for change in without) <= 0.5 * (1 + 1e-5)


def test_an_absurd_patient_has_a_finite_gradient(model, batch):
    absurd = PatientBatch.tabular(batch.x, batch.y + 1e6)
    gradient = _patient_gradient(model, absurd, 0)
    assert torch.isfinite(gradient).all()
    assert float(gradient.norm()) < 1e3


def test_an_empty_batch_has_no_losses(model, batch):
    assert model(batch.select(torch.zeros(12, dtype=torch.bool))).shape == (0,)


def test_missing_inputs_give_numbers(model, schema):
    x = torch.zeros(2, len(column_names(schema)))
    x[:, [1, 4]] = 1.0
    everything_missing = PatientBatch.tabular(x, torch.zeros(2))
    assert torch.isfinite(model(everything_missing)).all()
    assert np.isfinite(model.predict(everything_missing).mean).all()


def test_predictions_are_doses_with_an_interval(model, batch):
    prediction = model.predict(batch)
    assert prediction.mean.shape == (12,)
    assert prediction.mean.dtype == np.float64
    assert (prediction.lower <= prediction.mean).all()
    assert (prediction.mean <= prediction.upper).all()
    assert (prediction.lower >= 0).all()
    assert (prediction.upper <= 400).all()


def test_predictions_do_not_look_at_the_target(model, batch):
    other = PatientBatch.tabular(batch.x, batch.y + 3)
    assert np.array_equal(model.predict(batch).mean, model.predict(other).mean)


def test_even_absurd_weights_give_doses_in_range(model, batch):
    set_vector(model, np.full(weight_spec(model).size, 1e4))
    prediction = model.predict(batch)
    for doses in (prediction.mean, prediction.lower, prediction.upper):
        assert ((doses >= 0) & (doses <= 400)).all()


def test_the_same_seed_gives_the_same_weights(section, schema):
    first, again = (get_vector(build_model(section, schema, seed=5)) for _ in range(2))
    assert np.array_equal(first, again)


def test_the_start_weights_do_not_depend_on_the_global_generator(section, schema):
    vectors = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        vectors.append(get_vector(build_model(section, schema, seed=5)))
    assert np.array_equal(*vectors)


def test_it_starts_at_the_reference_dose(section, schema, batch):
    prediction = build_model(section, schema, seed=0).predict(batch)
    assert prediction.mean == pytest.approx(np.full(12, 5.4**2))


def test_weights_go_out_and_in_unchanged(model, section, schema, batch):
    other = build_model(section, schema, seed=9)
    set_vector(other, get_vector(model))
    assert np.array_equal(get_vector(other), get_vector(model))
    assert torch.equal(other(batch), model(batch))


def test_the_vector_follows_the_spec(model):
    spec, vector = weight_spec(model), get_vector(model)
    assert vector.shape == (spec.size,)
    assert vector.dtype == np.float32
    arrays = spec.unflatten(vector)
    for name, parameter in model.named_parameters():
        assert np.array_equal(arrays[name], parameter.detach().numpy())


@pytest.mark.parametrize("change", ["shorter", "matrix", "nan"])
def test_weights_that_do_not_fit_are_refused_and_change_nothing(model, change):
    before = get_vector(model)
    bad = {
        "shorter": before[:-1],
        "matrix": before[None, :],
        "nan": np.where(np.arange(len(before)) == 3, np.nan, before),
    }[change]
    with pytest.raises(WeightsMismatch, match=r"weights|finite"):
        set_vector(model, bad)
    assert np.array_equal(get_vector(model), before)


def test_it_learns_a_planted_signal(section, schema, make_cohort):
    train, test = make_cohort(600, seed=1), make_cohort(600, seed=2)
    model = _trained(build_model(section, schema, seed=0), encode(train, schema))
    prediction = model.predict(encode(test, schema))
    assert exact(prediction.mean, test.target).r2 > 0.6
    inside = (prediction.lower <= test.target) & (test.target <= prediction.upper)
    assert 0.84 < inside.mean() < 0.95


def test_the_spread_does_not_disturb_the_mean(section, schema, batch):
    model = _shaken(build_model(section, schema, seed=0))
    with torch.no_grad():
        mean = [p for name, p in model.named_parameters() if not name.startswith("head.")]
    gradients = []
    for log_reach in (-1.0, 2.0):
        nn.init.constant_(model.head.log_reach.weight, log_reach)
        gradients.append(torch.autograd.grad(model(batch).sum(), mean))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_every_input_column_can_be_explained_once(model, schema):
    columns = [c for group in model.explainable_inputs.values() for c in group]
    assert sorted(columns) == list(range(len(column_names(schema))))


def test_only_layers_that_keep_patients_apart(model):
    allowed = (nn.Linear, nn.LayerNorm)
    owners = [m for m in model.modules() if list(m.parameters(recurse=False))]
    assert all(isinstance(owner, allowed) for owner in owners)


def test_the_gpu_agrees_with_the_cpu(model, batch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: CPU = GPU was not checked")
    on_cpu = model(batch).detach()
    on_gpu = model.to("cuda")(batch.to("cuda")).detach().cpu()
    assert torch.allclose(on_cpu, on_gpu, atol=1e-5)
