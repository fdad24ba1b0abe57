"""The result equals the plain integer sum, whoever drops out when, and in whatever order."""

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from secagg_federation import federation, plain_sum, site_names

from fedrx_protocol.secagg.coordinator import CoordinatorRound
from fedrx_protocol.secagg.errors import TooFewSites

SLOW_IS_FINE = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)


class Stage:
    """One federation for many rounds: keys once, a later round for each example."""

    def __init__(self, n):
        self.federation = federation(n)
        self.round = 0

    def next(self):
        self.round += 1
        return self.federation, self.federation.request(self.round)


@pytest.fixture(scope="module")
def ring():
    return Stage(65)


def expected_survivors(names, silent_train, silent_resolve):
    """Who is left: those who fell silent in RESOLVE drop only if there was a RESOLVE to answer."""
    left = [name for name in names if name not in silent_train]
    if len(left) == len(names):
        return left
    for quiet in silent_resolve:
        still = [name for name in left if name not in quiet]
        if still == left:
            break
        left = still
    return left


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(n=st.integers(3, 12), data=st.data())
def test_complete_graph_with_dropouts_at_every_stage(n, data):
    stage, names = federation(n), site_names(n)
    silent = st.sets(st.sampled_from(names), max_size=max(n - stage.parameters.threshold, 0) + 1)
    train, resolve, unmask = (
        data.draw(silent),
        data.draw(st.lists(silent, max_size=3)),
        data.draw(silent),
    )
    length = data.draw(st.integers(1, 40))
    vectors = stage.vectors(length, seed=data.draw(st.integers(0, 2**32)))
    order = random.Random(data.draw(st.integers()))
    current = stage.play(
        stage.request(),
        vectors,
        silent_train=train,
        silent_resolve=resolve,
        silent_unmask=unmask,
        shuffle=order.shuffle,
    )
    survivors = expected_survivors(names, train, resolve)
    if len(survivors) < stage.parameters.threshold:
        assert current is None
    elif len(set(survivors) - unmask) < stage.parameters.threshold:
        assert not current.can_open
        with pytest.raises(TooFewSites):
            current.result()
    else:
        total, opened = current.result()
        assert opened == tuple(survivors)
        assert np.array_equal(total, plain_sum(vectors, survivors))


@settings(deadline=None, max_examples=8, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_ring_graph_with_dropouts_at_every_stage(ring, data):
    stage, request = ring.next()
    silent = st.sets(st.sampled_from(site_names(65)), max_size=3)
    train, resolve, unmask = (
        data.draw(silent),
        data.draw(st.lists(silent, max_size=2)),
        data.draw(silent),
    )
    vectors = stage.vectors(8, seed=data.draw(st.integers(0, 2**32)))
    current = stage.play(
        request,
        vectors,
        silent_train=train,
        silent_resolve=resolve,
        silent_unmask=unmask,
        shuffle=random.Random(data.draw(st.integers())).shuffle,
    )
    total, survivors = current.result()
    assert not set(survivors) & train
    assert np.array_equal(total, plain_sum(vectors, survivors))


def test_one_tenth_missing_leaves_every_seed_of_a_ring_recoverable(ring):
    stage, request = ring.next()
    missing = random.Random(4).sample(site_names(65), 6)
    vectors = stage.vectors(3)
    current = stage.play(request, vectors, silent_train=missing)
    total, survivors = current.result()
    assert len(survivors) == 59
    assert np.array_equal(total, plain_sum(vectors, survivors))


def test_a_ring_too_thin_gives_no_sum(ring):
    stage, request = ring.next()
    near = sorted(stage.keys.graph.neighbours("site-000"))
    current = stage.play(request, stage.vectors(3), silent_train=near[:13])
    assert current is None


def test_long_vectors_cross_the_block_border():
    stage = federation(4)
    vectors = stage.vectors(40_000)
    current = stage.play(stage.request(), vectors, silent_train=["site-002"])
    total, survivors = current.result()
    assert np.array_equal(total, plain_sum(vectors, survivors))


def test_many_rounds_and_epochs_use_the_same_parties():
    stage = federation(3)
    for number in range(1, 6):
        if number == 3:
            stage.open_epoch(2)
        vectors = stage.vectors(4, seed=number)
        total, _ = stage.play(stage.request(number), vectors).result()
        assert np.array_equal(total, plain_sum(vectors, site_names(3)))


def test_a_round_over_some_of_the_sites():
    stage, some = federation(6), site_names(6)[1:]
    vectors = stage.vectors(4)
    total, survivors = stage.play(stage.request(participants=some), vectors).result()
    assert survivors == tuple(some)
    assert np.array_equal(total, plain_sum(vectors, some))


def test_a_failed_attempt_is_followed_by_another():
    stage, names = federation(5), site_names(5)
    vectors = stage.vectors(4)
    assert stage.play(stage.request(attempt=0), vectors, silent_train=names[:2]) is None
    total, survivors = stage.play(stage.request(attempt=1), vectors).result()
    assert survivors == tuple(names)
    assert np.array_equal(total, plain_sum(vectors, names))


def test_inputs_may_be_kept_outside_memory_and_are_emptied():
    stage, kept = federation(4), {}
    request, vectors = stage.request(), stage.vectors(4)
    current = CoordinatorRound(stage.keys, request, length=4, inputs=kept)
    for message in stage.masked(request, vectors)[:3]:
        current.add(message)
    assert len(kept) == 3
    assert stage.resolve(current, [])
    assert not kept
