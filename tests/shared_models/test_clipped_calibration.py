"""What clipping must not bend: how likely an event is said to be, and how wide an interval."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedrx_client.training.clip_factors import ClipBounds
from fedrx_client.training.clipping import clipped_gradient_sum, leave_one_out_sensitivity
from fedrx_client.training.errors import TrainingInvalid
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.contract import get_vector, set_vector
from fedrx_models.registry import build_model
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import ModelSection, OptimizerSection
from fedrx_server.rounds.optimizer import ServerOptimizer

CLIPPING_NORM = 0.3  # so small that nearly everybody is cut
PATIENTS, FEATURES, ROUNDS = 1500, 6, 150
SURVIVAL = {
    "kind": "survival",
    "name": "relapse",
    "time_unit": "month",
    "edges": [1, 2, 3],
    "hazard": 0.3,
}
NUMBER = {"name": "dose", "unit": "mg", "minimum": -99, "maximum": 99, "mean": 0, "scale": 1}
TARGETS = {
    "binary": {"kind": "binary", "name": "toxic", "rate": 0.3},
    "survival": SURVIVAL,
    "number": NUMBER,
}
MODELS = [ModelSection(name="linear"), ModelSection(name="mlp", hidden=[6])]


def schema_of(kind):
    feature = {"kind": "number", "unit": "sd", "minimum": -9, "maximum": 9, "mean": 0, "scale": 1}
    features = [{"name": f"x{i}", **feature} for i in range(FEATURES)]
    return FeatureSchema.model_validate({"features": features, "target": TARGETS[kind]})


def inputs(rng):
    """Features, each with its flag of a missing value."""
    x = np.zeros((PATIENTS, 2 * FEATURES), dtype=np.float32)
    x[:, ::2] = rng.normal(size=(PATIENTS, FEATURES))
    return torch.from_numpy(x)


def trained(section, schema, batch):
    """A model after rounds in which everybody is clipped; no noise, so that bias shows."""
    model = build_model(section, schema, seed=0)
    adam = OptimizerSection(name="adam", learning_rate=0.03, momentum=0.9)
    optimizer = ServerOptimizer(adam, get_vector(model), ROUNDS)
    for round_ in range(1, ROUNDS + 1):
        total = clipped_gradient_sum(model, batch, CLIPPING_NORM).vector
        optimizer.step(total / len(batch), round_)
        set_vector(model, optimizer.weights)
    return model


@pytest.mark.parametrize("section", MODELS, ids=lambda section: section.name)
def test_a_rare_event_is_said_to_be_as_likely_as_it_is(section):
    rng, schema = np.random.default_rng(0), schema_of("binary")
    x = inputs(rng)
    y = rng.random(PATIENTS) < 1 / (1 + np.exp(2.2 - x[:, 0].numpy()))
    batch = PatientBatch.tabular(x, torch.from_numpy(y.astype(np.float32)))
    predicted = trained(section, schema, batch).predict(batch).mean
    assert 0.1 < y.mean() < 0.2
    assert predicted.mean() == pytest.approx(y.mean(), abs=0.015)
    for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 1.0)):
        some = (predicted >= low) & (predicted < high)
        assert predicted[some].mean() == pytest.approx(y[some].mean(), abs=0.08)


@pytest.mark.parametrize("section", MODELS, ids=lambda section: section.name)
def test_hazards_are_those_of_the_patients(section):
    rng, schema = np.random.default_rng(1), schema_of("survival")
    x = inputs(rng)
    hazard = np.array([0.1, 0.2, 0.15])
    events = rng.random((PATIENTS, 3)) < hazard
    at_risk = np.cumprod(np.pad(~events, ((0, 0), (1, 0)), constant_values=True)[:, :-1], axis=1)
    y, observed = ((part * at_risk).astype(np.float32) for part in (events, np.ones_like(events)))
    none = x.new_zeros(PATIENTS, 0)
    batch = PatientBatch(x, torch.from_numpy(y), torch.from_numpy(observed), none, none)
    found = trained(section, schema, batch).predict(batch).hazards.mean(axis=0)
    assert found == pytest.approx(y.sum(axis=0) / observed.sum(axis=0), abs=0.02)


@pytest.mark.parametrize("section", MODELS, ids=lambda section: section.name)
def test_an_interval_holds_what_it_says(section):
    rng, schema = np.random.default_rng(2), schema_of("number")
    x = inputs(rng)
    y = x[:, 0].numpy() + rng.gamma(1.5, 1.0, PATIENTS) - 1.5
    batch = PatientBatch.tabular(x, torch.from_numpy(y.astype(np.float32)))
    found = trained(section, schema, batch).predict(batch)
    assert ((found.lower <= y) & (y <= found.upper)).mean() == pytest.approx(0.9, abs=0.02)


class Boastful(nn.Module):
    """A model whose promises about its own gradients are not true."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.reach = nn.Linear(1, 1)

        def forward(self, outputs):
            return 50.0 * (outputs + self.reach(torch.ones_like(outputs))).square().squeeze(1)

    def __init__(self, pull, length=0.5):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Linear(4, 1), self.Head()
        self.pull, self.length = pull, length

    @property
    def bounded_layers(self):
        return {"head.reach": self.length}

    def output_gradient_norms(self, outputs, _):
        return torch.full_like(outputs[:, 0], self.pull)

    def forward(self, batch):
        return self.head(self.layer(batch.x))


@pytest.mark.parametrize("method", ["bookkeeping", "vmap"])
@pytest.mark.parametrize("pull", [0.0, 0.3, 7.0, -0.3, float("nan")])
def test_the_bound_does_not_rest_on_what_a_model_says_of_itself(method, pull):
    torch.manual_seed(1)
    batch = PatientBatch.tabular(torch.randn(9, 4), torch.zeros(9))
    moved = leave_one_out_sensitivity(Boastful(pull), batch, 0.4, method=method)
    assert moved <= 0.4


@pytest.mark.parametrize("pull", [0.0, 0.3, 7.0])
def test_both_methods_clip_alike(pull):
    torch.manual_seed(1)
    batch = PatientBatch.tabular(torch.randn(9, 4), torch.zeros(9))
    ours, oracle = (
        clipped_gradient_sum(Boastful(pull), batch, 0.4, method=method)
        for method in ("bookkeeping", "vmap")
    )
    assert ours.vector == pytest.approx(oracle.vector, abs=1e-6)
    assert ours.clipped == oracle.clipped


@pytest.mark.parametrize("method", ["bookkeeping", "vmap"])
def test_weights_that_overflow_for_one_patient_leave_the_others_sum(method):
    """A coordinator could choose them so; were the sum no number, the site's refusal would tell."""
    model = build_model(ModelSection(name="linear"), schema_of("survival"), seed=0)
    with torch.no_grad():
        model.network.weight[0, :3:2] = torch.tensor([3e38, -3e38])
    x = torch.zeros(4, 2 * FEATURES)
    x[0, :3:2] = 4.0  # for whom alone the first hazard is infinity minus infinity
    y = torch.zeros(4, 3)
    batch = PatientBatch.tabular(x, y)
    others = batch.select(torch.arange(1, 4))
    found, without = (
        clipped_gradient_sum(model, some, CLIPPING_NORM, method=method).vector
        for some in (batch, others)
    )
    assert np.linalg.norm(found - without) <= CLIPPING_NORM


@given(bound=st.floats(1e-3, 1e3), length=st.floats(0.0, 0.99))
@settings(max_examples=50)
def test_limits_share_the_norm_out(bound, length):
    limits = ClipBounds.of(Boastful(1.0, length), bound)
    assert np.hypot(limits.rest, limits.apart["head.reach"]) == pytest.approx(bound)


def test_a_layer_that_would_take_all_is_refused():
    with pytest.raises(TrainingInvalid, match="leave nothing"):
        ClipBounds.of(Boastful(1.0, 1.0), 1.0)
