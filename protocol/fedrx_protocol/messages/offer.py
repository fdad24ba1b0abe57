"""How a coordinator opens a run with a live site: who it is for, under which roster, by which code.

The offer lets a site find what it approved; it grants nothing. Study, roster and release are
compared with what the site holds itself, and no setting of a round is ever taken from an offer.
"""

import re
from dataclasses import dataclass

from fedrx_common.canonical_json import MalformedMessage
from fedrx_protocol.messages.secure_aggregation import DIGEST_BYTES

MAX_ROSTER_BYTES = 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")


@dataclass(frozen=True)
class RunOffer:
    """Coordinator to a site: take part in this run.

    Attributes:
        run: name of the run, part of every key derivation; up to 128 letters, digits, '._+-'.
        study: digest of the study, 32 bytes.
        roster: the signed roster of the run, as JSON; the site verifies it against its pin.
        version: FedRx release of the coordinator.
        time: the coordinator's clock, unix seconds.
    """

    run: str
    study: bytes
    roster: bytes
    version: str
    time: int

    def __post_init__(self) -> None:
        _require_name("run", self.run)
        _require_name("version", self.version)
        if len(self.study) != DIGEST_BYTES:
            raise MalformedMessage(f"The study digest must have {DIGEST_BYTES} bytes.")
        if not 0 < len(self.roster) <= MAX_ROSTER_BYTES:
            raise MalformedMessage(f"An offer's roster must have 1 to {MAX_ROSTER_BYTES} bytes.")
        if not 0 <= self.time < 2**53:
            raise MalformedMessage("An offer's time must be unix seconds.")


@dataclass(frozen=True)
class OfferReply:
    """A site to the coordinator: what runs here. It has opened the run if the releases agree.

    Attributes:
        version: FedRx release of the site; another one than the offer's takes no part.
    """

    version: str

    def __post_init__(self) -> None:
        _require_name("version", self.version)


def _require_name(what: str, value: str) -> None:
    if not _NAME.fullmatch(value):
        raise MalformedMessage(f"The {what} of an offer is no name: {value[:80]!r}.")
