"""Waits grow by a factor up to the longest; a jitter source shortens them."""

from itertools import islice

import pytest

from fedrx_common.backoff import Backoff


def test_waits_grow_to_the_longest():
    assert list(islice(Backoff(first=1.0, longest=10.0), 6)) == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert list(islice(Backoff(first=0.5, longest=4.0, factor=3.0), 4)) == [0.5, 1.5, 4.0, 4.0]


def test_each_iteration_begins_at_the_first_wait():
    backoff = Backoff(first=1.0, longest=10.0)
    assert [next(iter(backoff)), next(iter(backoff))] == [1.0, 1.0]


@pytest.mark.parametrize(("first", "wait"), [(1.0, 60.0), (0.0, 0.0)])
def test_many_failures_do_not_overflow(first, wait):
    assert Backoff(first=first, longest=60.0).after(10**6) == wait


def test_equal_waits():
    assert list(islice(Backoff(first=2.0, longest=9.0, factor=1.0), 3)) == [2.0, 2.0, 2.0]


def test_a_jitter_source_takes_a_share_off():
    shares = iter([0.0, 0.5, 1.0])
    backoff = Backoff(first=8.0, longest=8.0, jitter=lambda: next(shares))
    assert [backoff.after(times) for times in (1, 2, 3)] == [8.0, 4.0, 0.0]


@pytest.mark.parametrize("numbers", [(-1.0, 1.0, 2.0), (2.0, 1.0, 2.0), (1.0, 2.0, 0.5)])
def test_impossible_numbers(numbers):
    with pytest.raises(ValueError, match="No back-off"):
        Backoff(*numbers)
