"""The consortium folder: made whole, changed whole, and everything in the log."""

import os
import stat
import time

import pytest
from apart import exit_code, start
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.cli.supernode.register import try_load_public_key
from flwr.supercore.primitives.asymmetric import bytes_to_public_key

from fedrx_common.address import AddressInvalid
from fedrx_common.canonical_json import to_json
from fedrx_common.errors import MisuseError
from fedrx_common.files import FolderDamaged, FolderUnusable, write_file
from fedrx_common.hash_chain import ChainBroken
from fedrx_common.key_files import KeyUnusable
from fedrx_protocol.trust.authority import verify_authority
from fedrx_protocol.trust.enrolment import (
    EnrolmentExpired,
    EnrolmentForged,
    EnrolmentRequest,
    SignedEnrolmentRequest,
    point_of,
    sign_request,
)
from fedrx_protocol.trust.roster import Roster, SignedRoster, sign_roster
from fedrx_server.consortium import consortium
from fedrx_server.consortium.consortium import Consortium
from fedrx_server.consortium.enrolment import EnrolmentRefused

NOW = int(time.time())
PASSPHRASE = "a long enough passphrase"


def signed_request(site="a", number=1, at=NOW) -> SignedEnrolmentRequest:
    identity = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
    supernode = ec.derive_private_key(number, ec.SECP384R1())
    request = EnrolmentRequest(
        site=site,
        name=f"Hospital {site}",
        identity=identity.public_key().public_bytes_raw(),
        authentication=point_of(supernode.public_key()),
        not_before=at - 60,
        not_after=at + 1000,
        version="0.1.0",
        time=at,
    )
    return sign_request(request, identity, supernode)


def create(folder, **changes):
    values = {"name": "Warfarin", "hosts": ["fl.example.org"], "now": NOW}
    return Consortium.create(folder, **(values | changes))


@pytest.fixture
def made(tmp_path):
    return create(tmp_path / "consortium")


def kinds(made):
    return [line.entry["kind"] for line in made.log.lines()]


def handed_out(made) -> Roster:
    """What a site makes of roster.json."""
    return SignedRoster.from_json(made.files.roster.read_bytes()).verify(made.fingerprint, NOW)


def test_a_new_consortium_has_what_the_superlink_needs(made):
    files = made.files
    assert handed_out(made) == Roster((), 0)
    assert verify_authority(files.authority.read_bytes(), made.public_key, NOW)
    assert made.hosts == ("fl.example.org",)
    assert files.server_key.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert kinds(made) == ["init"]
    assert not made.needs_passphrase


def test_private_files_are_for_the_owner_alone(made):
    files = made.files
    private = {
        files.signing_key,
        files.authority_key,
        files.server_key.resolve(),
        files.log,
        files.log.with_name("coordinator.log.head"),
    }
    assert stat.S_IMODE(files.folder.stat().st_mode) == 0o700
    for path in files.folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            expected = 0o600 if path in private or path.resolve() in private else 0o644
            assert mode == expected, path


def test_two_consortia_have_nothing_in_common(tmp_path):
    one, other = create(tmp_path / "1"), create(tmp_path / "2")
    assert one.fingerprint != other.fingerprint
    for name in ("signing_key", "authority_key", "server_key"):
        assert getattr(one.files, name).read_bytes() != getattr(other.files, name).read_bytes()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": ""}, MisuseError),
        ({"name": "x" * 65}, MisuseError),
        ({"name": "a\nb"}, MisuseError),
        ({"hosts": ["https://x"]}, AddressInvalid),
        ({"passphrase": "short"}, KeyUnusable),
    ],
)
def test_what_cannot_be_made_leaves_nothing(tmp_path, change, error):
    with pytest.raises(error):
        create(tmp_path / "consortium", **change)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_and_untouched(made):
    before = made.files.signing_key.read_bytes()
    with pytest.raises(FolderUnusable, match="exists already"):
        create(made.files.folder)
    assert made.files.signing_key.read_bytes() == before


def test_enrol_rotate_revoke(made):
    first = made.enroll([signed_request("a", 1), signed_request("b", 2)], now=NOW)
    assert handed_out(made) == first.roster
    assert first.roster.ids == ("a", "b")
    made.enroll([signed_request("a", 3)], now=NOW, rotate=True)
    assert handed_out(made).entry("a").identity == signed_request("a", 3).request.identity
    made.revoke("b", reason="left the consortium", now=NOW)
    assert handed_out(made).ids == ("a",)
    assert handed_out(made).serial == 3
    assert [member.request for member in made.members] == [signed_request("a", 3).request]
    assert kinds(made) == ["init", "enrol", "rotate", "revoke"]
    last = made.log.lines()[-1].entry
    assert last["about"] == "b: left the consortium"
    assert (last["serial"], last["roster"]) == (3, handed_out(made).digest.hex())
    assert len(list(made.files.rosters.iterdir())) == 4


def test_flower_reads_the_registered_supernode_key(made):
    made.enroll([signed_request("a", 1)], now=NOW)
    (path,) = made.files.requests.glob("a-*.pub")
    pem = try_load_public_key(path)
    assert bytes_to_public_key(pem) == made.members[0].request.authentication_key


def test_refusals_change_nothing(made):
    made.enroll([signed_request("a", 1)], now=NOW)
    before = made.files.roster.read_bytes()
    good = signed_request("c", 5)
    forged = SignedEnrolmentRequest(good.request, good.possession, bytes(64))
    for error, act in (
        (EnrolmentRefused, lambda: made.enroll([signed_request("a", 1)], now=NOW)),
        (EnrolmentRefused, lambda: made.enroll([signed_request("a", 2)], now=NOW)),
        (EnrolmentForged, lambda: made.enroll([good, forged], now=NOW)),
        (EnrolmentExpired, lambda: made.enroll([signed_request("c", 5, at=NOW - 10**8)], now=NOW)),
        (EnrolmentRefused, lambda: made.revoke("z", reason="x", now=NOW)),
        (MisuseError, lambda: made.revoke("a", reason=" ", now=NOW)),
        (MisuseError, lambda: made.revoke("a", reason="two\nlines", now=NOW)),
    ):
        with pytest.raises(error):
            act()
    assert made.files.roster.read_bytes() == before
    assert kinds(Consortium(made.files.folder)) == ["init", "enrol"]


def test_under_a_passphrase(tmp_path):
    made = create(tmp_path / "consortium", passphrase=PASSPHRASE)
    assert made.needs_passphrase
    for path in (made.files.signing_key, made.files.authority_key):
        assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    for wrong, says in ((None, "is encrypted"), ("another passphrase", "passphrase is wrong")):
        with pytest.raises(KeyUnusable, match=says):
            made.enroll([signed_request()], now=NOW, passphrase=wrong)
        with pytest.raises(KeyUnusable, match=says):
            made.renew(now=NOW, passphrase=wrong)
    assert handed_out(made).serial == 0
    assert made.enroll([signed_request()], now=NOW, passphrase=PASSPHRASE).roster.ids == ("a",)
    assert made.renew(now=NOW, passphrase=PASSPHRASE) == ("fl.example.org",)


def test_renewal_changes_key_and_certificate_together(made):
    old = made.certificate
    old_key = made.files.server_key.read_bytes()
    assert made.renew(now=NOW + 5) == ("fl.example.org",)
    assert made.certificate.serial_number != old.serial_number
    assert made.files.server_key.read_bytes() != old_key
    made.certificate.verify_directly_issued_by(
        verify_authority(made.files.authority.read_bytes(), made.public_key, NOW)
    )
    assert made.renew(now=NOW, hosts=["new.example.org", "10.0.0.1"]) == (
        "new.example.org",
        "10.0.0.1",
    )
    assert [path.name for path in made.files.folder.glob("tls*")].count("tls") == 1
    assert len(list(made.files.folder.glob("tls-*"))) == 1
    assert kinds(made) == ["init", "renew", "renew"]
    with pytest.raises(AddressInvalid):
        made.renew(now=NOW, hosts=["*.example.org"])


def test_an_expired_site_can_still_be_replaced(made):
    late = NOW + 5000
    made.enroll([signed_request("a", 1), signed_request("b", 2)], now=NOW)
    again = Consortium(made.files.folder)
    again.enroll([signed_request("a", 3, at=late)], now=late, rotate=True)
    again.revoke("b", reason="expired", now=late)
    assert again.roster.verify(again.fingerprint, late).ids == ("a",)


STEPS = ["keep_request", "edition", "log", "roster"]


def cut_off(folder, step, now):
    """Enrol in a process that dies before the given step."""

    def dying(*_, **__):
        os._exit(9)

    made = Consortium(folder)
    if step == "keep_request":
        consortium.keep_request = dying
    elif step == "log":
        Consortium._record = dying
    else:
        real, seen = consortium.write_public, []

        def write(path, data):
            seen.append(path)
            if len(seen) == (1 if step == "edition" else 2):
                dying()
            real(path, data)

        consortium.write_public = write
    made.enroll([signed_request("b", 2, at=now)], now=now)


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_while_enrolling_is_before_or_after(made, step):
    made.enroll([signed_request("a", 1)], now=NOW)
    folder = made.files.folder
    assert exit_code(cut_off, folder, step, NOW) == 9
    after = Consortium(folder)
    in_force = step in {"log", "roster"}
    assert handed_out(after) == after.roster.roster
    assert after.roster.roster.ids == (("a", "b") if in_force else ("a",))
    logged = [line.entry.get("serial") for line in after.log.lines()]
    assert max(logged) == after.roster.roster.serial
    assert ("recover" in kinds(after)) == (step == "log")
    if not in_force:
        after.enroll([signed_request("b", 2)], now=NOW)
    assert handed_out(after).ids == ("a", "b")


def test_a_change_settles_first_what_another_process_left(made):
    """The folder was opened before the other one died."""
    folder = made.files.folder
    assert exit_code(cut_off, folder, "log", NOW) == 9
    made.enroll([signed_request("c", 3)], now=NOW)
    assert kinds(made) == ["init", "recover", "enrol"]
    assert handed_out(made).ids == ("b", "c")


def both(folder, site, number, now):
    Consortium(folder).enroll([signed_request(site, number, at=now)], now=now)


def test_two_coordinators_at_once(made):
    work = [start(both, made.files.folder, f"s{n}", n, NOW) for n in (1, 2, 3)]
    for process in work:
        process.communicate()
    assert [process.returncode for process in work] == [0, 0, 0]
    assert handed_out(made).ids == ("s1", "s2", "s3")
    assert handed_out(made).serial == 3


def test_a_changed_roster_in_the_history_is_damage(made):
    made.enroll([signed_request("a", 1)], now=NOW)
    path = made.files.rosters / "000001.json"
    good = path.read_bytes()
    stranger = Ed25519PrivateKey.from_private_bytes(b"x" * 32)
    for data in (
        good.replace(b"Hospital a", b"Hospital x"),
        sign_roster(made.roster.roster, stranger).to_json(),
        (made.files.rosters / "000000.json").read_bytes(),
        b"",
    ):
        write_file(path, data)
        with pytest.raises(FolderDamaged, match=r"000001\.json"):
            Consortium(made.files.folder)
    write_file(path, good)
    assert Consortium(made.files.folder).roster.roster.ids == ("a",)


def test_other_damage_is_named(made):
    made.enroll([signed_request("a", 1)], now=NOW)
    files = made.files
    (request,) = files.requests.glob("*.json")
    other = create(files.folder.with_name("other"))
    cases = [
        (request, signed_request("b", 2).to_json(), "request of site 'a' is missing"),
        (request, b"{}", "restore|Restore"),
        (files.about, b"{}", "no description of a consortium"),
        (files.about, to_json({"consortium": "", "created": "x", "name": "y"}), "no description"),
        (files.signing_key, other.files.signing_key.read_bytes(), "not this consortium's key"),
        (files.server_certificate, b"", "no certificate"),
    ]
    for path, data, says in cases:
        good = path.read_bytes()
        path.write_bytes(data)
        with pytest.raises(FolderDamaged, match=says):
            use(files.folder)
        path.write_bytes(good)
    use(files.folder)


def use(folder):
    opened = Consortium(folder)
    assert opened.members
    assert opened.certificate
    opened.revoke("a", reason="test", now=NOW)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(FolderUnusable, match=r"consortium\.json"):
        Consortium(tmp_path)


def test_a_history_without_rosters(made):
    for path in made.files.rosters.iterdir():
        path.unlink()
    with pytest.raises(FolderDamaged, match="holds no roster"):
        Consortium(made.files.folder)


def test_a_tampered_log_stops_every_change(made):
    made.enroll([signed_request("a", 1)], now=NOW)
    text = made.files.log.read_text()
    made.files.log.write_text(text.replace('"about":"a"', '"about":"b"'))
    with pytest.raises(ChainBroken, match="line 2 was changed"):
        made.revoke("a", reason="x", now=NOW)
    with pytest.raises(ChainBroken, match="line 2 was changed"):
        Consortium(made.files.folder)
