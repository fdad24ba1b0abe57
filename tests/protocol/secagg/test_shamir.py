"""Shamir's sharing: any threshold of shares rebuilds, fewer say nothing, wrong ones are found."""

import itertools
import random

import pytest
from Crypto.Protocol.SecretSharing import Shamir
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_federation import keystream
from sympy import isprime, prevprime

from fedrx_protocol.secagg import shamir
from fedrx_protocol.secagg.errors import ShareInvalid

SECRET = bytes(range(32))


def shared(n, threshold, secret=SECRET, seed=0):
    points = {str(place): place for place in range(1, n + 1)}
    shares = shamir.split(secret, threshold, points, keystream(seed))
    return [(points[holder], share) for holder, share in shares.items()]


def is_secret(candidate):
    return candidate == SECRET


def spoiled(shares, places):
    return [
        (point, bytes(32) + b"\x05" if place in places else share)
        for place, (point, share) in enumerate(shares)
    ]


def test_the_modulus_is_the_largest_prime_below_2_to_the_257():
    assert isprime(shamir.PRIME)
    assert prevprime(2**257) == shamir.PRIME


@settings(max_examples=40, deadline=None)
@given(
    secret=st.binary(min_size=32, max_size=32),
    n=st.integers(1, 25),
    data=st.data(),
)
def test_any_threshold_of_shares_rebuilds_the_secret(secret, n, data):
    threshold = data.draw(st.integers(1, n))
    shares = shared(n, threshold, secret, seed=data.draw(st.integers()))
    chosen = data.draw(st.permutations(shares))[:threshold]
    found, wrong = shamir.recover(chosen, threshold, lambda candidate: candidate == secret)
    assert (found, wrong) == (secret, frozenset())


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_the_ends_of_the_range_are_secrets_too(secret):
    shares = shared(5, 3, secret)
    assert shamir.recover(shares, 3, lambda found: found == secret)[0] == secret


def test_every_subset_agrees_as_in_the_library_flower_uses():
    """The property, not the bytes: pycryptodome shares 16 bytes in another field."""
    ours = shared(5, 3)
    theirs = Shamir.split(3, 5, SECRET[:16])
    for places in itertools.combinations(range(5), 3):
        assert shamir.recover([ours[i] for i in places], 3, is_secret)[0] == SECRET
        assert Shamir.combine([theirs[i] for i in places]) == SECRET[:16]


def test_one_share_fewer_fits_every_secret():
    """For each candidate secret, threshold - 1 shares lie on a polynomial that starts with it."""
    shares = shared(5, 3)[:2]
    for candidate in (0, 1, 2**256 - 1):
        values = [(0, candidate), *((point, int.from_bytes(s, "big")) for point, s in shares)]
        polynomial = shamir._interpolate(values)
        assert len(polynomial) <= 3
        assert shamir._evaluate(polynomial, 0) == candidate


def test_too_few_shares_are_refused():
    with pytest.raises(ShareInvalid, match="fewer than the 3"):
        shamir.recover(shared(5, 3)[:2], 3, is_secret)


@settings(deadline=None, max_examples=40)
@given(st.integers(3, 21), st.data())
def test_wrong_shares_are_found_up_to_half_the_spare_ones(n, data):
    threshold = data.draw(st.integers(1, n))
    lies = data.draw(st.sets(st.integers(0, n - 1), max_size=(n - threshold) // 2))
    found, wrong = shamir.recover(spoiled(shared(n, threshold), lies), threshold, is_secret)
    assert found == SECRET
    # Where the first shares are right, later lies need not be noticed; none is invented.
    assert wrong <= {place + 1 for place in lies}
    if lies & set(range(threshold)):
        assert wrong == {place + 1 for place in lies}


def test_one_lie_is_found_with_a_single_spare_share():
    found, wrong = shamir.recover(spoiled(shared(16, 15), {3}), 15, is_secret)
    assert (found, wrong) == (SECRET, {4})


def test_beyond_repair_is_an_error_and_never_a_wrong_secret():
    with pytest.raises(ShareInvalid, match="committed"):
        shamir.recover(spoiled(shared(5, 5), {0}), 5, is_secret)
    with pytest.raises(ShareInvalid, match="committed"):
        shamir.recover(shared(5, 3), 3, lambda _: False)


def test_the_search_for_lies_is_bounded():
    tried = []
    with pytest.raises(ShareInvalid):
        shamir.recover(shared(30, 15), 15, lambda candidate: bool(tried.append(candidate)))
    assert len(tried) <= shamir._SEARCH_TRIES + 2


def test_shares_of_one_secret_look_random():
    draw = random.Random(1)
    one = shared(4, 3, seed=draw.random())
    two = shared(4, 3, seed=draw.random())
    assert not {share for _, share in one} & {share for _, share in two}
    assert all(len(share) == shamir.SHARE_BYTES for _, share in one)
