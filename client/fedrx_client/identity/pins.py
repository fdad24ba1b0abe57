"""Whom a site trusts: the pinned consortium, and what is verified against it.

A site pins it once, by a fingerprint read out on the telephone. From then on it trusts nothing that
another key signed, and no roster older than one already seen: that could bring a revoked site back.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fedrx_common.canonical_json import MalformedMessage, from_base64, from_json, to_base64, to_json
from fedrx_common.errors import FedRxError, MisuseError
from fedrx_common.files import unusable
from fedrx_common.text import LONGEST_LINE, fault_in
from fedrx_protocol.trust.authority import verify_authority
from fedrx_protocol.trust.roster import KEY_BYTES, MAX_TIME, SITE_ID, Roster, SignedRoster

_FINGERPRINT = re.compile(r"[A-Z2-7]{4}([\s-]*[A-Z2-7]{4}){7}")
_DIGEST_BYTES = 32


class SiteDamaged(MisuseError):
    """The site's own record of keys and pins is not what this site wrote."""


class JoinRefused(MisuseError):
    """A roster or CA that this site must not trust; what it trusted before stays."""


@dataclass(frozen=True)
class Pin:
    """The consortium a site trusts, and the newest roster it has seen.

    Attributes:
        consortium: raw Ed25519 public key, 32 bytes.
        serial: of that roster.
        roster: its digest, 32 bytes.
    """

    consortium: bytes
    serial: int
    roster: bytes

    def __post_init__(self) -> None:
        lengths = len(self.consortium), len(self.roster)
        if lengths != (KEY_BYTES, _DIGEST_BYTES) or not 0 <= self.serial <= MAX_TIME:
            raise SiteDamaged("the pinned consortium is not a key, a serial and a digest")

    @property
    def content(self) -> str:
        """What the audit log names it by: serial and digest."""
        return f"{self.serial}:{self.roster.hex()}"


@dataclass(frozen=True)
class SiteState:
    """What `site.json` holds.

    Attributes:
        site: its id.
        name: what people call it.
        generation: which keys are in use, from 1.
        pin: the consortium, or None before the first join.
    """

    site: str
    name: str
    generation: int
    pin: Pin | None

    def __post_init__(self) -> None:
        if not SITE_ID.fullmatch(self.site) or self.generation < 1:
            raise SiteDamaged("a site needs an id and a generation of keys")
        if fault_in(self.name, least=1, most=LONGEST_LINE) is not None:
            raise SiteDamaged("a site needs a name that can be shown")

    def to_json(self) -> bytes:
        """Canonical JSON."""
        pin = self.pin and {
            "consortium": to_base64(self.pin.consortium),
            "roster": to_base64(self.pin.roster),
            "serial": self.pin.serial,
        }
        return to_json(
            {"generation": self.generation, "name": self.name, "pin": pin, "site": self.site}
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `to_json` wrote.

        Raises:
            SiteDamaged: it is not such a document.
            FolderUnusable: it is not there.
        """
        data = read_file(path)
        try:
            document = from_json(data, source=str(path))
            pinned = document["pin"]
            pin = None
            if pinned is not None:
                consortium = from_base64(pinned["consortium"], source="The consortium key")
                roster = from_base64(pinned["roster"], source="The roster digest")
                pin = Pin(consortium=consortium, serial=pinned["serial"], roster=roster)
            state = cls(**{**document, "pin": pin})
        except (MalformedMessage, SiteDamaged, KeyError, TypeError, AttributeError):
            state = None
        if state is None or state.to_json() != data:
            raise SiteDamaged(
                f"{path}: is not what this site wrote; restore the folder from a backup."
            )
        return state


def require_fingerprint(text: str) -> str:
    """Refuse a mistyped fingerprint before it is compared, so that the remedy can be named.

    Raises:
        JoinRefused: not eight groups of four letters A-Z and digits 2-7.
    """
    if not _FINGERPRINT.fullmatch(text.strip().upper()):
        raise JoinRefused(
            f"{text!r} is no fingerprint: it has eight groups of four letters and digits 2 to 7; "
            "let the coordinator read it to you again."
        )
    return text.strip()


def verified_roster(data: bytes, pin: str | bytes, now: int) -> Roster:
    """Return the roster in `data`, if the pinned key signed it and all entries are valid.

    Args:
        data: content of a roster.json.
        pin: fingerprint or raw key.
        now: unix seconds.

    Raises:
        JoinRefused: it is not.
    """
    try:
        return SignedRoster.from_json(data).verify(pin, now)
    except FedRxError as error:
        raise JoinRefused(f"The roster is refused. {error}") from None


def verified_authority(pem: bytes, consortium: bytes, now: int) -> bytes:
    """Return the CA certificate, if the consortium key signed it and it is valid.

    Raises:
        JoinRefused: it is not.
    """
    try:
        verify_authority(pem, consortium, now)
    except FedRxError as error:
        raise JoinRefused(f"The CA is refused. {error}") from None
    return pem


def require_not_older(pin: Pin, roster: Roster) -> None:
    """Refuse a roster that goes back in time, or a second one of the same serial.

    Raises:
        JoinRefused: it does, or is.
    """
    if roster.serial < pin.serial:
        raise JoinRefused(
            f"The roster has serial {roster.serial}, this site has seen {pin.serial}: an old one "
            "could bring a revoked site back; ask the coordinator for the present roster."
        )
    if roster.serial == pin.serial and roster.digest != pin.roster:
        raise JoinRefused(
            f"There are two rosters of serial {roster.serial}: the consortium key signed different "
            "things for different sites; take part in nothing and telephone the other sites."
        )


def require_newest_pin(pin: Pin, noted: str, path: Path) -> None:
    """Refuse a pin that is older than the audit log knows of.

    A newer one is trusted: the consortium signed it, and a crash came before its line.

    Args:
        pin: from `site.json`.
        noted: `Pin.content` in the newest line about it.
        path: of `site.json`.

    Raises:
        SiteDamaged: it is older.
    """
    serial, _, digest = noted.partition(":")
    if not serial.isdecimal() or pin.serial > int(serial):
        return
    if (pin.serial, pin.roster.hex()) != (int(serial), digest):
        raise SiteDamaged(
            f"{path}: this site has believed roster {serial}, as its audit log says, and roster "
            f"{pin.serial} is an older one or another, which could bring a revoked site back; put "
            "the newest copy of the file back, or join with the coordinator's present roster."
        )


def read_file(path: Path) -> bytes:
    """Read a file of this site; an error names it.

    Raises:
        FolderUnusable: it cannot be read.
    """
    with unusable(path):
        return path.read_bytes()
