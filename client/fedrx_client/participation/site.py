"""One hospital's side of one study: what it does when the coordinator asks.

Every answer follows the same order: check the request, compute, write the ledger and the guard in
one transaction, answer. What leaves is a masked vector, keys and shares; the ledger line is on
disk before it does. `compute` holds what is computed. How much noise goes in, and what a round
releases, comes from the study's plan and never from the request.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray

from fedrx_client.approvals.approval import Approval
from fedrx_client.participation.compute import (
    SitePatients,
    compute,
    release_of,
    rows_of_a_pass,
)
from fedrx_client.records.database import SiteStore
from fedrx_client.records.ledger import Ledger, PrivacyCap
from fedrx_client.training.device import CPU, named_failures
from fedrx_client.training.randomness import RoundRandomness
from fedrx_common.errors import BudgetExhausted, DataError, MisuseError, PeerError, counted
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import PatientModel, set_vector
from fedrx_protocol.fixed_point import IntVector
from fedrx_protocol.messages.secure_aggregation import (
    Advert,
    AdvertList,
    AdvertRequest,
    MaskedInput,
    ResolveReply,
    ResolveRequest,
    RoundRequest,
    UnmaskReply,
    UnmaskRequest,
)
from fedrx_protocol.messages.weights import model_bytes, model_digest
from fedrx_protocol.plan import StudyPlan
from fedrx_protocol.privacy.accountant import Account
from fedrx_protocol.privacy.events import Release
from fedrx_protocol.secagg.site import SiteParty
from fedrx_protocol.study.study import Study


class ModelMismatch(PeerError):
    """The broadcast model is not the one that the request names; the masks would not cancel."""


@dataclass(frozen=True)
class SitePolicy:
    """What the site itself allows, whatever a study says.

    Args:
        cap: The most that may be spent on this cohort over all studies; `None` for no cap beside
            the study's own promise.
        approval: Finds the approval in force, or raises; asked before every answer, so that
            revoking works at once. A site that has it is a live one: the approval's cap holds
            instead of `cap`, and nothing simulated is accepted. `None` for simulated sites.
    """

    cap: PrivacyCap | None = None
    approval: Callable[[], Approval] | None = None

    def __post_init__(self) -> None:
        """Let one cap alone decide."""
        if self.cap is not None and self.approval is not None:
            raise MisuseError("an approval brings its own cap: give one of them.")


@dataclass(frozen=True)
class SiteParts:
    """What a site works with; the parts that hold state are opened by the caller.

    Args:
        plan: The study made concrete.
        run: Name of the run.
        cohort: The site's patients.
        model: The study's model; its weights are replaced at every request.
        store: The site's memory on disk.
        party: The site's side of secure aggregation, whose guard lives in `store`.
        randomness: Where noise and sampling come from.
        split_salt: Key that decides which patients are held out; equal through a study.
        policy: What the site allows.
        device: Where the site computes; weights come from the CPU and sums go back to it.
        fold: Which part of the patients is held out; a simulation compares several.
    """

    plan: StudyPlan
    run: str
    cohort: Cohort
    model: PatientModel
    store: SiteStore
    party: SiteParty
    randomness: RoundRandomness
    split_salt: bytes
    policy: SitePolicy = SitePolicy()
    device: torch.device = CPU
    fold: int = 0


class Site:
    """Answers the coordinator's requests for one study.

    Args:
        parts: What the site works with.
        now: Clock for ledger lines.

    Raises:
        DataError: The cohort is smaller than the study asks for, or larger than it allows.
        MisuseError: A live site was given a seed, or a ledger that a power cut can harm; or its
            approval does not cover this study, cohort or release.
        DeviceFailed: The device has no room for the patients.
    """

    def __init__(
        self, parts: SiteParts, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        study = parts.plan.study
        check_cohort_size(study, parts.cohort)
        self._parts = parts
        self._study = study
        self._ledger = Ledger(parts.store)
        self._now = now
        self._study_digest = study.digest
        self._fingerprint = parts.cohort.fingerprint
        if parts.policy.approval is not None:
            if parts.randomness.simulated:
                raise MisuseError("noise from a seed protects nobody: use SystemRandomness.")
            if parts.store.durability != "power":
                raise MisuseError(
                    "a ledger must survive a power cut: open it with durability 'power'."
                )
        self._permit()
        training, held_out = parts.cohort.split(study.cohort.held_out, parts.split_salt, parts.fold)
        with named_failures(parts.device):
            parts.model.to(parts.device)
            # Rows first: they are found before any patient takes room on the device.
            rows, schema = rows_of_a_pass(parts.plan, parts.model), study.feature_schema
            self._patients = SitePatients(
                site=parts.cohort.site,
                training=parts.model.prepared(encode(training, schema).to(parts.device)),
                held_out=parts.model.prepared(encode(held_out, schema).to(parts.device)),
                target=held_out.target,
                rows=rows,
            )
        self._promise = PrivacyCap(study.privacy.epsilon, study.privacy.delta)

    @property
    def name(self) -> str:
        """The site's id."""
        return self._parts.cohort.site

    @property
    def ledger(self) -> Ledger:
        """What this site has released."""
        return self._ledger

    def export_keys(self) -> bytes:
        """This epoch's round keys, for a process that will answer the next message."""
        return self._parts.party.export_keys()

    def restore_keys(self, keys: bytes) -> None:
        """Continue with keys that another process of this site exported."""
        self._parts.party.restore_keys(keys)

    def advertise(self, request: AdvertRequest) -> Advert:
        """Make this epoch's keys and sign them."""
        self._permit()
        return self._parts.party.advertise(request)

    def accept(self, adverts: AdvertList) -> None:
        """Check everybody's keys and remember them."""
        self._permit()
        self._parts.party.accept(adverts)

    def train(self, request: RoundRequest, weights: NDArray[np.float32]) -> MaskedInput:
        """Compute what this round releases, record it, and mask it.

        Args:
            request: The round.
            weights: The broadcast model, shape `(d,)`.

        Raises:
            PeerError: The request breaks the protocol.
            BudgetExhausted: The release would spend too much.
            MisuseError: A live site's approval is not in force any more.
            DeviceFailed: The device failed; nothing was charged.
        """
        permit, parts = self._permit(), self._parts
        if model_digest(model_bytes(weights)) != request.model_digest:
            raise ModelMismatch("the model that came is not the one that the request names.")
        parts.party.check(request)
        round_ = parts.plan.round(request.round, request.attempt)
        grids: dict[str, IntVector] = {}
        releases = []
        with named_failures(parts.device):
            set_vector(parts.model, weights)
            for part in round_.parts:
                if part.name == "weight":
                    continue  # it comes with training, and is no release of its own
                result = compute(
                    parts.plan,
                    round_,
                    part,
                    model=parts.model,
                    patients=self._patients,
                    randomness=parts.randomness,
                )
                grids |= result.grids
                release = release_of(
                    result,
                    parts.plan,
                    round_,
                    part,
                    study=self._study_digest,
                    run=parts.run,
                    cohort=permit.cohort,
                    time=self._now().isoformat(timespec="seconds"),
                )
                releases.append(release)
        vector = round_.layout.encode(grids)
        with parts.store.transaction():
            for release in releases:
                self._charge(release, permit.cap)
            return parts.party.mask(request, vector)

    def resolve(self, request: ResolveRequest) -> ResolveReply:
        """Reveal this context's pairwise seeds toward dropped sites."""
        self._permit()
        with self._parts.store.transaction():
            return self._parts.party.resolve(request)

    def unmask(self, request: UnmaskRequest) -> UnmaskReply:
        """Return shares of the survivors' self masks."""
        self._permit()
        with self._parts.store.transaction():
            return self._parts.party.unmask(request)

    def close(self) -> None:
        """Close the site's store."""
        self._parts.store.close()

    def _permit(self) -> "_Permit":
        """What holds now; a live site without an approval in force gets no further."""
        policy = self._parts.policy
        if policy.approval is None:
            return _Permit(policy.cap, self._fingerprint)
        approval = policy.approval()
        approval.require_study(self._study_digest)
        approval.require_cohort(self._fingerprint, len(self._parts.cohort))
        approval.require_version(version("fedrx"))
        approval.require_time(int(self._now().timestamp()))
        return _Permit(approval.cap, approval.cohort_key)

    def _charge(self, release: Release, cap: PrivacyCap | None) -> None:
        """Write a ledger line, unless it breaks the site's cap or the study's promise.

        A study that adds no noise, to its gradients or to its metrics, promises nothing for them;
        the site's own cap still holds, and refuses such a release.
        """
        promise = None
        if release.noise_multiplier and not self._study.opens_exact_sums:
            promise = self._promise
        elif release.noise_multiplier:
            # Where metrics are exact, the promise covers what carries noise, and that alone.
            private = [one for one in self._ledger.releases(release.study) if one.noise_multiplier]
            epsilon, delta = self._promise.epsilon, self._promise.delta
            if Account.of(private).would_exceed([release], epsilon, delta):
                raise BudgetExhausted(
                    f"run {release.run}, round {release.round}: this {release.purpose} release "
                    f"would spend more than the study's promise of epsilon {epsilon:g} at delta "
                    f"{delta:g}; it was not made."
                )
        self._ledger.charge(release, cap=cap, study_cap=promise)


@dataclass(frozen=True)
class _Permit:
    """The cap that holds for the next release, and the name its patients are counted under."""

    cap: PrivacyCap | None
    cohort: str


def check_cohort_size(study: Study, cohort: Cohort) -> None:
    """Hold a cohort against the sizes that the study agreed on.

    Raises:
        DataError: It is too small, or larger than the sums can hold.
    """
    size, least, most = len(cohort), study.cohort.minimum_per_site, study.cohort.largest_site
    patients = counted(size, "patient")
    if size < least:
        raise DataError(
            f"site '{cohort.site}' has {patients}, and the study asks for at least {least} "
            "a site (cohort.minimum_per_site)."
        )
    if size > most:
        raise DataError(
            f"site '{cohort.site}' has {patients}, and the study allows at most {most} a site "
            "(cohort.largest_site): agree on a larger number."
        )
