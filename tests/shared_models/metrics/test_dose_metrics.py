"""Bounded sums give the metrics back, and no patient counts for more than the bound."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedrx_common.errors import DataError, MisuseError
from fedrx_models.metrics.dose import MetricPlan, exact, group_names
from fedrx_models.metrics.registry import exact_metrics

PLANS = {
    final: MetricPlan(final=final, error_bound=60.0, reference=29.2) for final in (False, True)
}
ANY_DOSE = st.floats(min_value=0, max_value=400)
ANY_PREDICTION = st.floats(min_value=-1e300, max_value=1e300) | st.just(float("nan"))


@pytest.fixture
def doses():
    """1,082 patients whose error is about that of a good model, none beyond the bound of 60."""
    rng = np.random.default_rng(0)
    actual = np.clip(rng.lognormal(3.3, 0.5, 1082), 4, 85)
    predicted = actual * np.exp(rng.normal(0, 0.3, 1082))
    return np.clip(predicted, actual - 55, actual + 55), actual


@pytest.fixture(params=[False, True], ids=["intermediate", "final"])
def plan(request):
    return PLANS[request.param]


@settings(max_examples=300)
@given(predicted=ANY_PREDICTION, actual=ANY_DOSE, final=st.booleans())
def test_one_patients_share_never_exceeds_the_sensitivity(predicted, actual, final):
    plan = PLANS[final]
    share = plan.contributions(np.array([predicted]), np.array([actual]))[0]
    assert np.linalg.norm(share) <= plan.sensitivity


def test_the_bound_is_reached_up_to_rounding(plan):
    """A share as long as the bound exists, so that no noise is wasted."""
    plan = dataclasses.replace(plan, reference=0.0)
    worst = plan.contributions(np.array([460.0]), np.array([400.0]))[0]
    assert 0.99 < np.linalg.norm(worst) <= 1.0


@given(
    cut=st.integers(0, 20),
    predicted=arrays(float, 20, elements=ANY_DOSE),
    actual=arrays(float, 20, elements=ANY_DOSE),
    final=st.booleans(),
)
def test_states_add_over_sites(cut, predicted, actual, final):
    plan = PLANS[final]
    parts = plan.state(predicted[:cut], actual[:cut]) + plan.state(predicted[cut:], actual[cut:])
    assert parts == pytest.approx(plan.state(predicted, actual))


def test_a_noiseless_state_gives_the_exact_metrics(plan, doses):
    found, truth = plan.from_state(plan.state(*doses)), exact(*doses)
    assert found.n == pytest.approx(1082)
    assert found.mae == pytest.approx(truth.mae)
    assert found.within_20_percent == pytest.approx(truth.within_20_percent)
    assert found.mae_interval is None
    if plan.final:
        assert found.r2 == pytest.approx(truth.r2)
        for group, expected in zip(found.groups, truth.groups, strict=True):
            assert group.name == expected.name
            assert group.n == pytest.approx(expected.n)
            assert group.within_20_percent == pytest.approx(expected.within_20_percent)
            assert group.mae == pytest.approx(expected.mae)
    else:
        assert found.r2 is None
        assert found.groups == ()


def test_errors_beyond_the_bound_count_as_the_bound(plan):
    metrics = plan.from_state(plan.state(np.array([300.0, np.nan, 35.0]), np.full(3, 30.0)))
    assert metrics.mae == pytest.approx((60 + 60 + 5) / 3)
    assert metrics.within_20_percent == pytest.approx(100 / 3)


def test_exact_metrics_of_a_few_patients():
    metrics = exact(np.array([20.0, 30.0, 60.0, 10.0]), np.array([21.0, 40.0, 50.0, 49.0]))
    assert metrics.mae == pytest.approx((1 + 10 + 10 + 39) / 4)
    assert metrics.within_20_percent == 50.0
    squares, actual = 1 + 100 + 100 + 39**2, np.array([21.0, 40, 50, 49])
    assert metrics.r2 == pytest.approx(1 - squares / np.square(actual - actual.mean()).sum())
    assert [group.n for group in metrics.groups] == [1.0, 1.0, 2.0]
    assert [group.name for group in metrics.groups] == ["<=21", "21-49", ">=49"]


def test_a_group_without_patients_has_no_metrics():
    metrics = exact(np.array([20.0]), np.array([21.0]))
    assert metrics.groups[2].mae is None
    assert metrics.r2 is None
    assert json.loads(json.dumps(metrics.to_dict()))["groups"][2]["n"] == 0


def test_exactly_twenty_percent_off_is_within():
    assert exact(np.array([24.0, 23.9]), np.array([30.0, 30.0])).within_20_percent == 50.0
    assert exact(np.array([36.0, 36.1]), np.array([30.0, 30.0])).within_20_percent == 50.0


@settings(max_examples=100)
@given(data=st.data(), final=st.booleans())
def test_any_noise_gives_numbers_in_range(data, final):
    plan = PLANS[final]
    state = data.draw(arrays(float, plan.size, elements=st.floats(-1e6, 1e6)))
    metrics = plan.from_state(state, noise_sd=100.0)
    assert metrics.n >= 1
    assert 0 <= metrics.mae <= 60
    assert metrics.within_20_percent is None or 0 <= metrics.within_20_percent <= 100
    assert metrics.r2 is None or -1 <= metrics.r2 <= 1
    assert metrics.mae_interval[0] <= metrics.mae <= metrics.mae_interval[1]


@pytest.mark.parametrize(("final", "stated"), [(False, 0.66), (True, 0.80)])
def test_the_noise_on_the_mae_is_as_stated(final, stated):
    """The docstring's figure: noise of 10 on each component, 1,082 patients, MAE 8.2."""
    assert PLANS[final].mae_noise_sd(8.2, 1082, 10.0) == pytest.approx(stated, abs=0.005)


def test_the_interval_covers_the_truth_as_often_as_it_says(plan, doses):
    rng = np.random.default_rng(1)
    state, truth, covered = plan.state(*doses), exact(*doses).mae, 0
    for _ in range(1000):
        noisy = state + rng.normal(0, 5.0, plan.size)
        low, high = plan.from_state(noisy, noise_sd=5.0).mae_interval
        covered += low <= truth <= high
    assert 925 <= covered <= 975


def test_the_plan_follows_the_study(study):
    plan = MetricPlan.for_study(study, final=True)
    assert plan.error_bound == study.metrics.error_bound
    assert plan.reference == pytest.approx(5.4**2)
    assert plan.size == len(plan.components) == len(set(plan.components)) == 15
    assert MetricPlan.for_study(study, final=False).components == ("n", "error", "within")


def test_only_weekly_doses_have_groups(study):
    """Limits of 21 and 49 mg a week mean nothing in mg a day, and would cost budget."""
    daily = study.with_(target={"unit": "mg/day"})
    plan = MetricPlan.for_study(daily, final=True)
    assert plan.size == 6
    predicted, actual = np.array([2.0, 6.0, 9.0]), np.array([3.0, 5.0, 8.0])
    assert plan.from_state(plan.state(predicted, actual)).groups == ()
    assert exact_metrics(daily.target, predicted, actual).groups == ()
    longest = np.linalg.norm(plan.contributions(np.array([1.15e9]), np.array([1e9]))[0])
    assert 0.99 < longest <= plan.sensitivity
    weekly = exact_metrics(study.target, predicted, actual)
    assert len(weekly.groups) == 3


def test_a_groups_figure_that_noise_hides_is_not_shown(doses):
    plan = replace(PLANS[True], tells=12.0)
    for noise_sd in (1.0, 6.0, 100.0):
        state = plan.state(*doses)
        found = plan.from_state(state, noise_sd=noise_sd)
        scale = dict(zip(plan.components, plan._scales(), strict=True))
        for group in found.groups:
            mae_sd = 60 * noise_sd / scale[f"{group.name}:error"] / group.n
            within_sd = 100 * noise_sd / scale[f"{group.name}:within"] / group.n
            # The count's noise adds a little: no figure here is that near to the limit.
            assert (group.mae is not None) == (2 * 1.96 * mae_sd < 12)
            assert (group.within_20_percent is not None) == (2 * 1.96 * within_sd < 20)
    assert not [name for name in found.flat() if "<=21" in name]


def test_names_of_groups_follow_their_limits():
    assert group_names((10.0, 12.5)) == ("<=10", "10-12.5", ">=12.5")


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_bound_is_refused(bound):
    with pytest.raises(MisuseError, match="error_bound is"):
        MetricPlan(final=True, error_bound=bound, reference=30.0)


@pytest.mark.parametrize("groups", [(49.0, 21.0), (0.0, 21.0), (21.0, 21.0)])
def test_impossible_groups_are_refused(groups):
    with pytest.raises(MisuseError, match="limits must rise"):
        MetricPlan(final=True, error_bound=60.0, reference=30.0, groups=groups)


def test_shapes_that_do_not_match_are_refused(plan):
    with pytest.raises(DataError, match="do not match"):
        plan.state(np.zeros(3), np.zeros(4))
    with pytest.raises(MisuseError, match="a state of"):
        plan.from_state(np.zeros(plan.size + 1))
    with pytest.raises(DataError, match="no held-out patients"):
        exact(np.zeros(0), np.zeros(0))


def test_no_patients_give_a_state_of_zeros(plan):
    assert not plan.state(np.zeros(0), np.zeros(0)).any()
