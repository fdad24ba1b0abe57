"""Epochs at the site: what they compute, and what they never depend on."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedrx_client.training.clipping import clipped_gradient_sum
from fedrx_client.training.errors import TrainingInvalid
from fedrx_client.training.local_epochs import LocalSettings, local_epochs, local_settings
from fedrx_client.training.randomness import SeededRandomness

_spec = importlib.util.spec_from_file_location(
    "models_for_local_training", Path(__file__).with_name("models_for_training.py")
)
zoo = importlib.util.module_from_spec(_spec)
sys.modules["models_for_local_training"] = zoo
_spec.loader.exec_module(zoo)

torch.set_num_threads(1)
SETTINGS = {
    "sample_rate": 1.0,
    "steps": 1,
    "expected_batch_size": 9.0,
    "learning_rate": 0.1,
    "clipping_norm": 0.7,
    "noise_multiplier": 0.0,
    "proximal": 0.0,
}


def train(settings, *, seed=1, batch=None, model=None, round_=1):
    torch.manual_seed(5)
    return local_epochs(
        model or zoo.Squared(zoo.mlp()),
        zoo.numbers(6) if batch is None else batch,
        LocalSettings(**SETTINGS | settings),
        SeededRandomness(seed),
        site="here",
        round_=round_,
    )


def weights_of(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_plain_steps_are_torchs_own_sgd():
    torch.manual_seed(5)
    model = zoo.Squared(zoo.mlp())
    before = weights_of(model).clone()
    update = train({"steps": 4}, model=model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        model(zoo.numbers(6)).mean().backward()
        optimizer.step()
    expected = (weights_of(model) - before).numpy()
    np.testing.assert_allclose(update.change, expected, atol=1e-5)


def test_the_model_is_left_as_it_was_even_after_a_failure():
    torch.manual_seed(5)
    model = zoo.Squared(zoo.mlp())
    before = weights_of(model).clone()
    train({"steps": 3, "noise_multiplier": 1.0}, model=model)
    assert torch.equal(before, weights_of(model))
    with pytest.raises(TrainingInvalid, match="smaller learning rate"):
        train({"steps": 40, "learning_rate": 1e9}, model=model)
    assert torch.equal(before, weights_of(model))
    assert all(p.grad is None for p in model.parameters())


def test_a_private_step_is_the_clipped_sum_plus_noise_over_the_divisor():
    torch.manual_seed(5)
    model = zoo.Squared(nn.Linear(6, 1))
    clipped = clipped_gradient_sum(model, zoo.numbers(6), 0.7).vector
    tiny = train({"noise_multiplier": 1e-9, "expected_batch_size": 20.0}, model=model)
    np.testing.assert_allclose(tiny.change, -0.1 * clipped / 20.0, atol=1e-6)


def test_the_noise_has_the_size_that_is_accounted_for():
    torch.manual_seed(5)
    model = zoo.Squared(nn.Linear(6, 1))
    nobody = zoo.numbers(6).select(torch.tensor([], dtype=torch.int64))
    settings = {
        "noise_multiplier": 3.0,
        "learning_rate": 1.0,
        "expected_batch_size": 1.0,
        "steps": 4,
    }
    draws = np.concatenate(
        [train(settings, model=model, batch=nobody, round_=r).change for r in range(300)]
    )
    expected = 3.0 * 0.7 * math.sqrt(4)
    assert draws.std() == pytest.approx(expected, rel=4 / math.sqrt(2 * len(draws)))
    assert abs(draws.mean()) < 4 * expected / math.sqrt(len(draws))


def test_noise_comes_from_the_rounds_stream_and_not_from_torch():
    private = {"noise_multiplier": 1.0, "sample_rate": 0.5, "steps": 5}
    first = train(private).change
    torch.manual_seed(99)
    assert np.array_equal(first, train(private).change)
    assert not np.array_equal(first, train(private, seed=2).change)
    assert not np.array_equal(first, train(private, round_=2).change)


def test_one_patient_moves_a_noise_free_private_step_by_at_most_the_norm():
    batch, settings = zoo.numbers(6), {"noise_multiplier": 1e-12, "expected_batch_size": 1.0}
    whole = train(settings | {"learning_rate": 1.0}).change
    for left_out in range(len(batch)):
        rest = torch.arange(len(batch))
        some = batch.select(rest[rest != left_out])
        without = train(settings | {"learning_rate": 1.0}, batch=some).change
        assert np.linalg.norm(whole - without) <= 0.7


def test_the_proximal_term_pulls_back_and_is_neither_divided_nor_noised():
    torch.manual_seed(5)
    nobody = zoo.numbers(6).select(torch.tensor([], dtype=torch.int64))
    free = {"noise_multiplier": 2.0, "expected_batch_size": 5.0, "steps": 2}
    one = train(free | {"steps": 1}, batch=nobody).change
    two = train(free, batch=nobody).change
    pulled = train(free | {"proximal": 0.5}, batch=nobody).change
    # In the second step the pull is 0.5 times the first step's change, at learning rate 0.1.
    np.testing.assert_allclose(pulled, two - 0.1 * 0.5 * one, atol=1e-6)


def test_the_proximal_term_without_privacy():
    free, held = (train({"steps": 20, "proximal": mu}).change for mu in (0.0, 5.0))
    assert np.linalg.norm(held) < 0.7 * np.linalg.norm(free)


def test_an_empty_site_changes_nothing_plainly_and_sends_noise_privately():
    nobody = zoo.numbers(6).select(torch.tensor([], dtype=torch.int64))
    assert not train({"steps": 3}, batch=nobody).change.any()
    private = train({"steps": 3, "noise_multiplier": 1.0}, batch=nobody)
    assert private.change.all()
    assert private.steps == 3


def test_plain_minibatches_see_each_patient_once_a_pass():
    seen = []

    class Watching(zoo.Squared):
        def forward(self, batch):
            seen.extend(batch.y.tolist())
            return super().forward(batch)

    batch = zoo.numbers(6)
    train({"sample_rate": 0.25, "steps": 8}, model=Watching(nn.Linear(6, 1)), batch=batch)
    assert sorted(seen[:9]) == sorted(seen[9:]) == sorted(batch.y.tolist())
    assert seen[:9] != seen[9:]


def test_training_with_frozen_parameters_moves_only_the_others():
    model = zoo.Squared(zoo.mlp())
    model.network[0].requires_grad_(False)
    update = train({"noise_multiplier": 0.5, "steps": 2}, model=model)
    assert update.change.shape == (8 + 8 + 8 + 1,)


def test_settings_of_epochs_follow_from_public_numbers():
    settings = local_settings(
        patients=100,
        epochs=3,
        batch_size=32,
        learning_rate=0.1,
        clipping_norm=1.0,
        noise_multiplier=1.0,
    )
    assert settings.sample_rate == 0.32
    assert settings.steps == 3 * 4
    assert settings.expected_batch_size == 32
    whole = local_settings(
        patients=10,
        epochs=2,
        batch_size=32,
        learning_rate=0.1,
        clipping_norm=1.0,
        noise_multiplier=1.0,
    )
    assert (whole.sample_rate, whole.steps, whole.expected_batch_size) == (1.0, 2, 10)
    with pytest.raises(TrainingInvalid, match="at least one patient"):
        local_settings(
            patients=0,
            epochs=1,
            batch_size=1,
            learning_rate=1.0,
            clipping_norm=1.0,
            noise_multiplier=0.0,
        )


def test_an_update_says_what_the_release_must_record():
    update = train({"noise_multiplier": 1.0, "sample_rate": 0.5, "steps": 7})
    assert (update.steps, update.sample_rate) == (7, 0.5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sample_rate", 0.0),
        ("sample_rate", 1.5),
        ("steps", 0),
        ("expected_batch_size", 0.0),
        ("learning_rate", -0.1),
        ("learning_rate", math.inf),
        ("clipping_norm", 0.0),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("proximal", -1.0),
    ],
)
def test_impossible_settings_are_refused(key, value):
    with pytest.raises(TrainingInvalid):
        LocalSettings(**SETTINGS | {key: value})
