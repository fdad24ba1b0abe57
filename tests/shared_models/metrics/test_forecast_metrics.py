"""Metrics of forecasts: bounded shares, sums that add up, and what noise may do to them."""

import numpy as np
import pytest
from flux_cohorts import flux_cohort, flux_schema

from fedrx_common.errors import DataError, MisuseError
from fedrx_models.metrics.forecast import ForecastPlan, exact_forecast, pair_spread, patient_scores
from fedrx_models.metrics.registry import exact_metrics, measures_of

SCHEMA = flux_schema()


@pytest.fixture(scope="module")
def judged():
    """Forecasts halfway between the last value and the outcome, with a band around them."""
    actual = flux_cohort(SCHEMA, 80, missingness=0.2).target
    middle = actual.mean(axis=-1)
    return np.stack([middle, middle - 4.0, middle + 4.0], axis=-1), actual


@pytest.fixture(params=[False, True], ids=["between", "final"])
def plan(request):
    return ForecastPlan.of(SCHEMA, final=request.param, error_bound=20.0)


def test_halfway_is_half_the_error(judged):
    found = exact_forecast(*judged, SCHEMA.target)
    assert found.ratio == pytest.approx(0.5)
    assert found.row_ratio == pytest.approx(0.5)
    assert all(pair.ratio == pytest.approx(0.5) for pair in found.pairs)
    assert found.n == 80


def test_means_are_by_patient_and_rows_by_visit():
    """One patient with one forecast, and one with three, by hand."""
    predicted, actual = np.full((2, 3, 1, 1, 3), np.nan), np.full((2, 3, 1, 1, 2), np.nan)
    for patient, visit, error, last in [(0, 0, 1, 2), (1, 0, 1, 4), (1, 1, 2, 4), (1, 2, 3, 4)]:
        actual[patient, visit, 0, 0] = (10.0, 10.0 + last)
        predicted[patient, visit, 0, 0] = (10.0 + error, 8.0 + error, 12.0 + error)
    target = SCHEMA.target.model_copy(
        update={"markers": ("albumin",), "horizons": SCHEMA.target.horizons[:1]}
    )
    found = exact_forecast(predicted, actual, target)
    assert found.ratio == pytest.approx((1 + 2) / (2 + 4))
    assert found.row_ratio == pytest.approx((1 + 1 + 2 + 3) / (2 + 4 + 4 + 4))
    assert found.coverage == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert patient_scores(predicted, actual) == pytest.approx([1 / 3, 2 / 3])


def test_coverage_is_what_lies_inside(judged):
    predicted, actual = judged
    known = ~np.isnan(actual[..., 0])
    inside = np.abs(actual[..., 0] - predicted[..., 0]) <= 4.0
    found = exact_metrics(SCHEMA.target, predicted, actual)
    by_pair = []
    for h in range(2):
        for m in range(3):
            rates = [
                inside[i, :, h, m][k].mean() for i in range(80) if (k := known[i, :, h, m]).any()
            ]
            by_pair.append(100 * np.mean(rates))
    assert [pair.coverage for pair in found.pairs] == pytest.approx(by_pair)


def test_the_spread_is_that_of_patients_drawn_anew():
    cohort = flux_cohort(SCHEMA, 400, missingness=0.2)
    rng, actual = np.random.default_rng(0), cohort.target
    median = actual.mean(axis=-1) + rng.normal(0.0, 3.0, actual.shape[:-1])
    predicted = np.stack([median, median - 4.0, median + 4.0], axis=-1)
    ratios, coverages = [], []
    for _ in range(400):
        some = rng.integers(0, 400, 400)
        pairs = exact_forecast(predicted[some], actual[some], SCHEMA.target).pairs
        ratios.append([pair.ratio for pair in pairs])
        coverages.append([pair.coverage for pair in pairs])
    found = pair_spread(predicted, actual)
    assert found.ratio == pytest.approx(1.96 * np.std(ratios, axis=0), rel=0.15)
    assert found.coverage == pytest.approx(1.96 * np.std(coverages, axis=0), rel=0.15)


@pytest.mark.parametrize("patients", [0, 1])
def test_too_few_patients_have_no_spread(judged, patients):
    predicted, actual = judged[0].copy(), judged[1].copy()
    actual[patients:, :, 0, 0] = np.nan
    found = pair_spread(predicted, actual)
    assert np.isnan(found.ratio[0])
    assert np.isnan(found.coverage[0])
    assert np.isfinite(found.ratio[1:]).all()


def test_without_noise_the_sums_say_the_same(judged):
    plan = ForecastPlan.of(SCHEMA, final=True, error_bound=20.0)
    released = plan.from_state(plan.state(*judged)).flat()
    exact = exact_forecast(*judged, SCHEMA.target).flat()
    for key, value in released.items():
        assert value == pytest.approx(exact[key]), key


@pytest.mark.parametrize("wild", ["exact", "huge", "nan", "far"])
def test_a_patients_share_is_bounded(plan, judged, wild):
    predicted, actual = judged
    changed = {
        "exact": predicted,
        "huge": predicted * 1e9,
        "nan": np.full_like(predicted, np.nan),
        "far": predicted - 1e6,
    }[wild]
    norms = np.linalg.norm(plan.contributions(changed, actual), axis=1)
    assert norms.max() <= plan.sensitivity
    assert plan.contributions(changed, actual).shape == (80, plan.size)


def test_states_add_up(plan, judged):
    predicted, actual = judged
    halves = sum(plan.state(predicted[part], actual[part]) for part in (slice(30), slice(30, 80)))
    assert halves == pytest.approx(plan.state(predicted, actual))
    assert not plan.state(predicted[:0], actual[:0]).any()


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    actual = flux_cohort(SCHEMA, 600, missingness=0.2, seed=3).target
    middle = actual.mean(axis=-1)
    judged = (np.stack([middle, middle - 4.0, middle + 4.0], axis=-1), actual)
    plan = ForecastPlan.of(SCHEMA, final=False, error_bound=4.0)
    state = plan.state(*judged)
    truth = plan.from_state(state).ratio
    inside = 0
    for _ in range(400):
        noisy = plan.from_state(state + rng.normal(0, 1.0, state.shape), noise_sd=1.0)
        low, high = noisy.ratio_interval
        inside += low <= truth <= high
    assert 0.90 < inside / 400 < 0.99


def test_noise_that_hides_everything_leaves_no_headline(plan, judged):
    found = plan.from_state(plan.state(*judged), noise_sd=1e4)
    assert found.ratio is None
    assert "ratio" not in found.flat()
    assert found.ratio_interval is None


def test_nobody_to_judge_is_refused(judged):
    predicted, actual = judged
    with pytest.raises(DataError, match="no held-out patients"):
        exact_forecast(predicted[:0], actual[:0], SCHEMA.target)
    with pytest.raises(DataError, match="anything that a forecast can be judged on"):
        exact_forecast(predicted, np.full_like(actual, np.nan), SCHEMA.target)


def test_a_bound_or_state_that_cannot_be_is_refused(plan):
    with pytest.raises(MisuseError, match="must be above 0"):
        ForecastPlan.of(SCHEMA, final=True, error_bound=0.0)
    with pytest.raises(MisuseError, match="numbers was expected"):
        plan.from_state(np.zeros(3))


def test_the_headline_stands_first():
    assert [measure.key for measure in measures_of(SCHEMA.target)] == ["ratio", "coverage"]
