"""A CA is believed only if the pinned consortium key signed its public key."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fedrx_protocol.trust.authority import (
    AuthorityInvalid,
    AuthorityNotConsortium,
    authority_uri,
    verify_authority,
)

NOW = 1_800_000_000
CONSORTIUM = ed25519.Ed25519PrivateKey.from_private_bytes(b"c" * 32)
PIN = CONSORTIUM.public_key().public_bytes_raw()
KEY = ec.derive_private_key(5, ec.SECP384R1())
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])


def certificate(*, key=KEY, signer=None, ca=True, names=None, issuer=NAME):
    at = datetime.fromtimestamp(NOW, UTC)
    names = [authority_uri(key.public_key(), CONSORTIUM)] if names is None else names
    builder = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(at)
        .not_valid_after(at + timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer or key, hashes.SHA384()).public_bytes(Encoding.PEM)


def uri(text):
    return x509.UniformResourceIdentifier(text)


def test_the_consortium_s_ca():
    found = verify_authority(certificate(), PIN, NOW)
    assert found.public_key() == KEY.public_key()


def test_other_names_beside_the_signature():
    names = [x509.DNSName("a.example"), uri("fedrx:x"), authority_uri(KEY.public_key(), CONSORTIUM)]
    assert verify_authority(certificate(names=names), PIN, NOW)


@pytest.mark.parametrize(
    "names",
    [
        [],
        [x509.DNSName("a.example")],
        [uri("fedrx:consortium-signature:")],
        [uri("fedrx:consortium-signature:zz")],
        [uri("fedrx:consortium-signature:" + "00" * 64)],
        [authority_uri(ec.derive_private_key(6, ec.SECP384R1()).public_key(), CONSORTIUM)],
        [authority_uri(KEY.public_key(), ed25519.Ed25519PrivateKey.from_private_bytes(b"x" * 32))],
    ],
)
def test_a_ca_the_consortium_did_not_sign(names):
    with pytest.raises(AuthorityNotConsortium, match="not signed by the pinned"):
        verify_authority(certificate(names=names), PIN, NOW)


def test_a_signature_under_another_prefix_does_not_count():
    signature = authority_uri(KEY.public_key(), CONSORTIUM).value.rsplit(":", 1)[1]
    with pytest.raises(AuthorityNotConsortium):
        verify_authority(certificate(names=[uri(signature)]), PIN, NOW)


def test_another_consortium_s_ca():
    other = ed25519.Ed25519PrivateKey.from_private_bytes(b"o" * 32).public_key().public_bytes_raw()
    with pytest.raises(AuthorityNotConsortium):
        verify_authority(certificate(), other, NOW)


def test_certificates_that_are_no_ca():
    stranger = ec.derive_private_key(6, ec.SECP384R1())
    other_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "other")])
    ed = ed25519.Ed25519PrivateKey.from_private_bytes(b"e" * 32)
    for pem in (
        certificate(ca=False),
        certificate(signer=stranger),
        certificate(issuer=other_name),
    ):
        with pytest.raises(AuthorityInvalid, match="no self-signed CA"):
            verify_authority(pem, PIN, NOW)
    at = datetime.fromtimestamp(NOW, UTC)
    edwards = (
        x509.CertificateBuilder(NAME, NAME, ed.public_key(), 1, at, at + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ed, None)
    )
    with pytest.raises(AuthorityInvalid, match="no self-signed CA"):
        verify_authority(edwards.public_bytes(Encoding.PEM), PIN, NOW)


@pytest.mark.parametrize("pem", [b"", b"no certificate", certificate() * 2])
def test_files_that_do_not_hold_one_certificate(pem):
    with pytest.raises(AuthorityInvalid, match="one PEM certificate"):
        verify_authority(pem, PIN, NOW)


@pytest.mark.parametrize("now", [NOW - 1, NOW + 10 * 86_400 + 1])
def test_a_ca_whose_time_is_over_or_not_come(now):
    with pytest.raises(AuthorityInvalid, match="not now"):
        verify_authority(certificate(), PIN, now)
