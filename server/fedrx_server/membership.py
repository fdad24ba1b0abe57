"""Which node is which site, with which keys: the coordinator's dealings with many sites at once.

Nodes are Flower's numbers and sites the roster's names; the only bridge between them is an advert
that the site signed. A refusal is counted and logged by the name of its reason, never by more.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrx_protocol import wire
from fedrx_protocol.errors import PeerError
from fedrx_protocol.plan import StudyPlan
from fedrx_protocol.roster import Roster
from fedrx_protocol.secagg.coordinator import CoordinatorKeys
from fedrx_protocol.secagg.errors import ParticipantsInvalid
from fedrx_protocol.secagg.messages import Advert
from fedrx_protocol.secagg.parameters import session_id
from fedrx_server.exchange import Exchange, Reply
from fedrx_server.run_folder import RunFolder

logger = logging.getLogger(__name__)

# What a site answers that has restarted and so lost its keys: it takes part again in a new epoch.
_KEYS_LOST = frozenset({"OutOfOrder", "SessionMismatch"})

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class RunParties:
    """Who takes part in a run and what was agreed.

    Args:
        run_id: Name of the run, part of every key derivation.
        plan: The study made concrete.
        roster: The verified roster.
    """

    run_id: str
    plan: StudyPlan
    roster: Roster

    @property
    def session(self) -> bytes:
        """Binds every key of this run to run, study and roster."""
        return session_id(self.run_id, self.plan.study.digest, self.roster.digest)


class Membership:
    """The sites that can be asked now, and the way to ask them.

    Args:
        parties: Who and what.
        exchange: Requests and replies.
        folder: Keeps the count of key epochs.
    """

    def __init__(self, parties: RunParties, exchange: Exchange, folder: RunFolder) -> None:
        self._parties = parties
        self._exchange = exchange
        self._folder = folder
        self._keys: CoordinatorKeys | None = None
        self._nodes: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._connected: frozenset[int] = frozenset()
        self._stale = False
        self.reasons: Counter[str] = Counter()
        """Why sites did not answer, since the caller last cleared it."""

    def keys(self) -> CoordinatorKeys:
        """Keys of the present epoch; a new one where a site came, came back or lost its keys."""
        before, self._connected = self._connected, frozenset(self._exchange.nodes())
        if self._keys is None or self._stale or self._connected - before:
            self._stale = False
            self._keys = self._advertise()
        return self._keys

    def renew(self) -> None:
        """Ask for new keys before the next attempt, whoever is there then."""
        self._stale = True

    def ask(
        self,
        kind: str,
        headers: Mapping[str, bytes],
        take: Callable[[Reply], object],
        *,
        label: str,
        payload: Vector | None = None,
    ) -> frozenset[str]:
        """Send requests to sites by name and hand their replies on as they come.

        Args:
            kind: Flower message type.
            headers: Encoded request by site.
            take: Reads a reply; a `PeerError` of its is counted and goes no further.
            label: Round and attempt, for Flower's `group_id`.
            payload: A vector for all.

        Returns:
            Sites that did not answer at all.
        """
        known = {self._nodes[site]: site for site in headers if site in self._nodes}
        nodes = {node: headers[site] for node, site in known.items()}
        answered = self._ask_nodes(kind, nodes, take, label=label, payload=payload)
        return frozenset(headers) - {known[node] for node in answered}

    def name(self, node: int) -> str:
        """The site that a node has proved to be."""
        return self._names.get(node, f"node {node}")

    def require_own(self, reply: Reply, site: str) -> None:
        """Refuse a message that names another site than the one whose node sent it.

        Raises:
            ParticipantsInvalid: it does; accepting it would let one site silence another.
        """
        if self.name(reply.node) != site:
            raise ParticipantsInvalid(f"'{self.name(reply.node)}' answered in another's name.")

    def _advertise(self) -> CoordinatorKeys:
        keys = CoordinatorKeys(
            session=self._parties.session,
            epoch=self._folder.reserve_epoch(),
            roster=self._parties.roster,
            parameters=self._parties.plan.parameters,
        )
        label, self._nodes = f"epoch.{keys.epoch}", {}

        def add(reply: Reply) -> None:
            advert = wire.decode(reply.header, Advert)
            keys.add(advert)
            self._nodes[advert.site], self._names[reply.node] = reply.node, advert.site

        everybody = dict.fromkeys(sorted(self._connected), wire.encode(keys.request()))
        self._ask_nodes("query.advertise", everybody, add, label=label)
        accepted: set[str] = set()
        lists = {site: wire.encode(keys.adverts(site)) for site in keys.members}
        self.ask("query.keys", lists, lambda r: accepted.add(self.name(r.node)), label=label)
        for site in set(lists) - accepted:
            keys.remove(site)
        return keys

    def _ask_nodes(
        self,
        kind: str,
        headers: Mapping[int, bytes],
        take: Callable[[Reply], object],
        *,
        label: str,
        payload: Vector | None = None,
    ) -> set[int]:
        """Ask nodes, and return those that answered, be it with a refusal."""
        deadline_s = self._parties.plan.study.schedule.round_deadline_s
        answered: set[int] = set()
        for reply in self._exchange.send(
            kind, headers, attempt=label, deadline_s=deadline_s, payload=payload
        ):
            if not reply.lost:
                answered.add(reply.node)
            try:
                if not self._refused(reply, label):
                    take(reply)
            except PeerError as error:
                self.reasons[type(error).__name__] += 1
                logger.warning("%s: %s: %s", label, self.name(reply.node), error)
        return answered

    def _refused(self, reply: Reply, label: str) -> bool:
        """Whether a reply holds no message; counts and logs why."""
        reason = "lost" if reply.lost else reply.refusal
        if reason in _KEYS_LOST:
            self._stale = True
        if reason:
            self.reasons[reason] += 1
            logger.info("%s: %s: %s", label, self.name(reply.node), reason)
        return bool(reason)
