"""Thresholds follow from the roster's size, and numbers that break the promise are refused."""

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrx_protocol.secagg.errors import ParametersImpossible
from fedrx_protocol.secagg.parameters import SecAggParameters, neighbourhood, session_id


@pytest.mark.parametrize(
    ("n", "threshold", "colluding"), [(3, 3, 0), (4, 3, 1), (5, 4, 1), (21, 15, 5), (64, 43, 16)]
)
def test_defaults_follow_from_the_number_of_sites(n, threshold, colluding):
    numbers = SecAggParameters.for_roster(n)
    assert (numbers.threshold, numbers.max_colluding) == (threshold, colluding)
    assert numbers.min_honest == threshold
    assert (numbers.degree, numbers.share_threshold, numbers.complete) == (n - 1, threshold, True)


@given(st.integers(3, 300))
def test_the_defaults_always_rule_out_two_sums(n):
    numbers = SecAggParameters.for_roster(n, max_colluding=n // 4)
    assert 2 * numbers.threshold > n + numbers.max_colluding
    assert numbers.threshold <= n


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n": 2}, "at least 3"),
        ({"n": 5, "threshold": 7}, "fewer than the threshold"),
        ({"n": 4, "threshold": 2}, "at least 3"),
        ({"n": 21, "threshold": 13}, "raise the threshold to 14"),
        ({"n": 21, "threshold": 15, "max_colluding": 9}, "raise the threshold to 16"),
        ({"n": 21, "max_colluding": -1}, "at least 0"),
        ({"n": 21, "min_honest": 16}, "between 1 and the threshold"),
        ({"n": 21, "min_honest": 0}, "between 1 and the threshold"),
    ],
)
def test_impossible_numbers_are_refused_with_advice(arguments, says):
    with pytest.raises(ParametersImpossible, match=says):
        SecAggParameters.for_roster(**arguments)


def test_the_bound_of_the_specification_is_exact():
    assert SecAggParameters.for_roster(21, 15, max_colluding=8).max_colluding == 8


def test_a_graph_of_ones_own_choice_is_refused():
    with pytest.raises(ParametersImpossible, match="for_roster"):
        SecAggParameters(21, 15, 5, 15, degree=4, share_threshold=3)


@pytest.mark.parametrize(("n", "degree", "shares"), [(65, 40, 29), (200, 82, 64), (1000, 160, 122)])
def test_large_rosters_get_a_neighbourhood(n, degree, shares):
    numbers = SecAggParameters.for_roster(n)
    assert (numbers.degree, numbers.share_threshold, numbers.complete) == (degree, shares, False)


def tail(n, bad, drawn, above):
    """P[more than `above` of `bad` in a draw without replacement], the textbook way."""
    ways = sum(
        comb(bad, hits) * comb(n - bad, drawn - hits)
        for hits in range(above + 1, min(bad, drawn) + 1)
        if drawn - hits <= n - bad
    )
    return ways / comb(n, drawn)


@pytest.mark.parametrize("n", [65, 100, 200])
def test_a_neighbourhood_meets_the_three_conditions(n):
    colluding, missing = n // 4, n // 10
    degree, shares = neighbourhood(n, colluding)
    # Most colluders that could be around without both secrets of one site opening.
    harmless = 2 * shares - (degree + 1) - 1
    assert n * tail(n - 1, colluding, degree, harmless) <= 2**-40
    assert n * tail(n - 1, missing, degree, degree + 1 - shares) <= 2**-20
    half = degree // 2
    assert n * tail(n - 1, colluding + missing, half, half - 1) <= 2**-40


def test_where_no_neighbourhood_will_do_the_graph_is_complete():
    numbers = SecAggParameters.for_roster(66, threshold=66, max_colluding=60)
    assert numbers.complete
    assert numbers.share_threshold == 66


def test_a_session_differs_with_each_of_its_parts():
    ids = {
        session_id("run", "study", b"roster"),
        session_id("run2", "study", b"roster"),
        session_id("run", "study2", b"roster"),
        session_id("run", "study", b"roster2"),
        session_id("runs", "tudy", b"roster"),
    }
    assert len(ids) == 5
