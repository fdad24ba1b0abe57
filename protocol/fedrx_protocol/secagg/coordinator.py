"""The coordinator's side: relays keys, adds masked vectors as they arrive, and opens the sum.

A pure driver: it gives messages to send and takes the replies; the caller moves them and decides
how long to wait. Replies are verified before they enter the sum; a bad one raises an error that
names the site, and leaves the sum as it was, so that the caller can go on without that site.
"""

from collections.abc import Container, Mapping, MutableMapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from fedrx_protocol.messages.secure_aggregation import (
    MaskedInput,
    ResolveReply,
    ResolveRequest,
    RingVector,
    RoundRequest,
    UnmaskReply,
    UnmaskRequest,
)
from fedrx_protocol.secagg.blame import ShareFault, Verdict
from fedrx_protocol.secagg.errors import (
    ContextMismatch,
    ContextSpent,
    OutOfOrder,
    ParticipantsInvalid,
    SessionMismatch,
    ThresholdChanged,
    VectorInvalid,
)
from fedrx_protocol.secagg.key_directory import KeyDirectory
from fedrx_protocol.secagg.masking import add_keystreams
from fedrx_protocol.secagg.unmasking import MaskedSum, Unmasking
from fedrx_protocol.trust.roster import Roster

__all__ = ["CoordinatorRound", "KeyDirectory", "Opened", "Phase"]


class Opened(NamedTuple):
    """The sum over the survivors (uint32, shape `(length,)`), and who they are."""

    vector: RingVector
    survivors: tuple[str, ...]


class Phase(Enum):
    """The stage of a round."""

    COLLECTING = "collecting masked vectors"
    RESOLVING = "resolving the masks toward dropped sites"
    UNMASKING = "unmasking"


# Which steps are legal in which phase; all else raises and changes nothing.
_LEGAL: Mapping[Phase, frozenset[str]] = MappingProxyType(
    {
        Phase.COLLECTING: frozenset({"add", "close"}),
        Phase.RESOLVING: frozenset({"add_resolve", "close"}),
        Phase.UNMASKING: frozenset({"unmask_requests", "add_unmask", "result", "to_bytes"}),
    }
)


class CoordinatorRound:
    """One attempt at one round.

    Call `add` for each masked vector as it arrives, then `close`; while that gives requests, send
    them, `add_resolve` the replies and `close` again. When it gives an empty dictionary, store
    `to_bytes`, send `unmask_requests`, `add_unmask` the replies, and take the `result`.

    Args:
        keys: the epoch's keys.
        request: what the participants were asked.
        length: values of the summed vector.
        inputs: where the vectors are kept until no site can drop any more, since a site that drops
            in RESOLVE must be taken out again; in memory by default, on disk where n * length is
            large. Emptied as soon as the list of survivors is final. The round itself keeps one
            vector, whatever the number of sites.

    Raises:
        SessionMismatch: the request is of another session or epoch than the keys.
        ThresholdChanged: not the agreed threshold.
        ParticipantsInvalid: a participant is not on the roster.
    """

    def __init__(
        self,
        keys: KeyDirectory,
        request: RoundRequest,
        *,
        length: int,
        inputs: MutableMapping[str, RingVector] | None = None,
    ) -> None:
        if (request.session, request.epoch) != (keys.session, keys.epoch):
            raise SessionMismatch("The round is of another session or epoch than its keys.")
        if request.threshold != keys.parameters.threshold:
            raise ThresholdChanged(
                f"The round has a threshold of {request.threshold}; "
                f"{keys.parameters.threshold} was agreed."
            )
        outside = set(request.participants).difference(keys.graph.sites)
        if outside:
            raise ParticipantsInvalid(f"'{min(outside)}' is not on the roster.")
        self.request = request
        self._graph = keys.graph
        self._parameters = keys.parameters
        self._sum = np.zeros(length, dtype=np.uint32)
        self._inputs: MutableMapping[str, RingVector] = {} if inputs is None else inputs
        self._commitments: dict[str, bytes] = {}
        self._shares: dict[str, Mapping[str, bytes]] = {}
        self._asked: dict[str, ResolveRequest] = {}
        self._resolved: dict[str, Mapping[str, bytes]] = {}
        self._opening: Unmasking | None = None
        self._phase = Phase.COLLECTING

    @property
    def answered(self) -> tuple[str, ...]:
        """Sites whose vector is in the sum, sorted; the survivors, once the list is final."""
        return tuple(sorted(self._shares))

    def add(self, message: MaskedInput) -> None:
        """Add one site's masked vector to the sum.

        Raises:
            ParticipantsInvalid: not a participant, or its shares are not for its neighbours.
            ContextSpent: its vector is in the sum already.
            ContextMismatch: it answered for another model, list or round.
            VectorInvalid: the vector has another length.
        """
        self._require("add")
        site = message.site
        self._require_answer(site, message.context, self.request.participants)
        if site in self._shares:
            raise ContextSpent(f"'{site}' has sent a vector already.")
        if message.vector.shape != self._sum.shape:
            raise VectorInvalid(
                f"'{site}' sent {message.vector.size} values, the round has {self._sum.size}."
            )
        if tuple(sorted(message.shares)) != self._graph.peers(site, self.request.participants):
            raise ParticipantsInvalid(f"'{site}' did not send one share to each of its neighbours.")
        # First kept, then added: where the disk is full the sum stays as it was.
        self._inputs[site] = message.vector
        np.add(self._sum, message.vector, out=self._sum)
        self._commitments[site] = message.commitment
        self._shares[site] = message.shares

    def close(self) -> dict[str, ResolveRequest] | None:
        """End the present stage: a site that has not answered has dropped.

        Returns:
            Requests to send, by site; empty if nothing is left to resolve and the list of
            survivors is final; None if too few sites remain (nothing has changed: wait for more
            answers, or give the attempt up).
        """
        self._require("close")
        silent = self._asked.keys() - self._resolved.keys()
        survivors = tuple(site for site in self.answered if site not in silent)
        if len(survivors) < self._parameters.threshold or self._graph.thin(survivors):
            return None
        for site in silent:
            np.subtract(self._sum, self._inputs.pop(site), out=self._sum)
            del self._shares[site], self._commitments[site]
        if silent or self._phase is Phase.COLLECTING:
            # Every survivor that has a dropped neighbour is asked for its seeds, all of them again.
            dropped = tuple(sorted(set(self.request.participants) - set(survivors)))
            request = ResolveRequest(context=self.request.context, dropped=dropped)
            self._asked = {site: request for site in survivors if self._graph.peers(site, dropped)}
            self._resolved = {}
            self._phase = Phase.RESOLVING
        else:
            self._asked = {}
        if not self._asked:
            self._settle(survivors)
        return dict(self._asked)

    def add_resolve(self, reply: ResolveReply) -> None:
        """Take one survivor's seeds toward the dropped sites.

        Raises:
            ParticipantsInvalid: it was not asked, or did not send exactly the seeds asked for.
            ContextMismatch: it answered for another context.
        """
        self._require("add_resolve")
        self._require_answer(reply.site, reply.context, self._asked)
        dropped = self._asked[reply.site].dropped
        if tuple(sorted(reply.seeds)) != self._graph.peers(reply.site, dropped):
            raise ParticipantsInvalid(f"'{reply.site}' did not send the seeds it was asked for.")
        self._resolved[reply.site] = reply.seeds

    def unmask_requests(self) -> dict[str, UnmaskRequest]:
        """The list and the share ciphertexts, by survivor; always the same."""
        return self._open("unmask_requests").masked.requests()

    def add_unmask(self, reply: UnmaskReply) -> None:
        """Take one survivor's shares.

        Raises:
            PeerError: as for `Unmasking.add`.
        """
        self._open("add_unmask").add(reply)

    @property
    def can_open(self) -> bool:
        """Whether `result` has enough shares."""
        return self._opening is not None and self._opening.can_open

    @property
    def faults(self) -> tuple[ShareFault, ...]:
        """Shares found wrong or unreadable so far, by owner and holder."""
        return self._opening.faults if self._opening is not None else ()

    @property
    def verdict(self) -> Verdict:
        """Sites that sent wrong shares, as far as it shows; empty before the unmasking."""
        return Verdict() if self._opening is None else self._opening.verdict

    def result(self) -> Opened:
        """The plain sum and its survivors.

        Raises:
            TooFewSites: shares are missing; `can_open` is False.
            ShareInvalid: a seed cannot be rebuilt; its owner is named.
        """
        opening = self._open("result")
        return Opened(vector=opening.total(), survivors=opening.masked.survivors)

    def to_bytes(self) -> bytes:
        """What must be stored before the first UNMASK leaves."""
        return self._open("to_bytes").masked.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, roster: Roster) -> "CoordinatorRound":
        """Go on at UNMASK after a crash, with the same requests as before.

        Raises:
            MalformedMessage: the state is damaged.
            ParametersImpossible: it belongs to another roster.
        """
        masked = MaskedSum.from_bytes(data)
        keys = KeyDirectory(
            session=masked.request.session,
            epoch=masked.request.epoch,
            roster=roster,
            parameters=masked.parameters,
        )
        resumed = cls(keys, masked.request, length=masked.vector.size)
        resumed._enter_unmasking(masked)
        return resumed

    def _require(self, step: str) -> None:
        if step not in _LEGAL[self._phase]:
            raise OutOfOrder(f"'{step}' is not possible while {self._phase.value}.")

    def _require_answer(self, site: str, context: bytes, expected: Container[str]) -> None:
        if site not in expected:
            raise ParticipantsInvalid(f"'{site}' answered but was not asked.")
        if context != self.request.context:
            raise ContextMismatch(
                f"'{site}' answered for another context: it saw another model, list or round."
            )

    def _settle(self, survivors: tuple[str, ...]) -> None:
        """Remove the masks toward dropped sites; from now on the list of survivors is final."""
        revealed = [
            (site, peer, seed)
            for site, seeds in self._resolved.items()
            for peer, seed in seeds.items()
        ]
        add_keystreams(
            self._sum,
            plus=[seed for site, peer, seed in revealed if peer < site],
            minus=[seed for site, peer, seed in revealed if peer > site],
        )
        self._inputs.clear()
        members = frozenset(survivors)
        self._enter_unmasking(
            MaskedSum(
                request=self.request,
                parameters=self._parameters,
                survivors=survivors,
                vector=self._sum,
                commitments=self._commitments,
                shares={
                    owner: {site: sealed for site, sealed in shares.items() if site in members}
                    for owner, shares in self._shares.items()
                },
            )
        )

    def _enter_unmasking(self, masked: MaskedSum) -> None:
        self._opening = Unmasking(masked, self._graph)
        self._phase = Phase.UNMASKING

    def _open(self, step: str) -> Unmasking:
        self._require(step)
        if self._opening is None:
            raise OutOfOrder("There is no masked sum to open yet.")
        return self._opening
