"""From visits to what a model sees and is to forecast; all by hand on small courses."""

import numpy as np
import pytest
from flux_cohorts import flux_cohort, flux_schema
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_common.errors import DataError
from fedrx_models.cohort.cohort import Cohort, concatenate, require_variety
from fedrx_models.cohort.encoding import encode
from fedrx_models.cohort.visits import VisitColumns, first_within, normalise_marker, restore_marker

NAN = np.nan
SCHEMA = flux_schema(most=6, features=False)
# time, episode, bilirubin, albumin, platelets, drug, oxygen
COURSE = [
    [0.0, 0, NAN, 40.0, 50.0, 0, 0],
    [1.0, 0, 10.0, NAN, 60.0, 5, 1],
    [4.0, 0, 20.0, 50.0, NAN, 5, 0],
    [0.5, 1, NAN, 70.0, 50.0, 0, 0],
    [4.5, 1, NAN, 80.0, NAN, 0, 0],
]


def cohort_of(*courses, schema=SCHEMA):
    visits = np.full((len(courses), schema.visits.most, 7), NAN)
    for i, course in enumerate(courses):
        visits[i, : len(course)] = course
    patients = tuple(f"p{i}" for i in range(len(courses)))
    return Cohort("s", schema, patients, {}, np.zeros((len(courses), 0)), visits=visits)


def test_columns_stand_side_by_side_and_fill_the_tensor():
    columns = VisitColumns.of(SCHEMA)
    blocks = (columns.value, columns.observed, columns.last, columns.age, columns.known)
    taken = [columns.gap, columns.elapsed, columns.starts, columns.valid]
    taken += [c for block in (*blocks, columns.treatment) for c in range(block.start, block.stop)]
    assert sorted(taken) == list(range(columns.size))
    assert encode(cohort_of(COURSE), SCHEMA).visits.shape == (1, 6, columns.size)


def test_times_and_flags():
    columns = VisitColumns.of(SCHEMA)
    (seen,) = encode(cohort_of(COURSE), SCHEMA).visits.numpy()
    assert seen[:, columns.gap].tolist() == [0, 1, 3, 0, 4, 0]
    assert seen[:, columns.elapsed].tolist() == [0, 1, 4, 0, 4, 0]
    assert seen[:, columns.starts].tolist() == [1, 0, 0, 1, 0, 0]
    assert seen[:, columns.valid].tolist() == [1, 1, 1, 1, 1, 0]
    assert seen[:, columns.treatment].tolist() == [
        [0, 0],
        [0.5, 1],
        [0.5, 0],
        [0, 0],
        [0, 0],
        [0, 0],
    ]
    assert not seen[5].any()


def test_a_last_value_is_carried_within_an_episode_only():
    columns = VisitColumns.of(SCHEMA)
    (seen,) = encode(cohort_of(COURSE), SCHEMA).visits.numpy()
    known, last, age = (seen[:5, part] for part in (columns.known, columns.last, columns.age))
    assert known[:, 0].tolist() == [0, 1, 1, 0, 0]
    assert last[:, 1].tolist() == [-1, -1, 0, 2, 3]
    assert age[:, 1].tolist() == [0, 1, 0, 0, 0]
    assert age[:, 2].tolist() == [0, 0, 3, 0, 4]


def test_the_outcome_is_the_first_value_in_the_window_of_the_same_episode():
    # (visit, horizon, marker): outcome, last value; horizons 0.5..1.5 and 3.5..4.5
    target = cohort_of(COURSE).target[0]
    expected = {
        (0, 0, 2): (60.0, 50.0),
        (0, 1, 1): (50.0, 40.0),
        (3, 1, 1): (80.0, 70.0),
    }
    for place in np.argwhere(~np.isnan(target[..., 0])).tolist():
        assert tuple(target[tuple(place)]) == expected.pop(tuple(place))
    assert not expected


def test_changes_are_in_typical_changes_of_the_horizon():
    batch = encode(cohort_of(COURSE), SCHEMA)
    y = batch.y.reshape(6, 2, 3).numpy()
    assert y[0, 0, 2] == pytest.approx(1.0 / 0.5)
    assert y[0, 1, 1] == pytest.approx(1.0 / 0.8)
    assert batch.y_observed.sum() == 3


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.floats(0.1, 3.0), min_size=1, max_size=12),
    measured=st.lists(st.booleans(), min_size=12, max_size=12),
    first=st.floats(0.1, 4.0),
    length=st.floats(0.0, 3.0),
)
def test_the_window_search_agrees_with_looking_one_by_one(steps, measured, first, length):
    times = np.cumsum(steps)
    values = np.where(measured[: len(times)], np.arange(1.0, len(times) + 1), NAN)
    window = (first, first + length)
    for i, found in enumerate(first_within(times, values, window)):
        ahead = [
            value
            for time, value in zip(times, values, strict=True)
            if not np.isnan(value) and window[0] - 1e-9 <= time - times[i] <= window[1] + 1e-9
        ]
        gaps = np.abs(np.subtract.outer(times, times)[:, i, None] - np.array(window))
        if gaps.min() > 1e-8:  # no time so near an end that rounding decides
            assert (ahead[0] == found) if ahead else np.isnan(found)


@given(st.floats(1.0, 99.0))
def test_a_marker_goes_out_and_in(value):
    for marker in SCHEMA.markers:
        there = normalise_marker(marker, np.array([value]))
        assert restore_marker(marker, there)[0] == pytest.approx(value)


def test_values_far_out_stay_plausible():
    for marker in SCHEMA.markers:
        ends = restore_marker(marker, np.array([-1e6, 1e6]))
        assert ends.tolist() == [marker.minimum, marker.maximum]


@pytest.mark.parametrize(
    ("row", "column", "value", "words"),
    [
        (1, 0, 0.0, "out of order or doubled"),
        (2, 0, 0.5, "out of order or doubled"),
        (3, 1, -1.0, "out of order or doubled"),
        (1, 3, 5000.0, "'albumin' holds 5000, but the study allows 1 to 99"),
        (1, 5, -1.0, "'drug' holds -1"),
        (0, 0, NAN, "a patient has no visit"),
        (2, 0, NAN, "stands after the end"),
        (1, 1, NAN, "no time, or no episode"),
    ],
)
def test_impossible_courses_are_refused(row, column, value, words):
    course = [list(visit) for visit in COURSE]
    course[row][column] = value
    with pytest.raises(DataError, match=words):
        cohort_of(course)


def test_visits_that_the_study_does_not_know_are_refused(schema, make_cohort):
    plain = make_cohort(3)
    with pytest.raises(DataError, match="the study knows of none"):
        Cohort("s", schema, plain.patients, plain.values, plain.target, visits=np.ones((3, 2, 2)))


def test_a_marker_or_horizon_that_nobody_has_is_named():
    without = [[*visit[:2], NAN, *visit[3:]] for visit in COURSE]
    with pytest.raises(DataError, match="nobody has marker 'bilirubin' measured at two visits"):
        require_variety(SCHEMA.target, cohort_of(without).target, "of the patients held out")
    short = [
        [0.0, 0, 10.0, 40.0, 50.0, 0, 0],
        [1.0, 0, 10.0, 40.0, 50.0, 0, 0],
    ]
    with pytest.raises(DataError, match=r"visit 3\.5 to 4\.5 after another.*horizon 4: take it"):
        require_variety(SCHEMA.target, cohort_of(short).target, "of the patients held out")


def test_a_cohort_is_selected_pooled_and_recognised():
    schema = flux_schema()
    cohort = flux_cohort(schema, 10)
    chosen = cohort.select([3, 1])
    assert np.array_equal(chosen.target, cohort.target[[3, 1]], equal_nan=True)
    again = concatenate([cohort.select([i]) for i in range(10)])
    assert np.array_equal(again.visits, cohort.visits, equal_nan=True)
    shuffled = cohort.select([9, *range(9)])
    assert shuffled.fingerprint == cohort.fingerprint
    visits = cohort.visits.copy()
    visits[0, 0, 3] = 42.5
    other = Cohort(
        "site-1", schema, cohort.patients, cohort.values, np.zeros((10, 0)), visits=visits
    )
    assert other.fingerprint != cohort.fingerprint
