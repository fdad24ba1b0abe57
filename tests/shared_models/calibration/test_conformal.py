"""The arithmetic of calibration: what a patient adds, and what a histogram promises."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_common.errors import MisuseError
from fedrx_models.calibration.conformal import ScoreGrid, ScoreTotals, calibrate

GRID = ScoreGrid.of_widths()
floats = st.floats(allow_nan=True, allow_infinity=True, width=32)
patients = st.lists(st.lists(floats, max_size=9).map(np.array), max_size=8)


@given(patients, st.integers(1, 1000))
def test_a_patient_adds_all_units_or_none_and_nothing_below_0(scores, units):
    grid = ScoreGrid.of_signed(units)
    found = grid.contributions(scores)
    assert (found >= 0).all()
    assert found.sum(axis=1).tolist() == [units if len(own) else 0 for own in scores]


@given(patients, st.integers(1, 1000))
def test_one_patient_moves_the_sum_by_at_most_the_bound(scores, units):
    grid = ScoreGrid.of_widths(units)
    whole = grid.total(scores)
    for i in range(len(scores)):
        moved = whole - grid.total(scores[:i] + scores[i + 1 :])
        assert np.linalg.norm(moved) <= grid.sensitivity


@given(st.lists(st.floats(0, 6), min_size=1, max_size=60), st.floats(0.05, 0.95))
def test_without_noise_the_radius_is_the_conformal_quantile_rounded_up_to_the_grid(values, level):
    radius = calibrate(GRID.total([np.array([v]) for v in values]), level, 0.0, grid=GRID)
    rank = math.ceil((len(values) + 1) * level - 1e-9)
    if rank > len(values):
        assert radius.value == math.inf
        return
    wanted = np.sort(values)[rank - 1]
    above = [edge for edge in GRID.edges if edge >= wanted]
    assert radius.value == (above[0] if above else math.inf)


@given(
    st.lists(st.floats(-50, 5000), min_size=GRID.bins, max_size=GRID.bins),
    st.floats(0, 30),
    st.floats(0.5, 0.99),
    st.floats(0.5, 0.98),
)
def test_more_confidence_and_a_higher_level_never_narrow_a_radius(counts, sd, confidence, level):
    totals = ScoreTotals(GRID, np.array(counts), sd)
    radius = totals.calibrate(level, confidence).value
    assert totals.calibrate(level, min(0.995, confidence + 0.005)).value >= radius
    if min(counts) >= 0:
        assert totals.calibrate(level + 0.01, confidence).value >= radius


@given(st.lists(st.floats(-50, 500), min_size=GRID.bins, max_size=GRID.bins), st.floats(0, 9))
def test_tail_probabilities_are_above_0_and_fall_with_the_score(counts, sd):
    totals = ScoreTotals(GRID, np.array(counts), sd)
    scores = np.linspace(0, 7, 50)
    up, down = totals.upper_tail(scores), totals.lower_tail(scores)
    for tail in (up, down):
        assert ((tail >= 0) & (tail <= 1)).all()
    assert (np.diff(up) <= 1e-12).all()
    assert (np.diff(down) >= -1e-12).all()


def test_a_p_value_is_at_most_as_small_as_it_says():
    rng = np.random.default_rng(0)
    below = []
    for _ in range(200):
        old = [rng.normal(size=3) for _ in range(40)]
        totals = ScoreTotals(ScoreGrid.of_signed(12), ScoreGrid.of_signed(12).total(old))
        below.append(float(totals.upper_tail(rng.normal(size=1))[0]) <= 0.1)
    assert np.mean(below) <= 0.1 + 3 * math.sqrt(0.09 / 200)


@pytest.mark.parametrize("noise_sd", [0.0, 4.0])
@pytest.mark.parametrize("visits", [1, 5])
def test_coverage_holds_with_noise_and_with_several_scores_a_patient(noise_sd, visits):
    """A patient's scores are alike, so that they are not so many independent ones."""
    rng = np.random.default_rng(1)
    grid = ScoreGrid.of_widths(1 if visits == 1 else 60)
    covered = []
    for _ in range(25):
        own = np.exp(0.3 * rng.standard_normal((600, 1)))
        scores = np.abs(own * rng.standard_normal((600, visits))) / 1.5
        noise = rng.normal(0, noise_sd * grid.units, grid.bins)
        totals = ScoreTotals(grid, grid.total(list(scores)) + noise, noise_sd * grid.units)
        fresh = np.exp(0.3 * rng.standard_normal((2000, 1))) * rng.standard_normal((2000, 1)) / 1.5
        covered.append(float((np.abs(fresh) <= totals.calibrate(0.9).value).mean()))
    assert np.mean(covered) >= 0.9 - 0.004
    if not noise_sd:
        assert np.mean(covered) <= 0.92


def test_a_score_that_is_not_a_number_counts_as_far_out():
    row = GRID.contributions([np.array([np.nan]), np.array([np.inf]), np.array([-np.inf])])
    assert row[0, -1] == row[1, -1] == row[2, 0] == 1


def test_too_few_patients_get_an_infinite_radius_which_json_can_hold():
    radius = calibrate(GRID.total([np.array([0.1])] * 5), 0.9, 0.0, grid=GRID)
    assert radius.value == math.inf
    assert radius.to_dict()["value"] is None


@pytest.mark.parametrize(
    "made",
    [
        lambda: ScoreGrid(()),
        lambda: ScoreGrid((1.0, 1.0)),
        lambda: ScoreGrid((0.0, math.inf)),
        lambda: ScoreGrid((0.0,), units=0),
        lambda: ScoreTotals(GRID, np.zeros(3)),
        lambda: ScoreTotals(GRID, np.full(GRID.bins, np.nan)),
        lambda: ScoreTotals(GRID, np.zeros(GRID.bins), -1.0),
        lambda: ScoreTotals(GRID, np.zeros(GRID.bins)).calibrate(1.0),
        lambda: ScoreTotals(GRID, np.zeros(GRID.bins)).calibrate(0.9, 0.2),
    ],
)
def test_impossible_numbers_are_refused(made):
    with pytest.raises(MisuseError):
        made()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_sums_over_sites_are_the_sum_over_their_patients(seed):
    rng = np.random.default_rng(seed)
    scores = [rng.exponential(size=rng.integers(0, 4)) for _ in range(9)]
    grid = ScoreGrid.of_widths(24)
    assert (grid.total(scores) == grid.total(scores[:4]) + grid.total(scores[4:])).all()
