"""A hospital that takes part for real: opens runs that it approved, and keeps account of them all.

The site's agent holds one. It trusts nothing that a coordinator offers: it compares study, roster
and release with its own folder, before it opens a run and again before every answer. A fault there
(disk full, ledger locked, patients changed) is a refusal by name; after its repair, the next
request is answered without a restart.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from flwr.app import Context

from fedrx_client.approvals.approval import Approval
from fedrx_client.approvals.store import Approvals
from fedrx_client.approvals.study_files import KeptStudy, StudyFiles
from fedrx_client.data.load import LoadResult
from fedrx_client.identity.identity import Keys, NotEnrolled, SiteIdentity, require_known_pin
from fedrx_client.identity.offers import TakenOffers, check_clock, pinned_roster, require_pin
from fedrx_client.participation.patients import Patients
from fedrx_client.participation.settings import split_salt
from fedrx_client.participation.site import Site, SiteParts, SitePolicy
from fedrx_client.participation.site_source import SiteSource
from fedrx_client.records.audit_log import existing_log
from fedrx_client.records.ledger_file import LedgerFile
from fedrx_client.records.run_audit import AuditContext, Journal, Request
from fedrx_client.records.sqlite_guard import SqliteGuard
from fedrx_client.training.device import CPU
from fedrx_client.training.randomness import SystemRandomness
from fedrx_common.errors import MisuseError
from fedrx_models.planning import make_plan
from fedrx_models.transfer import study_model
from fedrx_protocol.messages.offer import OfferReply, RunOffer
from fedrx_protocol.messages.secure_aggregation import ResolveRequest, RoundRequest, UnmaskRequest
from fedrx_protocol.secagg.parameters import session_id
from fedrx_protocol.secagg.site import SiteParty
from fedrx_protocol.trust.roster import Roster
from fedrx_protocol.trust.witness import HeadForged, SignedHead

RUNS_IN_MEMORY = 4
ROUNDS_IN_MEMORY = 8


class FolderOutdated(MisuseError):
    """The whole folder is an older copy: this site signed a head that its log never had.

    Prevents a restored backup from spending once more what was spent since it was made.
    """


@dataclass
class OpenRun:
    """A run that this site takes part in.

    Attributes:
        offer: what opened it.
        roster: digest of its roster, 32 bytes.
        approval: under which it was opened.
        patients: the cohort, and the watch over its file.
        site: what answers.
    """

    offer: RunOffer
    roster: bytes
    approval: Approval
    patients: Patients
    site: Site
    _rounds: OrderedDict[bytes, AuditContext] = field(default_factory=OrderedDict)

    def same_as(self, offer: RunOffer) -> bool:
        """Whether an offer names the very run that is open."""
        mine = self.offer.run, self.offer.study, self.offer.roster
        return mine == (offer.run, offer.study, offer.roster)

    def about(self, request: Request | None) -> AuditContext:
        """Say what a request is about, for a line of the audit log.

        Later stages of a round name its context only, so the last few are remembered.
        """
        run, study = self.offer.run, self.offer.study.hex()
        if isinstance(request, RoundRequest):
            self._rounds[request.context] = AuditContext(run, study, request.round, request.attempt)
            while len(self._rounds) > ROUNDS_IN_MEMORY:
                self._rounds.popitem(last=False)
        if isinstance(request, RoundRequest | ResolveRequest | UnmaskRequest):
            return self._rounds.get(request.context, AuditContext(run, study))
        return AuditContext(run, study)


class LiveSite:
    """Opens runs by offer, finds the site that answers a request, and writes everything down.

    Args:
        folder: the site's folder.
        keys: its private keys.
        device: where to compute.
        clock: unix seconds.
        installed: FedRx release installed here.

    Raises:
        MisuseError: the folder cannot be used; the text says what to do.
    """

    def __init__(
        self,
        folder: Path,
        keys: Keys,
        *,
        device: torch.device | None = None,
        clock: Callable[[], float] = time.time,
        installed: str = version("fedrx"),
    ) -> None:
        self.identity = SiteIdentity(folder)
        self._folder, self._keys, self._clock = folder, keys, clock
        self._device = device or CPU
        self._installed = installed
        self._log = existing_log(self.identity.audit_path)
        self._approvals, self._files = Approvals(folder, self._log), StudyFiles(folder)
        self._ledger = LedgerFile(folder, self._log)
        self._journal = Journal(self._log, clock, self._ledger.state)
        self._offers = TakenOffers(folder)
        self._compared = b""
        self._runs: OrderedDict[int, OpenRun] = OrderedDict()

    def started(self) -> None:
        """Write down that the agent begins, after a look at log, ledger and pins.

        From then on each of them names the others, also in a folder of an earlier release.

        Raises:
            MisuseError: one cannot be used, or is an older copy; the text says what to do.
        """
        self._present_identity()
        text = f"agent started, FedRx {self._installed}, computing on {self._device.type}"
        self._journal.event("start", text, self._ledger.state())
        self._ledger.note_log()

    def stopped(self) -> None:
        """Write down that the agent ends, and close the ledger.

        Raises:
            LogUnwritable: it could not be written.
        """
        try:
            self._journal.close()
            self._journal.event("stop", "agent stopped")
        finally:
            self._ledger.close()

    def open(self, run: int, offer: RunOffer) -> OfferReply:
        """Open an offered run, if it is what this site approved.

        Args:
            run: Flower's run id.
            offer: the offer.

        Raises:
            FedRxError: it is not; nothing was opened.
        """
        reply = OfferReply(self._installed)
        if offer.version != self._installed:
            return reply
        now = int(self._clock())
        check_clock(offer, now)
        roster = pinned_roster(offer, self._present_identity(), now)
        known = self._current(run)
        if known is None or not known.same_as(offer):
            self._hold(run, self._open(offer, roster, now))
            self._offers.keep(run, offer)
            return reply
        self._approvals.find(offer.study.hex(), now).require_version(self._installed)
        known.patients.require_unchanged(thorough=True)
        self._ledger.verify()
        return reply

    def site(self, context: Context) -> Site:
        """Find the site that answers a request of a run.

        Raises:
            RunUnknown: it was not opened.
            FedRxError: something changed since; the text says what.
        """
        run = context.run_id
        opened = self._current(run)
        if opened is None:
            # This process did not open the run, or let go of it: the offer it took up is kept.
            offer, now = self._offers.find(run), int(self._clock())
            roster = pinned_roster(offer, self._present_identity(), now)
            opened = self._open(offer, roster, now)
            self._hold(run, opened)
        require_pin(opened.roster, self._folder)
        opened.patients.require_unchanged(thorough=False)
        self._runs.move_to_end(run)
        return opened.site

    def asked(self, run: int, kind: str, request: Request) -> None:
        """Write a request down before it is worked on.

        Raises:
            LogUnwritable: it could not be written.
            LedgerDamaged, AuditDamaged: ledger or log is an older copy.
        """
        self._journal.asked(self._about(run, request), kind, request)

    def answered(self, run: int, kind: str, request: Request, what: str) -> None:
        """Write an answer down before it leaves.

        Raises:
            LogUnwritable: it could not be written; the answer must not leave.
            LedgerDamaged, AuditDamaged: ledger or log is an older copy; as above.
        """
        self._journal.answered(self._about(run, request), kind, what)

    def compare(self, witness: bytes) -> None:
        """Compare this site's log with the newest head that the coordinator has of it.

        A head that the key in use did not sign proves nothing: it is from before a rotation, or
        the coordinator made it.

        Args:
            witness: a signed head as JSON, or empty.

        Raises:
            MalformedMessage: it is neither.
            FolderOutdated: this site signed it, and its log never had it.
        """
        if not witness or witness == self._compared:
            return
        signed = SignedHead.from_json(witness)
        try:
            signed.verify(self._keys.identity.public_key().public_bytes_raw())
        except HeadForged:
            return
        if signed.site == self.identity.site and not self._log.has(signed.head):
            raise FolderOutdated(
                f"{self._folder}: this site signed head {signed.head} of its audit log, and the "
                f"log here, with {self._log.head.count} lines, never had it: the whole folder is "
                "an older copy; put the newest one back, or follow the rule in deploy/README.md."
            )
        self._compared = witness

    def signed_head(self) -> bytes:
        """Sign the present head of the audit log, for the coordinator to keep."""
        signed = SignedHead.sign(self.identity.site, self._log.head, self._keys.identity)
        return signed.to_json()

    def refused(self, run: int, kind: str, request: Request | None, error: Exception) -> None:
        """Write a refusal down, and let go of what a repair will replace.

        Raises:
            LogUnwritable: it could not be written.
        """
        about = self._about(run, request)
        if self._ledger.let_go(error):
            self._runs.clear()
        self._journal.refused(about, kind, error)

    def _open(self, offer: RunOffer, roster: Roster, now: int) -> OpenRun:
        """Build what answers requests of a run, from the site's own folder."""
        study_digest = offer.study.hex()
        approval = self._approvals.find(study_digest, now)
        approval.require_version(self._installed)
        kept = self._files.load(study_digest)
        # Another open run of the study may have its patients in memory, still approved.
        others = (one for one in self._runs.values() if one.offer.study == offer.study)
        known = next((one.patients for one in others if not self._is_past(one)), None)
        patients = known or Patients(kept, self.identity.site, self._reader(kept))
        patients.require_unchanged(thorough=True)
        self._ledger.verify()
        plan, store = make_plan(kept.study, len(roster.ids)), self._ledger.store()
        party = SiteParty(
            site=self.identity.site,
            identity=self._keys.identity,
            roster=roster,
            parameters=plan.parameters,
            session=session_id(offer.run, study_digest, roster.digest),
            guard=SqliteGuard(store),
            single_context_per_model=kept.study.opens_exact_sums,
            one_list_of=offer.study if kept.study.opens_one_list(live=True) else None,
        )
        parts = SiteParts(
            plan=plan,
            run=offer.run,
            cohort=patients.cohort,
            model=study_model(kept.study, seed=0),
            store=store,
            party=party,
            randomness=SystemRandomness(),
            split_salt=split_salt(self._folder, study_digest),
            policy=SitePolicy(
                approval=lambda: self._approvals.find(study_digest, int(self._clock()))
            ),
            device=self._device,
        )
        site = Site(parts, now=lambda: datetime.fromtimestamp(self._clock(), UTC))
        return OpenRun(offer, roster.digest, approval, patients, site)

    def _reader(self, kept: KeptStudy) -> Callable[[], LoadResult] | None:
        """Return what reads a database's or a server's patients; None for watched files."""
        if isinstance(kept.table, Path):
            return None
        way = SiteSource(self._folder, self.identity.site, kept.study, kept.mapping, kept.source)
        return lambda: way.approved(self._keys.identity, now=int(self._clock()))

    def _current(self, run: int) -> OpenRun | None:
        """Return the open run, unless what it was opened with has been replaced since."""
        opened = self._runs.get(run)
        if opened is not None and self._is_past(opened):
            del self._runs[run]
            return None
        return opened

    def _hold(self, run: int, opened: OpenRun) -> None:
        self._runs[run] = opened
        self._runs.move_to_end(run)
        while len(self._runs) > RUNS_IN_MEMORY:
            self._runs.popitem(last=False)

    def _is_past(self, opened: OpenRun) -> bool:
        """Whether the study was approved again since, or the ledger's file was exchanged."""
        approved = self._approvals.kept(opened.offer.study.hex()).approval
        return approved != opened.approval or not self._ledger.is_in_place()

    def _present_identity(self) -> SiteIdentity:
        """Read the folder of trust as it is now; another process may have joined again."""
        identity = SiteIdentity(self._folder)
        if identity.public_key != self._keys.identity.public_key().public_bytes_raw():
            raise NotEnrolled("this site's keys were rotated: stop the agent and start it again.")
        require_known_pin(identity, self._log)
        return identity

    def _about(self, run: int, request: Request | None) -> AuditContext:
        if isinstance(request, RunOffer):
            return AuditContext(request.run, request.study.hex())
        opened = self._runs.get(run)
        return AuditContext() if opened is None else opened.about(request)
