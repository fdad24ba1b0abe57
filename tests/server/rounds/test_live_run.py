"""A live run's manners: it offers itself, waits for sites, leaves slow ones out, lets them back.

Real sites on the in-process grid; what a hospital's network does is scripted, and time passes only
where the run sleeps.
"""

import logging

import numpy as np
import pytest
from live_scene import FIRST_NODE, VERSION, Scene, refused, survivors
from small_consortium import RUN, lost, small_study

from fedrx_client.app import make_client_app
from fedrx_client.participation.site import SitePolicy
from fedrx_client.records.ledger import PrivacyCap
from fedrx_protocol.messages.offer import OfferReply
from fedrx_server.rounds.admission import LONGEST_PAUSE_S, Admission, Offers, VersionDiffers
from fedrx_server.rounds.exchange import Exchange
from fedrx_server.rounds.retry import StudyStopped
from fedrx_simulation.federation.inprocess import InProcessGrid

NONE = {"privacy": {"mode": "none"}}


class TestOffers:
    def test_every_site_is_offered_the_run_once_and_in_full(self, tmp_path):
        scene = Scene(tmp_path)
        weights, records = scene.run()
        assert survivors(records) == [4] * 5
        assert sorted(site for site, _ in scene.offers) == list(scene.stage.names)
        assert scene.epochs() == 1
        offer = scene.offers[0][1]
        assert offer.run == RUN
        assert offer.study.hex() == scene.stage.study.digest
        assert offer.roster == scene.stage.consortium.signed_roster.to_json()
        assert (offer.version, offer.time) == (VERSION, 1_800_000_000)
        assert np.isfinite(weights).all()

    def test_the_sum_is_that_of_a_simulated_run(self, tmp_path):
        for name in ("live", "simulated"):
            (tmp_path / name).mkdir()
        weights, _ = Scene(tmp_path / "live").run()
        expected, _ = Scene(tmp_path / "simulated").stage.run()
        np.testing.assert_array_equal(weights, expected)

    def test_another_release_takes_no_part_and_both_are_named(self, tmp_path, caplog):
        scene = Scene(tmp_path)
        scene.versions["site3"] = "0.9"
        with caplog.at_level(logging.WARNING):
            _, records = scene.run()
        assert survivors(records) == [3] * 5
        assert scene.watch.versions == {"site3": "0.9"}
        assert "'site3' runs FedRx 0.9 and the coordinator 1.0" in caplog.text
        assert scene.watch.attempts[0][3] == {"site3": "VersionDiffers"}
        assert not [
            kind for site, kind, _ in scene.wire.seen if site == "site3" and "open" not in kind
        ]

    def test_a_site_that_refuses_takes_no_part(self, tmp_path):
        scene = Scene(tmp_path)
        scene.refusals["site3"] = "RosterChanged"
        _, records = scene.run()
        assert survivors(records) == [3] * 5


class TestWaiting:
    def test_below_the_threshold_nothing_is_begun_and_it_says_for_whom(self, tmp_path):
        scene = Scene(tmp_path)
        scene.connected = {FIRST_NODE, FIRST_NODE + 1}

        def arrive(count):
            if count == 5:
                assert scene.epochs() == 0
                assert not scene.watch.attempts
                scene.connected.add(FIRST_NODE + 2)

        scene.on_sleep = arrive
        _, records = scene.run()
        assert survivors(records) == [3] * 5
        assert {record.attempt for record in records} == {0}
        sentence, missing = scene.watch.waits[-1]
        assert "needs 3 sites and" in sentence
        assert missing["site2"] == missing["site3"] == "not connected"
        assert len(scene.stage.releases("site0")) == 6

    def test_sites_that_refuse_are_asked_again_with_growing_pauses(self, tmp_path):
        scene = Scene(tmp_path)
        scene.refusals = {"site0": "NotApproved", "site1": "NotApproved"}

        def approve(count):
            if count == 60:
                scene.refusals.clear()

        scene.on_sleep = approve
        _, records = scene.run()
        assert survivors(records)[-1] == 4
        asked = [site for site, _ in scene.offers].count("site0")
        assert 5 <= asked <= 8  # 60 seconds: after 0, 1, 3, 7, 15, 31, 61
        assert scene.watch.waits[-1][1] == dict.fromkeys(["site0", "site1"], "NotApproved")

    def test_too_few_after_a_round_has_begun_waits_without_another_attempt(self, tmp_path):
        """Two of four are lost in round 2; the next attempt begins when one is back."""

        def act(*, site, kind, label, message, **_):
            gone = site in {"site0", "site1"} and (kind, label) == ("train.masked", "2.0")
            return lost(message) if gone else None

        scene = Scene(tmp_path, act)
        _, records = scene.run()
        assert [record.attempt for record in records] == [0, 1, 0, 0, 0]
        assert scene.sleeps >= 1

    def test_a_pending_sum_waits_for_its_sites(self, tmp_path):
        away = {"site1", "site2"}

        def act(*, site, kind, label, message, **_):
            gone = site in away and kind == "query.unmask" and label.startswith("2.0")
            return lost(message) if gone else None

        scene = Scene(tmp_path, act, small_study(privacy={"mode": "none"}))
        scene.on_sleep = lambda count: away.clear() if count == 8 else None
        _, records = scene.run()
        assert {record.attempt for record in records} == {0}
        assert "round 2 waits for shares: 2 of the 4 sites" in scene.watch.waits[-1][0]
        assert len(scene.stage.releases("site1")) == 6


class TestOneList:
    """Sums of a live study in mode none are opened over all sites of the run, or not at all."""

    def lost_in_round_2(self, tmp_path, kind, **sections):
        """Site 3 is lost at one step of round 2, and stays away for five looks."""

        def act(*, site, message, **seen):
            if site != "site3" or (seen["kind"], seen["label"]) != (kind, "2.0"):
                return None
            scene.connected.discard(FIRST_NODE + 3)
            return lost(message)

        scene = Scene(tmp_path, act, small_study(**sections))

        def come_back(count):
            if count == 5:
                scene.connected.add(FIRST_NODE + 3)

        scene.on_sleep = come_back
        return scene, *scene.run()

    def test_a_run_waits_for_a_lost_site_and_goes_on_with_it(self, tmp_path):
        scene, weights, records = self.lost_in_round_2(tmp_path, "train.masked", **NONE)
        assert survivors(records) == [4] * 5
        assert [record.attempt for record in records] == [0, 1, 0, 0, 0]
        sentence, missing = scene.watch.waits[-1]
        assert "needs 4 sites (all sums of this study are opened over one list)" in sentence
        assert missing == {"site3": "not connected"}
        assert not [seen for seen in scene.wire.seen if seen[1] == "query.resolve"]
        (tmp_path / "calm").mkdir()
        calm, _ = Scene(tmp_path / "calm", study=scene.stage.study).run()
        np.testing.assert_array_equal(weights, calm)

    def test_a_site_lost_while_the_sum_is_opened_is_not_needed_for_it(self, tmp_path):
        _, _, records = self.lost_in_round_2(tmp_path, "query.unmask", **NONE)
        assert survivors(records) == [4] * 5
        assert {record.attempt for record in records} == {0}

    def test_where_lists_may_change_the_run_goes_on_without_it(self, tmp_path):
        may = {"secure_aggregation": {"stable_lists": False}}
        _, _, records = self.lost_in_round_2(tmp_path, "train.masked", **NONE, **may)
        assert survivors(records)[:2] == [4, 3]

    def test_nothing_is_begun_before_all_are_there(self, tmp_path):
        scene = Scene(tmp_path, study=small_study(**NONE))
        scene.refusals["site3"] = "NotApproved"

        def approve(count):
            if count == 40:
                assert scene.epochs() == 0
                assert not scene.watch.attempts
                scene.refusals.clear()

        scene.on_sleep = approve
        _, records = scene.run()
        assert survivors(records) == [4] * 5
        assert scene.watch.waits[-1][1] == {"site3": "NotApproved"}

    def test_a_run_without_a_site_never_asks_it(self, tmp_path):
        scene = Scene(tmp_path, study=small_study(**NONE), without={"site3"})
        _, records = scene.run()
        assert [record.participants for record in records] == [3] * 5
        assert "site3" not in {site for site, _ in scene.offers}
        assert scene.watch.attempts[0][3] == {}

    def test_a_run_over_other_sites_than_the_one_before_waits_and_opens_nothing(self, tmp_path):
        study = small_study(**NONE, training={"rounds": 2})
        Scene(tmp_path, study=study).run()
        (tmp_path / "run").rename(tmp_path / "before")

        class Stopped(BaseException):
            pass

        def stop(count):
            raise Stopped

        scene = Scene(tmp_path, study=study, without={"site3"}, run="run-2")
        scene.on_sleep = stop
        with pytest.raises(Stopped):
            scene.run()
        assert scene.watch.waits[-1][1] == dict.fromkeys(["site0", "site1", "site2"], "ListChanged")


class TestSlowSites:
    def test_a_lost_site_is_left_out_and_comes_back(self, tmp_path):
        """It costs one deadline, then the others go on, and ask it between their rounds."""

        def act(*, site, kind, label, message, **_):
            return (
                lost(message) if (site, kind, label) == ("site3", "train.masked", "2.0") else None
            )

        scene = Scene(tmp_path, act, small_study(training={"rounds": 6}))

        def pass_time(record):
            scene.time += 0.6

        scene.on_round = pass_time
        _, records = scene.run()
        assert [record.participants for record in records] == [4, 4, 3, 3, 4, 4, 4]
        assert survivors(records) == [4, 3, 3, 3, 4, 4, 4]
        assert scene.epochs() == 2

    def test_one_that_is_always_late_is_asked_less_and_less(self, tmp_path):
        asked = []

        def act(*, site, kind, message, **_):
            if (site, kind) != ("site3", "train.masked"):
                return None
            asked.append(scene.time)
            scene.time += 20.0  # the round's deadline
            return lost(message)

        scene = Scene(tmp_path, act, small_study(training={"rounds": 60}))
        scene.on_round = lambda record: setattr(scene, "time", scene.time + 1.0)
        _, records = scene.run()
        assert survivors(records) == [3] * 61
        assert len(asked) <= 4  # of sixty rounds
        assert {record.attempt for record in records} == {0}

    def test_a_restarted_site_is_back_in_the_next_round(self, tmp_path):
        def act(*, site, kind, label, message, context, **_):
            if (site, kind, label) != ("site1", "train.masked", "2.0"):
                return None
            scene.stage.restart("site1")
            context.state.clear()
            return refused(message, "RunUnknown")

        scene = Scene(tmp_path, act)
        _, records = scene.run()
        assert survivors(records) == [4, 3, 4, 4, 4]
        assert scene.epochs() == 2

    def test_a_site_that_comes_later_joins_between_two_rounds(self, tmp_path):
        scene = Scene(tmp_path)
        scene.connected = {FIRST_NODE, FIRST_NODE + 1, FIRST_NODE + 2}

        def arrive(record):
            if record.round == 2:
                scene.connected.add(FIRST_NODE + 3)

        scene.on_round = arrive
        _, records = scene.run()
        assert [record.participants for record in records] == [3, 3, 4, 4, 4]

    def test_a_site_that_disconnects_is_not_waited_for(self, tmp_path):
        scene = Scene(tmp_path)
        scene.on_round = lambda record: scene.connected.discard(FIRST_NODE + 3)
        _, records = scene.run()
        assert [record.participants for record in records] == [4, 3, 3, 3, 3]
        assert scene.watch.attempts[1][3] == {"site3": "not connected"}


class TestEnding:
    def test_budgets_end_the_run_once_the_threshold_is_out_of_reach(self, tmp_path):
        cap = SitePolicy(PrivacyCap(3.5, 1e-5))
        scene = Scene(tmp_path, policies={"site1": cap, "site2": cap})
        with pytest.raises(StudyStopped, match="privacy budget is spent after 1 rounds"):
            scene.run()

    def test_one_spent_budget_is_a_dropout(self, tmp_path):
        cap = SitePolicy(PrivacyCap(3.5, 1e-5))
        scene = Scene(tmp_path, policies={"site1": cap})
        _, records = scene.run()
        assert survivors(records)[-1] == 3

    def test_training_that_runs_away_ends_the_run_before_it_repeats_the_round(self, tmp_path):
        runaway = {"name": "sgd", "learning_rate": 1e6, "momentum": 0.0}
        study = small_study(
            model={"name": "mlp", "activation": "relu"},
            privacy={"mode": "none"},
            training={"rounds": 12, "optimizer": runaway},
        )
        scene = Scene(tmp_path, study=study)
        with pytest.raises(StudyStopped, match=r"has run away: use a smaller .*learning_rate"):
            scene.run()
        assert scene.sleeps == 0
        assert {attempt for _, attempt, *_ in scene.watch.attempts} == {0}

    def test_a_stop_ends_a_wait_and_the_run_goes_on_later(self, tmp_path):
        class Stopped(BaseException):
            pass

        def stop(count):
            raise Stopped

        scene = Scene(tmp_path)
        scene.on_round = lambda record: scene.connected.clear() if record.round == 2 else None
        scene.on_sleep = stop
        with pytest.raises(Stopped):
            scene.run()
        scene.connected, scene.on_sleep = set(scene.nodes), lambda count: None
        scene.on_round = lambda record: None
        for name in scene.stage.names:
            scene.stage.restart(name)
        _, records = scene.run()
        assert [record.round for record in records] == [1, 2, 3, 4, 5]
        assert {record.attempt for record in records} == {0}
        assert len(scene.stage.releases("site0")) == 6


class TestAdmission:
    def make(self):
        self.time = 0.0
        offers = Offers("run", bytes(32), b"roster", "1", dict, now=lambda: self.time)
        admission = Admission(offers)
        admission.update_connected([1])
        return admission

    def pause(self, admission, reason, cost_s=0.0):
        admission.failed(1, reason, cost_s)
        began = self.time
        while not admission.due():
            self.time += 0.5
        return self.time - began

    def test_pauses_double_up_to_half_a_minute(self):
        admission = self.make()
        pauses = [self.pause(admission, "NotApproved") for _ in range(7)]
        assert pauses == [1, 2, 4, 8, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S]

    def test_a_restarted_site_is_asked_at_once_the_first_time(self):
        admission = self.make()
        assert [self.pause(admission, "RunUnknown") for _ in range(3)] == [0, 2, 4]

    def test_what_a_site_costs_the_others_counts(self):
        admission = self.make()
        assert [self.pause(admission, "lost", 100.0) for _ in range(3)] == [1, 100, 300]

    def test_taking_part_ends_the_count_and_reconnecting_the_pause(self):
        admission = self.make()
        for _ in range(5):
            self.pause(admission, "lost")
        admission.proved(1)
        assert self.pause(admission, "lost") == 1
        admission.failed(1, "lost", 0.0)
        admission.update_connected([])
        admission.update_connected([1])
        assert admission.due() == [1]

    def test_another_release_is_refused_by_name(self):
        admission = self.make()
        with pytest.raises(VersionDiffers, match="FedRx 2 and the coordinator 1"):
            admission.accept(1, OfferReply("2"))
        assert not admission.willing


class TestGoneDuringAnExchange:
    """A node that the SuperLink no longer lists is not waited for until the deadline."""

    def collect(self, gone_for_s):
        clock = [0.0]

        class Silent(InProcessGrid):
            def pull_messages(self, message_ids):
                return []

            def get_node_ids(self):
                away = 10.0 <= clock[0] < 10.0 + gone_for_s
                return [FIRST_NODE] if away else [FIRST_NODE, FIRST_NODE + 1]

        def sleep(seconds):
            clock[0] += seconds

        grid = Silent(make_client_app(lambda context: None), 2, run_id=1)
        exchange = Exchange(grid, clock=lambda: clock[0], sleep=sleep)
        headers = {FIRST_NODE: b"", FIRST_NODE + 1: b""}
        return {
            reply.node: clock[0]
            for reply in exchange.send("train.masked", headers, attempt="1", deadline_s=100.0)
        }

    def test_it_is_given_up_within_seconds_and_the_others_are_waited_for(self):
        lost_at = self.collect(gone_for_s=1000.0)
        assert 13.0 <= lost_at[FIRST_NODE + 1] <= 17.0
        assert lost_at[FIRST_NODE] >= 100.0

    def test_a_restart_is_not_mistaken_for_it(self):
        lost_at = self.collect(gone_for_s=3.0)
        assert min(lost_at.values()) >= 100.0


class TestPosted:
    """Requests that nobody waits for."""

    def make(self):
        self.time = 0.0
        app = make_client_app(lambda context: None)
        grid = InProcessGrid(app, 2, run_id=1)
        return Exchange(grid, clock=lambda: self.time), grid

    def test_a_reply_comes_beside_others_or_when_asked_for(self):
        exchange, grid = self.make()
        exchange.post("query.unknown", {FIRST_NODE: b"x"}, attempt="open", deadline_s=5.0)
        assert exchange.posted(ask=False) == []
        grid._app = lambda message, context: refused(message, "RosterChanged")
        [reply] = exchange.posted(ask=True)
        assert (reply.node, reply.refusal, reply.lost) == (FIRST_NODE, "RosterChanged", False)
        assert exchange.posted(ask=True) == []
        exchange.post("query.unknown", {FIRST_NODE: b"x"}, attempt="open", deadline_s=5.0)
        others = exchange.send("query.unknown", {FIRST_NODE + 1: b"y"}, attempt="1", deadline_s=5.0)
        assert [reply.node for reply in others] == [FIRST_NODE + 1]
        assert [reply.node for reply in exchange.posted(ask=False)] == [FIRST_NODE]

    def test_one_that_does_not_answer_in_time_is_lost(self):
        exchange, grid = self.make()
        grid.pull_messages = lambda ids: []
        exchange.post("query.unknown", {FIRST_NODE: b"x"}, attempt="open", deadline_s=5.0)
        assert exchange.posted(ask=True) == []
        self.time = 5.0
        [reply] = exchange.posted(ask=False)
        assert (reply.node, reply.lost) == (FIRST_NODE, True)
