"""Probabilities that fit, and whom a trial enrols."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrx_common.errors import MisuseError
from fedrx_models.calibration.responders import (
    Recalibration,
    decision_curve,
    enrolment,
    outcome_counts,
    threshold_for,
)

chances = st.lists(st.floats(0, 1), min_size=1, max_size=40).map(np.array)


def drawn(n=20_000, seed=0):
    """Overconfident predictions of outcomes whose chances are known."""
    rng = np.random.default_rng(seed)
    true = rng.beta(2, 3, n)
    logit = 2 * np.log(true / (1 - true))
    return 1 / (1 + np.exp(-logit)), (rng.random(n) < true).astype(float), true


def test_calibration_brings_back_the_chances():
    said, happened, true = drawn()
    map_ = Recalibration.of(outcome_counts(said, happened))
    new, _, fresh = drawn(seed=1)
    assert np.abs(new - fresh).mean() > 0.08
    assert np.abs(map_(new) - fresh).mean() < 0.02
    assert abs(map_(said).mean() - true.mean()) < 0.01


@given(st.lists(st.floats(-20, 200), min_size=40, max_size=40), st.floats(0, 20))
def test_a_map_rises_and_stays_in_0_to_1_whatever_the_noise(counts, noise_sd):
    found = Recalibration.of(np.array(counts).reshape(2, 20), noise_sd)(np.linspace(0, 1, 101))
    assert (np.diff(found) >= -1e-12).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_without_patients_probabilities_stay_as_they_are():
    found = Recalibration.of(np.zeros((2, 20)))(np.array([0.2, 0.5, 0.81]))
    assert found == pytest.approx([0.2, 0.5, 0.81])


@given(chances, st.integers(0, 2**31))
def test_one_patient_moves_the_counts_by_1(said, seed):
    happened = np.random.default_rng(seed).integers(0, 2, len(said)).astype(float)
    whole = outcome_counts(said, happened)
    assert np.linalg.norm(whole - outcome_counts(said[1:], happened[1:])) == 1


def test_net_benefit_is_that_of_the_definition():
    said, happened = np.array([0.9, 0.6, 0.4, 0.1]), np.array([1.0, 0.0, 1.0, 0.0])
    found = decision_curve(said, happened, np.array([0.3, 0.5]))
    assert found.model == pytest.approx([2 / 4 - 1 / 4 * 3 / 7, 1 / 4 - 1 / 4])
    assert found.everybody == pytest.approx([0.5 - 0.5 * 3 / 7, 0.0])


def test_a_model_is_useful_where_it_beats_treating_all_and_none():
    _, happened, true = drawn()
    curve = decision_curve(true, happened)
    ((low, high), *_) = curve.useful
    assert low <= 0.2
    assert high >= 0.6
    useless = decision_curve(np.full(len(happened), happened.mean()), happened)
    assert useless.useful == ()


@given(chances, st.floats(0.01, 0.99))
def test_expected_responders_add_up(said, threshold):
    found = enrolment(said, threshold)
    assert found.enrolled == (said >= threshold).sum()
    assert found.expected + found.missed == pytest.approx(said.sum())
    assert 0 <= found.low <= found.expected + 1e-9
    assert found.expected <= found.high + 1e-9 <= found.enrolled + 2e-9


def test_the_interval_of_responders_holds():
    _, _, true = drawn(n=400)
    found, rng = enrolment(true, 0.5), np.random.default_rng(3)
    chosen = true[true >= 0.5]
    seen = (rng.random((2000, len(chosen))) < chosen).sum(axis=1)
    assert 0.93 <= ((seen >= found.low) & (seen <= found.high)).mean() <= 0.98


def test_a_threshold_for_a_number_of_responders():
    said = np.array([0.9, 0.5, 0.5, 0.1])
    assert threshold_for(said, 0.9) == 0.9
    assert threshold_for(said, 1.2) == 0.5
    assert enrolment(said, threshold_for(said, 1.9)).expected >= 1.9
    with pytest.raises(MisuseError, match=r"expected to have 2\.0"):
        threshold_for(said, 3.0)


@pytest.mark.parametrize(
    "asked",
    [
        lambda: enrolment(np.array([0.5]), 1.0),
        lambda: enrolment(np.array([1.5]), 0.5),
        lambda: outcome_counts(np.array([0.5]), np.array([0.5])),
        lambda: outcome_counts(np.array([0.5]), np.array([1.0, 0.0])),
        lambda: outcome_counts(np.array([np.nan]), np.array([1.0])),
        lambda: Recalibration.of(np.zeros((3, 4))),
        lambda: decision_curve(np.zeros(0), np.zeros(0)),
        lambda: decision_curve(np.array([0.5]), np.array([1.0]), np.array([0.5, 0.4])),
        lambda: decision_curve(np.array([0.5]), np.array([1.0]), np.array([0.5, 1.0])),
        lambda: threshold_for(np.zeros(0), 1.0),
    ],
)
def test_impossible_numbers_are_refused(asked):
    with pytest.raises(MisuseError):
        asked()
