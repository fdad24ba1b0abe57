"""`fedrx coordinator run|status|stop|resume|report` while nobody serves: what a person is told."""

import json
import os
import time
from dataclasses import replace

import pytest

from fedrx_common.errors import MisuseError, RunError
from fedrx_common.files import LockHeld
from fedrx_server.runs.blame import Fault
from fedrx_server.runs.checkpoints import RoundRecord
from fedrx_server.runs.folder import RunFolder
from fedrx_server.runs.registry import (
    DesiredState,
    RunView,
    absent_sites,
    read_left_out,
    read_wanted,
    write_wanted,
)
from fedrx_server.service.instance import Serving, exclusive, is_serving, serving_of, write_instance
from fedrx_server.service.status import LiveState, write_live

SITES = ("charite", "mayo", "karolinska")
METRICS = {"n": 12.0, "mae": 8.5, "mae_low": 7.0, "mae_high": 10.0, "within_20_percent": 50.0}


@pytest.fixture
def done(fedrx):
    def run(line, *more):
        ran = fedrx("coordinator", *line.split(), *more)
        assert ran.code == 0, ran.err
        return ran

    return run


@pytest.fixture
def consortium(fedrx, done, place):
    """Three enrolled sites, and `study.toml` beside the folder `c`."""
    done("init c --host fl.example.org --name Warfarin")
    for site in SITES:
        assert fedrx("site", "init", site, "--site", site, "--name", site).code == 0
    done("enroll c --yes", *(f"{site}/enrolment-request.json" for site in SITES))
    return place / "c"


@pytest.fixture
def begun(consortium, done):
    return consortium / "runs" / done("run c study.toml --detach --json").json["run"]


def finish_round(folder, number, attempt=0, metrics=None):
    """As a run's process would, without a model that means anything."""
    with RunFolder.open(folder) as run:
        for _ in range(attempt + 1):
            run.reserve_attempt(number)
        weights = 4 * [0.0]
        record = RoundRecord(number, attempt, 3, 3, 0, metrics, 1000, 2000, 1.5)
        run.save_round(record, weights)


class TestRun:
    def test_it_makes_a_folder_that_wants_to_run_and_says_that_nobody_serves(
        self, consortium, done
    ):
        ran = done("run c study.toml --detach")
        assert "Run small_dose-1 of study small_dose" in ran.out
        assert "charite, karolinska, mayo" in ran.out
        assert "`fedrx coordinator start c` is running" in ran.err
        folder = consortium / "runs" / "small_dose-1"
        assert read_wanted(folder) == DesiredState("running")
        view = RunView.read(folder)
        assert view.signed.roster.ids == tuple(sorted(SITES))
        assert (folder / "study.toml").read_text().startswith("\nname")

    def test_runs_are_numbered_and_never_alike(self, consortium, done):
        names = [done("run c study.toml --detach --json").json["run"] for _ in range(3)]
        assert names == ["small_dose-1", "small_dose-2", "small_dose-3"]
        views = [RunView.read(consortium / "runs" / name) for name in names]
        assert len({view.run_id for view in views}) == 3
        seeds = {
            json.loads((view.path / "meta.json").read_text())["meta"]["start_seed"]
            for view in views
        }
        assert len(seeds) == 3

    def test_a_study_that_cannot_be_run_makes_no_folder(self, consortium, refused, place):
        assert "no such study file" in refused("coordinator", "run", "c", "nothing.toml")
        (place / "bad.toml").write_text((place / "study.toml").read_text().replace("8.0", "-1"))
        assert "privacy.epsilon" in refused("coordinator", "run", "c", "bad.toml")
        text = (place / "study.toml").read_text()
        (place / "five.toml").write_text(text + "\n[secure_aggregation]\nthreshold = 5\n")
        assert "threshold" in refused("coordinator", "run", "c", "five.toml")
        assert not (consortium / "runs").exists()

    def test_no_site_no_run(self, done, refused):
        done("init c --host fl.example.org --name Warfarin")
        assert "no site is enrolled" in refused("coordinator", "run", "c", "study.toml")

    @pytest.mark.parametrize("command", ["run c study.toml", "status c", "stop c small_dose-1"])
    def test_no_consortium_no_run(self, place, refused, command):
        refused("coordinator", *command.split())


class TestStatus:
    def test_nothing_yet(self, consortium, done):
        assert "There is no run yet" in done("status c").out
        assert done("status c --json").json == {
            "serving": False,
            "processes": {},
            "online": {},
            "runs": [],
        }

    def test_an_unknown_run_is_named_beside_those_there_are(self, begun, refused):
        assert "the runs are: small_dose-1" in refused("coordinator", "status", "c", "other-1")

    def test_what_the_run_last_said(self, begun, done):
        write_live(
            begun,
            LiveState(
                name=begun.name,
                run="small_dose-1.00",
                study="small_dose",
                of=4,
                threshold=3,
                version="1.0",
                state="waiting",
                round=2,
                present=("charite", "mayo"),
                absent={"karolinska": "VersionDiffers"},
                versions={"karolinska": "0.9"},
                sentence="round 2 needs 3 sites and 2 can take part",
                metrics={"mae": 8.5, "mae_low": 7.0, "mae_high": 10.0},
                metrics_round=1,
                epsilon_spent=0.51,
                epsilon_promised=8.0,
                delta=1e-5,
                bytes_up=1500,
                pid=os.getpid(),
                unit="mg/week",
                time=time.time(),
            ),
        )
        text = done("status c small_dose-1").out
        assert "small_dose-1: waiting, round 2 of 4" in text
        assert "round 2 needs 3 sites and 2 can take part" in text
        assert "in: charite, mayo" in text
        assert "karolinska: VersionDiffers, runs another release of FedRx (0.9, here 1.0)" in text
        assert "MAE 8.50 (7.00 to 10.00 by its noise) mg/week" in text
        assert "ε 0.51 spent of 8 promised at δ 1e-05" in text
        assert "1.5 kB up" in text
        assert "No coordinator is running" in text
        described = done("status c small_dose-1 --json").json
        assert described["state"] == "waiting"
        assert described["live"]["absent"] == {"karolinska": "VersionDiffers"}

    def test_a_damaged_file_is_named(self, begun, refused):
        (begun / "wanted.json").write_text("{")
        assert "wanted.json: is damaged" in refused("coordinator", "status", "c")


def spoiled(folder, *faults):
    """As a run's process would leave it, after attempts that these sites spoiled."""
    with RunFolder.open(folder) as run:
        for attempt, (kind, site, reason) in enumerate(faults):
            run.reserve_attempt(1)
            fault = Fault(1, attempt, kind, (site,), reason)
            run.save_blame(replace(run.blame, faults=(*run.blame.faults, fault)))


class TestSitesThatSpoiledAttempts:
    def test_status_names_them_and_says_for_how_long(self, begun, done):
        spoiled(
            begun,
            *2 * [("proof", "mayo", "ShareInvalid")],
            ("proof", "charite", "VectorInvalid"),
        )
        text = done("status c small_dose-1").out
        assert (
            "left out: mayo: ShareInvalid, 2 times: until it is readmitted (sent shares or a "
            "commitment that cannot be opened); stop the run, then `resume --readmit mayo`"
        ) in " ".join(text.split())
        assert "left out: charite: VectorInvalid: out of the next attempt" in text
        assert done("status c small_dose-1 --json").json["left_out"] == {
            "charite": {"reason": "VectorInvalid", "times": 1, "for_good": False},
            "mayo": {"reason": "ShareInvalid", "times": 2, "for_good": True},
        }

    def test_resuming_forgets_what_proves_nothing_and_readmits_on_purpose(
        self, begun, done, refused
    ):
        spoiled(
            begun,
            *2 * [("proof", "mayo", "ShareInvalid")],
            *3 * [("absence", "charite", "lost")],
        )
        done("stop c small_dose-1")
        assert read_left_out(begun).keys() == {"charite", "mayo"}
        done("resume c small_dose-1")
        assert read_left_out(begun).keys() == {"mayo"}
        done("stop c small_dose-1")
        ask = ("coordinator", "resume", "c", "small_dose-1", "--readmit")
        assert "'charite' cannot be readmitted" in refused(*ask, "charite")
        assert read_wanted(begun).goal == "stopped"
        done("resume c small_dose-1 --readmit mayo")
        assert read_left_out(begun) == {}

    def test_a_site_that_left_the_roster_is_not_counted_as_left_out(
        self, begun, fedrx, done, consortium
    ):
        spoiled(begun, *2 * [("proof", "mayo", "ShareInvalid")])
        done("stop c small_dose-1")
        fedrx("site", "init", "fourth", "--site", "fourth", "--name", "fourth")
        done("enroll c --yes fourth/enrolment-request.json")
        done("revoke c mayo --reason liar")
        done("resume c small_dose-1 --new-roster")
        assert read_left_out(begun) == {}


class TestStopAndResume:
    def test_there_and_back(self, begun, done, refused):
        assert "small_dose-1 is stopped" in done("stop c small_dose-1").out
        assert "stopped already" in refused("coordinator", "stop", "c", "small_dose-1")
        assert "small_dose-1 goes on" in done("resume c small_dose-1").out
        assert read_wanted(begun) == DesiredState("running")
        assert "running already" in refused("coordinator", "resume", "c", "small_dose-1")

    def test_a_finished_run_stays_finished(self, begun, refused):
        write_wanted(begun, DesiredState("finished"))
        assert "is finished" in refused("coordinator", "resume", "c", "small_dose-1")

    def test_what_failed_says_why_and_can_be_resumed(self, begun, fedrx, done):
        write_wanted(begun, DesiredState("failed", "the disk was full; make room."))
        assert "the disk was full; make room." in done("status c").out
        ran = fedrx("coordinator", "status", "c", "small_dose-1", "--follow")
        assert ran.code == 3
        assert "run small_dose-1 failed: the disk was full" in ran.err
        done("resume c small_dose-1")
        assert read_wanted(begun).goal == "running"

    def test_a_new_roster_enters_a_run_that_stands_still(self, begun, fedrx, done, refused):
        done("stop c small_dose-1")
        same = refused("coordinator", "resume", "c", "small_dose-1", "--new-roster")
        assert "has the roster in force already" in same
        finish_round(begun, 1, attempt=2)
        fedrx("site", "init", "fourth", "--site", "fourth", "--name", "fourth")
        done("enroll c --yes fourth/enrolment-request.json")
        ran = done("resume c small_dose-1 --new-roster")
        assert "New: fourth" in ran.out
        view = RunView.read(begun)
        assert view.signed.roster.serial == 2
        # Attempts that were made under three sites stay three sites' attempts.
        assert view.attempts() == ((1, 0, 3), (1, 1, 3), (1, 2, 3))
        with RunFolder.open(begun) as run:
            run.reserve_attempt(2)
        assert RunView.read(begun).attempts()[-1] == (2, 0, 4)

    def test_no_new_roster_while_a_sum_waits_or_a_process_drives_the_run(
        self, begun, fedrx, done, refused
    ):
        fedrx("site", "init", "fourth", "--site", "fourth", "--name", "fourth")
        done("enroll c --yes fourth/enrolment-request.json")
        with RunFolder.open(begun) as run:
            ask = ("coordinator", "resume", "c", "small_dose-1", "--new-roster")
            assert "another process is using this run folder" in refused(*ask)
            run.save_pending(1, b"state")
        assert "waits to be opened under the old roster" in refused(*ask)
        assert RunView.read(begun).signed.roster.serial == 1

    def test_a_roster_too_small_for_the_study_changes_nothing(self, begun, done, refused):
        done("stop c small_dose-1")
        for site in SITES[:2]:
            done(f"revoke c {site} --reason", "left the consortium")
        refused("coordinator", "resume", "c", "small_dose-1", "--new-roster")
        assert RunView.read(begun).signed.roster.serial == 1


class TestOneList:
    """A run of a study in mode none is over one list of sites from its beginning."""

    @pytest.fixture
    def four(self, consortium, fedrx, done, place):
        self.add_site(fedrx, done, "fourth")
        text = (place / "study.toml").read_text()
        assert "[privacy]\n" in text
        (place / "none.toml").write_text(text.replace("[privacy]\n", '[privacy]\nmode = "none"\n'))
        return consortium

    def add_site(self, fedrx, done, site):
        assert fedrx("site", "init", site, "--site", site, "--name", site).code == 0
        done(f"enroll c --yes {site}/enrolment-request.json")

    def out_of(self, run):
        view = RunView.read(run)
        with RunFolder.open(run) as folder:
            return absent_sites(folder.meta, view.signed.roster)

    def test_a_newcomer_is_left_out_and_a_site_of_the_list_cannot_leave(
        self, four, fedrx, done, refused
    ):
        ran = done("run c none.toml --detach")
        assert "the run waits for each one that is missing" in ran.out
        run = four / "runs" / "small_dose-1"
        finish_round(run, 1)
        done("stop c small_dose-1")
        self.add_site(fedrx, done, "fifth")
        done("resume c small_dose-1 --new-roster")
        assert self.out_of(run) == {"fifth"}
        done("stop c small_dose-1")
        done("revoke c fourth --reason", "left the consortium")
        told = refused("coordinator", "resume", "c", "small_dose-1", "--new-roster")
        assert "'fourth' is gone or has other keys" in told

    def test_who_is_left_out_is_said_and_kept(self, four, fedrx, done, refused):
        ran = done("run c none.toml --detach --without mayo")
        assert "for charite, fourth, karolinska." in ran.out
        run = four / "runs" / "small_dose-1"
        assert self.out_of(run) == {"mayo"}
        finish_round(run, 1)
        done("stop c small_dose-1")
        self.add_site(fedrx, done, "fifth")
        told = refused("coordinator", "resume", "c", "small_dose-1", "--new-roster")
        assert "opened over 3 sites, and with the new roster a sum needs 4" in told

    def test_sites_that_cannot_be_left_out(self, four, refused):
        run = ("coordinator", "run", "c", "none.toml", "--detach")
        assert "no such site is on the roster" in refused(*run, "--without", "nobody")
        both = ("--without", "mayo", "--without", "fourth")
        assert "leaves 2 sites, and the study needs 3" in refused(*run, *both)
        assert not (four / "runs").exists()


class TestReport:
    def test_in_the_middle_of_a_run(self, begun, done, place):
        finish_round(begun, 1, attempt=1)
        finish_round(begun, 2, metrics=METRICS)
        with RunFolder.open(begun):  # as while a process drives it
            ran = done("report c small_dose-1 --output here.html")
        assert "here.html: 2 of 4 rounds" in ran.out
        page = (place / "here.html").read_text()
        assert "This run is not finished: 2 of 4 rounds." in page
        assert "saw a mean absolute error of 8.50 mg/week (7.00 to 10.00 by its noise)" in page
        assert "<dt>Model</dt><dd>linear</dd>" in page
        assert "simulation" not in page.partition("<main>")[2].partition("<script")[0]

    def test_privacy_counts_every_attempt(self, begun, done):
        finish_round(begun, 1)
        once = done("report c small_dose-1 --json").json["privacy"]
        finish_round(begun, 2, metrics=METRICS)
        twice = done("report c small_dose-1 --json").json["privacy"]
        with RunFolder.open(begun) as run:
            for _ in range(3):
                run.reserve_attempt(3)
        begun_too = done("report c small_dose-1 --json").json["privacy"]
        spent = [one["epsilon"] for one in (once, twice, begun_too)]
        assert 0 < spent[0] < spent[1] < spent[2] < 8.0
        assert begun_too["promised_epsilon"] == 8.0

    def test_no_such_place(self, begun, refused):
        told = refused("coordinator", "report", "c", "small_dose-1", "--output", "no/where.html")
        assert "the report cannot be written" in told


class TestServing:
    def test_one_at_a_time_and_seen_by_others(self, tmp_path):
        assert not is_serving(tmp_path)
        with exclusive(tmp_path):
            assert is_serving(tmp_path)
            with pytest.raises(LockHeld, match="already"), exclusive(tmp_path):
                pass
            assert is_serving(tmp_path)
        assert not is_serving(tmp_path)

    def test_what_serves_is_told_while_it_does(self, tmp_path):
        assert serving_of(tmp_path) is None
        with exclusive(tmp_path):
            assert serving_of(tmp_path) == Serving()
            told = Serving({"coordinator": 7, "proxy": 8}, {"lyon": True, "turku": False})
            write_instance(tmp_path, told)
            assert serving_of(tmp_path) == told
            (tmp_path / "serving.json").write_text('{"processes": [')
            assert serving_of(tmp_path) == Serving()
        assert serving_of(tmp_path) is None

    def test_bad_ports_are_refused_before_anything_starts(self, consortium, refused):
        told = refused("coordinator", "start", "c", "--port", "9443")
        assert "choose three different ones" in told


def test_a_wish_that_is_none(tmp_path):
    with pytest.raises(MisuseError, match="nothing that a run can be asked for"):
        DesiredState("dancing")
    (tmp_path / "wanted.json").write_text('{"goal": "dancing"}')
    with pytest.raises(RunError, match="is damaged"):
        read_wanted(tmp_path)
