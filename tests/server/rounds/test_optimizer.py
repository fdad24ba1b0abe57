"""The coordinator's optimizer against its formulas, and across a restart."""

import numpy as np
import pytest
import torch

from fedrx_protocol.study.study import OptimizerSection
from fedrx_server.rounds.optimizer import ServerOptimizer

START = np.array([1.0, -2.0, 0.5], dtype=np.float32)
DIRECTIONS = [np.random.default_rng(number).normal(size=3) for number in range(1, 7)]


def optimizer(rounds=6, **settings) -> ServerOptimizer:
    values = {"name": "sgd", "learning_rate": 0.5, "momentum": 0.0, "decay": "none", **settings}
    return ServerOptimizer(OptimizerSection(**values), START, rounds)


def after(steps, taken=DIRECTIONS, **settings):
    chosen = optimizer(**settings)
    for number in range(1, steps + 1):
        chosen.step(taken[number - 1], number)
    return chosen.weights


def test_start_weights_are_copied():
    start = START.copy()
    chosen = ServerOptimizer(OptimizerSection(), start, 3)
    chosen.step(DIRECTIONS[0], 1)
    np.testing.assert_array_equal(start, START)
    chosen.weights[:] = 0
    assert chosen.weights.any()


def test_plain_sgd_steps_against_the_direction():
    np.testing.assert_allclose(after(1), START - 0.5 * DIRECTIONS[0], rtol=1e-6)


def test_fedavg_is_sgd_of_rate_one_on_minus_the_change():
    change = np.array([0.25, 0.5, -1.0])
    np.testing.assert_array_equal(after(1, [-change], learning_rate=1.0), START + change)


def test_momentum_remembers():
    velocity = 0.9 * DIRECTIONS[0] + DIRECTIONS[1]
    expected = START - 0.5 * DIRECTIONS[0] - 0.5 * velocity
    np.testing.assert_allclose(after(2, momentum=0.9), expected, rtol=1e-5)


def test_linear_decay_ends_just_above_nothing():
    sizes = []
    for number in range(1, 7):
        chosen = optimizer(decay="linear")
        chosen.step(np.ones(3), number)
        sizes.append(float((START - chosen.weights)[0]))
    np.testing.assert_allclose(sizes, [0.5 * (6 - done) / 6 for done in range(6)], rtol=1e-5)


def test_adam_is_adam():
    mean = square = 0.0
    weights = START.astype(np.float64)
    for number, direction in enumerate(DIRECTIONS[:4], start=1):
        mean = 0.8 * mean + 0.2 * direction
        square = 0.95 * square + 0.05 * direction**2
        corrected = np.sqrt(square / (1 - 0.95**number)) + 1e-8
        weights = weights - 0.5 * mean / (1 - 0.8**number) / corrected
    found = after(4, name="adam", momentum=0.8, beta2=0.95)
    np.testing.assert_allclose(found, weights, rtol=1e-4)


def torch_after(steps):
    weights = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
    adam = torch.optim.AdamW([weights], lr=0.1, betas=(0.9, 0.99), weight_decay=0.7)
    for direction in DIRECTIONS[:steps]:
        weights.grad = torch.from_numpy(direction)
        adam.step()
    return weights.detach().numpy()


def test_weight_decay_is_that_of_adamw():
    settings = {"name": "adam", "learning_rate": 0.1, "momentum": 0.9, "beta2": 0.99}
    found = after(4, weight_decay=0.7, **settings)
    np.testing.assert_allclose(found, torch_after(4), rtol=1e-5)
    assert not np.allclose(found, after(4, **settings), rtol=1e-2)


def test_a_decay_beyond_all_measure_stops_at_nothing():
    np.testing.assert_allclose(after(1, weight_decay=1000.0), -0.5 * DIRECTIONS[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("stopped_after", [0, 1, 3])
def test_a_resumed_run_continues_to_the_last_bit(name, momentum, stopped_after):
    settings = {"name": name, "momentum": momentum, "decay": "linear"}
    first = optimizer(**settings)
    for number in range(1, stopped_after + 1):
        first.step(DIRECTIONS[number - 1], number)
    section = OptimizerSection(learning_rate=0.5, **settings)
    second = ServerOptimizer(section, first.weights, 6)
    second.restore({key: value.copy() for key, value in first.state().items()})
    for number in range(stopped_after + 1, 7):
        second.step(DIRECTIONS[number - 1], number)
    np.testing.assert_array_equal(second.weights, after(6, **settings))


def test_without_its_state_a_resumed_run_would_differ():
    first = optimizer(momentum=0.9)
    first.step(DIRECTIONS[0], 1)
    second = ServerOptimizer(
        OptimizerSection(learning_rate=0.5, momentum=0.9, decay="none"), first.weights, 6
    )
    second.step(DIRECTIONS[1], 2)
    assert not np.array_equal(second.weights, after(2, momentum=0.9))


def test_state_is_plain_arrays():
    chosen = optimizer(name="adam")
    chosen.step(DIRECTIONS[0], 1)
    state = chosen.state()
    assert set(state) == {"count", "mean", "square"}
    assert all(value.dtype == np.float64 and value.ndim == 1 for value in state.values())


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_torch_steps_to_the_same_place(name, momentum):
    parameter = torch.nn.Parameter(torch.from_numpy(START.astype(np.float64)))
    if name == "adam":
        oracle = torch.optim.Adam([parameter], lr=0.5, betas=(momentum, 0.99))
    else:
        oracle = torch.optim.SGD([parameter], lr=0.5, momentum=momentum)
    for direction in DIRECTIONS:
        parameter.grad = torch.from_numpy(direction)
        oracle.step()
    found = after(6, name=name, momentum=momentum)
    np.testing.assert_allclose(found, parameter.detach().numpy(), rtol=1e-5)
