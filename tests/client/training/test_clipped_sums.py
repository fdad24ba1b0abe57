"""Book-keeping, `vmap` and Opacus agree, and one patient never moves the sum by more than C."""

import importlib.util
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from torch import nn

from fedrx_client.training import bookkeeping, matrix_layers
from fedrx_client.training.clipping import (
    clipped_gradient_sum,
    gradient_sum,
    leave_one_out_sensitivity,
    supports_bookkeeping,
)
from fedrx_client.training.errors import MixesPatients, TrainingInvalid, UnsupportedModel
from fedrx_client.training.microbatches import USUAL_ROWS
from fedrx_client.training.parameters import trained

_spec = importlib.util.spec_from_file_location(
    "models_for_training", Path(__file__).with_name("models_for_training.py")
)
zoo = importlib.util.module_from_spec(_spec)
sys.modules["models_for_training"] = zoo
_spec.loader.exec_module(zoo)

torch.set_num_threads(1)
CLIP = 0.7


def distance(found, expected):
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12)


@pytest.mark.parametrize("name", zoo.COVERED)
def test_bookkeeping_agrees_with_the_oracle(name):
    model, batch = zoo.build(zoo.COVERED, name)
    assert supports_bookkeeping(model)
    oracle = clipped_gradient_sum(model, batch, CLIP, method="vmap")
    fast = clipped_gradient_sum(model, batch, CLIP, method="bookkeeping")
    assert distance(fast.vector, oracle.vector) < 1e-4
    assert fast.clipped == oracle.clipped > 0


@pytest.mark.parametrize("name", zoo.COVERED)
def test_without_clipping_the_sum_is_the_plain_gradient(name):
    model, batch = zoo.build(zoo.COVERED, name)
    loose = clipped_gradient_sum(model, batch, 1e6)
    assert loose.clipped == 0
    assert distance(loose.vector, gradient_sum(model, batch)) < 1e-5


@pytest.mark.parametrize("name", [*zoo.COVERED, *zoo.FALLBACK])
def test_leaving_one_patient_out_moves_the_sum_by_at_most_the_norm(name):
    model, batch = zoo.build(zoo.COVERED | zoo.FALLBACK, name)
    moved = leave_one_out_sensitivity(model, batch, CLIP)
    assert 0.9 * CLIP < moved <= CLIP  # somebody is clipped, so the bound is reached


@pytest.mark.parametrize("name", zoo.FALLBACK)
def test_what_the_closed_forms_do_not_describe_falls_back(name):
    model, batch = zoo.build(zoo.FALLBACK, name)
    assert not supports_bookkeeping(zoo.tried_on(model, batch))
    found = clipped_gradient_sum(model, batch, CLIP)
    alone = [gradient_sum(model, batch.select(torch.tensor([i]))) for i in range(len(batch))]
    bound = CLIP / (1 + 1e-3)
    expected = sum(g * min(1, bound / np.linalg.norm(g)) for g in alone)
    assert distance(found.vector, expected) < 1e-5


@pytest.mark.parametrize(
    "name", ["mlp with norm and in-place relu", "conv1d padded", "embedding", "sequence"]
)
def test_opacus_hooks_agree(name):
    model, batch = zoo.build(zoo.COVERED, name)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    expected = clipped_gradient_sum(model, batch, CLIP)
    hooked = GradSampleModule(model, loss_reduction="sum")
    hooked(batch).sum().backward()
    each = torch.cat([p.grad_sample.flatten(1) for p in model.parameters()], 1).numpy()
    factors = np.minimum(1, CLIP / (1 + 1e-3) / np.linalg.norm(each, axis=1))
    assert distance(expected.vector, factors @ each) < 1e-4
    hooked.to_standard_module()


@given(st.integers(1, 12), st.floats(1e-3, 1e3), st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_any_batch_and_norm_agree_with_the_oracle(patients, clip, seed):
    batch = zoo.numbers(6, patients=patients, seed=seed)
    model = zoo.tried_on(zoo.Squared(zoo.mlp()), batch)
    fast = clipped_gradient_sum(model, batch, clip).vector
    assert distance(fast, clipped_gradient_sum(model, batch, clip, method="vmap").vector) < 1e-4
    assert np.linalg.norm(fast) <= patients * clip


def test_an_empty_sample_is_zeros_and_still_a_vector():
    model, batch = zoo.build(zoo.COVERED, "mlp with norm and in-place relu")
    nobody = batch.select(torch.tensor([], dtype=torch.int64))
    for method in ("auto", "bookkeeping", "vmap"):
        result = clipped_gradient_sum(model, nobody, CLIP, method=method)
        assert result.vector.shape == gradient_sum(model, batch).shape
        assert not result.vector.any()
        assert result.patients == 0
    assert not gradient_sum(model, nobody).any()
    assert leave_one_out_sensitivity(model, nobody, CLIP) == 0


@pytest.mark.parametrize("name", ["sequence", "conv1d padded", "conv1d in groups"])
def test_gradients_too_large_to_hold_are_made_in_parts(name, monkeypatch):
    model, batch = zoo.build(zoo.COVERED, name)
    held = clipped_gradient_sum(model, batch, CLIP, method="bookkeeping")
    monkeypatch.setattr(matrix_layers, "HELD_VALUES", 30)
    in_parts = clipped_gradient_sum(model, batch, CLIP, method="bookkeeping")
    assert distance(in_parts.vector, held.vector) < 1e-4


def test_a_site_larger_than_one_pass():
    batch = zoo.numbers(6, patients=USUAL_ROWS * 8 + 50)
    model = zoo.tried_on(zoo.Squared(nn.Linear(6, 1)), batch)
    whole = clipped_gradient_sum(model, batch, CLIP)
    middle = 600
    parts = [
        clipped_gradient_sum(model, batch.select(torch.arange(*ends)), CLIP).vector
        for ends in ((0, middle), (middle, len(batch)))
    ]
    assert whole.patients == len(batch)
    assert distance(whole.vector, sum(parts)) < 1e-5


@pytest.mark.parametrize("method", ["bookkeeping", "vmap"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_patient_without_a_finite_gradient_contributes_nothing(method, value):
    model, batch = zoo.build(zoo.COVERED, "mlp with norm and in-place relu")
    clipped_gradient_sum(model, batch, CLIP)
    broken = zoo.Patients(batch.x.clone(), batch.y.clone())
    broken.y[4] = value
    others = batch.select(torch.tensor([0, 1, 2, 3, 5, 6, 7, 8]))
    result = clipped_gradient_sum(model, broken, CLIP, method=method)
    expected = clipped_gradient_sum(model, others, CLIP, method=method)
    assert result.not_finite == 1
    assert result.clipped == expected.clipped
    assert distance(result.vector, expected.vector) < 1e-5


def test_only_patients_without_finite_gradients():
    model, batch = zoo.build(zoo.COVERED, "linear")
    clipped_gradient_sum(model, batch, CLIP)
    lost = zoo.Patients(batch.x * math.nan, batch.y)
    result = clipped_gradient_sum(model, lost, CLIP)
    assert result.not_finite == len(batch)
    assert not result.vector.any()


def test_frozen_parameters_are_left_out_of_vector_and_norm():
    model, batch = zoo.build(zoo.COVERED, "mlp with norm and in-place relu")
    full = clipped_gradient_sum(model, batch, CLIP).vector
    model.network[0].weight.requires_grad_(False)
    model.network[4].requires_grad_(False)
    for method in ("auto", "vmap"):
        part = clipped_gradient_sum(model, batch, CLIP, method=method).vector
        assert part.shape == (8 + 16,)
    assert tuple(trained(model)) == ("network.0.bias", "network.2.weight", "network.2.bias")
    assert len(full) > len(part)
    assert leave_one_out_sensitivity(model, batch, CLIP) <= CLIP


def test_a_verdict_at_zero_weights_still_sees_the_hidden_layer():
    # All output weights at zero hide the hidden layer's gradient; the trial has weights of its own.
    model, batch = zoo.build(zoo.FALLBACK, "visits flattened into rows")
    nn.init.zeros_(model.network.head.weight)
    before = {name: p.clone() for name, p in model.named_parameters()}
    assert not supports_bookkeeping(zoo.tried_on(model, batch))
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_an_input_changed_in_place_after_use_is_noticed():
    torch.manual_seed(0)
    model = zoo.Squared(zoo.ChangedInput())
    batch = zoo.numbers(6)
    assert not supports_bookkeeping(zoo.tried_on(model, batch))
    with pytest.raises(UnsupportedModel, match="in place"):
        gradient_sum(model, batch)
    with pytest.raises(TrainingInvalid, match="in place"):
        clipped_gradient_sum(model, batch, CLIP, method="bookkeeping")


def test_cancelling_steps_cannot_hide_a_norm():
    # Two steps whose gradients nearly cancel: inner products alone would lose the difference.
    model = zoo.Squared(nn.Sequential(nn.Linear(60, 50), zoo.Mean(), nn.Linear(50, 1)))
    x = torch.randn(4, 1, 60, generator=torch.Generator().manual_seed(0)) * 100
    batch = zoo.Patients(torch.cat([x, -x * (1 + 1e-6)], 1), torch.ones(4) * 50)
    assert leave_one_out_sensitivity(model, batch, 1e-2) <= 1e-2


class ColumnLoss(zoo.Squared):
    """The trap: `(B, 1)` losses."""

    def forward(self, batch):
        return (self.network(batch.x) - batch.y[:, None]) ** 2


class MeanLoss(zoo.Squared):
    def forward(self, batch):
        return super().forward(batch).mean()


@pytest.mark.parametrize("broken", [ColumnLoss, MeanLoss])
@pytest.mark.parametrize("method", ["auto", "bookkeeping", "vmap"])
def test_a_loss_that_is_not_one_per_patient_is_refused(broken, method):
    with pytest.raises(MixesPatients, match="one loss per patient"):
        clipped_gradient_sum(broken(nn.Linear(6, 1)), zoo.numbers(6), CLIP, method=method)
    with pytest.raises(MixesPatients):
        gradient_sum(broken(nn.Linear(6, 1)), zoo.numbers(6))


class MaskedMeanOverBatch(zoo.Squared):
    """The trap: the loss is divided by what the whole batch observed."""

    def forward(self, batch):
        observed = (batch.x[:, 0] > 0).float()
        return super().forward(batch) * observed / observed.mean()


def test_a_loss_that_mixes_patients_gets_no_closed_forms_and_stays_bounded():
    torch.manual_seed(1)
    model, batch = MaskedMeanOverBatch(zoo.mlp()), zoo.numbers(6)
    batch.x[:, 0] = torch.tensor([1.0, -1, -1, 1, -1, -1, -1, -1, 1])
    assert not supports_bookkeeping(zoo.tried_on(model, batch))
    assert leave_one_out_sensitivity(model, batch, CLIP) <= CLIP


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(6), nn.BatchNorm1d(6, affine=False), nn.SyncBatchNorm(6)]
)
def test_batch_norm_is_refused_by_name(layer):
    model = zoo.Squared(nn.Sequential(layer, nn.Linear(6, 1)))
    with pytest.raises(MixesPatients, match=r"network\.0"):
        clipped_gradient_sum(model, zoo.numbers(6), CLIP)


def test_instance_norm_is_refused_only_with_running_statistics():
    def model(**options):
        norm = nn.InstanceNorm1d(3, **options)
        return zoo.Squared(nn.Sequential(norm, nn.Flatten(), nn.Linear(15, 1)))

    with pytest.raises(MixesPatients):
        clipped_gradient_sum(model(track_running_stats=True), zoo.numbers(3, 5), CLIP)
    assert leave_one_out_sensitivity(model(), zoo.numbers(3, 5), CLIP) <= CLIP


class FusedRecurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


def test_a_fused_recurrent_layer_is_right_or_refused():
    torch.manual_seed(0)
    model, batch = zoo.Squared(FusedRecurrent()), zoo.numbers(5, 3)
    assert not supports_bookkeeping(zoo.tried_on(model, batch))
    try:
        found = clipped_gradient_sum(model, batch, 1e6).vector
    except UnsupportedModel:
        return
    assert distance(found, gradient_sum(model, batch)) < 1e-4


class BranchesOnData(zoo.Squared):
    def forward(self, batch):
        return super().forward(batch) * (2.0 if batch.x.sum() > 0 else 1.0)


def test_a_model_that_cannot_be_mapped_is_refused_in_one_sentence():
    with pytest.raises(UnsupportedModel, match="per patient"):
        clipped_gradient_sum(BranchesOnData(nn.Linear(6, 1)), zoo.numbers(6), CLIP, method="vmap")


def test_dropout_keeps_the_bound():
    torch.manual_seed(0)
    model = zoo.Squared(nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 1)))
    batch = zoo.numbers(6)
    assert supports_bookkeeping(zoo.tried_on(model, batch))
    assert np.linalg.norm(clipped_gradient_sum(model, batch, CLIP).vector) <= len(batch) * CLIP
    assert model.training


@dataclass(frozen=True, eq=False)
class WithShared:
    x: torch.Tensor
    y: torch.Tensor
    graph: torch.Tensor
    label: str = "cohort"

    def __len__(self):
        return len(self.y)

    def select(self, index):
        return WithShared(self.x[index], self.y[index], self.graph, self.label)


def test_a_tensor_that_all_patients_share_is_not_split():
    class OnGraph(zoo.Squared):
        def forward(self, batch):
            return (self.network(batch.x @ batch.graph).squeeze(-1) - batch.y) ** 2

    plain = zoo.numbers(6, patients=6)  # the graph has as many rows as there are patients
    batch = WithShared(plain.x, plain.y, torch.randn(6, 6))
    model = OnGraph(zoo.mlp())
    fast = clipped_gradient_sum(model, batch, CLIP).vector
    assert distance(clipped_gradient_sum(model, batch, CLIP, method="vmap").vector, fast) < 1e-4


@pytest.mark.parametrize("clip", [0.0, -1.0, math.inf, math.nan])
def test_impossible_clipping_norm(clip):
    with pytest.raises(TrainingInvalid, match="clipping norm"):
        clipped_gradient_sum(zoo.Squared(nn.Linear(6, 1)), zoo.numbers(6), clip)


def test_a_model_without_parameters_and_a_batch_without_fields_are_refused():
    frozen = zoo.Squared(nn.Linear(6, 1)).requires_grad_(False)
    with pytest.raises(UnsupportedModel, match="no parameter"):
        clipped_gradient_sum(frozen, zoo.numbers(6), CLIP)

    class Loose:
        def __init__(self, x, y):
            self.x, self.y = x, y

        def __len__(self):
            return len(self.y)

        def select(self, index):
            return Loose(self.x[index], self.y[index])

    plain = zoo.numbers(6)
    with pytest.raises(UnsupportedModel, match="dataclass"):
        clipped_gradient_sum(
            zoo.Squared(nn.Linear(6, 1)), Loose(plain.x, plain.y), CLIP, method="vmap"
        )


def test_a_model_that_cannot_make_up_patients_is_clipped_one_by_one():
    model, batch = zoo.Squared(zoo.mlp()), zoo.numbers(6)
    assert bookkeeping.has_rules(model)
    assert not supports_bookkeeping(model)
    found = clipped_gradient_sum(model, batch, CLIP).vector
    assert np.array_equal(found, clipped_gradient_sum(model, batch, CLIP, method="vmap").vector)


def test_the_verdict_follows_neither_from_weights_nor_from_patients():
    verdicts = []
    for weight in (0.0, 1.0, 1e12, math.nan):
        model, _ = zoo.build(zoo.COVERED, "mlp with norm and in-place relu")
        nn.init.constant_(model.network[0].weight, weight)
        verdicts.append(supports_bookkeeping(model))
    assert verdicts == [True] * 4


def test_a_product_of_tiny_activations_and_huge_slopes_is_clipped():
    """Their squares are beyond float32, the gradient is not."""
    for steps in (1, 5):
        network = nn.Sequential(nn.Linear(60, 50), zoo.Mean(), nn.Linear(50, 1, bias=False))
        model = zoo.Squared(network)
        nn.init.constant_(network[2].weight, 1e16)
        nn.init.zeros_(network[0].weight)
        nn.init.zeros_(network[0].bias)
        network[0].bias.requires_grad_(False)
        network[2].requires_grad_(False)
        x = torch.full((3, steps, 60), 2e-23)
        batch = zoo.Patients(x, torch.full((3,), 30.0))
        one = clipped_gradient_sum(
            model, batch.select(torch.tensor([0])), 1e-4, method="bookkeeping"
        )
        assert 0 < np.linalg.norm(one.vector) <= 1e-4
