"""Intervals of metrics are as long as they say, and what noise will do is known beforehand."""

import numpy as np
import pytest

from fedrx_models.metrics.binary import BinaryPlan, exact_binary
from fedrx_models.metrics.dose import MetricPlan, exact
from fedrx_models.metrics.forecast import exact_forecast
from fedrx_models.metrics.foresight import expected_headline
from fedrx_models.metrics.panel import PanelPlan, exact_panel
from fedrx_models.metrics.registry import exact_metrics, metric_plan
from fedrx_protocol.study.schema import BinaryTarget, ForecastTarget, PanelTarget

PANEL = PanelTarget.model_validate(
    {
        "kind": "panel", "name": "response", "unit": "ln uM", "minimum": -10, "maximum": 15,
        "drugs": [{"name": f"d{i}", "mean": 0, "scale": 1} for i in range(3)],
    }
)  # fmt: skip
FORECAST = ForecastTarget.model_validate(
    {
        "kind": "forecast", "name": "course", "markers": ["a", "b"],
        "horizons": [{"at": 1.0, "window": (0.5, 1.5)}],
    }
)  # fmt: skip


def doses(rng, n):
    actual = np.clip(rng.normal(33, 14, n), 3, 90)
    return actual + rng.laplace(0, 8, n), actual


def outcomes(rng, n):
    chance = 1 / (1 + np.exp(1.0 - rng.normal(0, 1.2, n)))
    return chance, (rng.random(n) < chance).astype(float)


def responses(rng, n):
    actual = rng.normal(size=(n, 3)) + rng.normal(size=(n, 1))
    return 0.5 * actual, actual


def courses(rng, n):
    change = rng.normal(size=(n, 2, 1, 2)) * np.exp(rng.normal(0, 0.5, (n, 1, 1, 1)))
    middle = 0.4 * change + rng.normal(0, 0.2, change.shape)
    predicted = np.stack([middle, middle - 1, middle + 1], axis=-1)
    return predicted, np.stack([change, np.zeros_like(change)], axis=-1)


KINDS = {
    "mae": (doses, exact, MetricPlan(final=True, error_bound=60.0, reference=30.0)),
    "auc": (outcomes, lambda p, a: exact_binary(p, a, 0.5),
            BinaryPlan(final=True, rate=0.3, threshold=0.5)),
    "panel": (responses, lambda p, a: exact_panel(p, a, PANEL),
              PanelPlan(final=True, error_bound=4.0, target=PANEL)),
    "ratio": (courses, lambda p, a: exact_forecast(p, a, FORECAST), None),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_for_the_choice_of_patients_cover_as_often_as_they_say(kind):
    made, judge, plan = KINDS[kind]
    key = "mae" if kind == "panel" else kind
    truth = getattr(judge(*made(np.random.default_rng(99), 100_000)), key)
    exactly = released = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        predicted, actual = made(rng, 200)
        low, high = getattr(judge(predicted, actual), f"{key}_ci")
        exactly += low <= truth <= high
        if plan is not None:
            state = plan.state(predicted, actual) + rng.normal(0, 2.0, plan.size)
            low, high = getattr(plan.from_state(state, noise_sd=2.0), f"{key}_ci")
            released += low <= truth <= high
    assert 272 <= exactly <= 297
    # A panel's released squares bound its spread from above.
    assert plan is None or 272 <= released <= (300 if kind == "panel" else 298)


@pytest.mark.parametrize("kind", ["mae", "auc"])
@pytest.mark.parametrize("n", [200, 1000])
def test_a_shown_figure_is_seldom_far_off(kind, n):
    """Of 200 noisy readings at any noise, those that are shown lie within what they could tell."""
    made, _, plan = KINDS[kind]
    tells = {"mae": 5.0, "auc": 0.25}[kind]
    predicted, actual = made(np.random.default_rng(0), n)
    clean = getattr(plan.from_state(plan.state(predicted, actual)), kind)
    shown = far = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        sd = float(np.exp(rng.uniform(-1, 5)))
        noisy = plan.from_state(plan.state(predicted, actual) + rng.normal(0, sd, plan.size),
                                noise_sd=sd)  # fmt: skip
        value, ends = getattr(noisy, kind), getattr(noisy, f"{kind}_interval")
        if value is not None and 2 * max(ends[1] - value, value - ends[0]) <= tells:
            shown += 1
            far += abs(value - clean) > tells / 2
    assert shown > 20
    assert far <= 0.05 * shown + 1


def test_lesser_figures_are_as_noisy_as_is_reckoned():
    """Where a figure is just shown, its noise has the length that the rule allows."""
    plan = MetricPlan(final=True, error_bound=60.0, reference=30.0, tells=6.0)
    state = plan.state(*doses(np.random.default_rng(0), 1000))
    for sd in (2.0, 4.0, 8.0, 16.0):
        rng = np.random.default_rng(1)
        noisy = [state + rng.normal(0, sd, plan.size) for _ in range(300)]
        found = [plan.from_state(one).within_20_percent for one in noisy]
        length = 2 * 1.96 * np.std(found)
        hidden = [plan.from_state(one, noise_sd=sd).within_20_percent is None for one in noisy]
        if length < 17:
            assert not any(hidden)
        if length > 23:
            assert all(hidden)


@pytest.mark.parametrize("noise_sd", [3.0, 10.0])
def test_the_noise_to_come_is_that_of_a_real_evaluation(study, noise_sd):
    """Patients of another spread, and a better model, move it by a quarter at most."""
    target = BinaryTarget(kind="binary", name="toxic", rate=0.27, threshold=0.3)
    agreed = study.with_(target={}).model_copy(update={"target": target})
    plan = metric_plan(agreed, final=True)
    predicted, actual = outcomes(np.random.default_rng(3), 1500)
    assert actual.mean() == pytest.approx(0.3, abs=0.05)
    low, high = plan.from_state(plan.state(predicted, actual), noise_sd=noise_sd).auc_interval
    told = expected_headline(agreed, 1500, noise_sd, final=True)
    assert told.noise[1] - told.noise[0] == pytest.approx(high - low, rel=0.25)
    assert exact_metrics(target, predicted, actual).auc_interval is None
