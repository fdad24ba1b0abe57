"""Who belongs to the consortium: site ids, identity keys and their validity, signed once.

A site pins the fingerprint of the consortium key, read out of band (telephone, paper), and trusts
only identity keys that this signature covers. Nothing here reads a clock: the caller gives the
time.
"""

import base64
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedrx_common.canonical_json import (
    MalformedMessage,
    from_base64,
    from_json,
    packed,
    to_base64,
    to_json,
)
from fedrx_common.errors import MisuseError, PeerError
from fedrx_common.text import LONGEST_LINE, fault_in, lookalike, quoted

SITE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEY_BYTES = 32
SIGNATURE_BYTES = 64
T = TypeVar("T")
MAX_TIME = 2**53  # unix seconds; what every JSON reader holds exactly


class RosterInvalid(MisuseError):
    """A roster cannot be used: a site, name or key twice, a wrong key length, an empty validity."""


class RosterSignatureInvalid(PeerError):
    """The roster is not signed by the pinned consortium key.

    Prevents a coordinator from inventing sites whose secrets it knows.
    """


class RosterEntryExpired(PeerError):
    """A site's entry is not valid at this time, so its identity key must not be trusted."""


@dataclass(frozen=True)
class SiteEntry:
    """One site of the consortium.

    Attributes:
        site: id, unique in the roster: letters, digits, '.', '_' and '-', at most 64.
        name: what people call it, one line of at most 200 characters; never used as a key.
        identity: raw Ed25519 public key, 32 bytes.
        not_before: first unix second of its validity.
        not_after: last unix second of its validity.
    """

    site: str
    name: str
    identity: bytes
    not_before: int
    not_after: int

    def __post_init__(self) -> None:
        if not SITE_ID.fullmatch(self.site):
            raise RosterInvalid(
                f"Site id {quoted(self.site)} is not allowed: use 1 to 64 letters, digits, '.', "
                "'_', '-'."
            )
        fault = fault_in(self.name, least=1, most=LONGEST_LINE)
        if fault is not None:
            raise RosterInvalid(f"Site '{self.site}': its name {quoted(self.name)} {fault}.")
        if len(self.identity) != KEY_BYTES:
            raise RosterInvalid(
                f"Site '{self.site}': an Ed25519 public key has {KEY_BYTES} bytes, "
                f"not {len(self.identity)}."
            )
        if not 0 <= self.not_before <= self.not_after <= MAX_TIME:
            raise RosterInvalid(
                f"Site '{self.site}': not_before must not lie after not_after (unix seconds)."
            )

    def valid_at(self, now: int) -> bool:
        """Whether the entry covers unix second `now`."""
        return self.not_before <= now <= self.not_after


@dataclass(frozen=True)
class Roster:
    """The sites of a consortium, sorted by id; `serial` grows with each new edition."""

    sites: tuple[SiteEntry, ...]
    serial: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", tuple(sorted(self.sites, key=lambda entry: entry.site)))
        _require_distinct("site id", [lookalike(entry.site) for entry in self.sites])
        _require_distinct("site name", [lookalike(entry.name) for entry in self.sites])
        _require_distinct("identity key", [entry.identity.hex() for entry in self.sites])
        if not 0 <= self.serial <= MAX_TIME:
            raise RosterInvalid(f"Roster serial {self.serial} must be zero or a positive integer.")

    @property
    def ids(self) -> tuple[str, ...]:
        """Site ids in order."""
        return tuple(entry.site for entry in self.sites)

    @functools.cached_property
    def _by_id(self) -> Mapping[str, SiteEntry]:
        return {entry.site: entry for entry in self.sites}

    def entry(self, site: str) -> SiteEntry | None:
        """The entry of `site`, or None if it is not on the roster."""
        return self._by_id.get(site)

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 over the canonical form, 32 bytes."""
        return hashlib.sha256(packed("fedrx/1 roster", self.canonical())).digest()

    def canonical(self) -> bytes:
        """The bytes that are signed and hashed."""
        return to_json(_roster_document(self))


@dataclass(frozen=True)
class SignedRoster:
    """A roster under the consortium's signature; trust it only after `verify`.

    Attributes:
        roster: the unverified content.
        signature: Ed25519 signature by the consortium key, 64 bytes.
        consortium: the consortium's raw Ed25519 public key, 32 bytes, to compare with the pin.
    """

    roster: Roster
    signature: bytes
    consortium: bytes

    def verify(self, pin: str | bytes, now: int) -> Roster:
        """Return the roster if the pinned key signed it and every entry is valid.

        Args:
            pin: the consortium key's fingerprint (see `fingerprint`), or its raw 32 bytes.
            now: unix seconds.

        Raises:
            RosterSignatureInvalid: another key, or another content, than the signature's.
            RosterEntryExpired: an entry is not valid at `now`; renew the roster.
        """
        if isinstance(pin, bytes):
            pinned = pin == self.consortium
        else:
            typed = re.sub(r"[\s-]", "", pin).upper()
            pinned = typed == fingerprint(self.consortium).replace("-", "")
        if not pinned:
            raise RosterSignatureInvalid(
                f"The roster is signed by {fingerprint(self.consortium)}, not by the pinned "
                "consortium key; check the fingerprint with the consortium by telephone."
            )
        try:
            key = Ed25519PublicKey.from_public_bytes(self.consortium)
            key.verify(self.signature, _signed_bytes(self.roster))
        except (InvalidSignature, ValueError):
            raise RosterSignatureInvalid(
                "The roster's content does not match its signature: it was changed after signing."
            ) from None
        expired = [entry.site for entry in self.roster.sites if not entry.valid_at(now)]
        if expired:
            raise RosterEntryExpired(
                f"Roster entries not valid now: {', '.join(expired)}; ask the consortium for a "
                "renewed roster."
            )
        return self.roster

    def to_json(self) -> bytes:
        """Canonical JSON, as kept in a file or sent."""
        return to_json(
            {
                "consortium": to_base64(self.consortium),
                "roster": _roster_document(self.roster),
                "signature": to_base64(self.signature),
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> "SignedRoster":
        """Read what `to_json` wrote; nothing is verified yet.

        Raises:
            MalformedMessage: not such a document.
            RosterInvalid: its entries cannot be used.
        """
        document = from_json(data, source="The signed roster")
        try:
            return cls(
                roster=_roster_from(document["roster"]),
                signature=from_base64(document["signature"], source="The roster's signature"),
                consortium=from_base64(document["consortium"], source="The consortium key"),
            )
        except (KeyError, TypeError, AttributeError):
            raise MalformedMessage("The signed roster lacks a field or has a wrong type.") from None


def sign_roster(roster: Roster, consortium_key: Ed25519PrivateKey) -> SignedRoster:
    """Sign `roster` with the consortium's private key."""
    return SignedRoster(
        roster=roster,
        signature=consortium_key.sign(_signed_bytes(roster)),
        consortium=consortium_key.public_key().public_bytes_raw(),
    )


def fingerprint(public_key: bytes | Ed25519PublicKey) -> str:
    """Write a key's fingerprint, to be read aloud: 160 bits of SHA-256 as eight groups of four."""
    raw = public_key if isinstance(public_key, bytes) else public_key.public_bytes_raw()
    digest = hashlib.sha256(packed("fedrx/1 fingerprint", raw)).digest()
    text = base64.b32encode(digest[:20]).decode("ascii")
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def _signed_bytes(roster: Roster) -> bytes:
    return packed("fedrx/1 roster signature", roster.digest)


def _require_distinct(what: str, values: list[str]) -> None:
    twice = sorted(value for value, count in Counter(values).items() if count > 1)
    if twice:
        raise RosterInvalid(
            f"The roster has the {what} '{twice[0]}' twice, case and form aside; each site needs "
            "its own."
        )


def _roster_document(roster: Roster) -> dict[str, Any]:
    return {
        "serial": roster.serial,
        "sites": [
            {
                "identity": to_base64(entry.identity),
                "name": entry.name,
                "not_after": entry.not_after,
                "not_before": entry.not_before,
                "site": entry.site,
            }
            for entry in roster.sites
        ],
    }


def _roster_from(document: dict[str, Any]) -> Roster:
    entries = tuple(
        SiteEntry(
            site=_typed(item["site"], str),
            name=_typed(item["name"], str),
            identity=from_base64(item["identity"], source="A site's identity key"),
            not_before=_typed(item["not_before"], int),
            not_after=_typed(item["not_after"], int),
        )
        for item in document["sites"]
    )
    roster = Roster(sites=entries, serial=_typed(document["serial"], int))
    if _roster_document(roster) != document:
        raise MalformedMessage("The roster has unknown fields, or its sites are not in order.")
    return roster


def _typed(value: object, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError
    return value
