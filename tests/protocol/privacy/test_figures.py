"""Which figures noise hides: one rule, on a value and the interval of its noise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrx_protocol.privacy.figures import HIDDEN, Figure, hides, readable


@pytest.mark.parametrize(
    ("value", "noise", "tells", "hidden"),
    [
        (0.49, (0.20, 0.78), 0.25, True),
        (0.0, (0.0, 17.15), 6.0, True),
        (1.26, (0.87, 1.65), 0.5, True),
        (0.72, (0.60, 0.84), 0.25, False),
        (1.0, (0.7, 1.0), 0.25, True),  # cut at the end of its range
        (0.5, (0.0, 1.0), 0.25, True),  # nothing known
        (0.49, None, 0.25, False),  # exact
        (0.49, (0.20, 0.78), float("inf"), False),
        (float("nan"), (0.4, 0.6), 0.25, True),
    ],
)
def test_noise_hides_what_it_leaves_nothing_to_tell_of(value, noise, tells, hidden):
    figure = Figure(value, tells, noise)
    assert figure.hidden is hidden
    assert (figure.shown is None) is hidden
    assert (figure.words(2) == HIDDEN) is hidden


@given(st.floats(0, 1), st.floats(0, 2), st.floats(0.01, 1), st.floats(1, 10), st.floats(1, 10))
def test_less_noise_and_more_to_tell_never_hide(value, reach, tells, less, more):
    figure = Figure(value, tells, (max(0.0, value - reach), min(1.0, value + reach)))
    near = max(0.0, value - reach / less), min(1.0, value + reach / less)
    if not figure.hidden:
        assert not Figure(value, more * tells, near).hidden
    assert hides(reach, tells) or not figure.hidden


def test_words_name_the_interval_that_there_is():
    flat = {"mae": 8.5, "mae_low": 8.0, "mae_high": 9.0}
    assert Figure.of({"mae": 8.5}, "mae").words(2, "mg") == "8.50 mg"
    assert Figure.of(flat, "mae").words(1, "mg") == "8.5 mg (8.0 to 9.0 by its noise)"
    flat |= {"mae_ci_low": 7.5, "mae_ci_high": 9.5}
    assert Figure.of(flat, "mae").words(1) == "8.5 (95 %: 7.5 to 9.5; by its noise ±0.5)"
    assert Figure.of({}, "mae").words(1) == "unknown"


def test_a_program_gets_null_and_the_interval():
    flat = {"n": 9.0, "auc": 0.5, "auc_low": 0.1, "auc_high": 0.9}
    assert readable(flat, "auc", 0.25) == {**flat, "auc": None}
    assert readable({"n": 9.0}, "auc", 0.25) == {"n": 9.0, "auc": None}
    assert readable({}, "auc", 0.25) == {}
