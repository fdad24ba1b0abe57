"""Noise that is solved for keeps its promise, and hardly more."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_protocol.privacy.accountant import Composition, epsilon_of
from fedrx_protocol.privacy.calibration import (
    collusion_table,
    local_noise_multiplier,
    metrics_noise_multipliers,
    training_noise_multiplier,
)
from fedrx_protocol.privacy.errors import AccountingInvalid, TargetUnreachable
from fedrx_protocol.privacy.events import Release

DELTA = 1e-5


def spent_at(sigma, count=1):
    release = Release(
        time="2025-03-01T12:00:00Z",
        study="ab",
        run="r",
        round=1,
        attempt=0,
        purpose="training",
        noise_multiplier=sigma,
        sample_rate=1.0,
        clipping_norm=1.0,
        cohort="cd",
    )
    return [release] * count


@given(st.floats(0.05, 20), st.integers(1, 300), st.floats(0, 1e-6))
@settings(max_examples=25, deadline=None)
def test_full_participation_meets_the_target_from_below(target, releases, eta):
    sigma = training_noise_multiplier(target, DELTA, 1.0, releases, grid_slack=eta)
    used = Composition.repeated((sigma, 1.0), releases, releases * eta)
    less = Composition.repeated((sigma * 0.999, 1.0), releases, releases * eta)
    assert epsilon_of(used, DELTA) <= target < epsilon_of(less, DELTA)


def test_sampled_target_is_met_from_below():
    sigma = training_noise_multiplier(1.0, DELTA, 0.2, 60)
    assert 0.995 < epsilon_of(Composition.repeated((sigma, 0.2), 60), DELTA) <= 1.0
    assert sigma < training_noise_multiplier(1.0, DELTA, 1.0, 60)


def test_the_past_is_part_of_the_promise():
    past = spent_at(10.0, 2)
    sigma = training_noise_multiplier(1.0, DELTA, 1.0, 50, past)
    whole = Composition.of(past) + Composition.repeated((sigma, 1.0), 50)
    assert 0.999 < epsilon_of(whole, DELTA) <= 1.0
    assert sigma > training_noise_multiplier(1.0, DELTA, 1.0, 50)


def test_a_spent_promise_cannot_be_met():
    with pytest.raises(TargetUnreachable, match="past"):
        training_noise_multiplier(1.0, DELTA, 1.0, 10, spent_at(1.0))
    with pytest.raises(TargetUnreachable):
        training_noise_multiplier(1.0, DELTA, 1.0, 10, grid_slack=0.1)


def test_local_noise_counts_every_step():
    local = local_noise_multiplier(2.0, DELTA, sample_rate=0.2, rounds=5, steps_per_round=8)
    assert local == training_noise_multiplier(2.0, DELTA, 0.2, 40)


@given(st.floats(0.1, 20), st.integers(0, 40), st.floats(0.1, 0.9), st.sampled_from([0.0, 1e-6]))
@settings(max_examples=40, deadline=None)
def test_metrics_budget_is_met_and_divided_as_agreed(target, evaluations, share, eta):
    between, final = metrics_noise_multipliers(target, DELTA, evaluations, share, grid_slack=eta)
    whole = Composition.repeated((final, 1.0), 1, (evaluations + 1) * eta)
    if evaluations:
        whole += Composition.repeated((between, 1.0), evaluations)
        rho_final, rho_between = 1 / final**2, evaluations / between**2
        assert rho_final / (rho_final + rho_between) == pytest.approx(share)
    else:
        assert between == math.inf
    assert target * (1 - 1e-4) < epsilon_of(whole, DELTA) <= target


def test_metrics_target_below_the_grids_own_cost():
    with pytest.raises(TargetUnreachable, match="grid"):
        metrics_noise_multipliers(0.5, DELTA, 9, 0.6, grid_slack=0.1)


def test_collusion_table_runs_from_all_honest_to_none():
    sigma = training_noise_multiplier(1.0, DELTA, 1.0, 100)
    table = collusion_table(
        Composition.repeated((sigma, 1.0), 100),
        delta=DELTA,
        min_honest=15,
        participants=21,
        colluders=30,
    )
    counts, epsilons = zip(*table, strict=True)
    assert counts == tuple(range(22))
    assert list(epsilons) == sorted(epsilons)
    assert epsilons[0] < 0.9  # more sites took part than the promise needs
    assert epsilons[6] == pytest.approx(1.0, abs=1e-3)  # exactly 15 honest: the promise
    assert epsilons[7] > 1.0
    assert epsilons[21] == math.inf


def test_collusion_slack_grows_as_noise_shrinks():
    arguments = {"delta": DELTA, "min_honest": 4, "participants": 4, "colluders": 3}
    plain = collusion_table(Composition.repeated((20.0, 1.0), 10), **arguments)
    slack = collusion_table(Composition.repeated((20.0, 1.0), 10, 10 * 1e-5), **arguments)
    extra = [b - a for (_, a), (_, b) in zip(plain, slack, strict=True)]
    assert extra == sorted(extra)
    assert extra[3] >= 2 * 10 * 1e-5 * 4


@pytest.mark.parametrize(
    "call",
    [
        lambda: training_noise_multiplier(0.0, DELTA, 1.0, 10),
        lambda: training_noise_multiplier(math.inf, DELTA, 1.0, 10),
        lambda: training_noise_multiplier(math.nan, DELTA, 1.0, 10),
        lambda: training_noise_multiplier(1.0, 0.0, 1.0, 10),
        lambda: training_noise_multiplier(1.0, 1.0, 1.0, 10),
        lambda: training_noise_multiplier(1.0, DELTA, 0.0, 10),
        lambda: training_noise_multiplier(1.0, DELTA, 1.5, 10),
        lambda: training_noise_multiplier(1.0, DELTA, 1.0, 0),
        lambda: training_noise_multiplier(1.0, DELTA, 1.0, 1, grid_slack=-1),
        lambda: local_noise_multiplier(1.0, DELTA, sample_rate=1, rounds=0, steps_per_round=1),
        lambda: metrics_noise_multipliers(1.0, DELTA, -1, 0.6),
        lambda: metrics_noise_multipliers(1.0, DELTA, 5, 1.0),
        lambda: metrics_noise_multipliers(-1.0, DELTA, 5, 0.6),
        lambda: collusion_table(
            Composition(),
            delta=DELTA,
            min_honest=0,
            participants=3,
            colluders=1,
        ),
    ],
)
def test_impossible_targets_are_refused(call):
    with pytest.raises(AccountingInvalid):
        call()
