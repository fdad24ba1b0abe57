"""Which node is which site, with which keys; asks many sites at once.

Nodes are Flower's numbers and sites the roster's names; the only bridge between them is an advert
that the site signed. A refusal is counted and logged by the name of its reason, never by more.

In a live run a site is offered the run first, and one that fails is left out until it answers
again; who takes part changes between two attempts only. A site that the run's blame leaves out
takes no part; one that is left out for good is asked nothing.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import PeerError
from fedrx_protocol.messages import codec
from fedrx_protocol.messages.offer import OfferReply
from fedrx_protocol.messages.refusal import ASKED_AT_ONCE, Refusal
from fedrx_protocol.messages.secure_aggregation import Advert
from fedrx_protocol.plan import StudyPlan
from fedrx_protocol.secagg.coordinator import KeyDirectory
from fedrx_protocol.secagg.errors import ParticipantsInvalid
from fedrx_protocol.secagg.parameters import session_id
from fedrx_protocol.trust.roster import Roster
from fedrx_server.rounds.admission import Admission, Offers, VersionDiffers
from fedrx_server.rounds.exchange import Exchange, Reply
from fedrx_server.rounds.observer import RunObserver
from fedrx_server.rounds.witness import Witness, kept_heads, taken
from fedrx_server.runs.blame import Failure
from fedrx_server.runs.folder import RunFolder

logger = logging.getLogger(__name__)

# Only training computes for long; a site that needs more for anything else counts as lost.
STAGE_DEADLINE_S = 30.0
# A site that is asked whether it takes part while the run could go on without it.
KNOCK_DEADLINE_S = 5.0

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class RunParties:
    """Who takes part in a run and what was agreed.

    Args:
        run_id: Name of the run, part of every key derivation.
        plan: The study made concrete.
        roster: The verified roster.
        offers: How live sites are asked to take part; simulated ones are built for their run.
        without: Sites of the roster that take no part in this run.
        witness: Where the heads of live sites' audit logs are kept.
    """

    run_id: str
    plan: StudyPlan
    roster: Roster
    offers: Offers | None = None
    without: frozenset[str] = frozenset()
    witness: Witness | None = None

    @property
    def session(self) -> bytes:
        """Binds every key of this run to run, study and roster."""
        return session_id(self.run_id, self.plan.study.digest, self.roster.digest)

    @property
    def one_list(self) -> bool:
        """Whether every sum is opened over all of `sites`, and the run waits for a lost one."""
        return self.plan.study.opens_one_list(live=self.offers is not None)

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites that take part in this run."""
        return tuple(site for site in self.roster.ids if site not in self.without)

    @property
    def least(self) -> int:
        """Sites that must be there before a round begins."""
        threshold = self.plan.parameters.threshold
        return max(len(self.sites), threshold) if self.one_list else threshold


class Membership:
    """The sites that can be asked now, and the way to ask them.

    Args:
        parties: Who and what.
        exchange: Requests and replies.
        folder: Keeps the count of key epochs, and who is left out.
        watch: Is called as things happen.
    """

    def __init__(
        self, parties: RunParties, exchange: Exchange, folder: RunFolder, watch: RunObserver
    ) -> None:
        self._parties = parties
        self._exchange = exchange
        self._folder = folder
        self._watch = watch
        self._admission = None if parties.offers is None else Admission(parties.offers)
        self._keys: KeyDirectory | None = None
        self._nodes: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._connected: frozenset[int] = frozenset()
        self._stale = False
        self.reasons: Counter[str] = Counter()
        """Why sites did not answer, since the caller last cleared it."""

    def keys(self) -> KeyDirectory | None:
        """Keys of the present epoch; a new one where a site came, came back or lost its keys.

        `None` while too few live sites are there for any epoch.
        """
        before, self._connected = self._connected, frozenset(self._exchange.nodes())
        arrived = self._connected - before
        if self._admission is not None:
            self._admission.update_connected(self._connected)
            return self._live_keys(self._admission)
        if self._keys is None or self._stale or arrived:
            self._advertise(self._with_a_part(self._connected))
        return self._keys

    @property
    def present(self) -> tuple[str, ...]:
        """Sites with keys of this epoch that can take part now, sorted."""
        members = self._keys.members if self._keys is not None else ()
        out = self._folder.left_out
        able = (site for site in members if site not in out and site not in self._parties.without)
        if self._admission is None:
            return tuple(able)
        willing = self._admission.willing
        return tuple(site for site in able if self._nodes.get(site) in willing)

    @property
    def able(self) -> int:
        """How many sites can take part, even if their keys are still to come."""
        if self._admission is None:
            return len(self.present)
        out = {*self._folder.left_out, *self._parties.without}
        return sum(self.name(node) not in out for node in self._admission.willing)

    def missing(self) -> dict[str, str]:
        """Why each site of the roster that is not present is not; empty in a simulation."""
        if self._admission is None:
            return {}
        gone = set(self._parties.sites).difference(self.present)
        out = dict.fromkeys(self._folder.left_out, Refusal.LEFT_OUT)
        return dict(sorted({**self._admission.missing(gone), **out}.items()))

    def renew(self) -> None:
        """Ask for new keys before the next attempt, of the sites that are there then."""
        self._stale = True

    def ask(
        self,
        kind: str,
        headers: Mapping[str, bytes],
        take: Callable[[Reply], object],
        *,
        label: str,
        payload: Vector | None = None,
    ) -> dict[str, Failure]:
        """Send requests to sites by name and hand their replies on as they come.

        Args:
            kind: Flower message type.
            headers: Encoded request by site.
            take: Reads a reply; a `PeerError` of its is counted and goes no further.
            label: Round and attempt, for Flower's `group_id`.
            payload: A vector for all.

        Returns:
            Sites that did not do what they were asked, and why.
        """
        known = {self._nodes[site]: site for site in headers if site in self._nodes}
        nodes = {node: headers[site] for node, site in known.items()}
        failed = self._ask_nodes(kind, nodes, take, label=label, payload=payload)
        gone = set(headers).difference(known.values())
        return {
            **dict.fromkeys(gone, Failure(Refusal.LOST, lost=True)),
            **{known[node]: failure for node, failure in failed.items()},
        }

    def name(self, node: int) -> str:
        """The site that a node has proved to be, or else the one it was registered for."""
        if node in self._names or self._admission is None:
            return self._names.get(node, f"node {node}")
        return self._admission.name(node)

    def require_own(self, reply: Reply, site: str) -> None:
        """Refuse a message that names another site than the one whose node sent it.

        Raises:
            ParticipantsInvalid: it does; accepting it would let one site silence another.
        """
        if self._names.get(reply.node) != site:
            raise ParticipantsInvalid(f"'{self.name(reply.node)}' answered in another's name.")

    def _live_keys(self, admission: Admission) -> KeyDirectory | None:
        """Offer the run to nodes that are due; renew the keys if that, or a loss, asks for it."""
        enough = self._enough(len(self.present))
        for reply in self._exchange.posted(ask=not enough):
            self._note("query.open", reply.node, self._read(reply, self._opened, "open"), 0.0)
        due = sorted(self._with_a_part(admission.due()))
        offers = dict.fromkeys(due, admission.offers.message()) if due else {}
        known = {node for node in offers if enough and not admission.fresh(node)}
        if known:
            # Ask whether they are back, while the run goes on without them.
            for node in known:
                admission.asked(node)
            self._exchange.post(
                "query.open",
                {node: offers.pop(node) for node in known},
                attempt="open",
                deadline_s=self._deadline_s("query.open", KNOCK_DEADLINE_S),
                witness=self._heads(known),
            )
        if offers:
            longest = KNOCK_DEADLINE_S if enough else STAGE_DEADLINE_S
            self._ask_nodes("query.open", offers, self._opened, label="open", longest_s=longest)
        willing = self._with_a_part(admission.willing)
        newcomers = willing.difference(self._nodes.values())
        if self._enough(self.able) and (self._keys is None or self._stale or newcomers):
            self._advertise(willing)
        return self._keys

    def _with_a_part(self, nodes: Iterable[int]) -> frozenset[int]:
        """The nodes without those left out of this run, as far as their names are known."""
        out = {site for site, one in self._folder.left_out.items() if one.for_good}
        out |= self._parties.without
        return frozenset(node for node in nodes if self.name(node) not in out)

    def _opened(self, reply: Reply) -> None:
        answer = codec.decode(reply.header, OfferReply)
        if self._admission is not None:
            try:
                self._admission.accept(reply.node, answer)
            except VersionDiffers:
                self._watch.on_version_mismatch(self.name(reply.node), answer.version)
                raise

    def _enough(self, sites: int) -> bool:
        return sites >= self._parties.least

    def _advertise(self, nodes: frozenset[int]) -> None:
        keys = KeyDirectory(
            session=self._parties.session,
            epoch=self._folder.reserve_epoch(),
            roster=self._parties.roster,
            parameters=self._parties.plan.parameters,
        )
        self._keys, self._nodes, self._stale = keys, {}, False
        label = f"epoch.{keys.epoch}"

        def add(reply: Reply) -> None:
            advert = codec.decode(reply.header, Advert)
            keys.add(advert)
            self._nodes[advert.site], self._names[reply.node] = reply.node, advert.site

        self._ask_nodes(
            "query.advertise",
            dict.fromkeys(sorted(nodes), codec.encode(keys.request())),
            add,
            label=label,
        )
        accepted: set[str] = set()
        lists = {site: codec.encode(keys.adverts(site)) for site in keys.members}
        self.ask("query.keys", lists, lambda r: accepted.add(self.name(r.node)), label=label)
        for site in set(lists) - accepted:
            keys.remove(site)

    def _ask_nodes(
        self,
        kind: str,
        headers: Mapping[int, bytes],
        take: Callable[[Reply], object],
        *,
        label: str,
        payload: Vector | None = None,
        longest_s: float = STAGE_DEADLINE_S,
    ) -> dict[int, Failure]:
        """Ask nodes, and return those that did not do what they were asked."""
        failed: dict[int, Failure] = {}
        self._watch.on_request(kind, [self.name(node) for node in headers])
        now = time.monotonic if self._admission is None else self._admission.offers.now
        began = now()
        for reply in self._exchange.send(
            kind,
            headers,
            attempt=label,
            deadline_s=self._deadline_s(kind, longest_s),
            payload=payload,
            witness=self._heads(headers),
        ):
            failure = self._read(reply, take, label)
            if failure is not None:
                failed[reply.node] = failure
            self._note(kind, reply.node, failure, now() - began)
            del reply  # its vector makes room for the next one's
        return failed

    def _heads(self, nodes: Iterable[int]) -> dict[int, bytes]:
        """The heads that are kept of these nodes' sites, for each to compare with its own log."""
        witness = self._parties.witness
        return {} if witness is None else kept_heads(witness, {n: self.name(n) for n in nodes})

    def _read(self, reply: Reply, take: Callable[[Reply], object], label: str) -> Failure | None:
        """Hand a reply on; return what is wrong with it, if anything."""
        failure = None
        if reply.witness and self._parties.witness is not None:
            taken(self._parties.witness, reply.witness, self._parties.roster)
        if reply.lost or reply.refusal:
            failure = Failure(Refusal.LOST if reply.lost else reply.refusal, lost=reply.lost)
            logger.info("%s: %s: %s", label, self.name(reply.node), failure.reason)
            self._stale = self._stale or failure.reason in ASKED_AT_ONCE
        else:
            try:
                take(reply)
            except PeerError as error:
                failure = Failure(error.refusal, proved=True)
                logger.warning("%s: %s: %s", label, self.name(reply.node), error)
        if failure is not None:
            self.reasons[failure.reason] += 1
        return failure

    def _note(self, kind: str, node: int, failure: Failure | None, cost_s: float) -> None:
        """Leave out a live site that failed, until it answers again."""
        self._watch.on_reply(self.name(node), failure.reason if failure else "")
        if self._admission is None:
            return
        if failure is not None:
            self._admission.failed(node, failure.reason, cost_s)
            self._nodes.pop(self._names.get(node, ""), None)
        elif kind == "train.masked":
            self._admission.proved(node)

    def _deadline_s(self, kind: str, longest_s: float) -> float:
        deadline_s = self._parties.plan.study.schedule.round_deadline_s
        # Simulated sites are all there: how busy their machine is must not change a result.
        patient = kind == "train.masked" or self._admission is None
        return deadline_s if patient else min(deadline_s, longest_s)
