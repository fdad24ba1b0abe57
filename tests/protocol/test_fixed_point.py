"""Fixed point: sums are exact on the grid, and no sum that the bounds allow can wrap."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedrx_protocol.fixed_point import (
    FixedPoint,
    LayoutInvalid,
    Segment,
    SumLayout,
    ValueOutOfRange,
    from_ring,
    grid_scale,
    to_ring,
)

GRID = FixedPoint(scale=1024.0, limit=10_000)
LAYOUT = SumLayout((Segment("training", 3, 1024.0, 10_000), Segment("metrics", 2, 4.0, 100)))
INTEGERS = st.integers(-(2**31), 2**31 - 1)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float64, st.integers(0, 20), elements=st.floats(-9.7, 9.7)))
def test_a_value_moves_by_at_most_half_a_step(values):
    assert np.all(np.abs(GRID.decode(GRID.encode(values)) - values) <= 0.5 / GRID.scale)


def test_ties_go_to_even_and_types_are_as_promised():
    encoded = FixedPoint(1.0, 10).encode(np.array([0.5, 1.5, -0.5, 2.0], dtype=np.float32))
    assert encoded.tolist() == [0, 2, 0, 2]
    assert encoded.dtype == np.int64


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 9.77, -9.77, 1e308])
def test_a_value_out_of_range_is_refused(bad):
    with pytest.raises(ValueOutOfRange, match="position 1"):
        GRID.encode(np.array([0.0, bad, 0.0]))


def test_the_limit_itself_is_allowed():
    assert GRID.encode(np.array([10_000 / 1024])).tolist() == [10_000]


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.int64, st.integers(0, 20), elements=INTEGERS))
def test_the_ring_keeps_every_signed_integer(integers):
    elements = to_ring(integers)
    assert elements.dtype == np.uint32
    assert np.array_equal(from_ring(elements), integers)


@settings(max_examples=40, deadline=None)
@given(st.lists(hnp.arrays(np.int64, 3, elements=st.integers(-(2**20), 2**20)), min_size=1))
def test_sums_in_the_ring_are_sums_of_integers(vectors):
    total = np.zeros(3, dtype=np.uint32)
    for vector in vectors:
        total += to_ring(vector)
    assert np.array_equal(from_ring(total), np.sum(vectors, axis=0))


@pytest.mark.parametrize("integer", [2**31, -(2**31) - 1, 2**40])
def test_an_integer_outside_the_ring_is_refused(integer):
    with pytest.raises(ValueOutOfRange):
        to_ring(np.array([0, integer]))


@pytest.mark.parametrize(
    ("scale", "limit"), [(0.0, 1), (-1.0, 1), (math.inf, 1), (math.nan, 1), (1.0, 0), (1.0, 2**31)]
)
def test_impossible_grids(scale, limit):
    with pytest.raises(LayoutInvalid):
        FixedPoint(scale, limit)


@given(
    bound=st.floats(1e-3, 1e6),
    sites=st.integers(3, 1000),
    noise=st.floats(0, 1e6),
    steps=st.floats(0, 2**20),
)
def test_the_scale_leaves_room_for_the_worst_sum_and_not_much_more(bound, sites, noise, steps):
    scale = grid_scale(bound, sites=sites, noise_bound=noise, noise_steps=steps)
    assert math.log2(scale).is_integer()
    worst = scale * (bound + noise) + sites / 2 + steps
    assert worst < 2**31
    assert 2 * scale * (bound + noise) + sites / 2 + steps > 2**31 - 2


@given(st.integers(3, 40), st.data())
def test_the_worst_case_does_not_wrap(sites, data):
    share = data.draw(st.floats(0.001, 1000))
    scale = grid_scale(share * sites, sites=sites)
    limit = math.ceil(share * scale)
    assume(limit < 2**31)
    signs = data.draw(st.sampled_from([1.0, -1.0]))
    encoded = FixedPoint(scale, limit).encode(np.array([share * signs]))
    total = np.zeros(1, dtype=np.uint32)
    for _ in range(sites):
        total += to_ring(encoded)
    assert from_ring(total)[0] == sites * encoded[0]


@pytest.mark.parametrize(
    ("bound", "changes", "says"),
    [
        (0.0, {}, "above 0"),
        (math.inf, {}, "finite"),
        (math.nan, {}, "finite"),
        (1.0, {"noise_bound": -1.0}, "at least 0"),
        (1.0, {"noise_steps": -1.0}, "at least 0"),
        (1.0, {"noise_steps": 2.0**31}, "fills the ring"),
    ],
)
def test_bounds_that_leave_no_grid(bound, changes, says):
    with pytest.raises(LayoutInvalid, match=says):
        grid_scale(bound, sites=3, **changes)


def test_a_layout_puts_segments_side_by_side():
    values = {"metrics": np.array([1.25, -2.0]), "training": np.array([0.5, 0.0, -1.0])}
    vector = LAYOUT.encode(values)
    assert LAYOUT.length == 5
    assert from_ring(vector).tolist() == [512, 0, -1024, 5, -8]
    decoded = LAYOUT.decode(vector + vector)
    assert decoded["training"].tolist() == [1.0, 0.0, -2.0]
    assert decoded["metrics"].tolist() == [2.5, -4.0]


def test_noisy_integers_may_pass_a_site_s_limit_but_not_the_ring():
    quantised = LAYOUT.quantise({"training": np.zeros(3), "metrics": np.array([25.0, 0.0])})
    quantised["metrics"] += 7
    assert LAYOUT.split(LAYOUT.encode(quantised))["metrics"].tolist() == [107, 7]
    quantised["metrics"][0] = 2**31
    with pytest.raises(ValueOutOfRange):
        LAYOUT.encode(quantised)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"metrics": np.zeros(3)}, LayoutInvalid),
        ({"metrics": np.zeros((2, 1))}, LayoutInvalid),
        ({"other": np.zeros(2)}, LayoutInvalid),
        ({"metrics": np.array([25.5, 0.0])}, ValueOutOfRange),
        ({"metrics": np.array([np.nan, 0.0])}, ValueOutOfRange),
    ],
)
def test_values_that_do_not_fit_the_layout(change, error):
    values = {"training": np.zeros(3), "metrics": np.zeros(2)} | change
    with pytest.raises(error):
        LAYOUT.encode(values)


def test_a_sum_of_another_length_and_impossible_layouts():
    with pytest.raises(LayoutInvalid, match="5 values"):
        LAYOUT.decode(np.zeros(4, dtype=np.uint32))
    with pytest.raises(LayoutInvalid):
        SumLayout(())
    with pytest.raises(LayoutInvalid, match="distinct"):
        SumLayout((Segment("a", 1, 1.0, 1), Segment("a", 1, 1.0, 1)))
    with pytest.raises(LayoutInvalid, match="length"):
        Segment("a", 0, 1.0, 1)
    with pytest.raises(LayoutInvalid, match="scale"):
        Segment("a", 1, 0.0, 1)
