"""Keys of one epoch and what is derived from them for one context.

Roots come from X25519 and HKDF once an epoch; every secret of a round is expanded from a root with
a label and the round's context, so that no mask and no channel key ever serves two rounds.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from fedrx_common.canonical_json import (
    MalformedMessage,
    from_base64,
    from_json,
    packed,
    to_base64,
    to_json,
)
from fedrx_protocol.messages.secure_aggregation import KEY_BYTES, SEED_BYTES, Advert, advert_bytes
from fedrx_protocol.secagg.errors import AdvertForged, KeysRepeated, ShareInvalid, UnknownSite
from fedrx_protocol.trust.roster import Roster

MASK_LABEL = "fedrx/1 mask"
CHANNEL_LABEL = "fedrx/1 channel"
ROUND_MASK_LABEL = "fedrx/1 round mask"
ROUND_CHANNEL_LABEL = "fedrx/1 round channel"
SHARE_LABEL = "fedrx/1 share"

_PROBE = X25519PrivateKey.from_private_bytes(b"\x01" * KEY_BYTES)

Entropy = Callable[[int], bytes]


@dataclass(frozen=True)
class PairRoots:
    """What two sites share for an epoch: 32 bytes each for masks and for the share channel."""

    mask: bytes = field(repr=False)
    channel: bytes = field(repr=False)


@dataclass(frozen=True)
class EpochKeys:
    """A site's keys of one epoch; they live in its memory only.

    Attributes:
        advert: the public half, signed.
        mask_private: X25519 private key, erased (empty) once the roots are there.
        channel_private: likewise.
        roots: neighbour to the roots shared with it; empty until the adverts were accepted.
    """

    advert: Advert
    mask_private: bytes = field(repr=False)
    channel_private: bytes = field(repr=False)
    roots: Mapping[str, PairRoots] = field(repr=False)

    @classmethod
    def draw(
        cls, site: str, session: bytes, epoch: int, identity: Ed25519PrivateKey, entropy: Entropy
    ) -> "EpochKeys":
        """New keys, advertised under `identity`."""
        mask, channel = entropy(KEY_BYTES), entropy(KEY_BYTES)
        publics = (_public(mask), _public(channel))
        advert = Advert(
            site=site,
            session=session,
            epoch=epoch,
            mask_public=publics[0],
            channel_public=publics[1],
            signature=identity.sign(advert_bytes(session, epoch, site, *publics)),
        )
        return cls(advert=advert, mask_private=mask, channel_private=channel, roots={})

    def joined(self, adverts: Iterable[Advert]) -> "EpochKeys":
        """These keys with the roots shared with verified `adverts`, private keys forgotten.

        Raises:
            AdvertForged: a key is a low-order point, with which everybody could agree.
        """
        mask = X25519PrivateKey.from_private_bytes(self.mask_private)
        channel = X25519PrivateKey.from_private_bytes(self.channel_private)
        own = self.advert
        roots = {
            peer.site: PairRoots(
                mask=_root(MASK_LABEL, own, peer.site, _agree(mask, peer.mask_public, peer)),
                channel=_root(
                    CHANNEL_LABEL, own, peer.site, _agree(channel, peer.channel_public, peer)
                ),
            )
            for peer in adverts
        }
        return EpochKeys(advert=own, mask_private=b"", channel_private=b"", roots=roots)

    def to_bytes(self) -> bytes:
        """All keys as canonical JSON, for another process of the same site. Keep it secret."""
        advert = self.advert
        return to_json(
            {
                "site": advert.site,
                "session": to_base64(advert.session),
                "epoch": advert.epoch,
                "mask_public": to_base64(advert.mask_public),
                "channel_public": to_base64(advert.channel_public),
                "signature": to_base64(advert.signature),
                "mask_private": to_base64(self.mask_private),
                "channel_private": to_base64(self.channel_private),
                "roots": {
                    peer: to_base64(roots.mask + roots.channel)
                    for peer, roots in self.roots.items()
                },
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "EpochKeys":
        """Read what `to_bytes` wrote in another process of the same site.

        Raises:
            MalformedMessage: it is not such an export.
        """
        document = from_json(data, source="The exported keys")
        publics = ("session", "mask_public", "channel_public", "signature")
        privates = ("mask_private", "channel_private")
        try:
            found = {
                name: from_base64(document[name], source=f"The exported {name}")
                for name in (*publics, *privates)
            }
            public = {name: found[name] for name in publics}
            advert = Advert(site=document["site"], epoch=document["epoch"], **public)
            roots = {}
            for peer, text in document["roots"].items():
                pair = from_base64(text, source="An exported root")
                roots[peer] = PairRoots(mask=pair[:KEY_BYTES], channel=pair[KEY_BYTES:])
            return cls(advert, found["mask_private"], found["channel_private"], roots)
        except (KeyError, TypeError, AttributeError):
            raise MalformedMessage("The exported keys lack a field.") from None


def verify_advert(advert: Advert, roster: Roster) -> None:
    """Check that the site named in `advert` signed it, and that its keys can be used.

    Raises:
        UnknownSite: the site is not on the roster.
        AdvertForged: another key signed, the content was changed, or a key has low order.
    """
    entry = roster.entry(advert.site)
    if entry is None:
        raise UnknownSite(f"'{advert.site}' sent an advert but is not on the roster.")
    try:
        identity = Ed25519PublicKey.from_public_bytes(entry.identity)
        identity.verify(advert.signature, advert.signed_bytes)
    except (InvalidSignature, ValueError):
        raise AdvertForged(
            f"The advert of '{advert.site}' is not signed by its identity key on the roster."
        ) from None


def require_usable(advert: Advert) -> None:
    """Check, without keys of one's own, that both public keys can be agreed with.

    Raises:
        AdvertForged: a key has low order.
    """
    for public in (advert.mask_public, advert.channel_public):
        _agree(_PROBE, public, advert)


def require_distinct_keys(adverts: Iterable[Advert]) -> None:
    """Check that no public key appears twice.

    Raises:
        KeysRepeated: naming the site that repeats a key.
    """
    seen: dict[bytes, str] = {}
    for advert in adverts:
        for public in (advert.mask_public, advert.channel_public):
            if public in seen:
                raise KeysRepeated(f"'{advert.site}' uses a key of '{seen[public]}' again.")
            seen[public] = advert.site


def mask_seed(root: bytes, context: bytes) -> bytes:
    """The 32-byte seed of a pair's mask in one context."""
    return _expanded(ROUND_MASK_LABEL, root, context)


def channel_key(root: bytes, context: bytes) -> bytes:
    """The 32-byte AES key between a pair in one context."""
    return _expanded(ROUND_CHANNEL_LABEL, root, context)


def commitment(seed: bytes, context: bytes, site: str) -> bytes:
    """What a site publishes of its self-mask seed: SHA-256(seed, context, site)."""
    return hashlib.sha256(seed + context + site.encode("ascii")).digest()


def seal_share(key: bytes, context: bytes, sender: str, receiver: str, share: bytes) -> bytes:
    """Encrypt a share for its holder (AES-256-GCM)."""
    return AESGCM(key).encrypt(
        _nonce(sender, receiver), share, packed(SHARE_LABEL, context, sender, receiver)
    )


def open_share(key: bytes, context: bytes, sender: str, receiver: str, sealed: bytes) -> bytes:
    """Decrypt what `seal_share` gave.

    Raises:
        ShareInvalid: another key, context, sender or receiver, or a changed ciphertext.
    """
    try:
        return AESGCM(key).decrypt(
            _nonce(sender, receiver), sealed, packed(SHARE_LABEL, context, sender, receiver)
        )
    except InvalidTag:
        raise ShareInvalid(f"The share '{sender}' sent to '{receiver}' does not open.") from None


def _nonce(sender: str, receiver: str) -> bytes:
    # The key serves one context and each direction carries one share in it, so a bit is enough.
    return bytes(11) + (b"\x00" if sender < receiver else b"\x01")


def _expanded(label: str, root: bytes, context: bytes) -> bytes:
    return HKDFExpand(SHA256(), SEED_BYTES, packed(label, context)).derive(root)


def _root(label: str, own: Advert, peer: str, shared: bytes) -> bytes:
    info = packed(label, min(own.site, peer), max(own.site, peer))
    return HKDF(SHA256(), KEY_BYTES, own.session, info).derive(shared)


def _agree(private: X25519PrivateKey, public: bytes, advert: Advert) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise AdvertForged(
            f"A key of '{advert.site}' has low order; no secret can come of it."
        ) from None


def _public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
