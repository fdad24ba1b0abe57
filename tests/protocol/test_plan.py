"""The plan: no sum can wrap, no release has less noise than was solved for, all tries are paid."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedrx_common.errors import MisuseError, StudyError
from fedrx_protocol.fixed_point import FixedPoint, from_ring, to_ring
from fedrx_protocol.plan import (
    LARGEST_UPDATE,
    MOST_TRIES,
    TAIL_DEVIATIONS,
    MetricShape,
    StudyPlan,
    _settled,
)
from fedrx_protocol.privacy.accountant import epsilon
from fedrx_protocol.privacy.discretization import LEAST_SITE_SD, grid_sensitivity, grid_slack
from fedrx_protocol.privacy.events import Release
from fedrx_protocol.secagg.parameters import SecAggParameters
from fedrx_protocol.study.study import Study

TOML = """
name = "dose"
[cohort]
patients = 5000
largest_site = 1000
[model]
name = "linear"
[training]
rounds = 20
[metrics]
evaluations = 3
[[features]]
name = "carrier"
kind = "flag"
[target]
name = "dose"
unit = "mg/week"
minimum = 0
maximum = 400
mean = 30
scale = 10
"""
BETWEEN, FINAL = MetricShape(3, 1.0), MetricShape(15, 1.0)
RING = 2**31 - 1


def plan(n=21, dimension=20, **sections) -> StudyPlan:
    study = Study.parse(TOML).with_(**sections)
    return StudyPlan(study, SecAggParameters.for_roster(n), dimension, BETWEEN, FINAL)


def release(part, number, *, rate=1.0, attempt=0) -> Release:
    """The ledger line of one part."""
    return Release(
        time="2026-11-21T10:00:00Z",
        study="aa",
        run="run",
        round=number,
        attempt=attempt,
        purpose="training" if part.name == "training" else "metrics",
        noise_multiplier=part.noise_multiplier,
        sample_rate=rate,
        clipping_norm=part.sensitivity,
        cohort="cc",
        grid_slack=part.slack,
    )


@st.composite
def plans(draw):
    """Admissible studies of every mode; those that the plan refuses are left out."""
    mode = draw(st.sampled_from(["distributed", "local", "none"]))
    made = plan(
        draw(st.integers(3, 60)),
        draw(st.integers(1, 10_000)),
        cohort={
            "patients": draw(st.integers(1, 99_999)),  # delta stays below 1/patients
            "largest_site": draw(st.integers(1, 20_000)),
            "minimum_per_site": 1,
        },
        training={
            "rounds": draw(st.integers(3, 300)),
            "clipping_norm": draw(st.floats(1e-3, 1e3)),
            "steps": draw(st.sampled_from([None, "local"])) if mode == "none" else None,
            "local": {"batch_size": 10**9},  # rate 1: the closed form is fast
        },
        privacy={
            "mode": mode,
            "epsilon": draw(st.floats(0.05, 20)),
            "reserve_rounds": draw(st.integers(0, 20)),
        },
        metrics={"final_share": draw(st.floats(0.1, 0.9))},
    )
    try:
        made.check()
    except StudyError:
        assume(False)
    return made


def rounds_of(made):
    """One round of each kind, with a first and a later attempt."""
    for number in {1, *made.study.evaluation_rounds}:
        for attempt in (0, 1, 5):
            yield made.round(number, attempt)


class TestNoSumWraps:
    @given(plans())
    @settings(max_examples=80, deadline=None)
    def test_n_sites_at_their_limit_with_the_noises_tail(self, made):
        n = made.parameters.n
        for chosen in rounds_of(made):
            assert n * chosen.site_limit <= RING
            for part in chosen.parts:
                most = part.limit + TAIL_DEVIATIONS * part.site_noise_sd
                assert most <= chosen.site_limit + 0.5  # the grid's rounding, once a site

    @given(plans(), st.sampled_from([-1, 1]))
    @settings(max_examples=40, deadline=None)
    def test_the_sum_is_read_back_as_it_was(self, made, sign):
        n = made.parameters.n
        for chosen in rounds_of(made):
            site = np.array([sign * chosen.site_limit, sign, 0])
            total = np.zeros(3, dtype=np.uint32)
            for _ in range(n):
                total += to_ring(site)
            np.testing.assert_array_equal(from_ring(total), n * site)

    @given(plans())
    @settings(max_examples=40, deadline=None)
    def test_the_largest_honest_value_is_on_the_grid(self, made):
        """Whatever a site may compute it can also send."""
        for chosen in rounds_of(made):
            for part in chosen.parts:
                largest = part.limit / part.scale
                grid = FixedPoint(part.scale, part.limit)
                assert grid.encode(np.array([largest, -largest])).tolist() == [
                    part.limit,
                    -part.limit,
                ]
        study = made.study
        if study.privacy.mode == "distributed":
            part = made.round(1, 0).by_name["training"]
            bound = study.cohort.largest_site * study.training.clipping_norm
            FixedPoint(part.scale, part.limit).encode(np.array([bound, -bound]))

    @pytest.mark.parametrize(("n", "site"), [(3, 1), (21, 1000), (64, 20_000), (1000, 1000)])
    def test_the_grid_is_fine_where_it_can_be(self, n, site):
        part = (
            plan(n, cohort={"largest_site": site, "minimum_per_site": 1})
            .round(1, 0)
            .by_name["training"]
        )
        assert n * part.limit + TAIL_DEVIATIONS * n * part.site_noise_sd > RING / 4


class TestNoise:
    @given(plans())
    @settings(max_examples=40, deadline=None)
    def test_is_never_below_what_was_solved_for(self, made):
        shares = made.noise_shares
        for chosen in rounds_of(made):
            for part in chosen.parts:
                if not part.noise_multiplier:
                    assert part.site_noise_sd == part.slack == 0
                    continue
                sensitivity = grid_sensitivity(
                    scale=part.scale, clipping_norm=part.sensitivity, dimension=part.length
                )
                summed = part.site_noise_sd * math.sqrt(shares)
                assert summed >= part.noise_multiplier * sensitivity * (1 - 1e-12)
                assert part.site_noise_sd >= LEAST_SITE_SD
                assert part.slack == grid_slack(part.length, part.site_noise_sd, shares)

    @given(plans())
    @settings(max_examples=60, deadline=None)
    def test_all_rounds_and_the_reserve_keep_the_promise(self, made):
        privacy = made.study.privacy
        assume(privacy.mode == "distributed")
        part = made.round(1, 0).by_name["training"]
        paid = made.study.rounds + privacy.reserve_rounds
        lines = [release(part, number) for number in range(1, paid + 1)]
        spent = epsilon(lines, privacy.delta)
        assert 0.99 * privacy.epsilon < spent <= privacy.epsilon

    @given(plans())
    @settings(max_examples=60, deadline=None)
    def test_all_tries_at_all_evaluations_cost_at_most_the_budget(self, made):
        study = made.study
        assume(study.metrics_are_private)
        lines = []
        for number in study.evaluation_rounds:
            for attempt in range(MOST_TRIES if number != study.final_round else 5):
                part = made.round(number, attempt).by_name.get("metrics")
                if part is not None:
                    lines.append(release(part, number, attempt=attempt))
        assert epsilon(lines, study.privacy.delta) <= study.privacy.epsilon

    def test_a_sampled_study_keeps_its_promise_too(self):
        made = plan(privacy={"reserve_rounds": 0}, training={"sample_rate": 0.05, "rounds": 5})
        part = made.round(1, 0).by_name["training"]
        lines = [release(part, number, rate=0.05) for number in range(1, 6)]
        assert 0.98 < epsilon(lines, 1e-5) <= 1.0
        assert part.noise_multiplier < plan(training={"rounds": 5}).training_noise

    def test_noise_is_shared_among_honest_sites_but_not_in_local_mode(self):
        shared, local = plan(), plan(privacy={"mode": "local"})
        assert shared.noise_shares == shared.parameters.min_honest == 15
        assert local.noise_shares == 1
        sds = [p.round(21, 0).by_name["metrics"] for p in (shared, local)]
        ratio = (sds[1].site_noise_sd / sds[1].scale) / (sds[0].site_noise_sd / sds[0].scale)
        assert ratio == pytest.approx(math.sqrt(15), rel=0.01)

    def test_a_coarser_grid_that_noise_brings_is_paid_for(self):
        """Noise above 2 makes this grid coarser, so that what was paid for is too little."""
        asked = []

        def least(slack: float) -> float:
            asked.append(slack)
            return 1.95 + slack

        noise = _settled(least, lambda noise: 0.1 if noise < 2 else 0.4 / noise)
        assert 0.4 / noise <= asked[-1]
        assert asked[:2] == [0.0, 0.1]
        assert len(asked) == 3

    def test_local_noise_spends_the_promise_over_all_steps(self):
        made = plan(privacy={"mode": "local"}, training={"local": {"rounds": 3, "batch_size": 500}})
        assert made.patients_per_site == 190  # 5,000, four in five trained on, 21 sites
        line = release(replace(FIRST, noise_multiplier=made.local_noise), 1)
        assert 0.99 < epsilon([line] * 13, 1e-5) <= 1.0
        assert plan().local_noise == plan(privacy={"mode": "none"}).local_noise == 0.0


FIRST = plan().round(1, 0).parts[0]


class TestWhatARoundHolds:
    def test_the_number_alone_decides(self):
        made = plan()
        names = {number: [p.name for p in made.round(number, 0).parts] for number in (1, 2, 3, 21)}
        assert made.study.evaluation_rounds == (2, 6, 12, 21)
        assert names == {
            1: ["training"],
            2: ["training", "metrics"],
            3: ["training"],
            21: ["metrics"],
        }
        assert made.round(2, 0).layout.length == 23
        assert made.round(21, 0).layout.length == 15

    @pytest.mark.parametrize("steps", ["gradient", "local"])
    def test_without_privacy_the_weight_is_summed_beside_it(self, steps):
        made = plan(privacy={"mode": "none"}, training={"steps": steps})
        parts = made.round(2, 0).by_name
        assert list(parts) == ["training", "weight", "metrics"]
        assert made.training_noise == 0
        assert made.metrics_noise == (0.0, 0.0)
        assert parts["weight"].limit >= 1000 * parts["weight"].scale

    def test_local_updates_are_bounded_not_clipped(self):
        part = plan(privacy={"mode": "local"}).round(1, 0).by_name["training"]
        assert part.limit == LARGEST_UPDATE * part.scale
        assert part.noise_multiplier == 0

    def test_exact_metrics_carry_no_noise(self):
        made = plan(metrics={"mode": "secure-sum"})
        part = made.round(21, 0).by_name["metrics"]
        assert (part.noise_multiplier, part.slack) == (0, 0)
        assert made.round(21, 500).by_name["metrics"] == part

    def test_no_evaluation_but_the_last(self):
        made = plan(metrics={"evaluations": 0})
        made.check()
        assert made.metrics_noise[0] == math.inf
        assert made.metrics_noise[1] < plan().metrics_noise[1]

    @pytest.mark.parametrize(("number", "attempt"), [(0, 0), (-1, 0), (22, 0), (1, -1)])
    def test_rounds_outside_the_study(self, number, attempt):
        with pytest.raises(StudyError, match="rounds go from 1 to 21"):
            plan().round(number, attempt)


class TestTries:
    def test_each_has_twice_the_noise_of_the_one_before(self):
        made = plan()
        noise = [made.round(2, n).by_name["metrics"].noise_multiplier for n in range(4)]
        assert noise == [noise[0] * factor for factor in (1, 2, 4, 8)]
        assert made.round(2, 3).by_name["training"] == made.round(2, 0).by_name["training"]

    def test_an_evaluation_in_between_is_given_up_in_the_end_and_training_goes_on(self):
        made = plan()
        assert "metrics" in made.round(2, MOST_TRIES - 1).by_name
        for attempt in (MOST_TRIES, 10**6, 2**53):
            assert list(made.round(2, attempt).by_name) == ["training"]

    def test_the_last_evaluation_ends_with_a_sentence(self):
        with pytest.raises(StudyError, match=r"tried 12 times.*the model is finished"):
            plan().round(21, MOST_TRIES)

    def test_fewer_tries_where_their_noise_leaves_the_grid(self):
        made = plan(privacy={"epsilon": 1e-4})
        parts = [made.round(2, attempt).by_name.get("metrics") for attempt in range(MOST_TRIES)]
        fitting = [part for part in parts if part is not None]
        assert 1 <= len(fitting) < MOST_TRIES
        assert parts[: len(fitting)] == fitting


class TestImpossibleStudies:
    @pytest.mark.parametrize(
        ("sections", "words"),
        [
            ({"privacy": {"epsilon": 1e-9}}, r"epsilon 1e-09 .* 10,000 rounds: raise privacy\.eps"),
            ({"privacy": {"delta": 1e-300}}, r"delta 1e-300 .*raise privacy\.epsilon or privacy"),
            ({"privacy": {"mode": "local", "epsilon": 1e-9}}, r"epsilon 1e-09"),
            ({"privacy": {"epsilon": 1e-4}, "training": {"rounds": 100_000}}, r"fit 32 bits"),
            ({"cohort": {"largest_site": 10**9}}, r"lower privacy\.epsilon or cohort\.largest"),
        ],
    )
    def test_are_told_in_one_sentence_and_at_once(self, sections, words):
        began = time.monotonic()
        document = {"training": {"rounds": 10_000}, **sections}
        with pytest.raises(StudyError, match=words) as raised:
            plan(dimension=1_000_000, **document).check()
        assert time.monotonic() - began < 5
        assert "\n" not in str(raised.value)
        assert isinstance(raised.value, MisuseError)

    def test_sampling_does_not_make_it_slow(self):
        began = time.monotonic()
        with pytest.raises(StudyError, match="no noise keeps epsilon 1e-09"):
            plan(
                privacy={"epsilon": 1e-9}, training={"rounds": 10_000, "sample_rate": 0.01}
            ).check()
        assert time.monotonic() - began < 5

    def test_the_local_noise_is_checked_too(self):
        made = plan(privacy={"mode": "local", "epsilon": 1e-9}, metrics={"mode": "secure-sum"})
        with pytest.raises(StudyError, match="no noise keeps"):
            made.check()


def test_a_rounds_parts_are_computed_once(monkeypatch):
    made = plan()
    made.check()
    rounds = [(number, attempt) for number in (1, 2, 21) for attempt in (0, 1)]
    before = [made.round(*which) for which in rounds]
    monkeypatch.setattr(StudyPlan, "_part", None)  # what would compute one
    assert [made.round(*which) for which in rounds] == before
