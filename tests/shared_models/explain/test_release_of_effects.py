"""Cohort-level explanations that leave a site: one patient's share is bounded."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrx_common.errors import MisuseError
from fedrx_models.explain.explanation import Explanation, Reason
from fedrx_models.explain.outcome import Outcome
from fedrx_models.explain.release import EffectPlan

KEYS = ("age", "cyp2c9", "vkorc1")
OUTCOME = Outcome("dose", "continuous", "mg/week")
effects = st.floats(allow_nan=True, allow_infinity=True, width=32)
patients = st.lists(st.tuples(effects, effects, effects), max_size=6)


def explained(values):
    return [
        Explanation(
            f"p{i}",
            "linear",
            "exact",
            OUTCOME,
            0.0,
            0.0,
            tuple(
                Reason("feature", key, "", None, None, "", effect)
                for key, effect in zip(KEYS, row, strict=True)
            ),
        )
        for i, row in enumerate(values)
    ]


@given(patients, st.floats(0.1, 100))
def test_one_patient_changes_the_sum_by_at_most_the_bound(values, norm):
    plan = EffectPlan(KEYS, norm)
    whole = plan.state(explained(values))
    assert np.isfinite(whole).all()
    for i in range(len(values)):
        moved = whole - plan.state(explained(values[:i] + values[i + 1 :]))
        assert np.linalg.norm(moved) <= plan.sensitivity + 1e-9


def test_without_noise_the_means_come_back():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 3)) * [1.0, 5.0, 2.0]
    plan = EffectPlan(KEYS, norm=100.0)
    found = plan.from_state(plan.state(explained(values)))
    assert [one.key for one in found] == ["cyp2c9", "vkorc1", "age"]
    told = {one.key: one.mean_absolute for one in found}
    for key, column in zip(KEYS, np.abs(values).mean(axis=0), strict=True):
        assert told[key] == pytest.approx(column)
    assert all(one.reach == 0 for one in found)


def test_noise_is_told_and_sites_add_up():
    values = np.random.default_rng(0).normal(size=(400, 3)) * [1.0, 5.0, 2.0]
    plan, sd = EffectPlan(KEYS, norm=8.0), 3.0
    total = plan.state(explained(values[:100])) + plan.state(explained(values[100:]))
    assert total == pytest.approx(plan.state(explained(values)))
    rng, off = np.random.default_rng(1), []
    truth = {one.key: one.mean_absolute for one in plan.from_state(total)}
    for _ in range(200):
        noisy = plan.from_state(total + rng.normal(0, sd, total.shape), noise_sd=sd)
        off += [abs(one.mean_absolute - truth[one.key]) <= one.reach for one in noisy]
    assert 0.91 <= np.mean(off) <= 0.99


def test_what_the_plan_does_not_name_is_refused():
    with pytest.raises(MisuseError, match="does not name 'vkorc1'"):
        EffectPlan(KEYS[:2], 1.0).state(explained([(1.0, 1.0, 1.0)]))
    for keys, norm in ((), 1.0), (("a", "a"), 1.0), (KEYS, 0.0), (KEYS, math.nan):
        with pytest.raises(MisuseError):
            EffectPlan(keys, norm)
    with pytest.raises(MisuseError, match="a state of 4 numbers"):
        EffectPlan(KEYS, 1.0).from_state(np.zeros(3))
    assert not EffectPlan(KEYS, 1.0).state([]).any()
