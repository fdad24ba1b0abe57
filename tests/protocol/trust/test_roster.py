"""The roster: signed once, pinned by fingerprint, one id and one key a site."""

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from secagg_federation import identity_of, roster_of

from fedrx_common.canonical_json import MalformedMessage
from fedrx_protocol.trust.roster import (
    Roster,
    RosterEntryExpired,
    RosterInvalid,
    RosterSignatureInvalid,
    SignedRoster,
    SiteEntry,
    fingerprint,
    sign_roster,
)

CONSORTIUM = Ed25519PrivateKey.from_private_bytes(b"c" * 32)
PIN = fingerprint(CONSORTIUM.public_key())
NOW = 1_800_000_000


def entry(site="charite", **changes):
    values = {
        "site": site,
        "name": f"Charité – {site}",
        "identity": identity_of(site).public_key().public_bytes_raw(),
        "not_before": 0,
        "not_after": 2 * NOW,
    }
    return SiteEntry(**(values | changes))


@pytest.fixture
def signed():
    return sign_roster(Roster((entry("b"), entry("a")), serial=3), CONSORTIUM)


def test_a_signed_roster_verifies_by_fingerprint_or_key(signed):
    assert signed.verify(PIN, NOW).ids == ("a", "b")
    assert signed.verify(PIN.lower().replace("-", " "), NOW) == signed.roster
    assert signed.verify(CONSORTIUM.public_key().public_bytes_raw(), NOW) == signed.roster


def test_it_survives_as_json(signed):
    again = SignedRoster.from_json(signed.to_json())
    assert again == signed
    assert again.verify(PIN, NOW).digest == signed.roster.digest


def test_another_consortium_s_signature(signed):
    stranger = Ed25519PrivateKey.from_private_bytes(b"x" * 32)
    forged = sign_roster(signed.roster, stranger)
    with pytest.raises(RosterSignatureInvalid, match="fingerprint"):
        forged.verify(PIN, NOW)
    with pytest.raises(RosterSignatureInvalid, match="changed after signing"):
        replace(forged, consortium=signed.consortium).verify(PIN, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"serial": 4},
        {"sites": (entry("a"), entry("b"), entry("c"))},
        {"sites": (entry("a"), entry("b", identity=bytes(32)))},
        {"sites": (entry("a"), entry("b", not_after=3 * NOW))},
    ],
)
def test_any_change_after_signing(signed, change):
    changed = replace(signed, roster=replace(signed.roster, **change))
    with pytest.raises(RosterSignatureInvalid, match="changed after signing"):
        changed.verify(PIN, NOW)


def test_a_signature_of_the_wrong_length(signed):
    with pytest.raises(RosterSignatureInvalid):
        replace(signed, signature=b"short").verify(PIN, NOW)


@pytest.mark.parametrize("limits", [{"not_after": NOW - 1}, {"not_before": NOW + 1}])
def test_an_entry_outside_its_validity(limits):
    signed = sign_roster(Roster((entry("a"), entry("old", **limits)), serial=1), CONSORTIUM)
    with pytest.raises(RosterEntryExpired, match="old"):
        signed.verify(PIN, NOW)


def test_validity_includes_both_ends():
    held = entry("a", not_before=10, not_after=20)
    assert [held.valid_at(now) for now in (9, 10, 20, 21)] == [False, True, True, False]


@pytest.mark.parametrize("site", ["", "-a", "a b", "a/b", "ä", "a" * 65, "a\n"])
def test_site_ids_that_are_not_allowed(site):
    with pytest.raises(RosterInvalid, match="not allowed"):
        entry(site, identity=bytes(32))


def test_two_sites_with_the_same_id_or_key():
    with pytest.raises(RosterInvalid, match="site id 'a' twice"):
        Roster((entry("a"), entry("b"), entry("a")), serial=1)
    with pytest.raises(RosterInvalid, match="identity key"):
        Roster((entry("a"), entry("b", identity=entry("a").identity)), serial=1)


@pytest.mark.parametrize(
    ("one", "other"), [("Charité", "CHARITÉ"), ("Mayo", "Ｍａｙｏ"), ("Mayo", "Mayo")]
)
def test_two_sites_that_people_cannot_tell_apart(one, other):
    with pytest.raises(RosterInvalid, match="site name"):
        Roster((entry("a", name=one), entry("b", name=other)), serial=1)
    with pytest.raises(RosterInvalid, match="site id 'a' twice"):
        Roster((entry("a"), replace(entry("b"), site="A")), serial=1)


@pytest.mark.parametrize(
    "name", ["", "a\x1b[2J", "a\nb", "a\u202eb", "Charite\u0301", "a  b", "a" * 201], ids=ascii
)
def test_names_that_are_no_line_to_read(name):
    with pytest.raises(RosterInvalid, match=r"^Site 'charite': its name '[^\n]+\.$"):
        entry(name=name)
    signed = sign_roster(Roster((entry(),), 1), CONSORTIUM).to_json()
    hostile = json.dumps(name).encode()
    with pytest.raises((RosterInvalid, MalformedMessage)):
        SignedRoster.from_json(signed.replace(json.dumps(entry().name).encode(), hostile, 1))


def test_impossible_entries():
    with pytest.raises(RosterInvalid, match="32 bytes"):
        entry(identity=b"short")
    with pytest.raises(RosterInvalid, match="not_before"):
        entry(not_before=5, not_after=4)
    with pytest.raises(RosterInvalid, match="serial"):
        Roster((entry(),), serial=-1)


def test_the_digest_depends_on_content_and_not_on_order():
    one, other = Roster((entry("a"), entry("b")), 1), Roster((entry("b"), entry("a")), 1)
    assert one.digest == other.digest
    assert one.digest != Roster((entry("a"), entry("b")), 2).digest
    assert one.entry("a") == entry("a")
    assert one.entry("c") is None


def test_the_digest_and_fingerprint_are_frozen():
    assert (
        roster_of(3).digest.hex()
        == "c876b237964954a66740ca4cf7364067fe44527713f4c32d86a2f651f3821d39"
    )
    assert PIN == "UFV3-KEJE-U6KK-RTW3-NW2M-IHER-W7ZU-QIWV"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"serial":3', b'"serial":"3"'),
        (b'"serial":3', b'"serial":3.0'),
        (b'"serial":3,', b""),
        (b'"serial":3', b'"extra":1,"serial":3'),
        (b'"name":"', b'"name":1,"x":"'),
        (b'{"consortium"', b'{ "consortium"'),
        (b'"signature":"', b'"signature":"!'),
        (b'"site":"a"', b'"site":"z"'),
    ],
)
def test_damaged_json(signed, old, new):
    data = signed.to_json()
    assert old in data
    with pytest.raises(MalformedMessage):
        SignedRoster.from_json(data.replace(old, new, 1))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_name(data):
    with pytest.raises(MalformedMessage):
        SignedRoster.from_json(data)
