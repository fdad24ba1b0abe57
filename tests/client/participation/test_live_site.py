"""A live site against a coordinator that may lie, and against its own broken disk."""

import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Context, Message, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_hospital import NODE, HonestCoordinator, Region, answer_of

from fedrx_client import app as client_app
from fedrx_client.approvals.store import Approvals
from fedrx_client.identity.identity import SiteIdentity
from fedrx_client.records.database import SiteStore
from fedrx_client.records.ledger import Ledger
from fedrx_models.planning import make_plan
from fedrx_protocol.messages import codec
from fedrx_protocol.messages.offer import OfferReply
from fedrx_protocol.messages.secure_aggregation import UnmaskReply
from fedrx_protocol.messages.weights import model_bytes, model_digest
from fedrx_protocol.secagg.coordinator import KeyDirectory
from fedrx_protocol.secagg.parameters import session_id
from fedrx_protocol.trust.roster import Roster, sign_roster
from fedrx_server.rounds.admission import Offers
from fedrx_server.rounds.exchange import Exchange
from fedrx_server.rounds.loop import RunParties, StudyRun
from fedrx_server.runs.folder import RunFolder
from fedrx_simulation.federation.inprocess import InProcessGrid


@pytest.fixture
def region(tmp_path):
    region = Region(tmp_path)
    region.approve()
    yield region
    for name in region.names:
        region.restart(name)


@pytest.fixture
def grid(region):
    return region.grid()


@pytest.fixture
def ready(region, grid):
    """A coordinator whose sites have opened the run and know each other's keys."""
    coordinator = HonestCoordinator(region, grid)
    coordinator.open()
    coordinator.exchange_keys()
    return coordinator


def study_run(region, grid, folder, study=None, plan=None, run="run-1"):
    study, plan = study or region.study, plan or region.plan
    offers = Offers(
        run,
        bytes.fromhex(study.digest),
        region.roster.to_json(),
        region.offer().version,
        dict,
        clock=region.clock,
    )
    parties = RunParties(run, plan, region.roster.roster, offers)
    weights = np.zeros(plan.dimension, dtype=np.float32)
    return StudyRun(parties, Exchange(grid), folder, weights)


def run_folder(path, region, study=None):
    text = region.roster.to_json().decode()
    return RunFolder.create(path, study or region.study, text, {}, durability="process", keep=9)


class TestARun:
    def test_every_round_is_opened_charged_and_written_down(self, region, grid, tmp_path):
        with run_folder(tmp_path / "run", region) as folder:
            study_run(region, grid, folder).run()
            assert [record.survivors for record in folder.rounds] == [3] * 5
        for name in region.names:
            entries = region.audit(name)
            assert not region.refusals(name)
            asked = [e for e in entries if e.kind == "request"]
            answered = [e for e in entries if e.kind == "answer"]
            assert len(asked) == len(answered) == 3 + 2 * 5
            rounds = [e.round for e in answered if e.reason.startswith("train.masked")]
            assert rounds == [1, 2, 3, 4, 5]
            assert {e.round for e in answered if "unmask" in e.reason} == set(rounds)
            assert {(e.run, e.study) for e in asked} == {("run-1", region.study.digest)}

    def test_releases_count_under_the_cohorts_name_and_not_its_content(
        self, region, grid, tmp_path
    ):
        with run_folder(tmp_path / "run", region) as folder:
            study_run(region, grid, folder).run()
        approval = Approvals(region.home("site0")).all()[0].approval
        with SiteStore(region.home("site0") / "site.db") as store:
            assert {one.cohort for one in Ledger(store).releases()} == {approval.cohort_key}
        assert approval.cohort_key != approval.cohort

    def test_two_studies_at_a_time(self, region, tmp_path):
        other = region.study.with_(training={"rounds": 2})
        region.approve(study=other)
        first, second = (
            HonestCoordinator(region, region.grid(1)),
            HonestCoordinator(region, region.grid(2)),
        )
        first.open()
        first.exchange_keys()
        with run_folder(tmp_path / "run", region, other) as folder:
            plan = make_plan(other, region.count)
            study_run(region, second.grid, folder, other, plan, run="run-2").run()
            assert len(folder.rounds) == 3
        assert len(region.site("site0")._runs) == 2

    def test_a_restarted_agent_finishes_a_round_without_a_new_offer(self, region, ready):
        current, unmask = ready.whole_round()
        region.restart("site1")
        for number, name in enumerate(region.names):
            header = codec.encode(unmask[name])
            reply = region.ask(region.grid() if number == 1 else ready.grid, "query.unmask",
                               header, number)  # fmt: skip
            current.add_unmask(codec.decode(reply["fedrx"]["header"], UnmaskReply))
        assert current.result().vector.size == region.plan.round(1, 0).layout.length

    def test_a_restarted_agent_asks_for_new_keys_before_it_trains(self, region, ready):
        region.restart("site0")
        ready.grid = region.grid()  # what Flower kept in memory is gone too
        assert answer_of(ready.train(ready.request())) == "OutOfOrder"
        ready.open()
        ready.exchange_keys(epoch=2)
        assert answer_of(ready.train(ready.request())) == "answered"

    def test_only_the_last_few_runs_stay_in_memory(self, region):
        for number in range(1, 8):
            grid = region.grid(number)
            assert region.opened(grid, run=f"run-{number}") == "answered"
        assert list(region.site("site0")._runs) == [4, 5, 6, 7]
        request = KeyDirectory(
            session=session_id("run-1", region.study.digest, region.roster.roster.digest),
            epoch=1,
            roster=region.roster.roster,
            parameters=region.plan.parameters,
        ).request()
        content = region.ask(region.grid(1), "query.advertise", codec.encode(request))
        assert answer_of(content) == "answered"


class TestOffers:
    def test_another_release_is_answered_with_ours_and_opens_nothing(self, region, grid):
        content = region.ask(grid, "query.open", codec.encode(region.offer(version="99.0")))
        reply = codec.decode(content["fedrx"]["header"], OfferReply)
        assert reply.version == region.offer().version
        assert not region.site("site0")._runs
        assert "another release, not opened" in region.audit("site0")[-1].reason

    def test_a_clock_that_is_off(self, region, grid):
        assert region.opened(grid, time=region.now + 300) == "answered"
        for off in (301, -301, 86_400):
            assert region.opened(grid, time=region.now + off, run="other") == "ClockSkewed"
        assert "86400 s ahead" in region.refusals("site0")[-1]

    def test_a_study_that_nobody_approved(self, region, grid):
        assert region.opened(grid, study=bytes(32)) == "NotApproved"
        assert region.audit("site0")[-1].study == bytes(32).hex()

    def test_an_approval_that_ended_or_was_taken_back(self, region, grid):
        region.clock.now += 31 * 86_400
        assert region.opened(grid) == "ApprovalExpired"
        region.clock.now -= 31 * 86_400
        key = SiteIdentity(region.home("site0")).keys().identity
        Approvals(region.home("site0")).revoke(region.study.digest, key, now=region.now, by="DPO")
        assert region.opened(grid) == "ApprovalRevoked"

    def test_a_roster_of_somebody_else(self, region, grid):
        entries = region.roster.roster.sites
        foreign = sign_roster(Roster(entries, 9), Ed25519PrivateKey.generate()).to_json()
        assert region.opened(grid, roster=foreign) == "RosterSignatureInvalid"
        genuine = region.roster.to_json()
        other = region.signed(serial=9)
        changed = other.replace(b'"serial":9', b'"serial":8')
        assert region.opened(grid, roster=changed) == "RosterSignatureInvalid"
        assert region.opened(grid, roster=genuine[:-1]) == "MalformedMessage"
        assert not (region.home("site0") / "roster.offered.json").exists()

    def test_an_older_roster_and_a_second_one_of_the_same_serial(self, region, grid):
        assert region.opened(grid, roster=region.signed(serial=0)) == "RosterOutdated"
        assert region.opened(grid, roster=region.signed(serial=1, sites=2)) == "RosterOutdated"
        assert "two rosters of serial 1" in region.refusals("site0")[-1]

    def test_a_newer_roster_waits_for_a_person(self, region, grid):
        newer, newest = region.signed(serial=5, sites=2), region.signed(serial=7, sites=2)
        aside = region.home("site0") / "roster.offered.json"
        for given_, kept in ((newer, newer), (newest, newest), (newer, newest)):
            assert region.opened(grid, roster=given_) == "RosterChanged"
            assert aside.read_bytes() == kept
        assert region.opened(grid) == "answered"
        SiteIdentity(region.home("site0")).join(newest, now=region.now)
        assert not aside.exists()
        assert region.opened(grid) == "RosterOutdated"

    def test_an_open_run_ends_when_the_site_joins_with_another_roster(self, region, ready):
        SiteIdentity(region.home("site0")).join(region.signed(serial=2), now=region.now)
        assert answer_of(ready.train(ready.request())) == "RosterOutdated"

    def test_rotated_keys_need_a_new_start(self, region, grid):
        region.site("site0")
        identity = SiteIdentity(region.home("site0"))
        request = identity.rotate(now=region.now)
        region.consortium.enroll([request], now=region.now, rotate=True)
        region.join("site0")
        assert region.opened(grid, roster=region.roster.to_json()) == "NotEnrolled"

    def test_a_run_that_was_never_offered(self, region, grid):
        assert answer_of(region.ask(grid, "query.unmask", b"{}")) == "MalformedMessage"
        request = codec.encode(HonestCoordinator(region, grid).open() or region.offer())
        assert answer_of(region.ask(grid, "query.open", request)) == "answered"
        unknown = HonestCoordinator(region, region.grid(77))
        unknown.keys = KeyDirectory(
            session=unknown.session,
            epoch=1,
            roster=region.roster.roster,
            parameters=region.plan.parameters,
        )
        assert answer_of(unknown.train(unknown.request())) == "RunUnknown"
        assert region.audit("site0")[-1].reason.startswith("train.masked: RunUnknown")


class TestLies:
    def test_another_model_than_the_request_names(self, region, ready):
        content = ready.train(ready.request(), weights=ready.weights + 1)
        assert answer_of(content) == "ModelMismatch"

    def test_another_model_for_one_site_is_in_its_audit(self, region, ready):
        other = ready.weights + 1
        lied = ready.request(model_digest=model_digest(model_bytes(other)))
        assert answer_of(ready.train(lied, 0, other)) == "answered"
        assert answer_of(ready.train(ready.request(), 1)) == "answered"
        models = [
            next(e.reason for e in region.audit(name) if "train on model" in e.reason)
            for name in ("site0", "site1")
        ]
        assert lied.model_digest.hex()[:16] in models[0]
        assert ready.request().model_digest.hex()[:16] in models[1]

    def test_a_lower_threshold_and_fewer_sites(self, region, ready):
        request = ready.request()
        assert answer_of(ready.train(replace(request, threshold=2))) == "ThresholdChanged"
        few = replace(request, participants=("site0", "site1"))
        assert answer_of(ready.train(few)) == "TooFewSites"
        assert any("ThresholdChanged" in reason for reason in region.refusals("site0"))

    def test_a_second_unmasking_over_another_list(self, region, ready):
        _, unmask = ready.whole_round()
        header = codec.encode(unmask["site0"])
        first = region.ask(ready.grid, "query.unmask", header)
        again = region.ask(ready.grid, "query.unmask", header)
        assert first["fedrx"]["header"] == again["fedrx"]["header"]
        fewer = replace(unmask["site0"], survivors=("site0", "site1"))
        assert answer_of(region.ask(ready.grid, "query.unmask", codec.encode(fewer))) in {
            "ContextSpent",
            "MalformedMessage",
        }

    def test_forged_and_replayed_adverts(self, region, ready):
        old = ready.keys.adverts("site0")
        ready.advertise(epoch=2)
        fresh = ready.keys.adverts("site0")

        def shown(changed):
            kept = [changed if one.site == "site1" else one for one in fresh.adverts]
            listed = codec.encode(replace(fresh, adverts=tuple(kept)))
            return answer_of(region.ask(ready.grid, "query.keys", listed))

        genuine = next(one for one in fresh.adverts if one.site == "site1")
        replayed = next(one for one in old.adverts if one.site == "site1")
        assert shown(replace(genuine, mask_public=os.urandom(32))) == "AdvertForged"
        assert shown(replayed) == "SessionMismatch"
        assert shown(genuine) == "answered"

    def test_kinds_of_messages_that_do_not_exist(self, region, grid):
        for kind in ("query.everything", "train", "evaluate.masked", "query.\x1b[2J"):
            if kind.isprintable():
                assert answer_of(region.ask(grid, kind, b"{}")) == "UnknownRequest"
        assert any("UnknownRequest" in reason for reason in region.refusals("site0"))

    @settings(
        deadline=None,
        max_examples=40,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        kind=st.sampled_from(
            ["query.open", "query.advertise", "query.keys", "train.masked", "query.unmask"]
        ),
        header=st.binary(max_size=200) | st.just(b"x" * 5_000_000),
    )
    def test_no_bytes_get_more_than_a_name(self, region, grid, kind, header):
        assert answer_of(region.ask(grid, kind, header)) in {"MalformedMessage", "RunUnknown"}

    def test_a_flood_of_refusals_is_counted_and_not_written_one_by_one(self, region, grid):
        region.site("site0")
        for _ in range(500):
            region.ask(grid, "query.open", b"{}")
        assert len(region.refusals("site0")) == 20
        region.clock.now += 3601
        region.ask(grid, "query.open", b"{}")
        counted = "480 more were refused and not written one by one"
        assert any(counted in reason for reason in region.refusals("site0"))


class TestOwnTroubles:
    """The site refuses with its reason, and answers again when it is repaired."""

    def trained(self, ready, number):
        return answer_of(ready.train(ready.request(number)))

    def test_a_ledger_that_another_process_holds(self, region, ready):
        region.site("site0")._ledger.store()._connection.execute("PRAGMA busy_timeout = 100")
        lock = sqlite3.connect(region.home("site0") / "site.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        assert self.trained(ready, 1) == "LedgerLocked"
        lock.execute("ROLLBACK")
        lock.close()
        assert self.trained(ready, 1) == "answered"

    def test_a_damaged_ledger_restored_from_its_newest_copy(self, region, ready):
        assert self.trained(ready, 1) == "answered"
        home, path = region.home("site0"), region.home("site0") / "site.db"
        with SiteStore(path) as store:
            store.read("PRAGMA wal_checkpoint(TRUNCATE)")
        kept = path.read_bytes()
        region.restart("site0")
        path.write_bytes(kept[:4096] + os.urandom(len(kept) - 4096))
        for left in home.glob("site.db-*"):
            left.unlink()
        assert self.trained(ready, 2) == "LedgerDamaged"
        path.write_bytes(kept)
        assert self.trained(ready, 2) == "answered"

    def test_an_older_copy_of_the_ledger_would_forget_what_was_spent(self, region, ready):
        path = region.home("site0") / "site.db"
        assert self.trained(ready, 1) == "answered"
        region.restart("site0")
        old = path.read_bytes()
        assert self.trained(ready, 2) == "answered"
        region.restart("site0")
        newest = path.read_bytes()
        path.write_bytes(old)
        assert self.trained(ready, 3) == "LedgerDamaged"
        assert "an older copy" in region.refusals("site0")[-1]
        path.unlink()
        assert self.trained(ready, 3) == "LedgerDamaged"
        assert "the ledger is gone" in region.refusals("site0")[-1]
        path.write_bytes(newest)
        assert self.trained(ready, 3) == "answered"

    def test_a_ledger_exchanged_under_a_running_agent(self, region, ready):
        path = region.home("site0") / "site.db"
        assert self.trained(ready, 1) == "answered"
        region.restart("site0")
        old = path.read_bytes()
        assert self.trained(ready, 2) == "answered"
        other = path.with_name("restored")
        other.write_bytes(old)
        for left in path.parent.glob("site.db-*"):  # the journal alone could bring it up to date
            left.unlink()
        other.replace(path)
        assert self.trained(ready, 3) == "LedgerDamaged"

    def test_an_audit_log_that_was_changed(self, region, ready):
        assert self.trained(ready, 1) == "answered"
        path = region.home("site0") / "audit.log"
        kept = path.read_bytes()
        path.write_bytes(kept.replace(b"run opened", b"run closed."))
        assert self.trained(ready, 2) == "AuditDamaged"
        path.write_bytes(kept)
        assert self.trained(ready, 2) == "answered"

    def test_patients_that_changed_or_went(self, region, ready):
        path = region.table("site0")
        kept = path.read_text()
        path.write_text(kept.replace(",1,", ",0,", 1))
        assert self.trained(ready, 1) == "CohortChanged"
        assert "holds other patients" in region.refusals("site0")[-1]
        path.unlink()
        assert self.trained(ready, 1) == "CohortChanged"
        path.write_text("id,dose\n")
        assert self.trained(ready, 1) == "CohortChanged"
        path.write_text(kept)
        assert self.trained(ready, 1) == "answered"

    def test_patients_approved_anew(self, region, ready):
        path = region.table("site0")
        rows = path.read_text().splitlines()
        path.write_text("\n".join(rows[:-1]) + "\n")
        assert self.trained(ready, 1) == "CohortChanged"
        assert region.opened(ready.grid) == "CohortChanged"
        region.approve("site0")
        assert region.opened(ready.grid) == "answered"
        assert self.trained(ready, 1) == "answered"

    def test_a_table_that_moved_is_found_where_it_was_approved_anew(self, region, ready):
        path = region.table("site0")
        moved = path.with_name("moved.csv")
        path.rename(moved)
        assert self.trained(ready, 1) == "CohortChanged"
        region.clock.now += 1
        region.approve("site0", data=moved)
        assert self.trained(ready, 1) == "answered"

    def test_same_size_and_time_does_not_hide_a_change_at_the_next_offer(self, region, ready):
        path = region.table("site0")
        found = path.stat()
        with path.open("r+") as file:
            text = file.read()
            file.seek(0)
            file.write(text.replace(",1,", ",0,", 1))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        assert region.opened(ready.grid) == "CohortChanged"

    def test_nothing_about_a_patient_is_written_down(self, region, ready):
        path = region.table("site0")
        path.write_text(path.read_text().replace("p7,", "p8,", 1))
        assert self.trained(ready, 1) == "CohortChanged"
        written = (region.home("site0") / "audit.log").read_text()
        assert "p8" not in written
        assert "already on line" not in written

    def test_a_study_whose_kept_text_was_changed(self, region, grid):
        path = region.home("site0") / "studies" / region.study.digest / "study.json"
        path.write_text(path.read_text().replace('"epsilon": 8.0', '"epsilon": 80.0'))
        assert region.opened(grid) == "FolderDamaged"


class TestFullDisk:
    """In a process of its own, whose files may not grow; what is full is what is named."""

    @pytest.mark.parametrize(
        ("full", "name"), [("ledger", "LedgerUnwritable"), ("log", "LogUnwritable")]
    )
    def test_no_answer_leaves_without_its_lines(self, tmp_path, full, name):
        script = Path(__file__).with_name("full_disk.py")
        ran = subprocess.run(
            [sys.executable, script, tmp_path, full],
            env={**os.environ, "PYTHONPATH": str(script.parents[2] / "helpers")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.split() == [name, "answered", "2"]  # round 1 was never charged


class TestStockSuperNode:
    """Flower's own SuperNode loads `app`, and may answer each message in another process."""

    @pytest.fixture
    def stock(self, region):
        contexts = {}

        def answer(message, context):
            name = region.names[int(context.node_config["partition-id"])]
            kept = contexts.setdefault(name, context.state)
            config = {"fedrx-folder": str(region.home(name))}
            fresh = client_app._StockApp()
            node = Context(context.run_id, context.node_id, config, kept, {})
            return fresh(message, node)

        return InProcessGrid(answer, region.count, 5)

    def test_a_round_with_a_new_process_for_every_message(self, region, stock):
        coordinator = HonestCoordinator(region, stock)
        coordinator.open()
        coordinator.exchange_keys()
        current, unmask = coordinator.whole_round()
        for number, name in enumerate(region.names):
            reply = region.ask(stock, "query.unmask", codec.encode(unmask[name]), number)
            current.add_unmask(codec.decode(reply["fedrx"]["header"], UnmaskReply))
        assert current.result().vector.size

    def test_without_a_folder_it_refuses(self, region, monkeypatch):
        monkeypatch.delenv("FEDRX_SITE_FOLDER", raising=False)
        grid = InProcessGrid(client_app._StockApp(), 1, 5)
        content = RecordDict({"fedrx": ConfigRecord({"header": b"{}"})})
        (reply,) = grid.send_and_receive([Message(content, NODE, "query.open", group_id="x")])
        assert answer_of(reply.content) == "MisuseError"
