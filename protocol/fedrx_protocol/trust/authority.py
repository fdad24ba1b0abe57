"""The consortium's certificate authority, tied to the consortium key that sites have pinned.

A CA certificate proves nothing about who made it. So it carries, as a URI among its names, the
consortium key's signature over the CA's public key: one fingerprint read on the telephone then
covers roster and TLS alike. Nothing here reads a clock or a file.
"""

from contextlib import suppress
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedrx_common.canonical_json import packed
from fedrx_common.errors import MisuseError, PeerError

URI_PREFIX = "fedrx:consortium-signature:"


class AuthorityInvalid(MisuseError):
    """A file that is not a CA certificate, or one that is not valid now."""


class AuthorityNotConsortium(PeerError):
    """A CA that the consortium key did not sign.

    Prevents a stranger's CA from being pinned, under which he could play the coordinator.
    """


def authority_uri(authority: ec.EllipticCurvePublicKey, key: Ed25519PrivateKey) -> x509.GeneralName:
    """Make the name that ties a CA's public key to the consortium key."""
    return x509.UniformResourceIdentifier(URI_PREFIX + key.sign(_signed_bytes(authority)).hex())


def verify_authority(pem: bytes, consortium: bytes, now: int) -> x509.Certificate:
    """Return the CA certificate if the consortium key signed it and it is valid now.

    Args:
        pem: one certificate, PEM.
        consortium: the pinned consortium key, raw 32 bytes.
        now: unix seconds.

    Raises:
        AuthorityInvalid: no self-signed P-384 CA certificate, or not valid at `now`.
        AuthorityNotConsortium: the consortium key did not sign it.
    """
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        found = []
    if len(found) != 1:
        raise AuthorityInvalid(
            f"The CA file must hold one PEM certificate, not {len(found)}; take ca.crt as the "
            "coordinator handed it out."
        )
    certificate = found[0]
    if not _is_signed(certificate, _authority_key(certificate), consortium):
        raise AuthorityNotConsortium(
            "The CA certificate is not signed by the pinned consortium key; take ca.crt and "
            "roster.json from the same coordinator, and trust neither until they match."
        )
    at = datetime.fromtimestamp(now, UTC)
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        raise AuthorityInvalid(
            f"The CA certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}, not now; check this machine's clock, or "
            "ask the consortium for a new one."
        )
    return certificate


def _authority_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    try:
        certificate.verify_directly_issued_by(certificate)
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, InvalidSignature, ValueError, TypeError):
        basic = None
    if basic is None or not basic.ca or not isinstance(key, ec.EllipticCurvePublicKey):
        raise AuthorityInvalid(
            "The certificate is no self-signed CA of a FedRx consortium; take ca.crt as the "
            "coordinator handed it out."
        )
    return key


def _is_signed(
    certificate: x509.Certificate, authority: ec.EllipticCurvePublicKey, consortium: bytes
) -> bool:
    """Look among the certificate's URIs for a signature by the consortium key."""
    message = _signed_bytes(authority)
    key = Ed25519PublicKey.from_public_bytes(consortium)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        if uri.startswith(URI_PREFIX):
            with suppress(InvalidSignature, ValueError):
                key.verify(bytes.fromhex(uri.removeprefix(URI_PREFIX)), message)
                return True
    return False


def _signed_bytes(authority: ec.EllipticCurvePublicKey) -> bytes:
    der = authority.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return packed("fedrx/1 certificate authority", der)
