"""The process of a run and what it writes down: how it ends, and what others read meanwhile."""

import json
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from small_consortium import small_study

from fedrx_common.errors import MisuseError
from fedrx_models.planning import plan_for
from fedrx_protocol.privacy.accountant import privacy_spent
from fedrx_protocol.trust.roster import Roster, SiteEntry, sign_roster
from fedrx_server.consortium.certificates import make_authority
from fedrx_server.consortium.files import ConsortiumFiles, ConsortiumInfo, write_about
from fedrx_server.gateway.control import SuperLinkAddress
from fedrx_server.report.privacy import (
    affordable,
    planned_releases,
    privacy_statement,
    spent_at_most,
)
from fedrx_server.rounds.observer import RunObserver
from fedrx_server.rounds.retry import (
    FailedAttempt,
    MissingShares,
    StopAfterAttempts,
    StudyStopped,
    WaitForSites,
)
from fedrx_server.runs.checkpoints import RoundRecord
from fedrx_server.runs.folder import RunFolder
from fedrx_server.runs.registry import Runs, read_wanted, runs_folder
from fedrx_server.service import worker
from fedrx_server.service.credentials import dump_address, parse_address
from fedrx_server.service.status import LiveState, LiveWatch, read_live

DAY_S = 86_400
AUTHORITY = make_authority("Town", Ed25519PrivateKey.generate(), int(time.time()))
# A port that nobody listens on.
NOWHERE = SuperLinkAddress("127.0.0.1:1", AUTHORITY.pem, b"secret")


@pytest.fixture
def consortium(tmp_path):
    """A folder with nothing but what a run's process reads, and the key that signs its roster."""
    key = Ed25519PrivateKey.generate()
    write_about(
        ConsortiumFiles(tmp_path),
        ConsortiumInfo("Town", key.public_key().public_bytes_raw(), 1_700_000_000),
    )
    return tmp_path, key


def roster(key, sites=3, days=1):
    now = int(time.time())
    entries = tuple(
        SiteEntry(
            f"site{i}",
            f"Site {i}",
            Ed25519PrivateKey.generate().public_key().public_bytes_raw(),
            now - 2 * DAY_S,
            now + days * DAY_S,
        )
        for i in range(sites)
    )
    return sign_roster(Roster(entries, 1), key)


@pytest.fixture
def run(consortium):
    folder, key = consortium
    return Runs(runs_folder(folder)).create(small_study(), roster(key), "text")


class TestEnds:
    def test_a_superlink_that_is_away_is_waited_for(self, run, caplog):
        assert worker._guarded(run, NOWHERE) == worker.AGAIN
        assert read_wanted(run).goal == "running"
        live = read_live(run)
        assert (live.state, live.pid) == ("waiting", 0)
        assert "cannot be reached" in live.sentence

    def test_a_folder_in_use_is_left_alone(self, run):
        with RunFolder.open(run):
            assert worker._guarded(run, NOWHERE) == worker.AGAIN
        assert read_wanted(run).goal == "running"

    @pytest.mark.parametrize("name", ["study.json", "meta.json", "roster.json"])
    def test_a_damaged_file_ends_it_for_good(self, run, name):
        (run / name).write_text('{"format": 1}')
        assert worker._guarded(run, NOWHERE) == worker.FAILED
        wanted = read_wanted(run)
        assert wanted.goal == "failed"
        assert name in wanted.sentence or "damaged" in wanted.sentence

    def test_a_roster_of_another_consortium_is_not_believed(self, run):
        other = roster(Ed25519PrivateKey.generate()).to_json()
        (run / "roster.json").write_bytes(other)
        assert worker._guarded(run, NOWHERE) == worker.FAILED
        assert "not by the pinned consortium key" in read_wanted(run).sentence

    def test_a_roster_that_has_ended_asks_for_a_new_one(self, consortium):
        folder, key = consortium
        run = Runs(runs_folder(folder)).create(small_study(), roster(key, days=-1), "text")
        assert worker._guarded(run, NOWHERE) == worker.FAILED
        assert "resume the run with --new-roster" in read_wanted(run).sentence

    def test_sigterm_is_no_failure(self, run, monkeypatch):
        def asked(*_):
            raise worker.StopAsked

        monkeypatch.setattr(worker.Worker, "go", asked)
        assert worker._guarded(run, NOWHERE) == worker.DONE
        assert read_wanted(run).goal == "running"

    def test_a_finished_run_writes_its_results_again(self, run):
        study = small_study()
        with RunFolder.open(run) as folder:
            for number in range(1, study.final_round + 1):
                folder.reserve_attempt(number)
                metrics = {"mae": 8.0, "n": 9.0} if number == study.final_round else None
                record = RoundRecord(number, 0, 3, 3, 0, metrics, 10, 20, 0.5)
                folder.save_round(record, worker.get_vector(_model(study)))
        assert worker._guarded(run, NOWHERE) == worker.DONE
        assert read_wanted(run).goal == "finished"
        result = json.loads((run / "result.json").read_text())
        assert result["finished"]
        assert result["reported"]["mae"] == 8.0
        assert 0 < result["privacy"]["epsilon"] <= study.privacy.epsilon
        assert (run / "model.safetensors").is_file()
        assert "saw a mean absolute error of 8.00" in (run / "report.html").read_text()


def _model(study):
    return worker.start_model(study, 0, None)


class TestHandover:
    def test_there_and_back(self):
        stage = SuperLinkAddress("127.0.0.1:9443", b"pem", b"secret")
        assert parse_address(dump_address(stage)) == stage

    @pytest.mark.parametrize("line", ["", "{}", "no", '{"address": "127.0.0.1:1", "ca": 5}'])
    def test_started_by_somebody_else(self, line):
        with pytest.raises(MisuseError, match="is started by `fedrx coordinator start` only"):
            parse_address(line)


def first(**changes):
    values = {"name": "run-1", "run": "run-1.00", "study": "s", "of": 5, "threshold": 3}
    return LiveState(**{**values, "version": "1", **changes})


class TestLiveFile:
    def make(self, folder, **changes):
        self.time = 0.0
        return LiveWatch(
            folder, first(**changes), lambda number, attempt: 0.5 * number, now=lambda: self.time
        )

    def test_a_round_from_beginning_to_end(self, tmp_path):
        watch = self.make(tmp_path)
        watch.attempting(2, 0, ["b", "a"], {"c": "lost"})
        watch.on_request("train.masked", ["a", "b"])
        live = read_live(tmp_path)
        assert (live.state, live.round, live.epsilon_spent) == ("training", 2, 1.0)
        assert (tuple(live.present), tuple(live.asked)) == (("a", "b"), ("a", "b"))
        self.time = 1.0
        watch.on_reply("a", "")
        self.time = 2.0
        watch.on_reply("b", "CohortChanged")
        live = read_live(tmp_path)
        assert not live.asked
        assert live.absent == {"b": "CohortChanged", "c": "lost"}
        watch.on_request("query.unmask", ["a"])
        assert read_live(tmp_path).state == "unmasking"
        watch.finished_round(RoundRecord(2, 0, 2, 1, 1, {"mae": 3.0}, 10, 20, 4.0))
        live = read_live(tmp_path)
        assert (live.metrics, live.metrics_round) == ({"mae": 3.0}, 1)
        assert (live.bytes_up, live.bytes_down) == (10, 20)
        assert (live.seconds_per_round, live.seconds_left) == (4.0, 12.0)

    def test_the_last_round_evaluates(self, tmp_path):
        watch = self.make(tmp_path)
        watch.attempting(5, 0, ["a"], {})
        watch.on_request("train.masked", ["a"])
        assert read_live(tmp_path).state == "evaluating"

    def test_who_is_waited_for(self, tmp_path):
        watch = self.make(tmp_path, present=("a", "b"))
        watch.waiting("needs 3", {"b": "lost", "c": "not connected"})
        live = read_live(tmp_path)
        assert (live.state, live.sentence) == ("waiting", "needs 3")
        assert live.waiting_for == {"b": "lost", "c": "not connected"}
        assert tuple(live.present) == ("a",)
        watch.on_request("query.open", ["c"])  # the run offers itself, and goes on waiting
        assert read_live(tmp_path).state == "waiting"
        watch.attempting(1, 0, ["a", "b", "c"], {})
        live = read_live(tmp_path)
        assert not live.waiting_for
        assert not live.sentence

    def test_many_answers_are_few_writes(self, tmp_path):
        watch = self.make(tmp_path)
        watch.on_request("train.masked", [f"s{i}" for i in range(500)])
        before = (tmp_path / "live.json").stat().st_mtime_ns
        for i in range(499):
            watch.on_reply(f"s{i}", "")
        assert (tmp_path / "live.json").stat().st_mtime_ns == before

    @pytest.mark.parametrize("text", ['{"stage": "warp"}', "", '{"name": '])
    def test_a_torn_file_or_another_releases_says_nothing(self, tmp_path, text):
        (tmp_path / "live.json").write_text(text)
        assert read_live(tmp_path) is None


def setback(**changes):
    values = {"round": 3, "tries": 1, "failures": 1, "members": 4, "threshold": 3}
    return FailedAttempt(**{**values, "reasons": {}, "missing": {}, "sites": 4, **changes})


class TestPatience:
    @pytest.mark.parametrize("reason", ["ValueOutOfRange", "TrainingInvalid"])
    def test_a_simulation_whose_training_has_run_away_ends_at_once_and_says_so(self, reason):
        with pytest.raises(
            StudyStopped, match=r"round 3: too many sites .*smaller .*learning_rate"
        ):
            StopAfterAttempts(attempts=10).next_attempt(setback(reasons={reason: 2}))
        StopAfterAttempts(attempts=10).next_attempt(setback(reasons={reason: 1, "lost": 1}))

    def waits(self, *setbacks):
        slept = []
        wait = WaitForSites(RunObserver(), sleep=slept.append)
        for one in setbacks:
            wait.next_attempt(one)
        return slept

    def test_failed_attempts_are_repeated_later_and_later(self):
        assert self.waits(*(setback(failures=n) for n in range(1, 8))) == [2, 4, 8, 16, 32, 60, 60]

    def test_sites_that_may_come_are_looked_for_every_second(self):
        assert self.waits(*(setback(members=2, tries=n) for n in range(1, 5))) == [1] * 4

    def test_the_budget_ends_it_only_where_nobody_else_could_come(self):
        spent = {"a": "BudgetExhausted", "b": "lost"}
        assert self.waits(setback(missing=spent, members=2)) == [1]
        with pytest.raises(StudyStopped, match="budget is spent after 2 rounds"):
            self.waits(setback(missing={**spent, "b": "BudgetExhausted"}, members=2))

    @pytest.mark.parametrize("reason", ["ValueOutOfRange", "TrainingInvalid"])
    def test_training_that_ran_away_ends_it_too(self, reason):
        lost = {"a": reason, "b": "lost"}
        assert self.waits(setback(missing=lost, members=2)) == [1]
        with pytest.raises(
            StudyStopped, match=r"round 3: too many sites .*smaller .*learning_rate"
        ):
            self.waits(setback(missing={**lost, "b": reason}, members=2))

    def test_a_simulation_gives_up(self):
        retry_policy = StopAfterAttempts(attempts=2)
        retry_policy.next_attempt(setback())
        retry_policy.next_request(MissingShares(3, 1, 2, 4, {}))
        with pytest.raises(StudyStopped, match="2 attempts"):
            retry_policy.next_attempt(setback(tries=2))
        with pytest.raises(StudyStopped, match="2 of the 4 sites"):
            retry_policy.next_request(MissingShares(3, 2, 2, 4, {}))


class TestAccount:
    @pytest.mark.parametrize("mode", ["distributed", "local"])
    def test_a_whole_run_without_mishap_stays_below_the_promise(self, mode):
        study = small_study(privacy={"mode": mode})
        attempts = [(number, 0, 4) for number in range(1, study.final_round + 1)]
        releases = planned_releases(study, "run", attempts)
        assert 0 < spent_at_most(study, releases) <= study.privacy.epsilon
        purposes = [release.purpose for release in releases]
        assert purposes.count("metrics") == len(study.evaluation_rounds)
        assert purposes.count("training") == study.rounds

    def test_repeated_attempts_cost(self):
        study = small_study()
        once = planned_releases(study, "run", [(1, 0, 4)])
        twice = planned_releases(study, "run", [(1, 0, 4), (1, 1, 4)])
        assert spent_at_most(study, once) < spent_at_most(study, twice)

    @pytest.mark.parametrize("mode", ["distributed", "local"])
    def test_attempts_that_sites_refused_are_no_releases(self, mode):
        """Fifty tries at a round that the promise pays for three times."""
        study = small_study(privacy={"mode": mode})
        many = planned_releases(study, "run", [(1, attempt, 4) for attempt in range(50)])
        assert spent_at_most(study, many) == study.privacy.epsilon
        made = affordable(study, many)
        assert 1 < len(made) < len(many)
        assert made == many[: len(made)]
        at_most = privacy_spent(made, study.privacy.delta)
        assert at_most.total <= study.privacy.epsilon
        one_more = privacy_spent(many[: len(made) + 1], study.privacy.delta)
        assert one_more.total > study.privacy.epsilon
        dump_address = privacy_statement(plan_for(study, 4), {"any site": made}, 4)
        assert dump_address.epsilon <= study.privacy.epsilon

    def test_all_releases_within_the_promise_or_without_one_are_kept(self):
        attempts = [(number, 0, 4) for number in range(1, 6)]
        for study in (small_study(), small_study(privacy={"mode": "none"})):
            releases = planned_releases(study, "run", attempts)
            assert affordable(study, releases) == releases

    def test_without_noise_there_is_no_bound(self):
        study = small_study(privacy={"mode": "none"})
        assert spent_at_most(study, planned_releases(study, "run", [(1, 0, 4)])) == float("inf")
