"""X.509 for the coordinator's door: a CA for ten years, a server certificate for thirteen months.

Sites trust the CA and never see its renewal; the server certificate can be renewed any day
without telling them. The CA may sign server certificates only (path length 0).
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedrx_common.address import AddressInvalid
from fedrx_protocol.trust.authority import authority_uri

AUTHORITY_LIFE = timedelta(days=3652)
SERVER_LIFE = timedelta(days=397)  # what browsers and proxies accept at most
BACKDATED = timedelta(hours=1)  # a site's clock may be behind ours
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LABEL = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True)
class Authority:
    """The CA: its private key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """The certificate, to hand out."""
        return self.certificate.public_bytes(Encoding.PEM)


@dataclass(frozen=True)
class ServerCertificate:
    """What the SuperLink shows its sites."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def make_authority(name: str, consortium_key: Ed25519PrivateKey, now: int) -> Authority:
    """Make a CA that the consortium key vouches for.

    Args:
        name: the consortium's, at most 64 characters.
        consortium_key: signs the CA's public key, so that sites recognise it (`verify_authority`).
        now: unix seconds.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _subject(name)
    vouched = x509.SubjectAlternativeName([authority_uri(key.public_key(), consortium_key)])
    certificate = (
        _builder(subject, subject, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(vouched, critical=False)
        .sign(key, hashes.SHA384())
    )
    return Authority(key, certificate)


def issue_server_certificate(
    authority: Authority, hosts: Sequence[str], now: int
) -> ServerCertificate:
    """Make a TLS key and its certificate for these hosts, and for loopback.

    Args:
        authority: who signs.
        hosts: DNS names and IP addresses under which sites reach the coordinator.
        now: unix seconds.

    Raises:
        AddressInvalid: a name is neither.
    """
    # P-256 here: a handshake is several times quicker, and the key lives thirteen months.
    key = ec.generate_private_key(ec.SECP256R1())
    names = [general_name(host) for host in dict.fromkeys([*hosts, *LOOPBACK])]
    issuer = authority.certificate.subject
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    server_only = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = (
        _builder(_subject("FedRx coordinator"), issuer, key.public_key(), now, SERVER_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(server_only, critical=False)
        .add_extension(issuer_key, critical=False)
        .add_extension(x509.SubjectAlternativeName(list(dict.fromkeys(names))), critical=False)
        .sign(authority.key, hashes.SHA384())
    )
    return ServerCertificate(key, certificate)


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The hosts a server certificate was asked for, without loopback."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = [str(name.value) for name in names]
    return tuple(host for host in hosts if host not in LOOPBACK)


def general_name(host: str) -> x509.GeneralName:
    """A DNS name or an IP address as a certificate writes it.

    Raises:
        AddressInvalid: it is neither; a scheme, a port, a path and a wildcard are not allowed.
    """
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host = host[1:-1]  # the form of an IPv6 address before a port
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    name = host.lower()
    numeric = re.fullmatch(r"[0-9.]+", name)  # 10.0.0.300 is a mistyped address, not a name
    if numeric or not _HOST_NAME.fullmatch(name):
        raise AddressInvalid(
            f"Host {host!r} is neither a DNS name nor an IP address; give it with --host without "
            "scheme, port or wildcard, and an international name in its xn-- form."
        )
    return x509.DNSName(name)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: int,
    life: timedelta,
) -> x509.CertificateBuilder:
    at = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - BACKDATED)
        .not_valid_after(at + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
