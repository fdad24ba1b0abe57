"""A site's side of secure aggregation: keys, masks, and the rules it enforces itself.

No I/O, no clock. What must survive a restart goes into the guard before an answer is returned; a
request that breaks a rule raises an error named for it, and changes nothing. A site never trusts
the coordinator: it checks each list against the roster and against what was done before.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import Enum
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrx_common.canonical_json import to_base64, to_json
from fedrx_protocol.messages import codec
from fedrx_protocol.messages.secure_aggregation import (
    SEED_BYTES,
    Advert,
    AdvertList,
    AdvertRequest,
    MaskedInput,
    ResolveReply,
    ResolveRequest,
    RingVector,
    RoundRequest,
    UnmaskReply,
    UnmaskRequest,
)
from fedrx_protocol.secagg import keys as crypto
from fedrx_protocol.secagg import rules
from fedrx_protocol.secagg.errors import (
    ContextMismatch,
    ContextSpent,
    OutOfOrder,
    OwnAdvertAltered,
    ParametersImpossible,
    RoundWentBack,
    SessionMismatch,
    UnknownSite,
)
from fedrx_protocol.secagg.graph import Graph
from fedrx_protocol.secagg.keys import EpochKeys
from fedrx_protocol.secagg.masking import add_keystreams
from fedrx_protocol.secagg.parameters import SecAggParameters
from fedrx_protocol.secagg.recovery import RecoveryRecord
from fedrx_protocol.secagg.replay_guard import ContextRecord, GuardStore
from fedrx_protocol.secagg.shamir import split
from fedrx_protocol.trust.roster import Roster

Entropy = Callable[[int], bytes]


class SitePhase(Enum):
    """How far a site's keys of this epoch are."""

    NEW = "no keys yet"
    ADVERTISED = "keys advertised, list not yet accepted"
    READY = "list accepted"


# Which phase a step is legal in, and where it leads. UNMASK needs no keys of an epoch: what it
# needs is in the guard, so that a restarted site can finish the round it was killed in.
_TRANSITIONS: Mapping[tuple[SitePhase, str], SitePhase] = MappingProxyType(
    {
        (SitePhase.NEW, "advertise"): SitePhase.ADVERTISED,
        (SitePhase.ADVERTISED, "advertise"): SitePhase.ADVERTISED,
        (SitePhase.READY, "advertise"): SitePhase.ADVERTISED,
        (SitePhase.ADVERTISED, "accept"): SitePhase.READY,
        (SitePhase.READY, "mask"): SitePhase.READY,
        (SitePhase.READY, "resolve"): SitePhase.READY,
    }
)


class SiteParty:
    """One site in one session.

    Args:
        site: its id on the roster.
        identity: its Ed25519 private key; its public half must be the roster's.
        roster: the verified roster.
        parameters: the agreed numbers.
        session: 32 bytes, see `session_id`.
        guard: where context records are kept.
        single_context_per_model: refuse a second context of a model whose sum was opened; True
            where sums are exact (privacy mode `none`).
        one_list_of: digest of the study, 32 bytes, if its sums are opened over one list of sites
            only, in all runs; None where lists may change.
        entropy: gives that many random bytes; the operating system's by default.

    Raises:
        ParametersImpossible: the parameters are for another roster, or the site's key or id is
            not on it.
    """

    def __init__(
        self,
        *,
        site: str,
        identity: Ed25519PrivateKey,
        roster: Roster,
        parameters: SecAggParameters,
        session: bytes,
        guard: GuardStore,
        single_context_per_model: bool,
        one_list_of: bytes | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        entry = roster.entry(site)
        if entry is None or entry.identity != identity.public_key().public_bytes_raw():
            raise ParametersImpossible(
                f"Site '{site}' is not on the roster with this identity key; ask the consortium "
                "for a roster that has it."
            )
        self.site = site
        self._identity = identity
        self._roster = roster
        self._parameters = parameters
        self._session = session
        self._graph = Graph.of(roster, parameters, session)
        self._guard = guard
        self._single_context_per_model = single_context_per_model
        self._one_list_of = one_list_of
        self._entropy = entropy
        self._phase = SitePhase.NEW
        self._keys: EpochKeys | None = None
        self._exported = b""

    def advertise(self, request: AdvertRequest) -> Advert:
        """Make this epoch's keys and sign them; the same epoch again gives the same advert.

        Raises:
            SessionMismatch: the request is for another session.
            RoundWentBack: the epoch is older than one this site took part in.
        """
        self._require_session(request.session)
        if self._keys is not None and self._keys.advert.epoch == request.epoch:
            return self._keys.advert
        latest = self._guard.latest(self._session)
        newest = max(
            latest.epoch if latest is not None else 0,
            self._keys.advert.epoch if self._keys is not None else 0,
        )
        if request.epoch < newest:
            raise RoundWentBack(f"Key epoch {request.epoch} is older than {newest}.")
        phase = self._next_phase("advertise")
        drawn = EpochKeys.draw(
            self.site, self._session, request.epoch, self._identity, self._entropy
        )
        self._hold(drawn, phase)
        return drawn.advert

    def accept(self, adverts: AdvertList) -> None:
        """Check the adverts of the neighbours and agree on roots with them.

        Raises:
            SessionMismatch: list or advert of another session or epoch (a replay).
            UnknownSite: an advert of a site outside the roster.
            AdvertForged: an advert its site did not sign.
            OwnAdvertAltered: our own advert is missing or changed.
            KeysRepeated: a key appears twice.
            TooFewSites: fewer adverts than the threshold.
        """
        phase, own = self._next_phase("accept"), self._held()
        self._require_session(adverts.session, adverts.epoch)
        listed = {advert.site: advert for advert in adverts.adverts}
        if listed.get(self.site) != own.advert:
            raise OwnAdvertAltered(f"The list does not show the advert that '{self.site}' sent.")
        unknown = [site for site in listed if self._roster.entry(site) is None]
        if unknown:
            raise UnknownSite(f"The list has an advert of '{unknown[0]}', not on the roster.")
        near = [listed[site] for site in self._graph.holders(self.site, listed)]
        crypto.require_distinct_keys(near)
        for advert in near:
            self._require_session(advert.session, advert.epoch)
            crypto.verify_advert(advert, self._roster)
        rules.require_enough("adverts", len(near), self._parameters.share_threshold)
        peers = [advert for advert in near if advert.site != self.site]
        self._hold(own.joined(peers), phase)

    def check(self, request: RoundRequest) -> None:
        """Raise if `mask` would refuse this round; to be called before anything is computed.

        Raises:
            OutOfOrder: no adverts were accepted yet.
            SessionMismatch: another session or epoch.
            ThresholdChanged: not the agreed threshold.
            ParticipantsInvalid: this site is not among the participants.
            UnknownSite: a participant is not on the roster, or a neighbour without an advert.
            TooFewSites: fewer participants than the threshold, or too few neighbours.
            ContextSpent: this very context was masked before.
            RoundWentBack: the round, epoch or attempt is not later than the last one.
            ModelAlreadyReleased: a sum was opened for this model already.
            ListChanged: a sum of the study was opened over other sites, and one list is all.
        """
        self._next_phase("mask")
        self._require_session(request.session, request.epoch)
        rules.check_participants(request, self.site, self._graph, self._held().roots)
        rules.check_order(request, self._guard)
        self._check_opened(request.model_digest, request.context, request.participants)

    def mask(self, request: RoundRequest, vector: RingVector) -> MaskedInput:
        """Mask this site's vector; its record is in the guard before this returns.

        Args:
            request: the round.
            vector: uint32 of shape `(length,)`, given away: it is masked in place.

        Raises:
            VectorInvalid: not one writable row of uint32.
            PeerError: as for `check`.
        """
        self.check(request)
        rules.require_row(vector)
        context, seed = request.context, self._entropy(SEED_BYTES)
        roots = self._held().roots
        peers = self._graph.peers(self.site, request.participants)
        points = {holder: self._graph.points[holder] for holder in (*peers, self.site)}
        shares = split(seed, self._parameters.share_threshold, points, self._entropy)
        channels = {peer: crypto.channel_key(roots[peer].channel, context) for peer in peers}
        self._begin(request, RecoveryRecord(channels=channels, share=shares[self.site]))
        pairs = {peer: crypto.mask_seed(roots[peer].mask, context) for peer in peers}
        add_keystreams(
            vector,
            plus=[seed, *(pair for peer, pair in pairs.items() if peer > self.site)],
            minus=[pair for peer, pair in pairs.items() if peer < self.site],
        )
        sealed = {
            peer: crypto.seal_share(channels[peer], context, self.site, peer, shares[peer])
            for peer in peers
        }
        return MaskedInput(
            site=self.site,
            context=context,
            vector=vector,
            commitment=crypto.commitment(seed, context, self.site),
            shares=sealed,
        )

    def resolve(self, request: ResolveRequest) -> ResolveReply:
        """Reveal this context's pairwise seeds toward the dropped neighbours.

        Raises:
            OutOfOrder: no adverts were accepted yet, as after a restart.
            ContextMismatch: this site sent no vector in this context.
            RoundWentBack: a later round has begun.
            SessionMismatch: the context is of an older key epoch.
            ParticipantsInvalid: the list names this site, or a site outside the round.
            TooFewSites: fewer than the threshold would remain.
            BothSecretsAsked: the share of a listed site's seed was given already.
        """
        self._next_phase("resolve")
        record = self._current(request.context)
        self._require_session(record.session, record.epoch)
        rules.check_dropped(record, self.site, request.dropped)
        revealed = record.revealed_seeds.union(request.dropped)
        self._guard.save(replace(record, revealed_seeds=revealed))
        roots = self._held().roots
        peers = self._graph.peers(self.site, request.dropped)
        seeds = {peer: crypto.mask_seed(roots[peer].mask, record.context) for peer in peers}
        return ResolveReply(site=self.site, context=record.context, seeds=seeds)

    def unmask(self, request: UnmaskRequest) -> UnmaskReply:
        """Return this site's shares of the survivors' seeds; the same list gives the same reply.

        Works after a restart too, for the last context this site took part in.

        Raises:
            ContextMismatch: this site sent no vector in this context.
            RoundWentBack: a later round has begun.
            ContextSpent: another list was answered in this context.
            ParticipantsInvalid: the list leaves this site out, or goes beyond the participants.
            TooFewSites: fewer survivors than the threshold.
            BothSecretsAsked: a pairwise seed toward a listed site was revealed already.
            ModelAlreadyReleased: another context of this model was opened already.
            ListChanged: a sum of the study was opened over other sites, and one list is all.
        """
        record = self._current(request.context)
        if record.unmask_reply is not None:
            if record.unmask_survivors != request.survivors:
                raise ContextSpent("Another list was unmasked in this context; one is all.")
            return codec.decode(record.unmask_reply, UnmaskReply)
        rules.check_survivors(record, self.site, request.survivors)
        self._check_opened(record.model_digest, record.context, request.survivors)
        owners = self._graph.peers(self.site, request.survivors)
        reply = RecoveryRecord.from_bytes(record.kit).reply(self.site, request, owners)
        if self._one_list_of is not None:
            self._guard.keep_list(self._one_list_of, self._listed(request.survivors))
        self._guard.save(
            replace(record, unmask_survivors=request.survivors, unmask_reply=codec.encode(reply))
        )
        return reply

    def export_keys(self) -> bytes:
        """This epoch's keys, for another process of this site; empty if there are none.

        A reader of them can read this site's shares: they never leave the site.
        """
        if self._keys is not None and not self._exported:
            self._exported = self._keys.to_bytes()
        return self._exported

    def restore_keys(self, exported: bytes) -> None:
        """Continue with keys that another process of this site exported.

        Raises:
            SessionMismatch: they are another session's, or another site's.
        """
        if exported == self._exported:
            return
        restored = EpochKeys.from_bytes(exported)
        self._require_session(restored.advert.session)
        if restored.advert.site != self.site:
            raise SessionMismatch(f"These keys are of '{restored.advert.site}', not '{self.site}'.")
        self._hold(restored, SitePhase.READY if restored.roots else SitePhase.ADVERTISED)
        self._exported = exported

    def _hold(self, drawn: EpochKeys, phase: SitePhase) -> None:
        self._keys, self._phase, self._exported = drawn, phase, b""

    def _held(self) -> EpochKeys:
        if self._keys is None:
            raise OutOfOrder("This site has no keys yet; it must advertise first.")
        return self._keys

    def _next_phase(self, step: str) -> SitePhase:
        phase = _TRANSITIONS.get((self._phase, step))
        if phase is None:
            raise OutOfOrder(f"'{step}' is not possible now: {self._phase.value}.")
        return phase

    def _require_session(self, session: bytes, epoch: int | None = None) -> None:
        if session != self._session:
            raise SessionMismatch("The message belongs to another session (run, study or roster).")
        if epoch is not None and epoch != self._held().advert.epoch:
            raise SessionMismatch(
                f"The message belongs to key epoch {epoch}, this site is in "
                f"{self._held().advert.epoch}; a new epoch must be advertised."
            )

    def _check_opened(self, model_digest: bytes, context: bytes, sites: Iterable[str]) -> None:
        """Raise if what was opened before could be subtracted from a sum over `sites`."""
        if self._one_list_of is not None:
            rules.check_list(self._one_list_of, self._listed(sites), self._guard)
        if self._single_context_per_model:
            rules.check_model(model_digest, context, self._guard)

    def _listed(self, sites: Iterable[str]) -> bytes:
        """Sites of the roster with their keys, as a guard keeps them.

        A site whose key was exchanged is another site: it may be one that colludes.
        """
        entries = [entry for entry in map(self._roster.entry, sites) if entry is not None]
        return to_json({entry.site: to_base64(entry.identity) for entry in entries})

    def _begin(self, request: RoundRequest, kit: RecoveryRecord) -> None:
        """Record the context, and drop what answering the previous one would have needed."""
        latest = self._guard.latest(self._session)
        if latest is not None and latest.kit:
            self._guard.save(replace(latest, kit=b""))
        self._guard.save(
            ContextRecord(
                session=self._session,
                context=request.context,
                epoch=request.epoch,
                round=request.round,
                attempt=request.attempt,
                model_digest=request.model_digest,
                participants=request.participants,
                threshold=request.threshold,
                kit=kit.to_bytes(),
            )
        )

    def _current(self, context: bytes) -> ContextRecord:
        record, latest = self._guard.load(context), self._guard.latest(self._session)
        if record is None or latest is None or record.session != self._session:
            raise ContextMismatch("This site sent no vector in the context that is asked about.")
        if latest.context != context:
            raise RoundWentBack(f"Round {latest.round} has begun; round {record.round} is closed.")
        return record
