"""The CA and the TLS certificate, judged by `cryptography`'s verifier and by a real handshake."""

import ipaddress
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import given
from hypothesis import strategies as st

from fedrx_common.address import AddressInvalid
from fedrx_common.key_files import pem_of
from fedrx_protocol.trust.authority import (
    AuthorityInvalid,
    AuthorityNotConsortium,
    verify_authority,
)
from fedrx_server.consortium.certificates import (
    AUTHORITY_LIFE,
    SERVER_LIFE,
    general_name,
    hosts_of,
    issue_server_certificate,
    make_authority,
)

NOW = int(datetime.now(UTC).timestamp())
CONSORTIUM = Ed25519PrivateKey.from_private_bytes(b"c" * 32)
HOSTS = ["fl.example.org", "10.1.2.3", "fd00::7"]


@pytest.fixture(scope="module")
def authority():
    return make_authority("Warfarin – 3 hospitals", CONSORTIUM, NOW)


@pytest.fixture(scope="module")
def issued(authority):
    return issue_server_certificate(authority, HOSTS, NOW)


def verified(authority, certificate, subject, *, after=timedelta()):
    at = datetime.fromtimestamp(NOW, UTC) + after
    policy = PolicyBuilder().store(Store([authority.certificate])).time(at)
    return policy.build_server_verifier(subject).verify(certificate, [])


@pytest.mark.parametrize(
    "host", ["fl.example.org", "10.1.2.3", "fd00::7", "localhost", "127.0.0.1", "::1"]
)
def test_the_certificate_is_valid_for_every_host_and_loopback(authority, issued, host):
    try:
        subject = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    assert len(verified(authority, issued.certificate, subject)) == 2


@pytest.mark.parametrize("host", ["evil.example.org", "example.org", "x.fl.example.org"])
def test_and_for_no_other(authority, issued, host):
    with pytest.raises(VerificationError):
        verified(authority, issued.certificate, x509.DNSName(host))


def test_it_ends_in_time(authority, issued):
    host = x509.DNSName("localhost")
    verified(authority, issued.certificate, host, after=SERVER_LIFE - timedelta(seconds=1))
    verified(authority, issued.certificate, host, after=-timedelta(minutes=59))
    for after in (SERVER_LIFE + timedelta(seconds=1), -timedelta(minutes=61)):
        with pytest.raises(VerificationError):
            verified(authority, issued.certificate, host, after=after)


def test_another_ca_does_not_verify_it(issued):
    other = make_authority("Warfarin – 3 hospitals", CONSORTIUM, NOW)
    with pytest.raises(VerificationError):
        verified(other, issued.certificate, x509.DNSName("localhost"))


def test_a_server_certificate_signs_nothing(issued):
    extensions = issued.certificate.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    usages = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert usages == [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]


def test_the_ca_is_p384_long_lived_and_signs_end_certificates_only(authority):
    certificate = authority.certificate
    assert isinstance(certificate.public_key().curve, ec.SECP384R1)
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert basic.value == x509.BasicConstraints(ca=True, path_length=0)
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert life == AUTHORITY_LIFE + timedelta(hours=1)


def test_sites_can_tell_the_ca_by_the_consortium_key(authority):
    pin = CONSORTIUM.public_key().public_bytes_raw()
    assert verify_authority(authority.pem, pin, NOW) == authority.certificate
    stranger = Ed25519PrivateKey.from_private_bytes(b"x" * 32).public_key().public_bytes_raw()
    with pytest.raises(AuthorityNotConsortium):
        verify_authority(authority.pem, stranger, NOW)
    with pytest.raises(AuthorityInvalid):
        verify_authority(authority.pem, pin, NOW + int(AUTHORITY_LIFE.total_seconds()) + 1)


def test_the_hosts_can_be_read_back(issued, authority):
    assert hosts_of(issued.certificate) == tuple(HOSTS)
    doubled = issue_server_certificate(authority, ["Localhost", "a.b", "A.B"], NOW)
    assert hosts_of(doubled.certificate) == ("a.b",)


@pytest.mark.parametrize(
    "host",
    ["", "https://a.b", "a.b:443", "*.a.b", "a/b", "a b", "-a.b", "a..b", "münchen.de", "1.2.3",
     "10.0.0.300", "a" * 64, ".".join(["a" * 50] * 6), "a.b\n", "a_b.c"],
)  # fmt: skip
def test_names_that_no_certificate_should_have(host):
    with pytest.raises(AddressInvalid, match="--host"):
        general_name(host)


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_refused(text):
    try:
        name = general_name(text)
    except AddressInvalid:
        return
    assert str(name.value).lower() == str(name.value)


def test_a_real_tls_handshake(tmp_path, authority, issued):
    (tmp_path / "key").write_bytes(pem_of(issued.key, None))
    (tmp_path / "crt").write_bytes(issued.certificate.public_bytes(Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    client = ssl.create_default_context(cadata=authority.pem.decode())
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            peer, _ = listener.accept()
            with peer, server.wrap_socket(peer, server_side=True) as tls:
                tls.sendall(b"hello")

        thread = threading.Thread(target=serve)
        thread.start()
        with (
            socket.create_connection(listener.getsockname()) as plain,
            client.wrap_socket(plain, server_hostname="fl.example.org") as tls,
        ):
            assert tls.version() == "TLSv1.3"
            assert tls.recv(5) == b"hello"
        thread.join()
