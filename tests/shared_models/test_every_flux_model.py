"""One suite over every model of markers over time: what the privacy promise rests on.

Beside what all models promise, a forecast may rest on nothing that happened after it was made.
"""

import dataclasses

import numpy as np
import pytest
import torch
from flux_cohorts import flux_cohort, flux_schema

from fedrx_client.training.clipping import clipped_gradient_sum, leave_one_out_sensitivity
from fedrx_common.errors import StudyError
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import get_vector, set_vector, weight_spec
from fedrx_models.files import load_model, save_model
from fedrx_models.fitting import searchable
from fedrx_models.metrics.registry import exact_metrics
from fedrx_models.personal import personalise
from fedrx_models.registry import build_model, models_of
from fedrx_protocol.study.study import ModelSection

PATIENTS = 10
MODELS = models_of("flux")
# Small, so that the whole suite is quick; the wiring is the same.
SMALL = {
    "tcn": {"channels": 6, "layers": 2},
    "lstm": {"size": 6},
    "transformer": {"size": 8, "heads": 2, "feed_forward": 8},
}
SCHEMA = flux_schema()
GENERATOR = torch.Generator().manual_seed(0)


def section_of(name):
    return ModelSection(name=name, **SMALL.get(name, {}))


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return shaken(build_model(section_of(name), SCHEMA, seed=1))


@pytest.fixture(scope="module")
def batch():
    return encode(flux_cohort(SCHEMA, PATIENTS), SCHEMA)


def shaken(model):
    """Away from the start weights, where zeros could hide a mistake."""
    vector = get_vector(model)
    set_vector(model, vector + np.random.default_rng(0).normal(0, 0.2, vector.shape))
    return model


def trained(model, batch, steps=80):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch).mean().backward()
        optimizer.step()
    return model


def test_the_loss_is_one_finite_number_a_patient(model, batch):
    losses = model(batch)
    assert losses.shape == (PATIENTS,)
    assert losses.isfinite().all()


def test_no_patient_changes_anothers_loss(model, batch):
    together = model(batch)
    alone = torch.cat([model(batch.select(torch.tensor([i]))) for i in range(PATIENTS)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("visit", [0, 3, 7])
def test_a_forecast_does_not_know_the_future(model, batch, visit):
    """Whatever comes after a visit may change; what was forecast there stays as it was."""
    later = batch.visits.clone()
    # No column can be below 0 for every marker; a logarithm of it would be no number.
    later[:, visit + 1 :] = 3.0 * torch.rand(later[:, visit + 1 :].shape)
    other = dataclasses.replace(batch, visits=later, y=batch.y + 2.0)
    first, second = (model.predict(b).mean[:, : visit + 1] for b in (batch, other))
    assert np.allclose(first, second, equal_nan=True, atol=1e-4)


def test_a_visit_changes_the_forecasts_after_it(name, model, batch):
    """Else the test of the future would prove nothing."""
    changed = batch.visits.clone()
    changed[:, 2] = changed[:, 2] + 1.0
    outputs = [model.outputs(b) for b in (batch, dataclasses.replace(batch, visits=changed))]
    if name != "last_value":
        assert not torch.allclose(outputs[0][:, 3:], outputs[1][:, 3:])


def test_one_patient_moves_the_clipped_sum_by_at_most_the_norm(model, batch):
    assert leave_one_out_sensitivity(model, batch, 0.3) <= 0.3 * (1 + 1e-6)


def test_the_fast_sum_is_the_plain_one(model, batch):
    fast = clipped_gradient_sum(model, batch, 0.3).vector
    plain = clipped_gradient_sum(model, batch, 0.3, method="vmap").vector
    assert np.allclose(fast, plain, atol=1e-4)


def test_a_patient_without_anything_to_judge_has_no_gradient(model, batch):
    nothing = dataclasses.replace(
        batch, y=torch.zeros_like(batch.y), y_observed=torch.zeros_like(batch.y)
    )
    losses = model(nothing)
    assert not losses.any()
    gradients = torch.autograd.grad(losses.sum(), list(model.parameters()), allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_an_absurd_patient_has_a_finite_gradient(model, batch):
    absurd = dataclasses.replace(batch, y=batch.y + 1e6)
    model(absurd).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_an_empty_batch_has_no_losses(model, batch):
    nobody = batch.select(torch.zeros(PATIENTS, dtype=torch.bool))
    assert model(nobody).shape == (0,)
    assert model.predict(nobody).mean.shape[0] == 0


def test_forecasts_are_plausible_values_in_order(model, batch):
    forecast = model.predict(batch)
    assert forecast.level == 0.8
    assert forecast.mean.shape == (PATIENTS, 12, 2, 3, 3)
    known = ~np.isnan(forecast.mean[..., 0])
    median, lower, upper = (forecast.mean[..., i][known] for i in range(3))
    assert (lower <= median).all()
    assert (median <= upper).all()
    for m, marker in enumerate(SCHEMA.forecast_markers):
        values = forecast.mean[:, :, :, m][known[:, :, :, m]]
        assert values.min() >= marker.minimum - 1e-9
        assert values.max() <= marker.maximum + 1e-9


def test_there_is_a_forecast_wherever_there_is_an_outcome(model):
    cohort = flux_cohort(SCHEMA, PATIENTS)
    predicted = model.predict(encode(cohort, SCHEMA)).mean
    assert np.isfinite(predicted[~np.isnan(cohort.target[..., 0])]).all()


def test_it_starts_at_the_last_value(name, batch):
    cohort = flux_cohort(SCHEMA, PATIENTS)
    model = build_model(section_of(name), SCHEMA, seed=0)
    predicted = model.predict(encode(cohort, SCHEMA)).mean[..., 0]
    last = cohort.target[..., 1]
    known = ~np.isnan(last)
    assert predicted[known] == pytest.approx(last[known], rel=1e-4)


def test_predictions_do_not_look_at_the_outcome(model, batch):
    other = dataclasses.replace(batch, y=batch.y + 3)
    assert np.array_equal(model.predict(batch).mean, model.predict(other).mean, equal_nan=True)


def test_the_same_seed_gives_the_same_weights(name):
    vectors = []
    for other in (1, 2):
        torch.manual_seed(other)
        vectors.append(get_vector(build_model(section_of(name), SCHEMA, seed=5)))
    assert np.array_equal(*vectors)


def test_it_is_saved_and_loaded(model, batch, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, model, "ab" * 32)
    loaded = load_model(path, expected_digest="ab" * 32).model
    assert np.array_equal(get_vector(loaded), get_vector(model))
    assert np.array_equal(loaded.predict(batch).mean, model.predict(batch).mean, equal_nan=True)


def test_weights_follow_the_spec(model):
    assert get_vector(model).shape == (weight_spec(model).size,)


def test_features_are_explained_once(model, batch):
    columns = [c for group in model.explainable_inputs.values() for c in group]
    assert sorted(columns) == list(range(batch.x.shape[1]))


def test_markers_alone_are_enough(name):
    schema = flux_schema(features=False)
    model = build_model(section_of(name), schema, seed=0)
    assert model(encode(flux_cohort(schema, 5), schema)).isfinite().all()


def test_joint_slopes_belong_to_the_losss_value(model, batch):
    """What a search along a line relies on; the value is the same either way.

    Those set apart train a band's stretch only, which such a search leaves alone.
    """
    batch = batch.select(batch.apart[:, 0] == 0)
    apart = model(batch).sum()
    model = searchable(model).double()
    loss = model(batch.to(torch.float64)).sum()
    assert float(loss.detach()) == pytest.approx(float(apart.detach()), rel=1e-4)
    named_parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    parameters = list(named_parameters.values())
    slopes = torch.autograd.grad(loss, parameters)
    step = [0.01 * torch.randn(p.shape, generator=GENERATOR, dtype=p.dtype) for p in parameters]
    expected = sum(float((slope * move).sum()) for slope, move in zip(slopes, step, strict=True))
    values = []
    for sign in (1e-3, -1e-3):
        vector = [p.detach() + sign * move for p, move in zip(parameters, step, strict=True)]
        named = dict(zip(named_parameters, vector, strict=True))
        values.append(
            float(torch.func.functional_call(model, named, (batch.to(torch.float64),)).sum())
        )
    assert (values[0] - values[1]) / 2e-3 == pytest.approx(expected, rel=0.02, abs=1e-4)


def test_a_private_head_changes_forecasts_and_nothing_else(model, batch):
    personal = personalise(model, batch)
    assert float(personal(batch).sum().detach()) <= float(model(batch).sum().detach())
    frozen = [p for n, p in personal.named_parameters() if not n.startswith("head.")]
    assert all(map(torch.equal, frozen, model.parameters()))


def test_it_learns_what_is_planted_and_how_sure_it_is(name):
    """Better than the last value on others, and a band that holds what it says."""
    schema = flux_schema(most=20)
    training, test = (flux_cohort(schema, n, seed=n) for n in (200, 150))
    model = trained(build_model(section_of(name), schema, seed=0), encode(training, schema))
    found = exact_metrics(schema.target, model.predict(encode(test, schema)).mean, test.target)
    assert found.ratio < (1.001 if name == "last_value" else 0.92)
    assert 70 < found.coverage < 90


def test_a_model_of_the_other_family_is_one_sentence(name, schema):
    with pytest.raises(StudyError, match=f"'model.name' is '{name}', which forecasts markers, but"):
        build_model(section_of(name), schema, seed=0)
    with pytest.raises(
        StudyError, match=r"which forecasts no markers, but 'target\.kind' is 'forec"
    ):
        build_model(ModelSection(name="linear"), SCHEMA, seed=0)


def test_an_unknown_hyper_parameter_is_one_sentence(name):
    with pytest.raises(StudyError, match=rf"unknown key 'model\.depht' for model '{name}'"):
        build_model(ModelSection(name=name, depht=3), SCHEMA, seed=0)


def test_the_gpu_agrees_with_the_cpu(model, batch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: CPU = GPU was not checked")
    on_cpu = model(batch).detach()
    on_gpu = model.to("cuda")(batch.to("cuda")).detach().cpu()
    assert torch.allclose(on_cpu, on_gpu, atol=1e-4)
