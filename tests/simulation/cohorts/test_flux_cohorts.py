"""Synthetic courses: valid, reproducible, and with what is said to be planted in them."""

import numpy as np
import pytest
from flux_cohorts import flux_cohort, flux_schema, inr_schema
from omics_cohorts import omics_schema

from fedrx_models.cohort.visits import TIME, Courses
from fedrx_simulation.cohorts.draw import draw_cohorts
from fedrx_simulation.cohorts.federation import ImpossibleCohorts
from fedrx_simulation.cohorts.flux import FluxCohorts, generate_flux
from fedrx_simulation.cohorts.flux_course import Dynamics, activity, planted_course, under_therapy

SCHEMA = flux_schema(most=30)


def correlation_of_changes(cohort, ahead):
    """How a follower's change goes with what its leader did `ahead` steps of the grid before."""
    z = Courses(cohort.schema, cohort.visits).normalised
    times = cohort.visits[:, :, TIME]
    leader, follower = [], []
    for patient, own in enumerate(times):
        for i, time in enumerate(own):
            j = np.flatnonzero(np.abs(own - time - ahead) < 0.3)
            if j.size:
                leader.append(z[patient, i, 1] - z[patient, :, 1][~np.isnan(own)].mean())
                follower.append(z[patient, j[0], 2] - z[patient, :, 2][~np.isnan(own)].mean())
    return np.corrcoef(leader, follower)[0, 1]


def test_the_same_seed_gives_the_same_patients_whatever_the_other_sites():
    few, many = (generate_flux(FluxCohorts(SCHEMA, n, (20, 30), seed=4)) for n in (2, 4))
    assert all(many[site].fingerprint == cohort.fingerprint for site, cohort in few.items())
    other = generate_flux(FluxCohorts(SCHEMA, 2, (20, 30), seed=5))
    assert other["site-1"].fingerprint != few["site-1"].fingerprint


def test_sizes_visits_and_gaps_vary():
    cohort = flux_cohort(SCHEMA, 200)
    visits = (~np.isnan(cohort.visits[:, :, TIME])).sum(axis=1)
    assert visits.min() >= 4
    assert visits.max() == 30
    assert visits.std() > 3
    gaps = np.diff(cohort.visits[:, :, TIME], axis=1)
    assert np.nanstd(gaps[gaps > 0]) > 0.4
    assert 0.1 < (cohort.visits[:, :, 1] == 1).any(axis=1).mean() < 0.3


def test_the_follower_follows_after_the_lag_and_not_at_another_time():
    planted = planted_course(SCHEMA)
    assert planted.edges == (("albumin", "platelets"),)
    cohort = flux_cohort(SCHEMA, 600, missingness=0.0)
    at_lag = correlation_of_changes(cohort, planted.lag)
    assert at_lag > 0.5
    assert at_lag > correlation_of_changes(cohort, planted.lag - 3) + 0.1
    none = flux_cohort(SCHEMA, 600, missingness=0.0, coupling=0.0)
    assert abs(correlation_of_changes(none, planted.lag)) < 0.1


def test_the_therapy_moves_its_marker_and_no_other():
    with_, without = (flux_cohort(SCHEMA, 400, missingness=0, therapy=t) for t in (1.0, 0.0))
    means = [
        np.nanmean(Courses(SCHEMA, c.visits).normalised, axis=(0, 1)) for c in (with_, without)
    ]
    assert means[0][0] < means[1][0] - 0.3
    assert means[0][1:] == pytest.approx(means[1][1:])


def test_production_falls_to_what_the_dose_leaves_and_comes_back():
    """Steady state of an indirect response: 1 / (1 + dose x sensitivity), by its equation."""
    dynamics = Dynamics(step=1.0, coupling=0.0, therapy=1.0)
    doses = np.repeat([[1.0, 0.0]], 300, axis=1).reshape(1, 600)
    left = activity(SCHEMA, doses, np.array([2.0]), dynamics)[0]
    assert left[0] == 1.0
    assert left[299] == pytest.approx(1 / 3, abs=0.01)
    assert left[-1] == pytest.approx(1.0, abs=0.01)


def test_under_warfarin_the_inr_rises_over_days():
    schema = inr_schema()
    planted = planted_course(schema)
    assert planted.rises
    assert planted.half_life == pytest.approx(40 / 24)
    left = activity(schema, np.ones((1, 30)), np.ones(1), Dynamics(1.0, 0.0, 1.0))[0]
    z = under_therapy(schema.markers[0], np.zeros(30), left, rises=True)
    inr = np.exp(z * 0.4 + 0.1)
    assert inr[0] == pytest.approx(np.exp(0.1))
    assert inr[1] < 1.5 < inr[5] < inr[20]
    assert inr[-1] / inr[0] == pytest.approx(2.0, abs=0.02)


def test_what_is_abnormal_is_missing_less_often():
    """The full course and the one with gaps are the same but for the gaps."""
    full = Courses(SCHEMA, flux_cohort(SCHEMA, 400, missingness=0.0).visits).normalised
    seen = flux_cohort(SCHEMA, 400, missingness=0.4)
    z = Courses(SCHEMA, seen.visits).normalised
    there = ~np.isnan(seen.visits[:, :, TIME])
    share = np.isnan(z[there]).mean()
    assert 0.25 < share < 0.5
    assert np.nanmean(np.abs(z)) > np.nanmean(np.abs(full)) + 0.05


def test_sites_differ_by_as_much_as_the_knobs_say():
    def spread(**knobs):
        drawn = generate_flux(
            FluxCohorts(SCHEMA, sites=12, patients=(80, 80), therapy=0.0, **knobs)
        ).values()
        means = [np.nanmean(Courses(SCHEMA, c.visits).normalised, axis=(0, 1)) for c in drawn]
        return np.std(means)

    alike = spread(heterogeneity=0.0, measurement_shift=0.0)
    assert spread(heterogeneity=1.0, measurement_shift=0.0) > alike + 0.2
    assert spread(heterogeneity=0.0, measurement_shift=1.0) > alike + 0.4


def test_any_forecast_is_drawn_by_the_common_door():
    knobs = {"heterogeneity": 0.2, "missingness": 0.1, "measurement_shift": 0.1, "seed": 0}
    drawn = draw_cohorts(inr_schema(), sites=3, patients=(10, 20), **knobs)
    assert list(drawn) == ["site-1", "site-2", "site-3"]
    assert all(10 <= len(cohort) <= 20 for cohort in drawn.values())


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"sites": 0}, "sites is 0"),
        ({"missingness": 0.95}, "missingness is 0.95: it must lie between 0 and 0.9"),
        ({"therapy": -1.0}, "therapy is -1"),
        ({"patients": (5, 2)}, r"patients is 5\.\.2"),
    ],
)
def test_impossible_knobs_are_one_sentence(knobs, words):
    with pytest.raises(ImpossibleCohorts, match=words):
        FluxCohorts(schema=SCHEMA, **knobs)


def test_another_kind_of_study_is_refused():
    with pytest.raises(ImpossibleCohorts, match="courses are for forecasts, but the study's outco"):
        FluxCohorts(schema=omics_schema())
