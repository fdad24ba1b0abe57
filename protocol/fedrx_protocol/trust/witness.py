"""A site's signed head of its audit log, which the coordinator keeps as a witness.

Nothing inside a site's folder shows that the whole folder is an older copy. So each answer carries
the log's head, signed, and each request carries the newest head that the coordinator has of the
site. A site whose log never had that head answers nothing. A witness can hold a head back, but not
invent one; it learns how many lines the log has, and no word of them.
"""

from dataclasses import dataclass

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
from fedrx_common.errors import PeerError
from fedrx_common.hash_chain import ChainHead, ChainHeadMistyped

MAX_BYTES = 1000


class HeadForged(PeerError):
    """A head that the site it names did not sign; it says nothing about that site's log."""


@dataclass(frozen=True)
class SignedHead:
    """The head of a site's audit log, signed with its identity key.

    Attributes:
        site: its id.
        head: number of lines and the last hash.
        signature: Ed25519, 64 bytes.
    """

    site: str
    head: ChainHead
    signature: bytes

    @classmethod
    def sign(cls, site: str, head: ChainHead, key: Ed25519PrivateKey) -> "SignedHead":
        """Sign a head with the site's identity key."""
        return cls(site, head, key.sign(_signed(site, head)))

    def verify(self, identity: bytes) -> None:
        """Check that this key signed the head.

        Args:
            identity: the site's raw Ed25519 public key, 32 bytes.

        Raises:
            HeadForged: it did not.
        """
        try:
            key = Ed25519PublicKey.from_public_bytes(identity)
            key.verify(self.signature, _signed(self.site, self.head))
        except (InvalidSignature, ValueError):
            raise HeadForged(
                f"a head in the name of '{self.site}' has a wrong signature."
            ) from None

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return to_json(
            {"head": str(self.head), "signature": to_base64(self.signature), "site": self.site}
        )

    @classmethod
    def from_json(cls, data: bytes) -> "SignedHead":
        """Read what `to_json` wrote; the signature is not verified yet.

        Raises:
            MalformedMessage: it is not such a document.
        """
        if len(data) > MAX_BYTES:
            raise MalformedMessage(f"A signed head has at most {MAX_BYTES} bytes.")
        document = from_json(data, source="The signed head")
        try:
            head = ChainHead.parse(document["head"])
            signature = from_base64(document["signature"], source="The head's signature")
            signed = cls(document["site"], head, signature)
        except (KeyError, TypeError, AttributeError, ChainHeadMistyped):
            raise MalformedMessage("The signed head is not a site, a head, a signature.") from None
        if signed.to_json() != data:
            raise MalformedMessage("The signed head has unknown fields.")
        return signed


def _signed(site: str, head: ChainHead) -> bytes:
    return packed("fedrx/1 audit head", site, head.count, head.hash)
