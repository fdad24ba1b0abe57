"""Whole studies with real sites: dropouts at every stage, retries, restarts, crashes, resume."""

import logging
import re

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from small_consortium import RUN, Stage, lost, small_study, staged

from fedrx_client.participation.site import SitePolicy
from fedrx_client.records.ledger import PrivacyCap
from fedrx_client.training.clipping import gradient_sum
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import set_vector
from fedrx_models.metrics.dose import MetricPlan
from fedrx_protocol.fixed_point import FixedPoint
from fedrx_protocol.messages import codec
from fedrx_protocol.messages.secure_aggregation import MaskedInput, UnmaskReply
from fedrx_server.rounds.loop import StudyStopped
from fedrx_simulation.federation.inprocess import InProcessGrid

NONE = {"privacy": {"mode": "none"}}
SHORT = {"training": {"rounds": 2}, "metrics": {"evaluations": 0}}


class Killed(BaseException):
    """A SIGKILL, as far as the coordinator's process can tell."""


def drops(*cases, after=False):
    """Sites lost at (site, kind, label); a label of None stands for every round."""

    def act(*, site, kind, label, message, context, call_next, **_):
        if not any((site, kind) == case[:2] and case[2] in (None, label) for case in cases):
            return None
        if after:
            call_next(message, context)
        return lost(message)

    return act


def uninterrupted(tmp_path, study=None):
    folder = tmp_path / "uninterrupted"
    folder.mkdir()
    return Stage(folder, study).run()


def without_site1(tmp_path, attempt):
    """Weights of a run that lost site1 in one attempt and nothing else."""
    folder = _made(tmp_path / "without site1")
    stage, _ = staged(folder, drops(("site1", "train.masked", attempt)), small_study(**SHORT))
    return stage.run()[0]


def survivors(records):
    return [record.survivors for record in records]


class TestWholeStudy:
    def test_the_model_learns_and_every_round_is_recorded(self, tmp_path):
        weights, records = Stage(tmp_path).run()
        assert [record.round for record in records] == [1, 2, 3, 4, 5]
        assert {record.attempt for record in records} == {0}
        assert survivors(records) == [4] * 5
        assert all(record.bytes_up and record.bytes_down for record in records)
        assert np.isfinite(weights).all()

    def test_metrics_are_released_in_evaluation_rounds_only(self, tmp_path):
        _, records = Stage(tmp_path).run()
        assert [record.round for record in records if record.metrics] == [2, 5]
        between, final = (record.metrics for record in records if record.metrics)
        assert "r2" not in between
        part = Stage(tmp_path).plan.round(2, 0).by_name["metrics"]
        plan = MetricPlan.for_study(small_study(), final=False)
        sd = plan.mae_noise_sd(between["mae"], between["n"], part.site_noise_sd * 2 / part.scale)
        assert between["mae_high"] - between["mae_low"] == pytest.approx(
            min(between["mae"], 1.96 * sd) + min(60 - between["mae"], 1.96 * sd), rel=1e-3
        )
        assert {"n", "mae", "mae_low", "mae_high", "mae_ci_low", "mae_ci_high"} <= set(final)
        assert "r2" not in final  # noise hides it, of so few patients

    @pytest.mark.parametrize("steps", ["gradient", "local"])
    def test_without_noise_the_fit_is_good_and_metrics_are_exact(self, tmp_path, steps):
        rate = {"learning_rate": 0.15, "momentum": 0.5}
        study = small_study(training={"rounds": 25, "steps": steps, "optimizer": rate}, **NONE)
        stage = Stage(tmp_path, study)
        _, records = stage.run()
        final = records[-1].metrics
        held_out = sum(
            len(cohort.split(0.2, b"salt " + name.encode())[1])
            for name, cohort in stage.cohorts.items()
        )
        assert final["n"] == pytest.approx(held_out, abs=1e-4)
        assert final["r2"] > 0.9
        assert "mae_low" not in final

    def test_local_mode_runs_and_charges_its_steps(self, tmp_path):
        study = small_study(privacy={"mode": "local"}, **SHORT)
        stage = Stage(tmp_path, study)
        _, records = stage.run()
        assert survivors(records) == [4, 4, 4]
        lines = stage.releases("site0")
        assert [(line.purpose, line.steps) for line in lines] == [
            ("training", 8),
            ("training", 8),
            ("metrics", 1),
        ]

    def test_one_plain_step_is_the_weighted_mean_of_the_sites_gradients(self, tmp_path):
        study = small_study(
            training={"rounds": 1, "optimizer": {"learning_rate": 1.0, "momentum": 0.0}},
            metrics={"evaluations": 0},
            **NONE,
        )
        stage = Stage(tmp_path, study, sizes=(20, 40, 60, 80))
        part = stage.plan.round(1, 0).by_name["training"]
        total, patients = 0, 0
        for name, cohort in stage.cohorts.items():
            training, _ = cohort.split(0.2, b"salt " + name.encode())
            model = stage.consortium.model()
            set_vector(model, stage.start)
            gradient = gradient_sum(model, encode(training, study.feature_schema))
            total = total + FixedPoint(part.scale, part.limit).encode(gradient)
            patients += len(training)
        weights, _ = stage.run()
        mean = (total / part.scale / patients).astype(np.float32)
        np.testing.assert_allclose(weights, stage.start - mean, rtol=1e-6)

    def test_the_private_step_divides_by_public_numbers(self, tmp_path):
        """Sites far smaller than agreed: the divisor stays the agreed one."""
        study = small_study(
            cohort={"patients": 10_000},
            training={"rounds": 1, "optimizer": {"learning_rate": 1.0, "momentum": 0.0}},
            metrics={"evaluations": 0},
            privacy={"epsilon": 1000.0},
        )
        stage = Stage(tmp_path, study)
        weights, _ = stage.run()
        # 160 patients of norm 1 at most, over 8,000 agreed: one real patient in fifty.
        assert 0 < np.linalg.norm(weights - stage.start) < 0.03

    def test_ledgers_hold_one_line_for_each_round_and_purpose(self, tmp_path):
        stage = Stage(tmp_path)
        stage.run()
        expected = [(1, "training"), (2, "training"), (2, "metrics"), (3, "training")]
        expected += [(4, "training"), (5, "metrics")]
        for name in stage.names:
            lines = stage.releases(name)
            assert [(line.round, line.purpose) for line in lines] == expected

    def test_observers_see_every_round_once(self, tmp_path):
        stage, seen = Stage(tmp_path), []
        with stage.run_folder() as folder:
            stage.study_run(folder, observer=seen.append).run()
            assert tuple(seen) == folder.rounds


class TestDropouts:
    @pytest.mark.parametrize("after", [False, True])
    def test_at_train(self, tmp_path, after):
        act = drops(("site1", "train.masked", "2.0"), after=after)
        stage, _ = staged(tmp_path, act)
        _, records = stage.run()
        assert survivors(records) == [4, 3, 4, 4, 4]
        assert {record.attempt for record in records} == {0}
        rounds = {line.round for line in stage.releases("site1")}
        assert (2 in rounds) is after  # it sent something, or it did not

    def test_at_train_the_sum_is_that_of_the_others(self, tmp_path):
        study = small_study(training={"rounds": 1}, metrics={"evaluations": 0}, **NONE)
        stage, _ = staged(tmp_path, drops(("site3", "train.masked", "1.0")), study)
        weights, _ = stage.run()
        total, patients = 0, 0
        for name in stage.names[:3]:
            training, _ = stage.cohorts[name].split(0.2, b"salt " + name.encode())
            model = stage.consortium.model()
            set_vector(model, stage.start)
            total = total + gradient_sum(model, encode(training, study.feature_schema))
            patients += len(training)
        np.testing.assert_allclose(weights, stage.start - 0.1 * total / patients, atol=1e-6)

    def test_at_resolve(self, tmp_path):
        act = drops(
            ("site1", "train.masked", "1.0"),
            ("site2", "query.resolve", "1.0"),
        )
        stage, wire_ = staged(tmp_path, act, sizes=(40,) * 5)
        _, records = stage.run()
        assert survivors(records)[:2] == [3, 5]
        asked = [
            site for site, kind, label in wire_.seen if (kind, label) == ("query.resolve", "1.0")
        ]
        assert len(asked) == 4 + 3  # asked anew without the second one

    def test_at_unmask(self, tmp_path):
        stage, _ = staged(tmp_path, drops(("site1", "query.unmask", "1.0")))
        weights, records = stage.run()
        assert survivors(records) == [4] * 5  # its vector is in the sum all the same
        expected, _ = uninterrupted(tmp_path)
        np.testing.assert_array_equal(weights, expected)

    def test_too_few_at_unmask_are_asked_again_before_anything_is_repeated(self, tmp_path):
        act = drops(("site1", "query.unmask", "1.0"), ("site2", "query.unmask", "1.0"))
        for folder, study in (("private", small_study()), ("exact", small_study(**NONE))):
            (tmp_path / folder).mkdir()
            stage, _ = staged(tmp_path / folder, act, study)
            _, records = stage.run()
            assert {record.attempt for record in records} == {0}
            assert [line.attempt for line in stage.releases("site1")] == [0] * 6

    def test_below_the_threshold_a_new_attempt_is_made_and_charged(self, tmp_path):
        act = drops(
            ("site0", "train.masked", "2.0"),
            ("site1", "train.masked", "2.0"),
        )
        stage, _ = staged(tmp_path, act)
        _, records = stage.run()
        assert [record.attempt for record in records] == [0, 1, 0, 0, 0]
        by_attempt = [(line.round, line.attempt, line.purpose) for line in stage.releases("site2")]
        assert by_attempt[1:5] == [
            (2, 0, "training"),
            (2, 0, "metrics"),
            (2, 1, "training"),
            (2, 1, "metrics"),
        ]
        assert [line.attempt for line in stage.releases("site0")] == [0, 1, 1, 0, 0, 0]

    def test_never_enough_stops_the_study_and_says_why(self, tmp_path):
        act = drops(("site0", "train.masked", None), ("site1", "train.masked", None))
        stage, _ = staged(tmp_path, act)
        with pytest.raises(StudyStopped, match=r"round 1 .* 3 attempts: at least 3 .*2 × lost"):
            stage.run()
        with stage.run_folder() as folder:
            assert folder.rounds == ()

    def test_a_stopped_study_goes_on_when_they_are_back(self, tmp_path):
        away = {"site0", "site1"}

        def act(*, site, kind, label, message, **_):
            gone = site in away and kind == "train.masked" and label.startswith("3.")
            return lost(message) if gone else None

        stage, _ = staged(tmp_path, act, small_study(privacy={"reserve_rounds": 3}))
        with pytest.raises(StudyStopped):
            stage.run()
        away.clear()
        _, records = stage.run()
        assert [record.round for record in records] == [1, 2, 3, 4, 5]
        assert records[2].attempt == 3  # attempts of the first run are never used again

    def test_sites_that_are_not_there_use_up_no_attempt(self, tmp_path):
        away = {"site0", "site1"}

        def act(*, site, kind, message, **_):
            return lost(message) if site in away and kind == "query.advertise" else None

        stage, _ = staged(tmp_path, act)
        with pytest.raises(StudyStopped, match="at least 3 sites"):
            stage.run()
        assert stage.releases("site2") == []
        away.clear()
        _, records = stage.run()
        assert {record.attempt for record in records} == {0}

    def test_sites_that_come_a_little_late_are_waited_for(self, tmp_path):
        def act(*, site, kind, label, message, **_):
            late = site in {"site0", "site1"} and label == "epoch.1"
            return lost(message) if late else None

        stage, _ = staged(tmp_path, act, small_study(**SHORT))
        _, records = stage.run()
        assert [record.participants for record in records] == [4, 4, 4]


class TestBudget:
    def test_the_promise_stops_the_study_with_a_sentence(self, tmp_path):
        """Round 3 fails until the reserve is used up; then nobody trains any more."""
        act = drops(
            *((site, "train.masked", f"3.{n}") for site in ("site0", "site1") for n in (0, 1))
        )
        study = small_study(privacy={"reserve_rounds": 0})
        stage, _ = staged(tmp_path, act, study)
        with pytest.raises(
            StudyStopped, match=r"before round 3: .*privacy budget is spent after 2"
        ):
            stage.run()
        assert len([line for line in stage.releases("site2") if line.purpose == "training"]) == 4

    def test_one_site_at_its_own_cap_is_a_dropout(self, tmp_path):
        policies = {"site1": SitePolicy(PrivacyCap(3.5, 1e-5))}
        stage = Stage(tmp_path, policies=policies)
        _, records = stage.run()
        assert survivors(records)[0] == 4
        assert survivors(records)[-2:] == [3, 3]
        assert len(stage.releases("site1")) < len(stage.releases("site0"))

    def test_two_sites_at_their_cap_stop_the_study(self, tmp_path):
        cap = SitePolicy(PrivacyCap(3.5, 1e-5))
        stage = Stage(tmp_path, policies={"site1": cap, "site2": cap})
        with pytest.raises(StudyStopped, match="privacy budget is spent after 1 rounds"):
            stage.run()
        with stage.run_folder() as folder:
            assert [record.round for record in folder.rounds] == [1]


class TestRestarts:
    def test_a_site_that_restarts_is_back_in_the_next_round(self, tmp_path):
        def act(*, site, kind, label, context, **_):
            if (site, kind, label) == ("site1", "train.masked", "2.0"):
                stage.restart("site1")
                context.state.clear()

        stage, wire_ = staged(tmp_path, act)
        _, records = stage.run()
        assert survivors(records) == [4, 3, 4, 4, 4]
        epochs = {label for _, kind, label in wire_.seen if kind == "query.advertise"}
        assert epochs == {"epoch.1", "epoch.2"}

    def test_a_site_that_restarts_before_unmask_still_gives_its_shares(self, tmp_path):
        def act(*, kind, label, site, context, **_):
            if (kind, label) == ("query.unmask", "2.0") and site != "site0":
                stage.restart(site)
                context.state.clear()

        stage, _ = staged(tmp_path, act)
        weights, records = stage.run()
        # Round 2 is opened; that keys are lost shows in round 3, which needs a second attempt.
        assert [record.attempt for record in records] == [0, 0, 1, 0, 0]
        expected, _ = uninterrupted(tmp_path)
        np.testing.assert_array_equal(weights, expected)

    def test_a_site_that_comes_later_takes_part_from_then_on(self, tmp_path):
        stage, connected = Stage(tmp_path), {1000, 1001, 1002}

        class Growing(InProcessGrid):
            def get_node_ids(self):
                return [node for node in super().get_node_ids() if node in connected]

        def observer(record):
            if record.round == 2:
                connected.add(1003)

        grid = stage.grid()
        grid.__class__ = Growing
        with stage.run_folder() as folder:
            stage.study_run(folder, grid, observer=observer).run()
            assert [record.participants for record in folder.rounds] == [3, 3, 4, 4, 4]


class TestResume:
    @pytest.mark.parametrize("kind", ["train.masked", "query.unmask", "query.keys"])
    @pytest.mark.parametrize("nth", [0, 2, 3])
    def test_a_killed_run_ends_with_the_same_weights(self, tmp_path, kind, nth):
        calls = []

        def act(*, kind, label, message, context, call_next, **_):
            calls.append((kind, label))
            if calls.count((kind, label)) == nth + 1 and (kind, label) == fatal and not killed:
                reply = call_next(message, context)
                killed.append(reply)
                raise Killed

        killed: list = []
        fatal = (kind, "epoch.1" if kind == "query.keys" else "2.0")
        study = small_study(training={"optimizer": {"learning_rate": 0.1, "momentum": 0.9}})
        stage, _ = staged(tmp_path, act, study)
        with pytest.raises(Killed):
            stage.run()
        for name in stage.names:
            stage.restart(name)
        weights, records = stage.run()
        expected, _ = uninterrupted(tmp_path, study)
        np.testing.assert_array_equal(weights, expected)
        assert [record.round for record in records] == [1, 2, 3, 4, 5]
        for name in stage.names:
            lines = [(line.round, line.attempt, line.purpose) for line in stage.releases(name)]
            assert len(lines) == len(set(lines))

    def test_a_pending_sum_is_opened_without_a_new_release(self, tmp_path):
        away = {"site1", "site2"}

        def act(*, site, kind, label, message, **_):
            gone = site in away and kind == "query.unmask" and label.startswith("2.0")
            return lost(message) if gone else None

        for folder, study in (("private", small_study()), ("exact", small_study(**NONE))):
            (tmp_path / folder).mkdir()
            away |= {"site1", "site2"}
            stage, _ = staged(tmp_path / folder, act, study)
            with pytest.raises(StudyStopped, match=r"round 2: 2 of the 4 sites .*resume"):
                stage.run()
            away.clear()
            for name in stage.names:
                stage.restart(name)
            weights, records = stage.run()
            assert {record.attempt for record in records} == {0}
            expected, _ = Stage(_made(tmp_path / f"{folder} whole"), study).run()
            np.testing.assert_array_equal(weights, expected)
            assert len(stage.releases("site1")) == 6

    def test_a_finished_run_does_nothing_more(self, tmp_path):
        stage = Stage(tmp_path)
        weights, records = stage.run()
        again, same = stage.run()
        np.testing.assert_array_equal(again, weights)
        assert same == records
        assert len(stage.releases("site0")) == 6


def _made(path):
    path.mkdir()
    return path


def forging(kind, forge):
    """Changes site1's reply in the first attempt of round 1."""

    wanted = ("site1", kind, "1.0")

    def act(*, site, kind, label, message, context, call_next, **_):
        if (site, kind, label) != wanted:
            return None
        reply = call_next(message, context)
        return Message(forge(reply.content), reply_to=message)

    return act


def with_header(content, header):
    content["fedrx"] = ConfigRecord({"header": header})
    return content


def with_payload(content, payload):
    content["payload"] = ArrayRecord({"vector": Array("uint32", (1,), "fedrx.raw", payload)})
    return content


def in_the_name_of_site2(content):
    payload = content["payload"]["vector"].data
    masked = codec.decode_masked(content["fedrx"]["header"], payload)
    shares = dict(masked.shares)
    shares["site1"] = shares.pop("site2")
    forged = MaskedInput("site2", masked.context, masked.vector, masked.commitment, shares)
    return with_header(content, codec.encode(forged))


BAD_TRAIN_REPLIES = {
    "no header": lambda content: RecordDict(),
    "garbage": lambda content: with_header(content, b"\x00\xff"),
    "half a word": lambda content: with_payload(content, b"abc"),
    "too short": lambda content: with_payload(content, bytes(4)),
    "no payload": lambda content: RecordDict({"fedrx": content["fedrx"]}),
    "another's name": in_the_name_of_site2,
}


class TestBadReplies:
    @pytest.mark.parametrize("what", BAD_TRAIN_REPLIES)
    def test_a_bad_vector_is_a_dropout_of_its_sender(self, tmp_path, what):
        act = forging("train.masked", BAD_TRAIN_REPLIES[what])
        stage, _ = staged(tmp_path, act, small_study(**SHORT))
        _, records = stage.run()
        assert survivors(records) == [3, 3, 4]  # and it is left out of the next attempt
        assert {record.attempt for record in records} == {0}

    def test_shares_in_anothers_name_silence_nobody(self, tmp_path):
        def forge(content):
            reply = codec.decode(content["fedrx"]["header"], UnmaskReply)
            forged = UnmaskReply("site2", reply.context, reply.shares, reply.unreadable)
            return with_header(content, codec.encode(forged))

        stage, _ = staged(tmp_path, forging("query.unmask", forge), small_study(**SHORT))
        weights, records = stage.run()
        assert survivors(records) == [4, 3, 4]  # its sender is left out of the next attempt
        np.testing.assert_array_equal(weights, without_site1(tmp_path, "2.0"))

    def test_a_false_commitment_costs_an_attempt_and_no_wrong_sum(self, tmp_path, caplog):
        def forge(content):
            payload = content["payload"]["vector"].data
            masked = codec.decode_masked(content["fedrx"]["header"], payload)
            forged = MaskedInput("site1", masked.context, masked.vector, bytes(32), masked.shares)
            return with_header(content, codec.encode(forged))

        stage, _ = staged(tmp_path, forging("train.masked", forge), small_study(**SHORT))
        with caplog.at_level(logging.WARNING, "fedrx_server"):
            weights, records = stage.run()
        assert [record.attempt for record in records] == [1, 0, 0]
        assert survivors(records) == [3, 4, 4]
        assert "seed of 'site1'" in caplog.text
        assert "1.0: site1 is left out: ShareInvalid" in caplog.text
        np.testing.assert_array_equal(weights, without_site1(tmp_path, "1.0"))

    def test_a_node_that_nobody_knows_is_left_out(self, tmp_path):
        act = forging_advert(lambda content: with_header(content, b"hello"))
        stage, _ = staged(tmp_path, act, small_study(**SHORT))
        _, records = stage.run()
        assert [record.participants for record in records] == [3, 3, 3]

    def test_a_site_that_refuses_the_keys_is_left_out(self, tmp_path):
        def act(*, site, kind, message, **_):
            if (site, kind) != ("site1", "query.keys"):
                return None
            content = RecordDict({"fedrx": ConfigRecord({"refusal": "AdvertForged"})})
            return Message(content, reply_to=message)

        stage, _ = staged(tmp_path, act, small_study(**SHORT))
        _, records = stage.run()
        assert [record.participants for record in records] == [3, 3, 3]


def forging_advert(forge):
    def act(*, site, kind, message, context, call_next, **_):
        if (site, kind) != ("site1", "query.advertise"):
            return None
        return Message(forge(call_next(message, context).content), reply_to=message)

    return act


class TestWhatIsLogged:
    def test_names_and_reasons_and_no_number_of_a_site(self, tmp_path, caplog):
        sizes = (41, 43, 47, 53, 59)

        def act(*, site, kind, label, message, **_):
            if (site, kind, label) == ("site1", "train.masked", "2.0"):
                return Message(
                    RecordDict({"fedrx": ConfigRecord({"refusal": "I have 43 patients"})}),
                    reply_to=message,
                )
            if (site, kind, label) == ("site2", "train.masked", "3.0"):
                return lost(message)
            return None

        policies = {"site4": SitePolicy(PrivacyCap(3.5, 1e-5))}
        stage, _ = staged(tmp_path, act, sizes=sizes, policies=policies)
        with caplog.at_level(logging.DEBUG):
            stage.run()
        logged = [r.getMessage() for r in caplog.records if r.name.startswith("fedrx_server")]
        assert "2.0: site1: Unreadable" in logged
        assert "3.0: site2: lost" in logged
        allowed = re.compile(r"(\d\.\d|epoch\.\d): site\d: [A-Za-z]+")
        assert [line for line in logged if not allowed.fullmatch(line)] == []
        assert any("BudgetExhausted" in line for line in logged)

    def test_a_record_holds_nothing_about_a_single_site(self, tmp_path):
        _, records = Stage(tmp_path).run()
        for record in records:
            assert "site" not in record.to_json()
            assert RUN not in record.to_json()
