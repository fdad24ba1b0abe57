"""A patient at two sites: the bound is above what truly leaks, and close to it."""

import math

import pytest

from fedrx_protocol.privacy.accountant import Composition, epsilon_of
from fedrx_protocol.privacy.calibration import training_noise_multiplier
from fedrx_protocol.privacy.two_sites import epsilon_at_two_sites

NOTHING, DELTA = Composition(), 1e-5


def study_at(epsilon, rate=1.0, rounds=100):
    sigma = training_noise_multiplier(epsilon, DELTA, rate, rounds)
    return Composition.repeated((sigma, rate), rounds)


@pytest.mark.parametrize(
    ("epsilon", "twice"), [(0.5, 1.067), (1.0, 2.155), (3.0, 6.706), (8.0, 19.12)]
)
def test_about_twice_is_true_for_small_epsilons_only(epsilon, twice):
    found = epsilon_at_two_sites(study_at(epsilon), NOTHING, DELTA, shared_noise=True)
    assert found == pytest.approx(twice, rel=1e-3)


def test_with_sampling_it_is_above_the_exact_mixture_and_close_to_it():
    """Two coins decide whether nobody, one or both of the patient's copies are in a sum."""
    # dp_accounting's mixture of Gaussians, which takes minutes: sensitivities 0, 1 and 2 with
    # probabilities 0.81, 0.18 and 0.01, sigma 3.942, 100 times, delta 1e-5.
    exact = 2.158
    found = epsilon_at_two_sites(study_at(1.0, 0.1), NOTHING, DELTA, shared_noise=True)
    assert exact <= found <= 1.05 * exact


def test_two_sites_that_add_their_own_noise_leak_two_releases():
    spent = study_at(3.0)
    found = epsilon_at_two_sites(spent, NOTHING, DELTA, shared_noise=False)
    assert found == pytest.approx(epsilon_of(spent + spent, DELTA))


def test_the_worst_choice_of_sides_counts():
    little, much = study_at(0.5), study_at(2.0)
    found = epsilon_at_two_sites(little, much, DELTA, shared_noise=True)
    assert found == epsilon_at_two_sites(NOTHING, much, DELTA, shared_noise=True)
    assert found > epsilon_of(little + much, DELTA)


def test_nothing_costs_nothing_and_no_noise_everything():
    assert epsilon_at_two_sites(NOTHING, NOTHING, DELTA, shared_noise=True) == 0
    bare = Composition.repeated((0.0, 1.0), 1)
    assert math.isinf(epsilon_at_two_sites(bare, NOTHING, DELTA, shared_noise=True))
