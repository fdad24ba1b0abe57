"""The enrolment request: both keys proved, nothing changed on the way, not too old."""

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_common.canonical_json import MalformedMessage, packed, to_json
from fedrx_common.errors import FedRxError
from fedrx_protocol.trust.enrolment import (
    LIMITS,
    EnrolmentExpired,
    EnrolmentForged,
    EnrolmentInvalid,
    EnrolmentRequest,
    SignedEnrolmentRequest,
    point_of,
    sign_request,
)
from fedrx_protocol.trust.roster import fingerprint

NOW = 1_800_000_000
IDENTITY = Ed25519PrivateKey.from_private_bytes(b"i" * 32)
SUPERNODE = ec.derive_private_key(7, ec.SECP384R1())
ORDER_P384 = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffff"
    "c7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)


def request(**changes):
    values = {
        "site": "charite",
        "name": "Charité – Berlin",
        "identity": IDENTITY.public_key().public_bytes_raw(),
        "authentication": point_of(SUPERNODE.public_key()),
        "not_before": NOW - 60,
        "not_after": NOW + 1000,
        "version": "0.1.0",
        "time": NOW,
    }
    return EnrolmentRequest(**(values | changes))


SIGNED = sign_request(request(), IDENTITY, SUPERNODE)


def test_a_request_verifies_and_survives_as_json():
    again = SignedEnrolmentRequest.from_json(SIGNED.to_json())
    assert again == SIGNED
    assert again.verify(NOW) == request()
    assert again.request.fingerprint == fingerprint(IDENTITY.public_key())


def test_the_signed_bytes_are_frozen():
    # Written out by hand, so that a change of labels or fields cannot go unseen.
    document = json.loads(SIGNED.to_json())
    digest = hashes.Hash(hashes.SHA256())
    digest.update(packed("fedrx/1 enrolment", to_json(document["request"])))
    content = digest.finalize()
    assert content.hex() == "25df51461a86e3f0ff5d228d212665842dde9055879b0226a9b396fd3e649735"
    IDENTITY.public_key().verify(
        SIGNED.signature, packed("fedrx/1 enrolment signature", content, SIGNED.possession)
    )
    SUPERNODE.public_key().verify(
        SIGNED.possession,
        packed("fedrx/1 enrolment possession", content),
        ec.ECDSA(hashes.SHA384()),
    )


def test_the_supernode_key_is_one_openssh_line():
    line = SIGNED.request.authentication_ssh
    assert line.startswith("ecdsa-sha2-nistp384 ")
    assert line.endswith(" charite")
    read = serialization.load_ssh_public_key(line.encode())
    assert read == SUPERNODE.public_key()


OTHER = {
    "site": "mayo",
    "name": "Mayo",
    "identity": Ed25519PrivateKey.from_private_bytes(b"x" * 32).public_key().public_bytes_raw(),
    "authentication": point_of(ec.derive_private_key(8, ec.SECP384R1()).public_key()),
    "not_before": NOW - 61,
    "not_after": NOW + 1001,
    "version": "0.1.1",
    "time": NOW - 1,
}


@pytest.mark.parametrize("field", sorted(OTHER))
def test_every_field_is_signed(field):
    forged = replace(SIGNED, request=replace(SIGNED.request, **{field: OTHER[field]}))
    with pytest.raises(EnrolmentForged, match="not signed by both keys"):
        forged.verify(NOW)


@settings(deadline=None)
@given(where=st.integers(0, len(SIGNED.to_json()) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused(where, bit):
    data = bytearray(SIGNED.to_json())
    data[where] ^= 1 << bit
    with pytest.raises(FedRxError):
        SignedEnrolmentRequest.from_json(bytes(data)).verify(NOW)


def test_the_other_spelling_of_the_possession_proof_is_refused():
    r, s = decode_dss_signature(SIGNED.possession)
    twin = encode_dss_signature(r, ORDER_P384 - s)
    inner = packed(
        "fedrx/1 enrolment possession",
        bytes.fromhex("25df51461a86e3f0ff5d228d212665842dde9055879b0226a9b396fd3e649735"),
    )
    SUPERNODE.public_key().verify(twin, inner, ec.ECDSA(hashes.SHA384()))  # a valid ECDSA proof
    with pytest.raises(EnrolmentForged):
        replace(SIGNED, possession=twin).verify(NOW)


def test_a_stranger_cannot_enrol_another_s_supernode_key():
    """Signed well by his own identity key, but without the SuperNode's private key."""
    thief = Ed25519PrivateKey.from_private_bytes(b"t" * 32)
    own = ec.derive_private_key(9, ec.SECP384R1())
    his = request(
        identity=thief.public_key().public_bytes_raw(),
        authentication=point_of(own.public_key()),
    )
    signed = sign_request(his, thief, own)
    stolen = replace(his, authentication=point_of(SUPERNODE.public_key()))
    digest = hashes.Hash(hashes.SHA256())
    document = json.loads(SIGNED.to_json())["request"] | {
        "identity": json.loads(signed.to_json())["request"]["identity"]
    }
    digest.update(packed("fedrx/1 enrolment", to_json(document)))
    outer = packed("fedrx/1 enrolment signature", digest.finalize(), signed.possession)
    with pytest.raises(EnrolmentForged):
        replace(signed, request=stolen, signature=thief.sign(outer)).verify(NOW)
    with pytest.raises(EnrolmentInvalid, match="other public keys"):
        sign_request(stolen, thief, own)


@pytest.mark.parametrize("late", [0, LIMITS.max_age_s])
def test_age_up_to_the_limit(late):
    assert SIGNED.verify(NOW + late)
    assert SIGNED.verify(NOW - LIMITS.max_ahead_s)


@pytest.mark.parametrize("now", [NOW + LIMITS.max_age_s + 1, NOW - LIMITS.max_ahead_s - 1])
def test_too_old_or_from_the_future(now):
    with pytest.raises(EnrolmentExpired, match="30 days"):
        SIGNED.verify(now)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"site": "a b"}, "Site id"),
        ({"name": " "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"version": ""}, "version"),
        ({"identity": b"short"}, "32 bytes"),
        ({"authentication": b"short"}, "P-384"),
        ({"authentication": b"\x05" + bytes(48)}, "P-384"),
        ({"not_after": NOW - 61}, "validity"),
        ({"not_after": NOW + LIMITS.max_validity_s}, "validity"),
        ({"time": -1}, "unix seconds"),
        ({"not_after": 2**60}, "unix seconds"),
    ],
)
def test_values_that_no_roster_may_hold(change, says):
    with pytest.raises(EnrolmentInvalid, match=says):
        request(**change)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"time":1800000000', b'"time":"1800000000"'),
        (b'"time":1800000000', b'"time":1800000000.0'),
        (b'"time":1800000000', b'"time":true'),
        (b'"site":"charite"', b'"site":7'),
        (b'"site":"charite"', b'"site":"charite","spare":1'),
        (b',"signature"', b',"signature2"'),
        (b'"possession":"', b'"possession":"!'),
        (b'{"possession"', b'{ "possession"'),
    ],
)
def test_damaged_json(old, new):
    data = SIGNED.to_json()
    assert old in data
    with pytest.raises(MalformedMessage):
        SignedEnrolmentRequest.from_json(data.replace(old, new, 1))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_name(data):
    with pytest.raises(MalformedMessage):
        SignedEnrolmentRequest.from_json(data)
