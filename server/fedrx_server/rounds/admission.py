"""Which connected nodes take part in a live run: offers, and whom to ask again when.

A node that accepted the offer is willing until it fails; one that failed is left alone for a
while, longer each time, so that a slow or refusing site costs the others little. A node's name
here comes from the SuperLink's register and is for people to read; it proves nothing.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from fedrx_common.errors import PeerError
from fedrx_protocol.messages import codec
from fedrx_protocol.messages.offer import OfferReply, RunOffer
from fedrx_protocol.messages.refusal import ASKED_AT_ONCE, Refusal

LONGEST_PAUSE_S = 30.0
# A site that lets a long deadline pass again and again is asked again after several of them.
LONGEST_COSTLY_PAUSE_S = 3600.0


class VersionDiffers(PeerError):
    """A site runs another release; its sums might not mean the same, so it takes no part."""


@dataclass(frozen=True)
class Offers:
    """How a live run is offered to its sites.

    Args:
        run: Name of the run.
        study: The study's digest, 32 bytes.
        roster: The signed roster of the run, as JSON.
        version: The release that runs here.
        names: Asks the SuperLink which site each node was registered for.
        clock: Unix seconds, for the offer.
        now: Monotonic seconds, for pauses.
    """

    run: str
    study: bytes
    roster: bytes
    version: str
    names: Callable[[], Mapping[int, str]]
    clock: Callable[[], float] = time.time
    now: Callable[[], float] = time.monotonic

    def message(self) -> bytes:
        """The offer, with the time of this moment."""
        now = int(self.clock())
        return codec.encode(RunOffer(self.run, self.study, self.roster, self.version, now))


@dataclass
class _Absence:
    times: int = 0
    due: float = 0.0
    reason: str = ""
    fresh: bool = True


@dataclass
class Admission:
    """Keeps account of every node that was seen.

    Args:
        offers: What is offered.
    """

    offers: Offers
    _willing: set[int] = field(default_factory=set)
    _absences: defaultdict[int, _Absence] = field(default_factory=lambda: defaultdict(_Absence))
    _names: dict[int, str] = field(default_factory=dict)
    _connected: frozenset[int] = frozenset()

    @property
    def willing(self) -> frozenset[int]:
        """Connected nodes that accepted the offer and did not fail since."""
        return frozenset(self._willing) & self._connected

    def update_connected(self, connected: Collection[int]) -> None:
        """Note which nodes are connected; one that came back is asked at once."""
        arrived = frozenset(connected) - self._connected
        self._connected = frozenset(connected)
        self._willing -= arrived
        for node in arrived:
            absence = self._absences[node]
            absence.due, absence.fresh = 0.0, True
        if arrived - self._names.keys():
            self._names.update(self.offers.names())

    def due(self) -> list[int]:
        """Connected nodes that should be asked now whether they take part."""
        now = self.offers.now()
        return sorted(
            node for node in self._connected - self._willing if self._absences[node].due <= now
        )

    def fresh(self, node: int) -> bool:
        """Whether a node has just come, or just lost its keys, and so will answer soon."""
        return self._absences[node].fresh

    def asked(self, node: int) -> None:
        """A node was asked, and is not asked again before it answers or fails."""
        self._absences[node].due = math.inf

    def accept(self, node: int, reply: OfferReply) -> None:
        """Read the answer to an offer.

        Raises:
            VersionDiffers: the site runs another release.
        """
        if reply.version != self.offers.version:
            raise VersionDiffers(
                f"'{self.name(node)}' runs FedRx {reply.version} and the coordinator "
                f"{self.offers.version}: install the same release on both sides."
            )
        self._willing.add(node)

    def failed(self, node: int, reason: str, cost_s: float) -> None:
        """A node did not answer, or refused: leave it alone for a while.

        Args:
            node: The node.
            reason: Name of its reason.
            cost_s: How long the others had to wait for it.
        """
        self._willing.discard(node)
        absence = self._absences[node]
        absence.times += 1
        absence.reason = reason
        absence.fresh = absence.times == 1 and reason in ASKED_AT_ONCE
        if absence.fresh:
            absence.due = self.offers.now()
            return
        # 1, 2, 4 ... 30 s; a site that keeps others waiting is left alone for longer than it cost.
        doubled = 2.0 ** min(absence.times - 1, 20)
        pause_s = min(LONGEST_PAUSE_S, doubled)
        if reason == Refusal.LOST:
            pause_s = max(pause_s, min(LONGEST_COSTLY_PAUSE_S, cost_s * (doubled - 1)))
        absence.due = self.offers.now() + pause_s

    def proved(self, node: int) -> None:
        """A node took part in a round to the end of its computation: past failures are over."""
        self._absences[node] = _Absence()

    def name(self, node: int) -> str:
        """The site that a node was registered for; for people to read."""
        return self._names.get(node, f"node {node}")

    def missing(self, sites: Collection[str]) -> dict[str, str]:
        """Why each of these sites does not take part; those that are willing are left out."""
        nodes = {self._names[node]: node for node in self._connected if node in self._names}
        missing = {}
        for site in sorted(sites):
            node = nodes.get(site)
            if node is None:
                missing[site] = "not connected"
            elif node not in self._willing:
                missing[site] = self._absences[node].reason or "has not answered yet"
        return missing
