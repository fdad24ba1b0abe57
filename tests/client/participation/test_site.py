"""What a site releases, charges and refuses: the real store, party and training, no transport."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_consortium import NOW, RUN, Stage, small_cohort, small_study

from fedrx_client.participation.compute import settings_of_epochs
from fedrx_client.participation.site import ModelMismatch, SitePolicy, check_cohort_size
from fedrx_client.records.database import LedgerUnwritable
from fedrx_client.records.ledger import PrivacyCap, ReleaseRepeated
from fedrx_client.training.clipping import clipped_gradient_sum, gradient_sum
from fedrx_client.training.local_epochs import local_epochs
from fedrx_client.training.noise import discrete_gaussian
from fedrx_client.training.randomness import SeededRandomness, SystemRandomness
from fedrx_client.training.sampling import poisson_sample
from fedrx_common.errors import BudgetExhausted, DataError, StudyError
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import WeightsMismatch, set_vector
from fedrx_models.metrics.dose import MetricPlan
from fedrx_protocol.fixed_point import FixedPoint, from_ring
from fedrx_protocol.messages.weights import model_bytes, model_digest
from fedrx_protocol.plan import LARGEST_UPDATE
from fedrx_protocol.privacy.accountant import epsilon
from fedrx_protocol.secagg.coordinator import CoordinatorRound
from fedrx_protocol.secagg.errors import (
    ModelAlreadyReleased,
    OutOfOrder,
    RoundWentBack,
    SessionMismatch,
    ThresholdChanged,
)

NONE = {"privacy": {"mode": "none"}}
EXACT_METRICS = {"metrics": {"mode": "secure-sum"}}


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    stage.new_epoch()
    return stage


def staged(tmp_path, **sections):
    stage = Stage(tmp_path, small_study(**sections))
    stage.new_epoch()
    return stage


def patients_of(stage, name):
    """(training, held out) cohorts of a site, split as the site splits them."""
    return stage.cohorts[name].split(stage.study.cohort.held_out, b"salt " + name.encode())


def model_at_start(stage):
    model = stage.consortium.model()
    set_vector(model, stage.start)
    return model


def plain_sum(stage, number, compute):
    """Grid integers summed in ordinary arithmetic, by part; `compute` gives a site's values."""
    plan = stage.plan.round(number, 0)
    sums = {}
    for name in stage.names:
        training, held_out = patients_of(stage, name)
        values = compute(name, encode(training, stage.study.feature_schema), held_out)
        for part in plan.parts:
            grid = FixedPoint(part.scale, part.limit).encode(np.asarray(values[part.name]))
            if part.noise_multiplier:
                stream = SeededRandomness(7).generator(name, number, f"{part.name} noise")
                grid = grid + discrete_gaussian(part.site_noise_sd, part.length, stream)
            sums[part.name] = sums.get(part.name, 0) + grid
    return sums


def opened_parts(stage, number):
    return stage.plan.round(number, 0).layout.split(stage.total(number))


def metric_state(stage, held_out, *, final=False):
    predicted = model_at_start(stage).predict(encode(held_out, stage.study.feature_schema)).mean
    return MetricPlan.for_study(stage.study, final=final).state(predicted, held_out.target)


class TestWhatLeaves:
    def test_mode_none_opens_the_plain_integer_sum_to_the_last_bit(self, tmp_path):
        stage = staged(tmp_path, **NONE)

        def compute(name, batch, held_out):
            return {
                "training": gradient_sum(model_at_start(stage), batch),
                "weight": [float(len(batch))],
                "metrics": metric_state(stage, held_out),
            }

        expected = plain_sum(stage, 2, compute)
        opened = opened_parts(stage, 2)
        assert set(opened) == {"training", "weight", "metrics"}
        for part, values in opened.items():
            np.testing.assert_array_equal(values, expected[part])

    def test_the_private_sum_is_clipped_and_carries_each_sites_share_of_noise(self, stage):
        def compute(name, batch, held_out):
            rows = stage.site(name)._patients.rows
            clipped = clipped_gradient_sum(model_at_start(stage), batch, 1.0, rows=rows)
            return {"training": clipped.vector, "metrics": metric_state(stage, held_out)}

        expected = plain_sum(stage, 2, compute)
        for part, values in opened_parts(stage, 2).items():
            np.testing.assert_array_equal(values, expected[part])
        part = stage.plan.round(2, 0).by_name["training"]
        assert part.site_noise_sd * np.sqrt(3) >= stage.plan.training_noise * part.scale

    def test_a_sample_takes_each_patient_by_a_coin_and_is_charged_at_its_rate(self, tmp_path):
        stage = staged(tmp_path, training={"sample_rate": 0.5})

        def compute(name, batch, held_out):
            coins = SeededRandomness(7).generator(name, 1, "sampling")
            chosen = torch.from_numpy(poisson_sample(len(batch), 0.5, coins))
            assert 0 < len(chosen) < len(batch)
            rows, some = stage.site(name)._patients.rows, batch.select(chosen)
            vector = clipped_gradient_sum(model_at_start(stage), some, 1.0, rows=rows).vector
            return {"training": vector}

        expected = plain_sum(stage, 1, compute)
        np.testing.assert_array_equal(opened_parts(stage, 1)["training"], expected["training"])
        assert [line.sample_rate for line in stage.releases("site0")] == [0.5]

    def test_local_mode_sends_the_sites_own_private_change(self, tmp_path):
        stage = staged(tmp_path, privacy={"mode": "local"})

        def compute(name, batch, held_out):
            settings = settings_of_epochs(stage.plan, len(batch))
            assert settings.noise_multiplier == stage.plan.local_noise > 0
            model, streams = model_at_start(stage), SeededRandomness(7)
            change = local_epochs(model, batch, settings, streams, site=name, round_=1).change
            return {"training": change}

        expected = plain_sum(stage, 1, compute)
        np.testing.assert_array_equal(opened_parts(stage, 1)["training"], expected["training"])

    def test_a_local_change_too_large_for_the_grid_is_cut_and_not_refused(self, tmp_path):
        stage = staged(
            tmp_path, privacy={"mode": "local"}, training={"local": {"learning_rate": 1e4}}
        )
        values = opened_parts(stage, 1)["training"]
        scale = stage.plan.round(1, 0).by_name["training"].scale
        assert np.abs(values / scale).max() <= len(stage.names) * LARGEST_UPDATE
        assert np.abs(values / scale).max() >= LARGEST_UPDATE / 2

    @pytest.mark.parametrize(
        ("number", "parts"),
        [(1, ("training",)), (2, ("training", "metrics")), (5, ("metrics",))],
    )
    def test_metrics_leave_in_evaluation_rounds_only(self, stage, number, parts):
        assert stage.study.evaluation_rounds == (2, 5)
        masked = stage.site("site0").train(stage.request(number), stage.start)
        sizes = {"training": len(stage.start), "metrics": 3 if number == 2 else 15}
        assert masked.vector.size == sum(sizes[part] for part in parts)
        assert tuple(line.purpose for line in stage.releases("site0")) == parts

    def test_a_live_sites_noise_never_comes_twice(self, stage):
        stage.sites["site0"] = stage.open("site0", randomness=SystemRandomness())
        stage.new_epoch(2)
        first, second = stage.total(1, 0), stage.total(1, 1)
        assert not np.array_equal(first, second)
        other = [stage.open(name) for name in stage.names[1:]]
        assert len(other) == 3  # seeded sites repeat theirs: only site0 made the difference
        sd = stage.plan.round(1, 0).by_name["training"].site_noise_sd
        assert 0 < np.abs(from_ring(first - second)).max() < 10 * np.sqrt(2) * sd

    def test_what_is_sent_looks_nothing_like_what_was_computed(self, stage):
        masked = stage.site("site0").train(stage.request(1), stage.start).vector
        limit = stage.plan.site_limit
        assert np.abs(from_ring(masked)).max() > limit / 4  # uniform over the ring, not small


class TestLedger:
    def test_one_line_for_each_purpose_round_and_attempt(self, stage):
        stage.total(1)
        stage.total(2, 0)
        stage.total(2, 1)
        lines = stage.releases("site2")
        assert [(line.round, line.attempt, line.purpose) for line in lines] == [
            (1, 0, "training"),
            (2, 0, "training"),
            (2, 0, "metrics"),
            (2, 1, "training"),
            (2, 1, "metrics"),
        ]
        assert {line.run for line in lines} == {RUN}
        assert {line.study for line in lines} == {stage.study.digest}
        assert {line.cohort for line in lines} == {stage.cohorts["site2"].fingerprint}
        assert lines[0].time == NOW.isoformat(timespec="seconds")

    def test_a_line_says_how_much_noise_was_added(self, stage):
        stage.total(2, 0)
        stage.total(2, 1)
        training, metrics, _, again = stage.releases("site0")
        assert training.noise_multiplier == stage.plan.training_noise
        assert training.clipping_norm == 1.0
        assert metrics.noise_multiplier == stage.plan.metrics_noise[0]
        assert again.noise_multiplier == 2 * metrics.noise_multiplier
        assert training.grid_slack == stage.plan.round(2, 0).by_name["training"].slack > 0

    def test_a_local_line_counts_every_step_and_all_rounds_keep_the_promise(self, tmp_path):
        stage = staged(tmp_path, privacy={"mode": "local"})
        stage.total(1)
        (line,) = stage.releases("site1")
        assert (line.steps, line.sample_rate) == (8, 0.25)  # 32 agreed patients, 8 a step, twice
        paid = [replace(line, round=number) for number in range(1, 7)]  # 4 rounds, 2 in reserve
        assert epsilon(paid, 1e-5) <= 8.0 < epsilon([*paid, replace(line, round=7)], 1e-5)

    def test_private_local_settings_do_not_depend_on_the_sites_size(self, tmp_path):
        stage = Stage(tmp_path, small_study(privacy={"mode": "local"}), sizes=(40, 40, 40, 80))
        sizes = {len(stage.site(name)._patients.training) for name in stage.names}
        settings = {settings_of_epochs(stage.plan, size) for size in sizes}
        assert len(sizes) > 1
        assert len(settings) == 1

    def test_if_masking_fails_there_is_no_line(self, stage):
        drawn = []

        def entropy(count):
            drawn.append(count)
            if len(drawn) > 2:  # the first two are the keys
                raise OSError("no entropy left")
            return bytes([len(drawn)]) * count

        stage.sites["site0"] = stage.open("site0", entropy=entropy)
        stage.new_epoch(2)
        with pytest.raises(OSError, match="no entropy left"):
            stage.site("site0").train(stage.request(1), stage.start)
        assert stage.releases("site0") == []
        stage.restart("site0")
        stage.new_epoch(3)
        stage.total(1)  # nothing of the failed try stands in the way
        assert len(stage.releases("site0")) == 1

    def test_if_the_ledger_fails_nothing_is_masked(self, stage):
        site, request = stage.site("site0"), stage.request(1)
        stage.total(1)
        line = stage.releases("site0")[0]
        site.ledger.append(replace(line, attempt=1))  # as if written by another process
        with pytest.raises(ReleaseRepeated):
            site.train(stage.request(1, 1), stage.start)
        guard = stage.open("site0")._parts.party._guard
        assert guard.load(request.context) is not None
        assert guard.load(stage.request(1, 1).context) is None

    def test_a_closed_ledger_refuses(self, stage):
        stage.site("site0").close()
        with pytest.raises(LedgerUnwritable):
            stage.site("site0").train(stage.request(1), stage.start)

    def test_a_round_of_two_purposes_is_charged_whole_or_not_at_all(self, stage, tmp_path):
        stage.total(2)
        training, metrics = stage.releases("site1")
        low, high = epsilon([training], 1e-5), epsilon([metrics], 1e-5)
        assert low < high
        (tmp_path / "capped").mkdir()
        cap = SitePolicy(PrivacyCap((low + high) / 2, 1e-5))
        stage = Stage(tmp_path / "capped", policies={"site0": cap})
        stage.new_epoch()
        with pytest.raises(BudgetExhausted, match="metrics"):
            stage.site("site0").train(stage.request(2), stage.start)
        assert stage.releases("site0") == []
        stage.site("site0").train(stage.request(3), stage.start)  # training alone is within it


class TestBudget:
    def test_the_studys_promise_pays_for_its_rounds_and_its_reserve(self, stage):
        for number in (1, 2, 3, 4):
            stage.total(number)
        stage.total(4, 1)
        stage.total(4, 2)  # the reserve is two rounds
        before = len(stage.releases("site0"))
        with pytest.raises(BudgetExhausted, match="the study's promise of epsilon 8"):
            stage.site("site0").train(stage.request(4, 3), stage.start)
        assert len(stage.releases("site0")) == before
        stage.total(5)  # the held-out patients' budget is another one

    def test_a_sites_own_cap_comes_first(self, tmp_path):
        policies = {"site1": SitePolicy(PrivacyCap(3.5, 1e-5))}
        stage = Stage(tmp_path, policies=policies)
        stage.new_epoch()
        stage.total(1)
        with pytest.raises(BudgetExhausted, match=r"this site's cap of epsilon 3\.5"):
            stage.site("site1").train(stage.request(3), stage.start)
        stage.site("site0").train(stage.request(3), stage.start)

    def test_a_cap_refuses_what_carries_no_noise(self, tmp_path):
        policies = {"site0": SitePolicy(PrivacyCap(1000.0, 1e-5))}
        stage = Stage(tmp_path, small_study(**NONE), policies=policies)
        stage.new_epoch()
        with pytest.raises(BudgetExhausted):
            stage.site("site0").train(stage.request(1), stage.start)
        stage.site("site1").train(stage.request(1), stage.start)

    def test_exact_metrics_do_not_use_up_the_promise_for_training(self, tmp_path):
        stage = staged(tmp_path, **EXACT_METRICS)
        for number in (1, 2, 3, 4):
            weights = stage.start + np.float32(number)
            stage.site("site0").train(stage.request(number, weights=weights), weights)
        assert [line.purpose for line in stage.releases("site0")].count("training") == 4
        for attempt in (1, 2):
            stage.site("site0").train(stage.request(4, attempt), stage.start)
        with pytest.raises(BudgetExhausted, match="training release would spend more"):
            stage.site("site0").train(stage.request(4, 3), stage.start)

    def test_a_restart_does_not_refill_the_budget(self, stage):
        for attempt in range(6):
            stage.total(1, attempt)
        stage.restart("site3")
        stage.new_epoch(2)
        with pytest.raises(BudgetExhausted):
            stage.site("site3").train(stage.request(1, 6), stage.start)

    def test_an_exact_sum_is_opened_once_a_model(self, tmp_path):
        for folder, sections in (("none", NONE), ("exact", EXACT_METRICS)):
            (tmp_path / folder).mkdir()
            stage = staged(tmp_path / folder, **sections)
            stage.total(2)
            with pytest.raises(ModelAlreadyReleased):
                stage.site("site0").train(stage.request(2, 1), stage.start)


class TestRefusals:
    def test_another_model_than_the_request_names(self, stage):
        with pytest.raises(ModelMismatch):
            stage.site("site0").train(stage.request(1), stage.start + 1)
        assert stage.releases("site0") == []

    @pytest.mark.parametrize("weights", [np.zeros(2), np.full(4, np.nan), np.zeros((0,))])
    def test_a_model_that_is_none_of_ours(self, stage, weights):
        weights = weights.astype(np.float32)
        request = stage.request(1, model_digest=model_digest(model_bytes(weights)))
        with pytest.raises(WeightsMismatch):
            stage.site("site0").train(request, weights)
        assert stage.releases("site0") == []

    @pytest.mark.parametrize("number", [0, 6, 2**40])
    def test_a_round_outside_the_study(self, stage, number):
        with pytest.raises(StudyError, match="rounds go from 1 to 5"):
            stage.site("site0").train(stage.request(number), stage.start)
        assert stage.releases("site0") == []

    @pytest.mark.parametrize("attempt", [12, 5000, 2**53 - 1])
    def test_a_last_evaluation_tried_without_end(self, stage, attempt):
        with pytest.raises(StudyError, match=f"tried {attempt} times"):
            stage.site("site0").train(stage.request(5, attempt), stage.start)

    def test_a_refused_round_is_refused_before_a_patient_is_looked_at(self, stage):
        drawn = []

        class Counting(SystemRandomness):
            def generator(self, site, round_, purpose):
                drawn.append(purpose)
                return super().generator(site, round_, purpose)

        stage.sites["site0"] = stage.open("site0", randomness=Counting())
        stage.new_epoch(2)
        with pytest.raises(ThresholdChanged):
            stage.site("site0").train(stage.request(1, threshold=4), stage.start)
        assert drawn == []
        stage.total(1)
        assert drawn == ["training noise"]

    def test_an_older_round(self, stage):
        stage.total(3)
        with pytest.raises(RoundWentBack):
            stage.site("site0").train(stage.request(2), stage.start)
        assert len(stage.releases("site0")) == 1

    @pytest.mark.parametrize(
        ("patients", "words"), [(9, "at least 10"), (201, "at most 200"), (0, "at least 10")]
    )
    def test_a_cohort_of_another_size_than_agreed(self, stage, patients, words):
        cohort = small_cohort(stage.study, "site0", patients)
        with pytest.raises(DataError, match=f"'site0' has {patients} patients, .* {words}"):
            check_cohort_size(stage.study, cohort)
        with pytest.raises(DataError):
            stage.open("site0", cohort=cohort)

    def test_cohorts_at_the_agreed_limits_are_taken(self, stage):
        for patients in (10, 200):
            assert stage.open("site0", cohort=small_cohort(stage.study, "site0", patients))


class TestRestart:
    def test_a_restarted_site_waits_for_a_new_epoch(self, stage):
        stage.total(1)
        stage.restart("site1")
        with pytest.raises(OutOfOrder):
            stage.site("site1").train(stage.request(2), stage.start)
        old = stage.request(2)
        stage.new_epoch(2)
        with pytest.raises(SessionMismatch):
            stage.site("site1").train(old, stage.start)
        stage.total(2)
        assert [line.round for line in stage.releases("site1")] == [1, 2, 2]

    def test_a_restarted_site_still_unmasks_what_it_sent(self, stage):
        request = stage.request(1)
        length = stage.plan.round(1, 0).layout.length
        expected = CoordinatorRound(stage.keys, request, length=length)
        for name in stage.names:
            expected.add(stage.site(name).train(request, stage.start))
        assert expected.close() == {}
        stage.restart("site1")
        for name, unmask in expected.unmask_requests().items():
            first = stage.site(name).unmask(unmask)
            assert stage.site(name).unmask(unmask) == first
            expected.add_unmask(first)
        assert expected.result().survivors == stage.names

    def test_keys_can_move_to_another_process_of_the_site(self, stage):
        keys = stage.site("site1").export_keys()
        stage.restart("site1")
        stage.site("site1").restore_keys(keys)
        stage.total(1)
        assert stage.site("site1").name == "site1"
