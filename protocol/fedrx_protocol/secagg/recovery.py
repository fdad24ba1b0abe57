"""What a site keeps on disk to finish an UNMASK after a restart (decision 0002)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fedrx_common.canonical_json import MalformedMessage, from_base64, from_json, to_base64, to_json
from fedrx_protocol.messages.secure_aggregation import UnmaskReply, UnmaskRequest
from fedrx_protocol.secagg.errors import ShareInvalid
from fedrx_protocol.secagg.keys import open_share


@dataclass(frozen=True)
class RecoveryRecord:
    """What answering UNMASK of one context needs, and nothing that RESOLVE would need.

    Attributes:
        channels: peer to the AES key of this context's share channel with it.
        share: this site's share of its own seed.
    """

    channels: Mapping[str, bytes] = field(repr=False)
    share: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """Canonical JSON, for the guard."""
        channels = {peer: to_base64(key) for peer, key in self.channels.items()}
        return to_json({"channels": channels, "share": to_base64(self.share)})

    @classmethod
    def from_bytes(cls, data: bytes) -> "RecoveryRecord":
        """Read what `to_bytes` wrote.

        Raises:
            MalformedMessage: the site's store is damaged.
        """
        document = from_json(data, source="A guard record's kit")
        if set(document) != {"channels", "share"}:
            raise MalformedMessage("A guard record's kit lacks a field.")
        channels = {
            peer: from_base64(key, source="A kit's channel key")
            for peer, key in document["channels"].items()
        }
        return cls(channels=channels, share=from_base64(document["share"], source="A kit's share"))

    def reply(self, site: str, request: UnmaskRequest, owners: Iterable[str]) -> UnmaskReply:
        """The shares of `owners` that `site` was sent, and its own; what does not open is named.

        Args:
            site: the reader.
            request: the context, and the ciphertexts by owner.
            owners: the site's neighbours among the survivors, sorted.
        """
        shares, unreadable = {site: self.share}, []
        for owner in owners:
            sealed = request.shares.get(owner, b"")
            try:
                shares[owner] = open_share(
                    self.channels[owner], request.context, owner, site, sealed
                )
            except ShareInvalid:
                unreadable.append(owner)
        return UnmaskReply(
            site=site, context=request.context, shares=shares, unreadable=tuple(unreadable)
        )
