"""The bound between integer noise and the Gaussian account, checked number by number."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedrx_protocol.privacy.discretization import (
    TAIL_DELTA,
    TAIL_EXPONENT,
    grid_sensitivity,
    grid_slack,
    site_noise_sd,
)
from fedrx_protocol.privacy.errors import AccountingInvalid, NoiseTooSmall


def log_ratio(k, sd):
    """log R(k)/P(k): rounded Gaussian over discrete Gaussian, k >= 0."""
    rounded = stats.norm.sf(k - 0.5, scale=sd) - stats.norm.sf(k + 0.5, scale=sd)
    log_p = -(k**2) / (2 * sd**2) - math.log(sd * math.sqrt(2 * math.pi))
    return np.log(rounded) - log_p


@pytest.mark.parametrize("sd", [10.0, 12.5, 40.0])
def test_pointwise_bounds_of_the_derivation(sd):
    k = np.arange(0, int(8 * sd))
    ratio = log_ratio(k, sd)
    tiny = 1e-9  # floating point in the reference itself
    assert (ratio >= -1 / (24 * sd**2) - tiny).all()
    assert (ratio <= k**2 / (24 * sd**4) + tiny).all()
    assert ratio[0] == pytest.approx(-1 / (24 * sd**2), rel=0.01)  # so the bound is not idle


def test_normaliser_of_the_discrete_gaussian():
    k = np.arange(-2000, 2001)
    for sd in (10.0, 33.3):
        total = np.exp(-(k**2) / (2 * sd**2)).sum()
        assert total == pytest.approx(sd * math.sqrt(2 * math.pi), rel=1e-12)


@pytest.mark.parametrize("dimension", [1, 30, 400])
def test_slack_covers_rounded_gaussian_vectors(dimension):
    sd = 12.0
    draws = np.rint(np.random.default_rng(1).normal(0, sd, (2000, dimension)))
    a = np.abs(draws) / (2 * sd**2)
    a = np.maximum(a, 1e-6)  # the limit at 0 is 0
    exact = np.log(np.sinh(a) / a).sum(1)
    eta = grid_slack(dimension, sd, 1)
    assert exact.max() <= eta
    assert dimension / (24 * sd**2) <= eta


def test_sum_of_discrete_gaussians_is_one_at_the_least_noise():
    k = np.arange(-400, 401)
    one = np.exp(-(k**2) / 200.0)
    one /= one.sum()
    two = np.convolve(one, one)
    j = np.arange(-800, 801)
    expected = np.exp(-(j**2) / 400.0)
    expected /= expected.sum()
    inside = np.abs(j) < 100
    assert np.abs(np.log(two[inside] / expected[inside])).max() < 1e-10


@given(st.integers(1, 10**6), st.floats(10, 1e9), st.integers(1, 1000))
def test_slack_falls_with_noise_and_grows_with_dimension(dimension, sd, sites):
    eta = grid_slack(dimension, sd, sites)
    assert 0 < grid_slack(dimension, 2 * sd, sites) <= eta < grid_slack(dimension + 1, sd, sites)


def test_slack_of_a_usual_round_is_negligible():
    # 10,000 parameters, 2^20 grid units per clipping norm, sigma 40, 15 honest sites.
    sd = site_noise_sd(
        noise_multiplier=40.0,
        sensitivity=grid_sensitivity(scale=2.0**20, clipping_norm=1.0, dimension=10_000),
        min_honest=15,
    )
    assert 2 * 110 * grid_slack(10_000, sd, 15) < 1e-4


def test_tail_events_stay_below_what_is_charged():
    log_worst = 1000 + math.log(100_000) - TAIL_EXPONENT
    assert log_worst < math.log(TAIL_DELTA)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=30), st.data(), st.floats(1, 1e6))
def test_rounding_moves_a_sum_by_at_most_the_grid_sensitivity(values, data, scale):
    sum_without = np.array(values)
    raw = np.array(
        data.draw(st.lists(st.floats(-1, 1), min_size=len(values), max_size=len(values)))
    )
    patient = raw / max(1.0, float(np.linalg.norm(raw)))
    moved = np.rint(scale * (sum_without + patient)) - np.rint(scale * sum_without)
    bound = grid_sensitivity(scale=scale, clipping_norm=1.0, dimension=len(values))
    assert np.linalg.norm(moved) <= bound * (1 + 1e-9)


def test_the_sensitivity_of_rounding_is_reached():
    # Every coordinate sits just below one half and is pushed just above.
    below = np.full(4, 0.4999)
    moved = np.rint(below + 0.0002) - np.rint(below)
    assert np.linalg.norm(moved) == 2.0
    assert grid_sensitivity(scale=1, clipping_norm=0.0004, dimension=4) >= 2.0


def test_a_sites_share_of_the_noise():
    assert site_noise_sd(noise_multiplier=3.0, sensitivity=100.0, min_honest=9) == 100.0


def test_coarse_noise_is_refused_with_advice():
    with pytest.raises(NoiseTooSmall, match="raise the fixed-point scale"):
        grid_slack(10, 9.99, 15)
    with pytest.raises(NoiseTooSmall):
        grid_slack(10, float("nan"), 15)


@pytest.mark.parametrize(
    "call",
    [
        lambda: grid_slack(0, 100.0, 3),
        lambda: grid_slack(5, 100.0, 0),
        lambda: grid_sensitivity(scale=0, clipping_norm=1, dimension=1),
        lambda: grid_sensitivity(scale=1, clipping_norm=-1, dimension=1),
        lambda: grid_sensitivity(scale=1, clipping_norm=1, dimension=0),
        lambda: site_noise_sd(noise_multiplier=-1, sensitivity=1, min_honest=1),
        lambda: site_noise_sd(noise_multiplier=1, sensitivity=1, min_honest=0),
    ],
)
def test_impossible_shapes_are_refused(call):
    with pytest.raises(AccountingInvalid):
        call()
