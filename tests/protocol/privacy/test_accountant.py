"""Epsilon against closed forms, a second accountant and a numerical integral."""

import math
import time

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from fedrx_protocol.privacy.accountant import (
    Account,
    Composition,
    epsilon,
    epsilon_of,
    epsilon_upper,
    privacy_spent,
    would_exceed,
)
from fedrx_protocol.privacy.errors import AccountingInvalid
from fedrx_protocol.privacy.events import Release

DELTA = 1e-5


def release(sigma=5.0, rate=1.0, **changes):
    values = {
        "time": "2025-03-01T12:00:00Z",
        "study": "ab",
        "run": "r",
        "round": 1,
        "attempt": 0,
        "purpose": "training",
        "clipping_norm": 1.0,
        "cohort": "cd",
    }
    return Release(**values | changes, noise_multiplier=sigma, sample_rate=rate)


def gaussian_delta(epsilon, mu):
    """Delta of the Gaussian mechanism with mu = 1/sigma (Balle and Wang 2018, theorem 8)."""
    cdf = stats.norm.cdf
    return cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * cdf(-mu / 2 - epsilon / mu)


@given(st.lists(st.floats(2, 100), min_size=1, max_size=8))
@settings(max_examples=30)
def test_full_participation_is_the_exact_gaussian_mechanism(sigmas):
    found = epsilon([release(s) for s in sigmas], DELTA)
    mu = math.sqrt(sum(1 / s**2 for s in sigmas))
    expected = optimize.brentq(lambda e: gaussian_delta(e, mu) - DELTA, 0, 100)
    assert found == pytest.approx(expected, abs=1e-7)
    assert found >= expected - 1e-9


@pytest.mark.parametrize(("sigma", "rate", "steps"), [(1.0, 0.1, 100), (3.0, 0.5, 50)])
def test_sampled_epsilon_is_above_a_finer_accountant_and_close(sigma, rate, steps):
    fine = PLDAccountant(value_discretization_interval=1e-4)
    fine.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(sigma)), steps)
    found = epsilon([release(sigma, rate, steps=steps)], DELTA)
    assert fine.get_epsilon(DELTA) <= found <= fine.get_epsilon(DELTA) + 2e-3


def test_one_sampled_step_against_the_hockey_stick_integral():
    sigma, rate = 1.5, 0.3
    eps = epsilon([release(sigma, rate)], 1e-3)
    # Remove adjacency: P = (1-q) N(0) + q N(1) against Q = N(0), the worse direction here.
    x, step = np.linspace(-20, 21, 400_001, retstep=True)
    q = stats.norm.pdf(x, 0, sigma)
    p = (1 - rate) * q + rate * stats.norm.pdf(x, 1, sigma)
    delta_at = lambda e: (p - math.exp(e) * q).clip(min=0).sum() * step  # noqa: E731
    true = optimize.brentq(lambda e: delta_at(e) - 1e-3, 0, 10)
    assert true <= eps <= true + 2e-3


def test_rate_one_in_a_mixture_agrees_with_the_closed_form():
    mixed = epsilon([release(8.0), release(50.0, 0.01)], DELTA)
    assert epsilon([release(8.0)], DELTA) <= mixed <= epsilon([release(8.0)], DELTA) + 0.02


@given(
    st.lists(
        st.tuples(st.floats(0.8, 20), st.sampled_from([0.05, 0.5, 1.0]), st.integers(1, 20)),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=15, deadline=None)
def test_the_fast_bound_is_never_below(items):
    some = [release(s, q, steps=n) for s, q, n in items]
    assert epsilon_upper(some, DELTA) >= epsilon(some, DELTA)


def test_steps_and_repeats_are_the_same_thing_in_any_order():
    some = [release(5.0, 0.2, steps=3), release(7.0)]
    split = [release(7.0), *[release(5.0, 0.2)] * 3]
    assert epsilon(some, DELTA) == epsilon(split, DELTA)


def test_nothing_costs_nothing_and_no_noise_costs_everything():
    assert epsilon([], DELTA) == epsilon_upper([], DELTA) == 0
    for accountant in (epsilon, epsilon_upper):
        assert accountant([release(5.0), release(0.0)], DELTA) == math.inf


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0, float("nan")])
def test_impossible_delta_is_refused_even_for_nothing(delta):
    with pytest.raises(AccountingInvalid, match="Delta"):
        epsilon([], delta)


def test_grid_slack_is_charged_twice_and_shrinks_delta():
    eta = 1e-3
    found = epsilon([release(grid_slack=eta)] * 10, DELTA)
    inner = epsilon([release()] * 10, DELTA * math.exp(-10 * eta) - 1e-30)
    assert found == pytest.approx(inner + 20 * eta, abs=1e-10)
    assert epsilon([release(grid_slack=1e3)], DELTA) == math.inf


def test_one_study_composes_its_two_purposes_in_parallel():
    some = [release(3.0)] * 2 + [release(4.0, purpose="metrics")] * 5
    spent = privacy_spent(some, DELTA)
    assert spent.training == epsilon(some[:2], DELTA)
    assert spent.metrics == epsilon(some[2:], DELTA)
    assert spent.total == max(spent.training, spent.metrics)
    assert spent.delta == DELTA


def test_over_studies_a_patient_may_change_sides():
    some = [
        release(3.0, study="aa"),
        release(9.0, study="aa", purpose="metrics"),
        release(9.0, study="bb"),
        release(3.0, study="bb", purpose="metrics"),
    ]
    spent = privacy_spent(some, DELTA)
    assert spent.total == epsilon([some[0], some[3]], DELTA)
    assert spent.total > max(spent.training, spent.metrics)


def test_very_many_studies_are_charged_on_both_sides():
    sides = ("training", "metrics")
    some = [release(9.0, study=f"{i:02x}", purpose=side) for i in range(8) for side in sides]
    assert privacy_spent(some, DELTA).total == epsilon(some, DELTA)


def test_nothing_spent():
    assert privacy_spent([], DELTA).total == 0


@pytest.mark.parametrize(("sigma", "rate", "eta"), [(30.0, 1.0, 1e-8), (3.0, 0.1, 1e-8)])
def test_would_exceed_says_no_exactly_while_epsilon_fits(sigma, rate, eta):
    cap = epsilon([release(sigma, rate, grid_slack=eta)] * 30, DELTA)
    account, new = Account(), release(sigma, rate, grid_slack=eta)
    for _ in range(30):
        assert not account.would_exceed([new], cap, DELTA)
        account.add(new)
    assert account.would_exceed([new], cap, DELTA)
    assert account.spent(DELTA).total == cap
    assert would_exceed([new] * 30, new, cap, DELTA)
    assert not would_exceed([new] * 29, new, cap, DELTA)


def test_would_exceed_sees_a_past_of_another_kind():
    past = [release(4.0), release(2.0, 0.1, steps=20)]
    new = release(5.0, 0.05, steps=10)
    cap = epsilon([*past, new, new], DELTA)
    assert not would_exceed([*past, new], new, cap, DELTA)
    assert would_exceed([*past, new, new], new, cap, DELTA)
    assert would_exceed(past, new, epsilon(past, DELTA) * 0.9, DELTA)
    assert would_exceed([], release(0.0), 1000.0, DELTA)


def test_asking_leaves_the_account_unchanged():
    account = Account.of([release()])
    before = account.spent(DELTA)
    account.would_exceed([release(1.0), release(1.0, study="ef")], 1.0, DELTA)
    assert account.spent(DELTA) == before


def test_a_site_may_ask_before_every_round_of_a_sampled_study():
    new = release(6.0, 0.1, grid_slack=1e-9)
    account, start = Account(), time.perf_counter()
    for _ in range(200):
        assert not account.would_exceed([new], 1.0, DELTA)
        account.add(new)
    assert time.perf_counter() - start < 5


def test_a_tiny_sampled_noise_is_answered_by_the_bound():
    found = epsilon([release(0.01, 0.5, steps=10)], DELTA)
    assert found > 500


@given(st.floats(0.5, 50), st.integers(1, 50), st.integers(1, 50))
@settings(max_examples=25)
def test_compositions_add(sigma, first, second):
    kind = (sigma, 1.0)
    added = Composition.repeated(kind, first) + Composition.repeated(kind, second)
    assert added == Composition.repeated(kind, first + second)
    assert epsilon_of(added, DELTA) >= epsilon_of(Composition.repeated(kind, first), DELTA)
