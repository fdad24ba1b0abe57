"""A site's yes: what it must say, that nobody else can give it, and that it ends."""

import json
from datetime import UTC, datetime
from importlib.metadata import version

import pytest
import small_consortium
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from small_consortium import NOW as SITE_NOW
from small_consortium import Stage, small_study

from fedrx_client.approvals.approval import (
    DAY_S,
    Approval,
    ApprovalExpired,
    ApprovalForged,
    ApprovalInvalid,
    ApprovalRevoked,
    CohortChanged,
    NotApproved,
    VersionChanged,
)
from fedrx_client.approvals.store import Approvals
from fedrx_client.identity.identity import SiteIdentity
from fedrx_client.participation.site import SitePolicy
from fedrx_client.records.audit_log import AuditLog
from fedrx_client.records.database import SiteStore
from fedrx_client.records.ledger import PrivacyCap
from fedrx_client.training.randomness import SeededRandomness, SystemRandomness
from fedrx_common.errors import BudgetExhausted, MisuseError

NOW = int(SITE_NOW.timestamp())
COHORT = "ab" * 32
CAP = PrivacyCap(9.0, 1e-5)


def approval(study=None, **changes):
    values = {"cohort": COHORT, "cap": CAP, "now": NOW, "days": 30, "by": "Dr. Weiß"}
    return Approval.of(study or small_study(), **(values | changes))


@pytest.fixture
def identity(tmp_path):
    return SiteIdentity.create(tmp_path / "s", site="site0", name="Site 0", now=NOW)


@pytest.fixture
def key(identity):
    return identity.keys().identity


@pytest.fixture
def approvals(identity):
    return Approvals(identity.folder)


# --- what an approval says ---


def test_it_names_study_model_and_release():
    given_ = approval()
    study = small_study()
    assert (given_.study, given_.name, given_.model) == (study.digest, "dose", "linear")
    assert (given_.mode, given_.minimum_patients) == ("distributed", 10)
    assert given_.version == version("fedrx")
    assert given_.expires_at - given_.approved_at == 30 * DAY_S


@pytest.mark.parametrize(
    "changes",
    [
        {"days": 0},
        {"days": 5 * 366 + 1},
        {"by": ""},
        {"by": "two\nlines"},
        {"by": "x" * 201},
        {"cohort": "not hex"},
        {"minimum_patients": -1},
    ],
)
def test_impossible_values_are_refused(changes):
    with pytest.raises(ApprovalInvalid):
        approval(**changes)


@pytest.mark.parametrize("cap", [PrivacyCap(7.9, 1e-5), PrivacyCap(9, 1e-6), None])
def test_a_cap_must_hold_the_study(cap):
    with pytest.raises(ApprovalInvalid, match="epsilon"):
        approval(cap=cap)


@pytest.mark.parametrize(
    "sections", [{"privacy": {"mode": "none"}}, {"metrics": {"mode": "secure-sum"}}]
)
def test_exact_sums_are_accepted_without_a_cap_only(sections):
    study = small_study(**sections)
    assert approval(study, cap=None).cap is None
    with pytest.raises(ApprovalInvalid, match="without noise"):
        approval(study)


def test_each_requirement_is_held():
    one = approval(minimum_patients=20)
    one.require_cohort(COHORT, 20)
    one.require_time(one.expires_at)
    one.require_version(version("fedrx"))
    with pytest.raises(CohortChanged, match="changed since"):
        one.require_cohort("cd" * 32, 20)
    with pytest.raises(CohortChanged, match="more patients"):
        one.require_cohort(COHORT, 19)
    with pytest.raises(ApprovalExpired, match="ended on 2026-12-21"):
        one.require_time(one.expires_at + 1)
    with pytest.raises(ApprovalExpired, match="ahead of this clock"):
        one.require_time(NOW - DAY_S - 1)
    with pytest.raises(VersionChanged, match=r"9\.9"):
        one.require_version("9.9")
    with pytest.raises(NotApproved):
        one.require_study(COHORT)


# --- on the disk ---


def test_it_is_found_again_and_logged(approvals, identity, key):
    one = approval()
    approvals.add(one, key)
    assert Approvals(identity.folder).find(one.study, NOW + DAY_S) == one
    path = identity.folder / "approvals" / f"{one.study}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    *_, line = AuditLog(identity.audit_path).lines()
    assert (line.entry.kind, line.entry.study) == ("approval", one.study)
    assert "Dr. Weiß" in line.entry.reason


def test_nothing_is_found_where_nothing_was_approved(approvals):
    assert approvals.all() == ()
    for study in (small_study().digest, "../../site", ""):
        with pytest.raises(NotApproved):
            approvals.find(study, NOW)


def test_an_expired_one_is_refused(approvals, key):
    one = approval(days=1)
    approvals.add(one, key)
    with pytest.raises(ApprovalExpired):
        approvals.find(one.study, NOW + DAY_S + 1)
    assert approvals.all()[0].state(NOW + DAY_S + 1) == "expired"


def test_a_revoked_one_is_kept_and_refused(approvals, identity, key):
    one = approval()
    approvals.add(one, key)
    approvals.revoke(one.study, key, now=NOW + 5, by="DPO")
    with pytest.raises(ApprovalRevoked, match="DPO"):
        approvals.find(one.study, NOW + 6)
    (kept,) = approvals.all()
    assert (kept.approval, kept.state(NOW + 6)) == (one, "revoked")
    kinds = [line.entry.kind for line in AuditLog(identity.audit_path).lines()]
    assert kinds == ["identity", "approval", "revocation"]
    approvals.add(one, key)
    assert approvals.find(one.study, NOW) == one


def test_only_what_is_there_can_be_revoked(approvals, key):
    with pytest.raises(NotApproved):
        approvals.revoke(small_study().digest, key, now=NOW, by="DPO")


def test_another_key_neither_approves_nor_revokes(approvals, key, identity):
    other = Ed25519PrivateKey.generate()
    with pytest.raises(ApprovalForged):
        approvals.add(approval(), other)
    assert AuditLog(identity.audit_path).head.count == 1
    approvals.add(approval(), key)
    with pytest.raises(ApprovalForged):
        approvals.revoke(approval().study, other, now=NOW, by="x")
    assert approvals.find(approval().study, NOW)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["approval"].update(expires_at=NOW + 99 * DAY_S),
        lambda document: document["approval"]["cap"].update(epsilon=100.0),
        lambda document: document.update(revocation=None),
        lambda document: document.pop("signature"),
        lambda document: document.update(more=1),
        lambda document: document.update(approval=[]),
    ],
)
def test_a_changed_file_is_found(approvals, identity, key, change):
    approvals.add(approval(), key)
    approvals.revoke(approval().study, key, now=NOW, by="DPO")
    path = identity.folder / "approvals" / f"{approval().study}.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document, sort_keys=True, separators=(",", ":")))
    with pytest.raises(ApprovalForged, match="approve again"):
        approvals.find(approval().study, NOW)


def test_an_approval_of_one_study_does_not_serve_another(approvals, identity, key):
    approvals.add(approval(), key)
    other = small_study(training={"rounds": 5}).digest
    folder = identity.folder / "approvals"
    (folder / f"{other}.json").write_bytes((folder / f"{approval().study}.json").read_bytes())
    with pytest.raises(ApprovalForged):
        approvals.find(other, NOW)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("any") / "s"
    SiteIdentity.create(folder, site="s", name="S", now=NOW)
    (folder / "approvals").mkdir()
    return Approvals(folder), folder / "approvals" / f"{COHORT}.json"


@given(data=st.binary(max_size=300))
def test_no_bytes_are_taken_for_an_approval(damaged, data):
    kept, path = damaged
    path.write_bytes(data)
    with pytest.raises(ApprovalForged):
        kept.find(COHORT, NOW)


def test_a_study_is_meant_by_name_or_digest(approvals, key):
    one = approval()
    approvals.add(one, key)
    assert approvals.digest_of("dose") == approvals.digest_of(one.study[:8]) == one.study
    for text in ("dos", one.study[:7], ""):
        with pytest.raises(NotApproved, match="no approval is"):
            approvals.digest_of(text)
    approvals.add(approval(small_study(training={"rounds": 5})), key)
    with pytest.raises(NotApproved, match="several"):
        approvals.digest_of("dose")


# --- a live site ---


@pytest.fixture
def live(tmp_path, monkeypatch, approvals, key):
    """Opens site0 as a live site, approved for its own cohort unless a test says otherwise."""
    monkeypatch.setattr(small_consortium, "SiteStore", lambda path, **_: SiteStore(path))
    stage = Stage(tmp_path)

    def open_(*, approved=None, **changes):
        changed = {"cohort": stage.cohorts["site0"].fingerprint} | (approved or {})
        approvals.add(approval(stage.study, **changed), key)
        policy = SitePolicy(approval=lambda: approvals.find(stage.study.digest, NOW))
        return stage.open(
            "site0", **({"policy": policy, "randomness": SystemRandomness()} | changes)
        )

    open_.stage = stage
    return open_


def test_a_revoked_site_answers_nothing(live, approvals, key):
    stage = live.stage
    stage.sites["site0"] = site = live()
    stage.new_epoch()
    request = stage.request(1)
    site.train(request, stage.start)
    approvals.revoke(stage.study.digest, key, now=NOW, by="DPO")
    for ask in (
        lambda: site.advertise(stage.keys.request()),
        lambda: site.accept(stage.keys.adverts("site0")),
        lambda: site.train(stage.request(2), stage.start),
        lambda: site.resolve(None),
        lambda: site.unmask(None),
    ):
        with pytest.raises(ApprovalRevoked):
            ask()
    assert len(site.ledger.releases()) == 1


def test_the_approved_cap_holds(live):
    stage = live.stage
    stage.sites["site0"] = site = live()
    stage.new_epoch()
    tight = approval(stage.study, cohort=stage.cohorts["site0"].fingerprint)
    object.__setattr__(tight, "cap", PrivacyCap(0.5, 1e-5))
    object.__setattr__(site._parts.policy, "approval", lambda: tight)
    with pytest.raises(BudgetExhausted, match="this site's cap"):
        site.train(stage.request(1), stage.start)


def test_other_patients_or_fewer_are_refused(live):
    with pytest.raises(CohortChanged, match="changed since"):
        live(approved={"cohort": COHORT})
    with pytest.raises(CohortChanged, match="more patients"):
        live(approved={"minimum_patients": 41})


def test_another_release_is_refused(live, monkeypatch):
    monkeypatch.setattr("fedrx_client.participation.site.version", lambda _: "9.9")
    with pytest.raises(VersionChanged, match=r"9\.9 is installed"):
        live()


def test_another_study_is_refused(live):
    other = approval(small_study(training={"rounds": 5}))
    with pytest.raises(NotApproved):
        live(policy=SitePolicy(approval=lambda: other))


def test_the_site_s_own_clock_ends_an_approval(live):
    cohort = live.stage.cohorts["site0"].fingerprint
    past = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    old = approval(live.stage.study, cohort=cohort, now=past)
    with pytest.raises(ApprovalExpired):
        live(policy=SitePolicy(approval=lambda: old))


def test_nothing_simulated_is_accepted(live, tmp_path):
    with pytest.raises(MisuseError, match="seed"):
        live(randomness=SeededRandomness(1))
    with pytest.raises(MisuseError, match="power cut"):
        live(store=SiteStore(tmp_path / "other.db", durability="process"))


def test_one_cap_decides():
    with pytest.raises(MisuseError, match="its own cap"):
        SitePolicy(cap=CAP, approval=approval)
