"""From a masked sum to the sum: what the coordinator asks for in UNMASK, and how it rebuilds seeds.

A `MaskedSum` is everything that must survive a crash of the coordinator: it is stored before the
first UNMASK leaves, and after a crash the same requests are sent again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedrx_common.canonical_json import MalformedMessage, from_base64, from_json, to_base64, to_json
from fedrx_protocol.messages import codec
from fedrx_protocol.messages.secure_aggregation import (
    RingVector,
    RoundRequest,
    UnmaskReply,
    UnmaskRequest,
)
from fedrx_protocol.secagg.blame import (
    ShareFault,
    Verdict,
    most_liars,
    owner_lied,
    proved_by_faults,
)
from fedrx_protocol.secagg.errors import (
    ContextMismatch,
    ContextSpent,
    ParticipantsInvalid,
    ShareInvalid,
    TooFewSites,
)
from fedrx_protocol.secagg.graph import Graph
from fedrx_protocol.secagg.keys import commitment
from fedrx_protocol.secagg.masking import add_keystreams
from fedrx_protocol.secagg.parameters import SecAggParameters
from fedrx_protocol.secagg.shamir import recover

_LENGTH_BYTES = 8
_VECTOR_TYPE = np.dtype("<u4")


@dataclass(frozen=True, eq=False)
class MaskedSum:
    """A sum that only the survivors' self masks still cover.

    Attributes:
        request: the round.
        parameters: the agreed numbers.
        survivors: V, sorted.
        vector: uint32 of shape `(length,)`.
        commitments: survivor to the commitment of its seed.
        shares: owner of a seed, then holder, to the ciphertext for that holder; V in both.
    """

    request: RoundRequest
    parameters: SecAggParameters
    survivors: tuple[str, ...]
    vector: RingVector = field(repr=False)
    commitments: Mapping[str, bytes] = field(repr=False)
    shares: Mapping[str, Mapping[str, bytes]] = field(repr=False)

    def requests(self) -> dict[str, UnmaskRequest]:
        """Make one request for each survivor: the list, and the ciphertexts addressed to it."""
        addressed: dict[str, dict[str, bytes]] = {holder: {} for holder in self.survivors}
        for owner, sealed in self.shares.items():
            for holder, ciphertext in sealed.items():
                addressed[holder][owner] = ciphertext
        return {
            holder: UnmaskRequest(self.request.context, self.survivors, shares)
            for holder, shares in addressed.items()
        }

    def to_bytes(self) -> bytes:
        """Length of the header (8 bytes, big-endian), header (canonical JSON), vector."""
        numbers = self.parameters
        header = to_json(
            {
                "request": to_base64(codec.encode(self.request)),
                "parameters": [
                    numbers.n,
                    numbers.threshold,
                    numbers.max_colluding,
                    numbers.min_honest,
                    numbers.degree,
                    numbers.share_threshold,
                ],
                "survivors": list(self.survivors),
                "length": self.vector.size,
                "commitments": _texts(self.commitments),
                "shares": {owner: _texts(sealed) for owner, sealed in self.shares.items()},
            }
        )
        vector = self.vector.astype(_VECTOR_TYPE, copy=False).tobytes()
        return len(header).to_bytes(_LENGTH_BYTES, "big") + header + vector

    @classmethod
    def from_bytes(cls, data: bytes) -> "MaskedSum":
        """Read what `to_bytes` wrote.

        Raises:
            MalformedMessage: it is not such a state; the run's file is damaged.
        """
        end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
        document = from_json(data[_LENGTH_BYTES:end], source="The stored masked sum")
        if len(data) - end != document.get("length", -1) * _VECTOR_TYPE.itemsize:
            raise MalformedMessage("The stored masked sum is cut short.")
        try:
            request = from_base64(document["request"], source="The stored request")
            return cls(
                request=codec.decode(request, RoundRequest),
                parameters=SecAggParameters(*document["parameters"]),
                survivors=tuple(document["survivors"]),
                vector=np.frombuffer(data[end:], dtype=_VECTOR_TYPE).astype(np.uint32),
                commitments=_bytes(document["commitments"]),
                shares={owner: _bytes(sealed) for owner, sealed in document["shares"].items()},
            )
        except (KeyError, TypeError, AttributeError, ValueError):
            raise MalformedMessage(
                "The stored masked sum lacks a field or has a wrong type."
            ) from None


class Unmasking:
    """Collects UNMASK replies and opens the sum once there are enough."""

    def __init__(self, masked: MaskedSum, graph: Graph) -> None:
        self.masked = masked
        self._graph = graph
        self._replies: dict[str, UnmaskReply] = {}
        self._faults: set[ShareFault] = set()
        self._broken: list[str] = []
        self._total: RingVector | None = None

    @property
    def faults(self) -> tuple[ShareFault, ...]:
        """Shares found wrong so far, by owner and holder."""
        return tuple(sorted(self._faults))

    def add(self, reply: UnmaskReply) -> None:
        """Take one site's shares.

        Raises:
            ContextMismatch: the reply is about another context.
            ParticipantsInvalid: not a survivor, or not an answer for each share that it holds.
            ContextSpent: the site has answered already.
        """
        survivors, site = self.masked.survivors, reply.site
        if reply.context != self.masked.request.context:
            raise ContextMismatch(f"'{site}' answered for another context.")
        if site not in survivors:
            raise ParticipantsInvalid(f"'{site}' is not among the survivors.")
        named = sorted([*reply.shares, *reply.unreadable])
        if tuple(named) != self._graph.holders(site, survivors) or site not in reply.shares:
            raise ParticipantsInvalid(f"'{site}' did not answer once for each share that it holds.")
        if site in self._replies:
            raise ContextSpent(f"'{site}' has answered UNMASK already.")
        self._replies[site] = reply
        self._faults |= {ShareFault(owner, site) for owner in reply.unreadable}

    @property
    def can_open(self) -> bool:
        """Whether enough shares of every survivor's seed are there."""
        least = self.masked.parameters.share_threshold
        return all(len(self._holders(owner)) >= least for owner in self.masked.survivors)

    def total(self) -> RingVector:
        """The plain sum over the survivors, uint32 of shape `(length,)`.

        Raises:
            TooFewSites: shares are missing; `can_open` is False.
            ShareInvalid: a seed cannot be rebuilt; its owner is named.
        """
        if not self.can_open:
            raise TooFewSites(
                f"{len(self._replies)} of {len(self.masked.survivors)} survivors have answered, "
                "too few to open the sum."
            )
        if self._total is not None:
            return self._total
        seeds: list[bytes] = []
        failed: dict[str, ShareInvalid] = {}
        for owner in self.masked.survivors:  # tries each, so that one verdict is about them all
            try:
                seeds.append(self._seed(owner))
            except ShareInvalid as error:
                failed[owner] = error
        self._broken = sorted(failed)
        for owner, why in failed.items():
            rest = f" The same holds for {len(failed) - 1} more." if len(failed) > 1 else ""
            raise ShareInvalid(f"The seed of '{owner}' cannot be rebuilt: {why}{rest}")
        total = self.masked.vector.copy()
        add_keystreams(total, minus=seeds)
        self._total = total
        return total

    @property
    def verdict(self) -> Verdict:
        """Sites that sent wrong shares, as far as the replies so far show it."""
        numbers = self.masked.parameters
        least, liars = numbers.share_threshold, most_liars(numbers)
        proved = set(proved_by_faults(self._faults, liars))
        doubtful: set[str] = set()
        for owner in self.masked.survivors:
            came = len(self._holders(owner))
            complaints = sum(owner in reply.unreadable for reply in self._replies.values())
            everybody = len(self._graph.holders(owner, self.masked.survivors))
            if owner not in self._broken and (came >= least or came + complaints < everybody):
                continue
            (proved if owner_lied(came, complaints, least, liars) else doubtful).add(owner)
        return Verdict(frozenset(proved), frozenset(doubtful - proved), self.faults)

    def _holders(self, owner: str) -> list[str]:
        return [site for site, reply in self._replies.items() if owner in reply.shares]

    def _seed(self, owner: str) -> bytes:
        """The owner's seed, from the holders that were not found wrong before, if possible."""
        points, context = self._graph.points, self.masked.request.context
        suspects = {fault.holder for fault in self._faults}
        holders = sorted(self._holders(owner), key=lambda site: (site in suspects, points[site]))
        committed = self.masked.commitments[owner]
        seed, wrong = recover(
            [(points[holder], self._replies[holder].shares[owner]) for holder in holders],
            self.masked.parameters.share_threshold,
            lambda candidate: commitment(candidate, context, owner) == committed,
        )
        self._faults |= {ShareFault(owner, holder) for holder in holders if points[holder] in wrong}
        return seed


def _texts(values: Mapping[str, bytes]) -> dict[str, str]:
    return {site: to_base64(value) for site, value in values.items()}


def _bytes(values: Mapping[str, str]) -> dict[str, bytes]:
    return {
        site: from_base64(value, source="An entry of the stored masked sum")
        for site, value in values.items()
    }
