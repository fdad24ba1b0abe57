"""Metrics of yes-or-no, survival and panel outcomes, held against definitions pair by pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedrx_common.errors import DataError, MisuseError
from fedrx_models.metrics.binary import BinaryPlan, exact_binary
from fedrx_models.metrics.panel import PanelPlan, exact_panel
from fedrx_models.metrics.registry import exact_metrics, measures_of, metric_plan
from fedrx_models.metrics.survival import SurvivalPlan, exact_survival
from fedrx_protocol.study.schema import BinaryTarget, PanelTarget, SurvivalTarget

BINARY = BinaryTarget(kind="binary", name="toxic", rate=0.2, threshold=0.3)
SURVIVAL = SurvivalTarget(
    kind="survival", name="relapse", time_unit="months", edges=(6.0, 12.0, 24.0), hazard=0.2
)
PANEL = PanelTarget.model_validate(
    {
        "kind": "panel",
        "name": "response",
        "unit": "ln uM",
        "minimum": -10,
        "maximum": 15,
        "drugs": [{"name": f"d{i}", "mean": i, "scale": 1 + i} for i in range(3)],
    }
)
PLANS = {
    (kind, final): plan
    for final in (False, True)
    for kind, plan in {
        "binary": BinaryPlan(final=final, rate=0.2, threshold=0.3),
        "survival": SurvivalPlan(final=final, target=SURVIVAL),
        "panel": PanelPlan(final=final, error_bound=4.0, target=PANEL),
    }.items()
}
ANY = st.floats(-1e300, 1e300) | st.just(float("nan")) | st.just(float("inf"))


def binary(n=2000, seed=0):
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-1.4, 1.2, n)
    probability = 1 / (1 + np.exp(-log_odds))
    return probability, (rng.random(n) < probability).astype(float)


def survival(n=400, seed=0):
    """Curves that know the hazard, and patients of whom a third leave early."""
    rng = np.random.default_rng(seed)
    hazards = np.clip(0.2 * np.exp(rng.normal(0, 0.7, (n, 1))), 0, 0.9) * np.ones((1, 3))
    time = rng.exponential(15, n) / (hazards[:, 0] / 0.2)
    leaves = np.where(rng.random(n) < 0.33, rng.uniform(0, 30, n), np.inf)
    actual = np.stack([np.minimum(time, leaves), (time <= leaves).astype(float)], axis=1)
    return (1 - hazards).cumprod(axis=1), actual


def panel(n=300, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal([0, 1, 2], [1, 1, 2], (n, 3))
    predicted = truth + rng.normal(0, 0.7, (n, 3))
    actual = np.where(rng.random((n, 3)) < 0.2, np.nan, truth)
    actual[np.isnan(actual).all(axis=1), 0] = 0.0
    return predicted, actual


MADE = {"binary": binary, "survival": survival, "panel": panel}


@pytest.fixture(params=list(PLANS), ids=lambda key: f"{key[0]}-{'final' if key[1] else 'between'}")
def case(request):
    kind, _ = request.param
    return PLANS[request.param], *MADE[kind]()


@settings(max_examples=200)
@given(score=ANY, actual=st.sampled_from([0.0, 1.0]), final=st.booleans())
def test_one_binary_share_never_exceeds_the_sensitivity(score, actual, final):
    plan = PLANS["binary", final]
    share = plan.contributions(np.array([score]), np.array([actual]))
    assert np.linalg.norm(share) <= plan.sensitivity


@settings(max_examples=200)
@given(
    curve=st.lists(ANY, min_size=3, max_size=3),
    time=st.floats(0, 1e6),
    event=st.sampled_from([0.0, 1.0]),
    final=st.booleans(),
)
def test_one_survival_share_never_exceeds_the_sensitivity(curve, time, event, final):
    plan = PLANS["survival", final]
    with np.errstate(all="ignore"):
        share = plan.contributions(np.array([curve]), np.array([[time, event]]))
    assert np.linalg.norm(share) <= plan.sensitivity


@settings(max_examples=200)
@given(
    predicted=st.lists(ANY, min_size=3, max_size=3),
    actual=st.lists(st.floats(-10, 15) | st.just(float("nan")), min_size=3, max_size=3),
    final=st.booleans(),
)
def test_one_panel_share_never_exceeds_the_sensitivity(predicted, actual, final):
    plan = PLANS["panel", final]
    with np.errstate(all="ignore"):
        share = plan.contributions(np.array([predicted]), np.array([actual]))
    assert np.linalg.norm(share) <= plan.sensitivity


def test_states_add_over_sites(case):
    plan, predicted, actual = case
    parts = plan.state(predicted[:50], actual[:50]) + plan.state(predicted[50:], actual[50:])
    assert parts == pytest.approx(plan.state(predicted, actual))
    assert not plan.state(predicted[:0], actual[:0]).any()
    assert len(plan.components) == len(set(plan.components)) == plan.size


def test_a_noisy_state_gives_numbers_in_range(case):
    plan, predicted, actual = case
    rng = np.random.default_rng(3)
    for scale in (1.0, 1e3, 1e6):
        state = plan.state(predicted, actual) + rng.normal(0, scale, plan.size)
        flat = plan.from_state(state, noise_sd=scale).flat()
        assert all(np.isfinite(value) for value in flat.values())
        shares = {k: v for k, v in flat.items() if k != "n" and not k.startswith("mae")}
        assert all(-1 <= value <= 1 for value in shares.values())


def test_a_state_of_another_size_is_refused(case):
    plan, *_ = case
    with pytest.raises(MisuseError, match="a state of"):
        plan.from_state(np.zeros(plan.size + 1))


def test_the_interval_covers_the_noiseless_value_as_often_as_it_says(case):
    plan, predicted, actual = case
    headline = next(iter({"auc", "concordance", "mae"} & set(vars(plan.from_state(
        plan.state(predicted, actual))))))  # fmt: skip
    state = plan.state(predicted, actual)
    truth, rng, covered = getattr(plan.from_state(state), headline), np.random.default_rng(1), 0
    for _ in range(300):
        flat = plan.from_state(state + rng.normal(0, 1.0, plan.size), noise_sd=1.0).flat()
        covered += flat[f"{headline}_low"] <= truth <= flat[f"{headline}_high"]
    assert 272 <= covered <= 297


class TestBinary:
    def test_exact_auc_is_the_mann_whitney_statistic(self):
        predicted, actual = binary()
        yes, no = predicted[actual == 1], predicted[actual == 0]
        statistic = stats.mannwhitneyu(yes, no).statistic / (len(yes) * len(no))
        assert exact_binary(predicted, actual, 0.3).auc == pytest.approx(statistic)

    def test_ties_count_half(self):
        assert exact_binary(np.array([0.5, 0.5]), np.array([0.0, 1.0]), 0.3).auc == 0.5

    def test_average_precision_by_hand(self):
        predicted, actual = np.array([0.9, 0.8, 0.7, 0.1]), np.array([1.0, 0.0, 1.0, 0.0])
        found = exact_binary(predicted, actual, 0.75)
        assert found.average_precision == pytest.approx((1 + 2 / 3) / 2)
        assert (found.sensitivity, found.specificity) == (0.5, 0.5)
        assert found.brier == pytest.approx(np.mean([0.01, 0.64, 0.09, 0.01]))

    @pytest.mark.parametrize("final", [False, True])
    def test_binned_metrics_come_near_the_exact_ones(self, final):
        predicted, actual = binary()
        plan = PLANS["binary", final]
        found, truth = plan.from_state(plan.state(predicted, actual)), exact_binary(
            predicted, actual, 0.3
        )  # fmt: skip
        assert found.n == pytest.approx(2000)
        assert found.auc == pytest.approx(truth.auc, abs=0.01)
        assert found.average_precision == pytest.approx(truth.average_precision, abs=0.05)
        assert found.sensitivity == pytest.approx(truth.sensitivity)
        assert found.specificity == pytest.approx(truth.specificity)
        if final:
            assert found.brier == pytest.approx(truth.brier)
            assert found.calibration_error < 0.05

    def test_a_miscalibrated_model_is_found_out(self):
        predicted, actual = binary()
        plan = PLANS["binary", True]
        honest = plan.from_state(plan.state(predicted, actual)).calibration_error
        boasting = plan.from_state(plan.state(predicted**0.3, actual)).calibration_error
        assert boasting > honest + 0.2
        exact = exact_binary(predicted**0.3, actual, 0.3).calibration_error
        assert exact > exact_binary(predicted, actual, 0.3).calibration_error + 0.2

    @pytest.mark.parametrize("sd", [1.0, 3.0])
    def test_noise_moves_no_metric_one_way(self, sd):
        """Over many draws of the noise each metric's mean is that without it."""
        predicted, actual = binary()
        plan, rng = PLANS["binary", True], np.random.default_rng(4)
        state = plan.state(predicted, actual)
        drawn = [
            plan.from_state(state + rng.normal(0, sd, plan.size), noise_sd=sd) for _ in range(200)
        ]
        honest = plan.from_state(state)
        for name in ("calibration_error", "sensitivity", "specificity", "average_precision"):
            mean = np.mean([getattr(one, name) for one in drawn])
            assert mean == pytest.approx(getattr(honest, name), abs=0.005)

    def test_what_noise_hides_is_not_shown(self):
        predicted, actual = binary(n=190)
        plan = PLANS["binary", True]
        found = plan.from_state(plan.state(predicted, actual), noise_sd=5.0)
        assert found.calibration_error is found.sensitivity is found.average_precision is None
        assert found.specificity is not None  # most patients are "no"
        assert "calibration_error" not in found.flat()

    @pytest.mark.parametrize("n", [50, 100, 1000])
    def test_the_order_of_patients_with_one_score_does_not_matter(self, n):
        """A constant that is the observed share is calibrated, however the patients stand."""
        actual = np.repeat([1.0, 0.0], [n // 5, n - n // 5])
        for one in (actual, actual[::-1], np.random.default_rng(0).permutation(actual)):
            found = exact_binary(np.full(n, 0.2), one, 0.5).calibration_error
            assert found == pytest.approx(0.0, abs=1e-12)

    def test_different_scores_fall_into_ten_equal_bins(self):
        predicted, actual = binary(n=500)
        order = np.argsort(predicted)
        gaps = predicted[order].reshape(10, 50).mean(1) - actual[order].reshape(10, 50).mean(1)
        found = exact_binary(predicted, actual, 0.3).calibration_error
        assert found == pytest.approx(np.abs(gaps).mean())

    def test_one_class_only_is_refused(self):
        with pytest.raises(DataError, match="same outcome"):
            exact_binary(np.array([0.1, 0.2]), np.ones(2), 0.5)

    @pytest.mark.parametrize("changes", [{"rate": 0.0}, {"threshold": 1.0}])
    def test_impossible_plans_are_refused(self, changes):
        with pytest.raises(MisuseError, match=r"must lie in 0\.\.1"):
            BinaryPlan(**{"final": True, "rate": 0.2, "threshold": 0.5, **changes})


def pairwise_concordance(predicted, actual):
    """Harrell's, pair by pair, on the study's time bins."""
    ends = np.array([0.0, *SURVIVAL.edges])
    curve = np.concatenate([np.ones((len(predicted), 1)), predicted], axis=1)
    risk = -np.trapezoid(curve, ends, axis=1)
    ends = np.array(SURVIVAL.edges)
    bins = np.searchsorted(ends, actual[:, 0])  # (0, 6] is bin 0; beyond the last edge is 3
    through = np.searchsorted(ends, actual[:, 0], side="right")
    pairs = ordered = 0.0
    for i in range(len(risk)):
        if actual[i, 1] != 1 or bins[i] == 3:
            continue
        for j in range(len(risk)):
            event_later = actual[j, 1] == 1 and bins[j] > bins[i]
            free_beyond = actual[j, 1] == 0 and through[j] > bins[i]
            if event_later or free_beyond:
                pairs += 1
                ordered += (risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j])
    return ordered / pairs


class TestSurvival:
    def test_exact_concordance_is_harrells(self):
        predicted, actual = survival()
        found = exact_survival(predicted, actual, SURVIVAL)
        assert found.concordance == pytest.approx(pairwise_concordance(predicted, actual))
        assert 0.6 < found.concordance < 0.9

    @pytest.mark.parametrize("final", [False, True])
    def test_binned_concordance_comes_near_the_exact_one(self, final):
        predicted, actual = survival(2000)
        plan = PLANS["survival", final]
        found = plan.from_state(plan.state(predicted, actual))
        truth = exact_survival(predicted, actual, SURVIVAL)
        assert found.n == pytest.approx(2000)
        assert found.concordance == pytest.approx(truth.concordance, abs=0.02)
        if final:
            assert found.brier == pytest.approx(truth.brier)

    def test_many_bins_are_joined(self):
        target = SURVIVAL.model_copy(update={"edges": tuple(float(i) for i in range(1, 25))})
        plan = SurvivalPlan(final=False, target=target)
        assert plan.times == 5
        curves, actual = survival(2000)
        curves = np.repeat(curves[:, :1], 24, axis=1) ** (np.arange(1, 25) / 6)
        found = plan.from_state(plan.state(curves, actual)).concordance
        assert found == pytest.approx(exact_survival(curves, actual, target).concordance, abs=0.03)

    @pytest.mark.parametrize("leaves", [0.0, 0.3])
    def test_the_true_hazard_scores_best(self, leaves):
        """Proper, with and without patients who leave: no wrong hazard beats the true 0.2."""
        rng, n, edges = np.random.default_rng(0), 50_000, np.array(SURVIVAL.edges)
        event = rng.geometric(0.2, n)  # the bin, from 1; 4 and later are beyond the last edge
        last = np.minimum(rng.geometric(leaves, n) if leaves else 3, 3)  # seen to this bin's end
        seen = event <= last
        actual = np.stack([edges[np.where(seen, event, last) - 1], seen], axis=1).astype(float)
        scores = {
            hazard: exact_survival(
                np.tile(np.cumprod(np.full(3, 1 - hazard)), (n, 1)), actual, SURVIVAL
            ).brier
            for hazard in (0.1, 0.15, 0.2, 0.25, 0.35, 0.5)
        }
        assert min(scores, key=scores.get) == 0.2

    def test_all_censored_is_refused(self):
        predicted, actual = survival(10)
        with pytest.raises(DataError, match="had the event"):
            exact_survival(predicted, np.stack([actual[:, 0], np.zeros(10)], axis=1), SURVIVAL)


class TestPanel:
    def test_each_drugs_correlation_is_pearsons(self):
        predicted, actual = panel()
        found = exact_panel(predicted, actual, PANEL)
        given = ~np.isnan(actual)
        each = [
            stats.pearsonr(predicted[given[:, i], i], actual[given[:, i], i]).statistic
            for i in range(3)
        ]
        assert list(found.by_drug.values()) == pytest.approx(each)
        assert found.correlation == pytest.approx(np.mean(each))
        assert "by_drug" not in found.flat()

    def test_a_constant_prediction_ranks_nobody(self):
        _, actual = panel()
        assert exact_panel(np.zeros_like(actual), actual, PANEL).correlation == 0.0

    def test_a_drug_given_to_two_patients_has_no_correlation(self):
        predicted, actual = panel(10)
        actual[2:, 1] = np.nan
        actual[:, 0] = 1.0 + np.arange(10)
        assert "d1" not in exact_panel(predicted, actual, PANEL).by_drug

    def test_bounded_sums_give_the_exact_metrics_back(self):
        predicted, actual = panel()
        predicted = np.clip(predicted, np.nan_to_num(actual) - 3.9, np.nan_to_num(actual) + 3.9)
        actual = np.clip(actual, [-3.9, -2.9, -1.9], [3.9, 4.9, 5.9])
        plan = PLANS["panel", True]
        found, truth = plan.from_state(plan.state(predicted, actual)), exact_panel(
            predicted, actual, PANEL
        )  # fmt: skip
        assert found.n == pytest.approx(300)
        assert found.mae == pytest.approx(truth.mae)
        assert found.r2 == pytest.approx(truth.r2)

    def test_an_impossible_bound_is_refused(self):
        with pytest.raises(MisuseError, match="error_bound is"):
            PanelPlan(final=True, error_bound=0.0, target=PANEL)


@pytest.mark.parametrize(
    ("target", "made"),
    [(BINARY, binary), (SURVIVAL, survival), (PANEL, panel)],
    ids=("binary", "survival", "panel"),
)
def test_the_study_decides_plan_and_measures(study, target, made):
    agreed = study.with_(target={}).model_copy(update={"target": target})
    predicted, actual = made()
    headline = measures_of(target)[0].key
    for final in (False, True):
        plan = metric_plan(agreed, final=final)
        assert headline in plan.from_state(plan.state(predicted, actual)).flat()
    flat = exact_metrics(target, predicted, actual).flat()
    assert {measure.key for measure in measures_of(target)} <= set(flat)


def test_nobody_to_measure_on_is_said(study):
    for target, made in ((BINARY, binary), (SURVIVAL, survival), (PANEL, panel)):
        predicted, actual = made()
        with pytest.raises(DataError, match="no held-out patients"):
            exact_metrics(target, predicted[:0], actual[:0])
        with pytest.raises(DataError, match="do not match"):
            exact_metrics(target, predicted[:3], actual)
