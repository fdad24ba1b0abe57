"""Randomness: the right distributions, from the right streams."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedrx_client.training.errors import TrainingInvalid
from fedrx_client.training.noise import _BLOCKS, _PART, LARGEST_SD, _exponential, discrete_gaussian
from fedrx_client.training.randomness import SeededRandomness, SystemRandomness
from fedrx_client.training.sampling import poisson_sample


def stream(purpose="test", seed=7):
    return SeededRandomness(seed).generator("site", 1, purpose)


@pytest.mark.parametrize("sd", [0.3, 1.0, 7.0, 10.0, 17.3, 40.0])
def test_every_integer_has_its_exact_probability(sd):
    draws = discrete_gaussian(sd, 300_000, stream(str(sd)))
    reach = max(2, int(4 * sd))
    support = np.arange(-40 * reach, 40 * reach + 1)
    weights = np.exp(-(support**2) / (2 * sd**2))
    weights /= weights.sum()
    inside = np.abs(support) <= reach
    expected = weights[inside] * len(draws)
    found = np.array([(draws == k).sum() for k in support[inside]])
    usable = expected >= 10
    statistic = ((found - expected) ** 2 / expected)[usable].sum()
    assert stats.chi2.sf(statistic, usable.sum()) > 1e-4


@pytest.mark.parametrize("sd", [1000.0, 2.0**20, LARGEST_SD])
def test_large_noise_has_a_gaussians_shape_and_fine_grain(sd):
    draws = discrete_gaussian(sd, 200_000, stream("large"))
    assert stats.kstest(draws / sd, "norm").pvalue > 1e-4
    # A rounded product of few bits would favour some last digits.
    last = np.bincount(draws & 7, minlength=8)
    assert stats.chisquare(last).pvalue > 1e-4


def test_the_mean_and_spread_of_many_draws():
    draws = discrete_gaussian(5e5, 400_000, stream("moments")) / 5e5
    assert abs(draws.mean()) < 4 / math.sqrt(len(draws))
    assert draws.std() == pytest.approx(1, abs=4 / math.sqrt(2 * len(draws)))
    assert (draws**4).mean() == pytest.approx(3, abs=0.08)


@given(st.floats(0, 2.0**40), st.integers(0, 300))
@settings(max_examples=40)
def test_any_noise_is_whole_and_of_the_size_asked_for(sd, size):
    draws = discrete_gaussian(sd, size, stream())
    assert draws.shape == (size,)
    assert draws.dtype == np.int64
    assert size == 0 or np.abs(draws).max() <= 12 * sd + 1


def test_no_noise_is_zeros():
    assert not discrete_gaussian(0.0, 10, stream()).any()


@pytest.mark.parametrize("depth", [0.5, 3.0, 4.5, 9.0])
def test_exponential_variables_have_their_distribution_far_out(depth):
    drawn = _exponential(1_000_000, stream(f"depth {depth}"))
    expected = math.exp(-depth)
    assert (drawn > depth).mean() == pytest.approx(expected, abs=5 * math.sqrt(expected / 1e6))


def test_nothing_is_compared_deeper_than_a_part():
    """A uniform number of 53 bits says nothing of exp(-37): NumPy draws nothing beyond it."""

    class Deep:
        """Draws the largest number that NumPy's generator knows, five times, then a usual one."""

        def __init__(self):
            self.left = 5

        def standard_exponential(self, size):
            self.left -= 1
            return np.full(size, 44.4 if self.left >= 0 else 1.5)

    assert _exponential(3, Deep()).tolist() == [5 * _PART + 1.5] * 3


def test_the_tail_bound_holds_to_twelve_deviations():
    parts = math.ceil(74 / _PART)
    resolution = parts * math.exp(_PART) * 2.0**-53
    edges = math.exp(_PART) * _BLOCKS * 2.0**-53
    assert resolution + edges + 2.0**-44 < 2.0**-40
    # 74: what is proposed and what is accepted, whatever the standard deviation.
    for sd in np.geomspace(0.3, LARGEST_SD, 400):
        ratio = sd / (_BLOCKS * max(1, round(sd / _BLOCKS)))
        assert 12 * ratio + (12 - ratio) ** 2 / 2 + 1 / _BLOCKS <= 74


@pytest.mark.parametrize(("sd", "size"), [(-1.0, 3), (math.nan, 3), (2.0**41, 3), (1.0, -1)])
def test_impossible_noise_is_refused(sd, size):
    with pytest.raises(TrainingInvalid, match="standard deviation"):
        discrete_gaussian(sd, size, stream())


def test_poisson_sample_takes_each_patient_by_an_own_coin():
    generator = stream("sampling")
    sizes, hits = [], np.zeros(50)
    for _ in range(4000):
        sample = poisson_sample(50, 0.05, generator)
        sizes.append(len(sample))
        hits[sample] += 1
        assert (np.diff(sample) > 0).all()
    assert np.mean(sizes) == pytest.approx(2.5, abs=0.1)
    assert np.var(sizes) == pytest.approx(50 * 0.05 * 0.95, rel=0.1)
    assert sizes.count(0) / 4000 == pytest.approx(0.95**50, abs=0.02)
    assert hits.min() > 140
    assert hits.max() < 265


def test_rate_one_is_everybody_without_drawing():
    generator = stream()
    assert poisson_sample(4, 1.0, generator).tolist() == [0, 1, 2, 3]
    assert generator.random() == stream().random()
    assert poisson_sample(0, 0.5, generator).tolist() == []


@pytest.mark.parametrize(("patients", "rate"), [(3, 0.0), (3, 1.01), (3, math.nan), (-1, 0.5)])
def test_impossible_sampling_is_refused(patients, rate):
    with pytest.raises(TrainingInvalid, match="rate"):
        poisson_sample(patients, rate, stream())


def test_a_live_stream_never_comes_back():
    live = SystemRandomness()
    assert not live.simulated
    first, again = (live.generator("a", 1, "noise").integers(0, 2**63, 4) for _ in range(2))
    assert (first != again).all()


def test_entropy_may_be_given_and_must_be_a_whole_key():
    fixed = SystemRandomness(entropy=lambda size: b"\x05" * size)
    assert fixed.generator("a", 1, "x").random() == fixed.generator("b", 2, "y").random()
    with pytest.raises(TrainingInvalid, match="32 bytes"):
        SystemRandomness(entropy=lambda size: b"short").generator("a", 1, "noise")


def test_the_stream_is_chacha20_with_our_key():
    # First block of ChaCha20 under the all-zero key, counter and nonce (RFC 7539, A.1, vector 1).
    generator = SystemRandomness(entropy=bytes).generator("a", 1, "noise")
    block = b"".join(int(w).to_bytes(8, "little") for w in generator.bit_generator.random_raw(8))
    assert block[:16].hex() == "76b8e0ada0f13d90405d6ae55386bd28"


def test_a_simulated_stream_follows_from_seed_site_round_and_purpose():
    def first(seed=1, site="a", round_=1, purpose="noise"):
        return SeededRandomness(seed).generator(site, round_, purpose).integers(0, 2**63)

    assert SeededRandomness(1).simulated
    assert first() == first()
    others = {first(seed=2), first(site="b"), first(round_=2), first(purpose="sampling")}
    assert len(others | {first()}) == 5
    assert first(site="a1", round_=1) != first(site="a", round_=11)


def test_simulated_streams_are_frozen_for_resumed_runs():
    generator = SeededRandomness(1).generator("site-01", 3, "noise")
    assert generator.integers(0, 2**32, 3).tolist() == [1165852054, 1226470996, 2962260582]
