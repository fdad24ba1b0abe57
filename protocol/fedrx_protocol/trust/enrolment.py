"""The one document a site sends to join: its two public keys, and proof that it holds both.

A request proves possession, never identity: anybody can make one that says "Charité". People settle
out of band who sent it: they compare the identity key's fingerprint on the telephone. Nothing here
reads a clock or a file.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedrx_common.canonical_json import (
    MalformedMessage,
    from_base64,
    from_json,
    packed,
    to_base64,
    to_json,
)
from fedrx_common.errors import MisuseError, PeerError
from fedrx_common.text import LONGEST_LINE, fault_in, quoted
from fedrx_protocol.trust.roster import KEY_BYTES, MAX_TIME, SITE_ID, fingerprint

POINT_BYTES = 49  # a compressed point of P-384, SEC 1 section 2.3.3
SOURCE = "The enrolment request"
_POSSESSION_HASH = ec.ECDSA(hashes.SHA384())


class EnrolmentInvalid(MisuseError):
    """A request holds a value that no roster may hold: a site id, a key, a validity."""


class EnrolmentForged(PeerError):
    """The sender does not hold a key it names, or the request was changed after signing.

    Prevents enrolling somebody else's key under one's own name, and a change on the way.
    """


class EnrolmentExpired(PeerError):
    """The request is too old, or from the future; an old one may name keys given up since."""


@dataclass(frozen=True)
class EnrolmentLimits:
    """What a request may ask for; times in seconds."""

    max_age_s: int = 30 * 86_400
    max_ahead_s: int = 600
    max_validity_s: int = 3 * 366 * 86_400
    max_name_characters: int = LONGEST_LINE
    max_version_characters: int = 40


LIMITS = EnrolmentLimits()


@dataclass(frozen=True)
class EnrolmentRequest:
    """What a site asks for.

    Attributes:
        site: id it wants on the roster.
        name: what people call it.
        identity: raw Ed25519 public key, 32 bytes.
        authentication: the SuperNode's ECDSA P-384 public key, a compressed point, 49 bytes.
        not_before: first unix second of the validity it wants.
        not_after: last unix second of the validity it wants.
        version: FedRx release installed at the site.
        time: unix second at which it was made.
    """

    site: str
    name: str
    identity: bytes
    authentication: bytes
    not_before: int
    not_after: int
    version: str
    time: int

    def __post_init__(self) -> None:
        if not SITE_ID.fullmatch(self.site):
            raise EnrolmentInvalid(
                f"Site id {quoted(self.site)} is not allowed: use 1 to 64 letters, digits, '.', "
                "'_', '-'."
            )
        _require_text("name", self.name, LIMITS.max_name_characters)
        _require_text("FedRx version", self.version, LIMITS.max_version_characters)
        if len(self.identity) != KEY_BYTES:
            raise EnrolmentInvalid(
                f"An Ed25519 public key has {KEY_BYTES} bytes, not {len(self.identity)}."
            )
        _ = self.authentication_key
        if not all(0 <= time <= MAX_TIME for time in (self.not_before, self.not_after, self.time)):
            raise EnrolmentInvalid("Times are unix seconds, zero or later.")
        if not 0 <= self.not_after - self.not_before <= LIMITS.max_validity_s:
            raise EnrolmentInvalid(
                f"Site '{self.site}': a validity must end after its begin and last at most "
                f"{LIMITS.max_validity_s // 86_400} days."
            )

    @property
    def authentication_key(self) -> ec.EllipticCurvePublicKey:
        """The SuperNode's public key.

        Raises:
            EnrolmentInvalid: the bytes are not a compressed point of P-384.
        """
        point = self.authentication if len(self.authentication) == POINT_BYTES else b""
        try:
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)
        except ValueError:
            raise EnrolmentInvalid(
                "The authentication key is no compressed P-384 point; make the keys anew with "
                "`fedrx site init`."
            ) from None

    @property
    def authentication_ssh(self) -> str:
        """The same key as one OpenSSH line, which `flwr supernode register` reads."""
        line = self.authentication_key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        return f"{line.decode('ascii')} {self.site}"

    @property
    def fingerprint(self) -> str:
        """The identity key's fingerprint, to be compared on the telephone."""
        return fingerprint(self.identity)


@dataclass(frozen=True)
class SignedEnrolmentRequest:
    """A request with its two proofs; trust it only after `verify`.

    Attributes:
        request: the unverified content.
        possession: ECDSA P-384 signature over the request by the authentication key, DER.
        signature: Ed25519 signature over the request and `possession` by the identity key.
    """

    request: EnrolmentRequest
    possession: bytes
    signature: bytes

    def verify(self, now: int) -> EnrolmentRequest:
        """Return the request if its sender holds both keys and made it lately.

        Args:
            now: unix seconds.

        Raises:
            EnrolmentForged: a signature is not over this content by the key it names.
            EnrolmentExpired: made more than 30 days ago, or in the future.
        """
        request = self.request
        try:
            Ed25519PublicKey.from_public_bytes(request.identity).verify(
                self.signature, _signed_bytes(request, self.possession)
            )
            request.authentication_key.verify(
                self.possession, _possession_bytes(request), _POSSESSION_HASH
            )
        except InvalidSignature:
            raise EnrolmentForged(
                f"The request of site '{request.site}' is not signed by both keys it names: it was "
                "changed after signing, or its sender holds not both; ask the site for a new one."
            ) from None
        if not now - LIMITS.max_age_s <= request.time <= now + LIMITS.max_ahead_s:
            raise EnrolmentExpired(
                f"The request of site '{request.site}' is older than "
                f"{LIMITS.max_age_s // 86_400} days or from the future; compare the clocks, or let "
                "the site write a new one with `fedrx site request`."
            )
        return request

    def to_json(self) -> bytes:
        """Canonical JSON, as kept in a file or sent."""
        return to_json(
            {
                "possession": to_base64(self.possession),
                "request": _document(self.request),
                "signature": to_base64(self.signature),
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> "SignedEnrolmentRequest":
        """Read what `to_json` wrote; nothing is verified yet.

        Raises:
            MalformedMessage: not such a document.
            EnrolmentInvalid: its values cannot be used.
        """
        document = from_json(data, source=SOURCE)
        try:
            signed = cls(
                request=_request_from(document["request"]),
                possession=from_base64(document["possession"], source="The possession proof"),
                signature=from_base64(document["signature"], source="The request's signature"),
            )
        except (KeyError, TypeError, AttributeError):
            raise MalformedMessage(f"{SOURCE} lacks a field or has a wrong type.") from None
        if signed.to_json() != data:
            raise MalformedMessage(f"{SOURCE} has unknown fields.")
        return signed


def sign_request(
    request: EnrolmentRequest,
    identity_key: Ed25519PrivateKey,
    authentication_key: ec.EllipticCurvePrivateKey,
) -> SignedEnrolmentRequest:
    """Prove possession of both keys.

    Raises:
        EnrolmentInvalid: the private keys do not belong to the request's public ones.
    """
    own = identity_key.public_key().public_bytes_raw(), point_of(authentication_key.public_key())
    if own != (request.identity, request.authentication):
        raise EnrolmentInvalid("The request names other public keys than those it is signed with.")
    possession = authentication_key.sign(_possession_bytes(request), _POSSESSION_HASH)
    return SignedEnrolmentRequest(
        request, possession, identity_key.sign(_signed_bytes(request, possession))
    )


def point_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """Write a P-384 public key as its compressed point, 49 bytes."""
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _digest(request: EnrolmentRequest) -> bytes:
    return hashlib.sha256(packed("fedrx/1 enrolment", to_json(_document(request)))).digest()


def _possession_bytes(request: EnrolmentRequest) -> bytes:
    return packed("fedrx/1 enrolment possession", _digest(request))


def _signed_bytes(request: EnrolmentRequest, possession: bytes) -> bytes:
    """Cover the other proof too: an ECDSA signature has two spellings, this file only one."""
    return packed("fedrx/1 enrolment signature", _digest(request), possession)


def _require_text(what: str, value: str, most: int) -> None:
    fault = fault_in(value, least=1, most=most)
    if fault is not None:
        raise EnrolmentInvalid(f"The {what} {quoted(value)} {fault}.")


def _document(request: EnrolmentRequest) -> dict[str, Any]:
    return {
        "authentication": to_base64(request.authentication),
        "identity": to_base64(request.identity),
        "name": request.name,
        "not_after": request.not_after,
        "not_before": request.not_before,
        "site": request.site,
        "time": request.time,
        "version": request.version,
    }


def _request_from(document: dict[str, Any]) -> EnrolmentRequest:
    return EnrolmentRequest(
        site=_text(document["site"]),
        name=_text(document["name"]),
        identity=from_base64(document["identity"], source="The identity key"),
        authentication=from_base64(document["authentication"], source="The authentication key"),
        not_before=_integer(document["not_before"]),
        not_after=_integer(document["not_after"]),
        version=_text(document["version"]),
        time=_integer(document["time"]),
    )


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _integer(value: object) -> int:
    if type(value) is not int:
        raise TypeError
    return value
