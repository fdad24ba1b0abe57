"""Older copies of a site's files: each is refused by name, and no honest crash is."""

import shutil
import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from live_hospital import HonestCoordinator, Region, answer_of

from fedrx_client.approvals.approval import Approval, ApprovalOutdated, ApprovalRevoked
from fedrx_client.approvals.store import Approvals
from fedrx_client.checks.folder import verify_folder
from fedrx_client.identity.identity import SiteIdentity
from fedrx_client.identity.pins import SiteDamaged
from fedrx_client.participation import live_site
from fedrx_client.records.audit_log import AuditDamaged, AuditLog
from fedrx_client.records.database import LedgerDamaged
from fedrx_client.records.ledger import PrivacyCap
from fedrx_protocol.messages import codec
from fedrx_protocol.trust.witness import SignedHead

SITE = "site0"


@pytest.fixture
def region(tmp_path):
    region = Region(tmp_path)
    region.approve()
    yield region
    for name in region.names:
        region.restart(name)


@pytest.fixture
def home(region):
    return region.home(SITE)


@pytest.fixture
def ready(region):
    coordinator = HonestCoordinator(region, region.grid())
    coordinator.open()
    coordinator.exchange_keys()
    return coordinator


def saved(home: Path, *patterns: str) -> dict[Path, bytes]:
    """The content of some files of the folder."""
    return {path: path.read_bytes() for one in patterns for path in home.glob(one)}


def put_back(home: Path, files: dict[Path, bytes], *patterns: str) -> None:
    """What is there is removed, the copy is put in its place."""
    for path in [path for one in patterns for path in home.glob(one)]:
        path.unlink()
    for path, data in files.items():
        path.write_bytes(data)


def trained(ready, number):
    return answer_of(ready.train(ready.request(number)))


def started(region):
    region.restart(SITE)
    region.site(SITE).started()


LOG, DATABASE, APPROVALS = "audit.log*", "site.db*", "approvals/*.json"


class TestApprovals:
    @pytest.fixture
    def key(self, home):
        return SiteIdentity(home).keys().identity

    def revoke(self, region, key):
        Approvals(region.home(SITE)).revoke(region.study.digest, key, now=region.now, by="DPO")

    def test_a_revoked_approval_stays_revoked_when_its_old_file_is_put_back(
        self, region, home, ready, key
    ):
        old = saved(home, APPROVALS)
        self.revoke(region, key)
        put_back(home, old, APPROVALS)
        with pytest.raises(ApprovalRevoked, match="copy from before"):
            Approvals(home).find(region.study.digest, region.now)
        assert trained(ready, 1) == "ApprovalRevoked"
        assert Approvals(home).all() == ()
        with pytest.raises(ApprovalRevoked):
            verify_folder(home)
        started(region)  # the agent starts, and answers nothing for it

    def test_an_approval_replaced_by_a_narrower_one(self, region, home, key):
        old = saved(home, APPROVALS)
        region.approve(SITE, cap=9)
        put_back(home, old, APPROVALS)
        with pytest.raises(ApprovalOutdated, match="names another in line"):
            Approvals(home).find(region.study.digest, region.now)
        with pytest.raises(ApprovalOutdated):
            verify_folder(home)

    def test_the_old_log_with_the_old_approval_does_not_fit_the_ledger(
        self, region, home, ready, key
    ):
        old = saved(home, APPROVALS, LOG)
        self.revoke(region, key)
        put_back(home, old, APPROVALS, LOG)
        assert trained(ready, 1) in {"AuditDamaged", "LogUnwritable"}
        with pytest.raises(AuditDamaged, match="older copy"):
            started(region)

    def test_a_crash_between_the_line_and_the_file_approves_nothing(
        self, region, home, key, monkeypatch
    ):
        monkeypatch.setattr(
            Approvals, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            region.approve(SITE, cap=9)
        monkeypatch.undo()
        started(region)
        with pytest.raises(ApprovalOutdated, match="approve again"):
            Approvals(home).find(region.study.digest, region.now)
        region.approve(SITE, cap=9)
        assert Approvals(home).find(region.study.digest, region.now).cap == PrivacyCap(9, 1e-5)
        verify_folder(home)

    def test_a_crash_between_a_revocation_and_its_line_revokes(
        self, region, home, key, monkeypatch
    ):
        monkeypatch.setattr(
            Approvals, "_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            self.revoke(region, key)
        monkeypatch.undo()
        with pytest.raises(ApprovalRevoked, match="DPO"):
            Approvals(home).find(region.study.digest, region.now)
        started(region)
        verify_folder(home)
        self.revoke(region, key)

    def test_a_signed_file_of_which_the_log_knows_nothing(self, region, home, key):
        other = region.study.with_(training={"rounds": 2})
        region.approve(SITE, study=other)
        made = home / "approvals" / f"{other.digest}.json"
        data = made.read_bytes()
        before = shutil.copytree(home, home.with_name("before"))
        log = before / "audit.log"
        *kept, _ = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(kept))
        (before / "approvals" / made.name).write_bytes(data)
        with pytest.raises(AuditDamaged):
            Approvals(before)

    def test_what_rotated_keys_signed_does_not_stop_the_start(self, region, home):
        identity = SiteIdentity(home)
        request = identity.rotate(now=region.now)
        region.consortium.enroll([request], now=region.now, rotate=True)
        region.join(SITE)
        started(region)
        (sentence,) = Approvals(home).doubtful()
        assert "keys were rotated" in sentence
        verify_folder(home)

    def test_approvals_of_an_earlier_release_are_held_to_the_words_of_their_lines(self, tmp_path):
        identity = SiteIdentity.create(tmp_path / "s", site="s", name="S", now=1)
        key = identity.keys().identity
        approval = example_approval()
        approvals = Approvals(identity.folder)
        approvals.add(approval, key)
        file = saved(identity.folder, APPROVALS)
        approvals.revoke(approval.study, key, now=approval.approved_at + 5, by="DPO")
        forget_contents(identity.folder)
        with pytest.raises(ApprovalRevoked):
            Approvals(identity.folder).find(approval.study, approval.approved_at)
        put_back(identity.folder, file, APPROVALS)
        with pytest.raises(ApprovalRevoked, match="copy from before"):
            Approvals(identity.folder).find(approval.study, approval.approved_at)


def example_approval() -> Approval:
    return Approval(
        study="ab" * 32, name="dose", model="linear", mode="distributed",
        cap=PrivacyCap(9, 1e-5), minimum_patients=1, cohort="cd" * 32, version="1",
        approved_at=1_000_000, expires_at=2_000_000, by="DPO",
    )  # fmt: skip


def forget_contents(folder: Path, said: str = "") -> None:
    """Write log and ledger as a release did that bound neither to the other."""
    path = folder / "audit.log"
    entries = [line.entry for line in AuditLog(path).lines()]
    for one in folder.glob(LOG):
        one.unlink()
    log = AuditLog(path)
    for entry in entries:
        words = entry.reason + (said if entry.kind == "answer" else "")
        log.record(type(entry)(**(entry.to_document() | {"content": "", "reason": words})))
    with sqlite3.connect(folder / "site.db") as database:
        database.execute("DROP TABLE state")
        database.execute("PRAGMA user_version = 2")
    database.close()


class TestLedger:
    def test_an_older_copy_is_refused_at_the_start_and_by_verify(self, region, home, ready):
        assert trained(ready, 1) == "answered"
        region.restart(SITE)
        old = saved(home, DATABASE)
        assert trained(ready, 2) == "answered"
        region.restart(SITE)
        newest = saved(home, DATABASE)
        put_back(home, old, DATABASE)
        with pytest.raises(LedgerDamaged, match="older copy"):
            verify_folder(home)
        with pytest.raises(LedgerDamaged, match="older copy"):
            started(region)
        put_back(home, newest, DATABASE)
        verify_folder(home)
        started(region)

    def test_a_guard_that_forgot_what_it_gave_away(self, region, home, ready):
        """No ledger line is missing in the copy: only the unmasking is."""
        _, unmask = ready.whole_round()
        region.restart(SITE)
        old = saved(home, DATABASE)
        header = codec.encode(unmask[SITE])
        assert answer_of(region.ask(ready.grid, "query.unmask", header)) == "answered"
        region.restart(SITE)
        put_back(home, old, DATABASE)
        assert answer_of(region.ask(ready.grid, "query.unmask", header)) == "LedgerDamaged"

    def test_without_the_audit_log_nothing_starts(self, region, home, ready):
        assert trained(ready, 1) == "answered"
        region.restart(SITE)
        newest = saved(home, LOG)
        put_back(home, {}, LOG)
        for look in (lambda: started(region), lambda: verify_folder(home)):
            with pytest.raises(AuditDamaged, match="audit log is gone"):
                look()
        put_back(home, newest, LOG)
        started(region)
        verify_folder(home)

    def test_an_older_log_is_refused(self, region, home, ready):
        assert trained(ready, 1) == "answered"
        old = saved(home, LOG)
        assert trained(ready, 2) == "answered"
        newest = saved(home, LOG)
        put_back(home, old, LOG)
        for look in (lambda: started(region), lambda: verify_folder(home)):
            with pytest.raises(AuditDamaged, match="older copy"):
                look()
        put_back(home, newest, LOG)
        started(region)
        verify_folder(home)

    def test_lines_of_the_ledger_that_fit_each_other_and_not_the_file(self, region, home, ready):
        assert trained(ready, 1) == "answered"
        assert trained(ready, 2) == "answered"
        region.restart(SITE)
        with sqlite3.connect(home / "site.db") as database:
            database.execute("DELETE FROM ledger WHERE sequence > 1")
            database.execute(
                "UPDATE ledger_head SET count = 1, hash = (SELECT hash FROM ledger LIMIT 1)"
            )
        database.close()
        with pytest.raises(LedgerDamaged, match="exchanged"):
            verify_folder(home)
        with pytest.raises(LedgerDamaged, match="exchanged"):
            started(region)

    @pytest.mark.parametrize("cut", ["before the work", "before the line", "after the line"])
    def test_a_crash_at_any_point_of_a_round_leaves_a_site_that_starts(
        self, region, home, ready, monkeypatch, cut
    ):
        def crash(*_):
            raise KeyboardInterrupt

        whole = live_site.LiveSite.answered

        def crash_after(*given):
            whole(*given)
            raise KeyboardInterrupt

        where = {
            "before the work": (live_site.Site, "train", crash),
            "before the line": (live_site.LiveSite, "answered", crash),
            "after the line": (live_site.LiveSite, "answered", crash_after),
        }[cut]
        with monkeypatch.context() as patched:
            patched.setattr(*where)
            with pytest.raises(KeyboardInterrupt):
                ready.train(ready.request(1))
        started(region)
        charged = verify_folder(home).ledger.count
        assert (charged > 0) == (cut != "before the work")

    def test_a_folder_of_an_earlier_release_is_bound_by_its_first_start(self, region, home, ready):
        assert trained(ready, 1) == "answered"
        region.restart(SITE)
        head = verify_folder(home).ledger
        forget_contents(home, f"; ledger {head.count}:{head.hash.hex()}")
        verify_folder(home)
        started(region)
        region.restart(SITE)
        old = saved(home, DATABASE)
        for _ in range(2):  # the first one's line still names the state of the copy
            started(region)
        region.restart(SITE)
        put_back(home, old, DATABASE)
        with pytest.raises(LedgerDamaged, match="older copy"):
            verify_folder(home)

    def test_a_ledger_of_an_earlier_release_beside_a_log_that_says_nothing_of_it(
        self, region, home, ready
    ):
        assert trained(ready, 1) == "answered"
        region.restart(SITE)
        forget_contents(home)
        with pytest.raises(AuditDamaged, match="says nothing of site"):
            started(region)


class TestPins:
    def test_an_older_pin_would_bring_a_revoked_site_back(self, region, home):
        old = saved(home, "site.json", "roster.json")
        log = AuditLog(home / "audit.log")
        identity = SiteIdentity(home)
        newer = region.signed(serial=5, sites=2)
        identity.join(newer, now=region.now)
        entry = region.audit(SITE)[0]
        said = type(entry)(
            time=region.now, kind="identity", reason="joined", content=identity.pin.content
        )
        log.record(said)
        verify_folder(home)
        put_back(home, old)
        with pytest.raises(SiteDamaged, match="has believed roster 5"):
            verify_folder(home)
        with pytest.raises(SiteDamaged, match="has believed roster 5"):
            started(region)
        with pytest.raises(SiteDamaged, match="has believed roster 5"):
            SiteIdentity(home).join(region.signed(serial=3), now=region.now)
        SiteIdentity(home).join(newer, now=region.now)
        started(region)


def test_a_foreign_key_changes_nothing(region, home):
    with pytest.raises(Exception, match="own key"):
        Approvals(home).add(example_approval(), Ed25519PrivateKey.generate())
    assert [path.stem for path in home.glob(APPROVALS)] == [region.study.digest]


class TestWitness:
    """An older copy of everything fits itself; what the site signed elsewhere shows it."""

    def test_a_backup_of_everything_is_refused_by_what_the_coordinator_keeps(
        self, region, home, ready
    ):
        assert trained(ready, 1) == "answered"
        region.restart(SITE)
        backup = home.with_name("backup")
        shutil.copytree(home, backup)
        reply = ready.train(ready.request(2))
        kept = reply["fedrx"]["witness"]
        assert SignedHead.from_json(kept).head == AuditLog(home / "audit.log").head
        region.restart(SITE)
        newest = home.rename(home.with_name("newest"))
        backup.rename(home)
        verify_folder(home)  # nothing inside shows it
        with pytest.raises(AuditDamaged, match="not the one that was noted"):
            verify_folder(home, SignedHead.from_json(kept).head)
        started(region)
        header = codec.encode(ready.request(3))
        spent = region.site(SITE)._ledger.ledger().head
        for kind in ("train.masked", "query.open"):
            content = region.ask(region.grid(), kind, header, witness=kept)
            header = codec.encode(region.offer())
            assert answer_of(content) == "FolderOutdated"
        assert "the whole folder is an older copy" in region.refusals(SITE)[-1]
        assert region.site(SITE)._ledger.ledger().head == spent
        region.restart(SITE)
        shutil.rmtree(home)
        newest.rename(home)
        content = region.ask(region.grid(), "query.open", header, witness=kept)
        assert answer_of(content) == "answered"

    def test_a_head_that_this_site_did_not_sign_says_nothing(self, region, home):
        head = AuditLog(home / "audit.log").head
        key = Ed25519PrivateKey.generate()
        foreign = SignedHead.sign(SITE, type(head)(99, bytes(32)), key).to_json()
        other = SignedHead.sign("site1", type(head)(99, bytes(32)), key).to_json()
        offer = codec.encode(region.offer())
        for kept in (foreign, other):
            content = region.ask(region.grid(), "query.open", offer, witness=kept)
            assert answer_of(content) == "answered"
        content = region.ask(region.grid(), "query.open", offer, witness=b"{}")
        assert answer_of(content) == "MalformedMessage"
