"""The messages of secure aggregation: frozen, checked when built, free of any transport.

A message that exists is well formed; whether it is true is for the party that reads it. Site ids
in tuples are sorted and distinct, so that equal lists are equal bytes.
"""

import functools
import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrx_common.canonical_json import MalformedMessage, packed
from fedrx_protocol.trust.roster import SITE_ID

DIGEST_BYTES = 32
KEY_BYTES = 32
SEED_BYTES = 32
SHARE_BYTES = 33  # a field element below 2^257
SEALED_SHARE_BYTES = SHARE_BYTES + 16  # AES-GCM adds its tag
SIGNATURE_BYTES = 64
MAX_COUNTER = 2**53 - 1  # epochs, rounds, attempts: what every JSON reader holds exactly

RingVector = NDArray[np.uint32]


@dataclass(frozen=True)
class AdvertRequest:
    """Coordinator to all: make new keys for this epoch and advertise them."""

    session: bytes
    epoch: int

    def __post_init__(self) -> None:
        _require_bytes("session", self.session, DIGEST_BYTES)
        _require_counter("epoch", self.epoch)


@dataclass(frozen=True)
class Advert:
    """A site's public keys for one epoch, signed with its identity key.

    Attributes:
        site: id on the roster.
        session: 32 bytes.
        epoch: key epoch; part of what is signed, so that no older advert can be replayed.
        mask_public: X25519 public key behind the pairwise masks.
        channel_public: X25519 public key behind the encrypted shares.
        signature: Ed25519, over `signed_bytes`.
    """

    site: str
    session: bytes
    epoch: int
    mask_public: bytes
    channel_public: bytes
    signature: bytes

    def __post_init__(self) -> None:
        _require_site(self.site)
        _require_bytes("session", self.session, DIGEST_BYTES)
        _require_counter("epoch", self.epoch)
        _require_bytes("mask key", self.mask_public, KEY_BYTES)
        _require_bytes("channel key", self.channel_public, KEY_BYTES)
        _require_bytes("signature", self.signature, SIGNATURE_BYTES)

    @property
    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        return advert_bytes(
            self.session, self.epoch, self.site, self.mask_public, self.channel_public
        )


def advert_bytes(
    session: bytes, epoch: int, site: str, mask_public: bytes, channel_public: bytes
) -> bytes:
    """The bytes a site signs when it advertises its keys."""
    return packed("fedrx/1 advert", session, epoch, site, mask_public, channel_public)


@dataclass(frozen=True)
class AdvertList:
    """Coordinator to a site: the adverts of its neighbours and its own, sorted by site."""

    session: bytes
    epoch: int
    adverts: tuple[Advert, ...]

    def __post_init__(self) -> None:
        _require_bytes("session", self.session, DIGEST_BYTES)
        _require_counter("epoch", self.epoch)
        _require_sites("adverts", tuple(advert.site for advert in self.adverts))


@dataclass(frozen=True)
class RoundRequest:
    """Coordinator to U: train on this model and send one masked vector.

    Attributes:
        session: 32 bytes.
        epoch: key epoch of the adverts in use.
        round: number of the round, from 1 on.
        attempt: number of the attempt at this round, from 0 on.
        participants: U, sorted.
        threshold: least number of sites the sum may be opened over.
        model_digest: SHA-256 of the broadcast model's bytes.
    """

    session: bytes
    epoch: int
    round: int
    attempt: int
    participants: tuple[str, ...]
    threshold: int
    model_digest: bytes

    def __post_init__(self) -> None:
        _require_bytes("session", self.session, DIGEST_BYTES)
        _require_counter("epoch", self.epoch)
        _require_counter("round", self.round)
        _require_counter("attempt", self.attempt)
        _require_counter("threshold", self.threshold)
        _require_sites("participants", self.participants)
        _require_bytes("model digest", self.model_digest, DIGEST_BYTES)

    @functools.cached_property
    def context(self) -> bytes:
        """32 bytes that differ as soon as anything in the request differs."""
        return hashlib.sha256(
            packed(
                "fedrx/1 context",
                self.session,
                self.epoch,
                self.round,
                self.attempt,
                self.model_digest,
                packed("participants", *self.participants),
                self.threshold,
            )
        ).digest()

    @property
    def order(self) -> tuple[int, int, int]:
        """What must grow from one round of a site to its next: round, epoch, attempt."""
        return (self.round, self.epoch, self.attempt)


@dataclass(frozen=True, eq=False)
class MaskedInput:
    """Site to coordinator: the only large message of a round.

    Attributes:
        site: who sends it.
        context: of the round as this site saw it.
        vector: uint32 of shape `(length,)`, uniform to a reader without the masks.
        commitment: SHA-256 over the self-mask seed, the context and the site.
        shares: for each peer, that peer's share of the seed, under AES-256-GCM (49 bytes).
    """

    site: str
    context: bytes
    vector: RingVector
    commitment: bytes
    shares: Mapping[str, bytes]

    def __post_init__(self) -> None:
        _require_site(self.site)
        _require_bytes("context", self.context, DIGEST_BYTES)
        _require_bytes("commitment", self.commitment, DIGEST_BYTES)
        _require_map("shares", self.shares, SEALED_SHARE_BYTES)
        if self.vector.dtype != np.uint32 or self.vector.ndim != 1:
            raise MalformedMessage("The masked vector must be one row of uint32.")


@dataclass(frozen=True)
class ResolveRequest:
    """Coordinator to survivors: these sites dropped; reveal the seeds shared with them."""

    context: bytes
    dropped: tuple[str, ...]

    def __post_init__(self) -> None:
        _require_bytes("context", self.context, DIGEST_BYTES)
        _require_sites("dropped", self.dropped)


@dataclass(frozen=True)
class ResolveReply:
    """Site to coordinator: this context's pairwise seeds toward each dropped neighbour."""

    site: str
    context: bytes
    seeds: Mapping[str, bytes]

    def __post_init__(self) -> None:
        _require_site(self.site)
        _require_bytes("context", self.context, DIGEST_BYTES)
        _require_map("seeds", self.seeds, SEED_BYTES)


@dataclass(frozen=True)
class UnmaskRequest:
    """Coordinator to V: the final list, and the share ciphertexts addressed to the reader."""

    context: bytes
    survivors: tuple[str, ...]
    shares: Mapping[str, bytes]

    def __post_init__(self) -> None:
        _require_bytes("context", self.context, DIGEST_BYTES)
        _require_sites("survivors", self.survivors)
        _require_map("shares", self.shares, SEALED_SHARE_BYTES)


@dataclass(frozen=True)
class UnmaskReply:
    """Site to coordinator: its shares of the survivors' seeds.

    Attributes:
        site: who answers.
        context: of the round.
        shares: owner of the seed to this site's share of it (33 bytes).
        unreadable: owners whose ciphertext did not open, or was not sent; named, so that the
            coordinator can say who broke the round.
    """

    site: str
    context: bytes
    shares: Mapping[str, bytes]
    unreadable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_site(self.site)
        _require_bytes("context", self.context, DIGEST_BYTES)
        _require_map("shares", self.shares, SHARE_BYTES)
        _require_sites("unreadable", self.unreadable)


SecAggMessage = (
    AdvertRequest
    | Advert
    | AdvertList
    | RoundRequest
    | MaskedInput
    | ResolveRequest
    | ResolveReply
    | UnmaskRequest
    | UnmaskReply
)


def _require_site(site: str) -> None:
    if not SITE_ID.fullmatch(site):
        raise MalformedMessage(f"{site!r} is no site id.")


def _require_sites(what: str, sites: tuple[str, ...]) -> None:
    for site in sites:
        _require_site(site)
    if any(left >= right for left, right in itertools.pairwise(sites)):
        raise MalformedMessage(f"The sites in {what} must be sorted and distinct.")


def _require_bytes(what: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise MalformedMessage(f"The {what} must have {length} bytes, not {len(value)}.")


def _require_counter(what: str, value: int) -> None:
    if not 0 <= value <= MAX_COUNTER:
        raise MalformedMessage(f"The {what} must be an integer of at least 0, not {value}.")


def _require_map(what: str, values: Mapping[str, bytes], length: int) -> None:
    for site, value in values.items():
        _require_site(site)
        _require_bytes(f"entry of {what} for '{site}'", value, length)
