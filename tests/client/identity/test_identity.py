"""A site's keys, whom it believes, and how both change."""

import argparse
import importlib
import os
import stat
import time
from dataclasses import replace

import pytest
from apart import exit_code
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrx_client.identity import identity as identity_module
from fedrx_client.identity.identity import (
    JoinRefused,
    NotEnrolled,
    NotJoined,
    SiteDamaged,
    SiteIdentity,
)
from fedrx_common.files import FolderUnusable
from fedrx_common.key_files import KeyUnusable
from fedrx_protocol.trust.enrolment import EnrolmentInvalid
from fedrx_protocol.trust.roster import Roster, SiteEntry, fingerprint, sign_roster
from fedrx_server.consortium.certificates import make_authority

NOW = int(time.time())
CONSORTIUM = Ed25519PrivateKey.from_private_bytes(b"c" * 32)
STRANGER = Ed25519PrivateKey.from_private_bytes(b"x" * 32)
HEARD = fingerprint(CONSORTIUM.public_key())
CA = make_authority("Warfarin", CONSORTIUM, NOW).pem
FOREIGN_CA = make_authority("Warfarin", STRANGER, NOW).pem
# By name: the package exports a function of the same name.
flower_supernode = importlib.import_module("flwr.supernode.cli.flower_supernode")
PASSPHRASE = "a long enough passphrase"


def create(folder, **changes):
    values = {"site": "charite", "name": "Charité", "now": NOW}
    return SiteIdentity.create(folder, **(values | changes))


@pytest.fixture
def made(tmp_path):
    return create(tmp_path / "charite")


def entry_of(request, **changes):
    values = {
        "site": request.site,
        "name": request.name,
        "identity": request.identity,
        "not_before": request.not_before,
        "not_after": request.not_after,
    }
    return SiteEntry(**(values | changes))


OTHER = SiteEntry("mayo", "Mayo", b"m" * 32, NOW - 60, NOW + 10**7)


def roster_with(made, *, serial=1, key=CONSORTIUM, **changes):
    sites = (entry_of(made.request.request, **changes), OTHER)
    return sign_roster(Roster(sites, serial), key).to_json()


def join(made, roster=None, **changes):
    values = {"now": NOW, "fingerprint": HEARD, "authority": CA}
    return made.join(roster or roster_with(made), **(values | changes))


def snapshot(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_init_makes_keys_and_a_request_that_verifies(made):
    request = made.request.verify(NOW)
    assert (request.site, request.name) == ("charite", "Charité")
    assert request.not_before < NOW < request.not_after
    keys = made.keys()
    assert keys.identity.public_key().public_bytes_raw() == request.identity
    assert keys.authentication.public_key() == request.authentication_key
    assert made.request_path.read_bytes() == made.request.to_json()
    assert made.fingerprint == fingerprint(request.identity)
    assert not made.joined


def test_flower_s_own_supernode_reads_the_key(made):
    arguments = argparse.Namespace(
        auth_supernode_private_key=str(made.supernode_key_path), auth_supernode_public_key=None
    )
    private, public = flower_supernode._try_setup_client_authentication(arguments)
    assert public == made.request.request.authentication_key
    public.verify(private.sign(b"x", ec.ECDSA(hashes.SHA256())), b"x", ec.ECDSA(hashes.SHA256()))


def test_flower_s_own_supernode_does_not_read_an_encrypted_key(tmp_path, monkeypatch):
    def leave(code, message):
        raise SystemExit(message)

    # The real one ends the process from a thread.
    monkeypatch.setattr(flower_supernode, "flwr_exit", leave)
    made = create(tmp_path / "s", passphrase=PASSPHRASE)
    arguments = argparse.Namespace(
        auth_supernode_private_key=str(made.supernode_key_path), auth_supernode_public_key=None
    )
    with pytest.raises(SystemExit, match="Unable to parse"):
        flower_supernode._try_setup_client_authentication(arguments)


def test_private_files_are_for_the_owner_alone(made):
    join(made)
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
    public = {"enrolment-request.json", "ca.crt", "roster.json"}
    for path in made.folder.rglob("*"):
        if path.is_file():
            wanted = 0o644 if path.name in public else 0o600
            assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_under_a_passphrase(tmp_path):
    made = create(tmp_path / "s", passphrase=PASSPHRASE)
    assert made.needs_passphrase
    for name in ("identity.key", "supernode.key"):
        data = (made.folder / "keys-0001" / name).read_bytes()
        assert data.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert made.keys(PASSPHRASE).identity
    with pytest.raises(KeyUnusable, match="is encrypted"):
        made.keys()
    with pytest.raises(KeyUnusable, match="passphrase is wrong"):
        made.keys("another passphrase")
    with pytest.raises(KeyUnusable):
        made.renew_request(now=NOW)
    assert join(made).serial == 1  # joining needs no private key


def test_what_cannot_be_made_leaves_nothing(tmp_path):
    for change in ({"site": "a b"}, {"name": ""}, {"validity_s": 10**9}, {"validity_s": -(10**6)}):
        with pytest.raises(EnrolmentInvalid):
            create(tmp_path / "s", **change)
        assert list(tmp_path.iterdir()) == []
    create(tmp_path / "s")
    with pytest.raises(FolderUnusable):
        create(tmp_path / "s")


def test_joining_pins_consortium_and_ca(made):
    assert join(made).ids == ("charite", "mayo")
    again = SiteIdentity(made.folder)
    assert again.joined
    assert again.pin.consortium == CONSORTIUM.public_key().public_bytes_raw()
    assert again.pin.serial == 1
    assert again.roster(NOW).ids == ("charite", "mayo")
    assert again.authority(NOW) == CA == again.authority_path.read_bytes()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"fingerprint": None}, NotJoined, "--fingerprint"),
        ({"authority": None}, NotJoined, "--ca"),
        ({"fingerprint": fingerprint(STRANGER.public_key())}, JoinRefused, "pinned"),
        ({"fingerprint": "ABCD"}, JoinRefused, "no fingerprint"),
        ({"fingerprint": HEARD + "-AAAA"}, JoinRefused, "no fingerprint"),
        ({"authority": FOREIGN_CA}, JoinRefused, "CA is refused"),
        ({"authority": b""}, JoinRefused, "one PEM certificate"),
        ({"now": NOW + 10**8}, JoinRefused, "not valid now"),
        ({"roster": b"{}"}, JoinRefused, "lacks a field"),
    ],
)
def test_what_a_first_join_refuses(made, change, error, says):
    before = snapshot(made.folder)
    with pytest.raises(error, match=says):
        join(made, **change)
    assert snapshot(made.folder) == before
    assert not SiteIdentity(made.folder).joined


def test_a_fingerprint_as_people_write_it(made):
    join(made, fingerprint=f"  {HEARD.lower().replace('-', ' ')} ")
    assert made.joined


def test_a_roster_another_key_signed(made):
    with pytest.raises(JoinRefused, match="fingerprint"):
        join(made, roster_with(made, key=STRANGER))
    join(made)
    hers = roster_with(made, key=STRANGER, serial=2)
    with pytest.raises(JoinRefused, match="pinned"):
        made.join(hers, now=NOW)
    with pytest.raises(JoinRefused, match="pinned"):
        join(made, hers, fingerprint=fingerprint(STRANGER.public_key()), authority=FOREIGN_CA)


def test_a_roster_without_this_site(made):
    without = sign_roster(Roster((OTHER,), 1), CONSORTIUM).to_json()
    with pytest.raises(NotEnrolled, match="No key of site 'charite' is on roster 1"):
        join(made, without)
    other_key = roster_with(made, identity=b"k" * 32)
    with pytest.raises(NotEnrolled):
        join(made, other_key)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_roster_is_refused(made, where, bit):
    data = bytearray(roster_with(made))
    data[where % len(data)] ^= 1 << bit
    with pytest.raises((JoinRefused, NotEnrolled)):
        join(made, bytes(data))
    assert not made.joined


def test_later_rosters_need_nothing_else_and_never_go_back(made):
    first, second = roster_with(made), roster_with(made, serial=2)
    join(made, first)
    assert made.join(second, now=NOW).serial == 2
    assert made.join(second, now=NOW).serial == 2  # the same again is fine
    with pytest.raises(JoinRefused, match="has seen 2"):
        made.join(first, now=NOW)
    with pytest.raises(JoinRefused, match="two rosters of serial 2"):
        made.join(roster_with(made, serial=2, name="X"), now=NOW)
    assert made.roster(NOW).serial == 2


def test_rotation(made):
    join(made)
    old = made.keys().identity.private_bytes_raw()
    request = made.rotate(now=NOW).verify(NOW)
    assert made.request_path.read_bytes() == made.request.to_json()
    assert made.keys().identity.private_bytes_raw() == old  # until the consortium knows
    assert made.roster(NOW)
    made.join(roster_with(made, serial=2), now=NOW)
    for each in (made, SiteIdentity(made.folder)):
        assert each.keys().identity.public_key().public_bytes_raw() == request.identity
        assert each.roster(NOW).entry("charite").identity == request.identity
    assert not (made.folder / "keys-0001").exists()  # the old private keys are gone


def test_a_roster_of_before_the_rotation_still_finds_the_old_keys(made):
    first = made.request.request
    join(made)
    made.rotate(now=NOW)
    late = sign_roster(Roster((entry_of(first), OTHER), 2), CONSORTIUM).to_json()
    made.join(late, now=NOW)
    assert made.keys().identity.public_key().public_bytes_raw() == first.identity
    made.rotate(now=NOW)  # a second time, before the first was enrolled
    made.join(roster_with(made, serial=3), now=NOW)
    assert sorted(path.name for path in made.folder.glob("keys-*")) == ["keys-0003"]


def test_a_new_request_for_the_same_keys(made):
    first = made.request.request
    later = made.renew_request(now=NOW + 10**6).verify(NOW + 10**6)
    assert later == replace(
        first, time=NOW + 10**6, not_before=NOW + 10**6 - 86_400, not_after=later.not_after
    )
    assert made.request_path.read_bytes() == made.request.to_json()


def test_nothing_is_believed_before_joining(made):
    for ask in (lambda: made.pin, lambda: made.roster(NOW), lambda: made.authority(NOW)):
        with pytest.raises(NotJoined, match="fedrx site join"):
            ask()


@pytest.mark.parametrize(
    ("name", "data", "error", "ask"),
    [
        ("site.json", b"{}", SiteDamaged, SiteIdentity.keys),
        ("site.json", b"", SiteDamaged, SiteIdentity.keys),
        ("roster.json", b"{}", JoinRefused, lambda made: made.roster(NOW)),
        ("ca.crt", FOREIGN_CA, JoinRefused, lambda made: made.authority(NOW)),
        ("keys-0001/identity.key", b"", KeyUnusable, SiteIdentity.keys),
        ("keys-0001/enrolment-request.json", b"{}", SiteDamaged, SiteIdentity.keys),
    ],
)
def test_damage_on_disk_is_named(made, name, data, error, ask):
    join(made)
    (made.folder / name).write_bytes(data)
    with pytest.raises(error):
        ask(SiteIdentity(made.folder))


def test_every_field_of_the_state_is_checked(made):
    join(made)
    path = made.folder / "site.json"
    good = path.read_bytes()
    for old, new in (
        (b'"generation":1', b'"generation":0'),
        (b'"generation":1', b'"generation":"1"'),
        (b'"serial":1', b'"serial":-1'),
        (b'"site":"charite"', b'"site":"a b"'),
        (b'"site":"charite"', b'"site":"charite","spare":1'),
        (b'"consortium":"', b'"consortium":"AA=='),
        (b'"pin":{', b'"pin":7,"x":{'),
    ):
        assert old in good
        path.write_bytes(good.replace(old, new))
        with pytest.raises(SiteDamaged, match="restore the folder"):
            SiteIdentity(made.folder)


def test_an_old_roster_put_back_on_disk(made):
    first = roster_with(made)
    join(made, first)
    made.join(roster_with(made, serial=2), now=NOW)
    (made.folder / "roster.json").write_bytes(first)
    with pytest.raises(JoinRefused, match="has seen 2"):
        made.roster(NOW)


def test_keys_of_another_site_put_in_place(tmp_path, made):
    other = create(tmp_path / "other")
    theirs = (other.folder / "keys-0001" / "identity.key").read_bytes()
    (made.folder / "keys-0001" / "identity.key").write_bytes(theirs)
    with pytest.raises(SiteDamaged, match="not those of the request"):
        made.keys()


def test_keys_that_others_may_read(made):
    (made.folder / "keys-0001" / "identity.key").chmod(0o644)
    with pytest.raises(KeyUnusable):
        made.keys()


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(FolderUnusable, match=r"is no site folder; `fedrx site init .*` makes one"):
        SiteIdentity(tmp_path)


def cut_off(folder, roster, write, now):
    """Join in a process that dies at its n-th write."""
    seen = []

    def dying(real):
        def act(path, data):
            seen.append(path)
            if len(seen) == write:
                os._exit(9)
            real(path, data)

        return act

    identity_module.write_public = dying(identity_module.write_public)
    identity_module.write_private = dying(identity_module.write_private)
    identity_module.shutil.rmtree = lambda _: os._exit(9)
    SiteIdentity(folder).join(roster, now=now)


@pytest.mark.parametrize("write", [1, 2, 3, 4])
def test_a_crash_while_taking_new_keys_into_use(made, write):
    join(made)
    made.rotate(now=NOW)
    roster = roster_with(made, serial=2)
    assert exit_code(cut_off, made.folder, roster, write, NOW) == 9
    after = SiteIdentity(made.folder)
    assert after.keys()
    if write <= 2:
        assert after.roster(NOW).serial == 1
    elif write == 3:  # the new roster is there, the new keys are not in use yet
        with pytest.raises(NotEnrolled, match="fedrx site join"):
            after.roster(NOW)
    else:
        assert after.roster(NOW).serial == 2
    assert after.join(roster, now=NOW).serial == 2
    assert after.roster(NOW).serial == 2
    assert after.keys().identity.public_key().public_bytes_raw() == made.request.request.identity
    assert sorted(path.name for path in made.folder.glob("keys-*")) == ["keys-0002"]
