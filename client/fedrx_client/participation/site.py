"""One hospital's side of one study: what it does when the coordinator asks.

Every answer follows the same order: check the request, compute, write the ledger and the guard in
one transaction, answer. What leaves is a masked vector, keys and shares; the ledger line is on
disk before it does. How much noise goes in, and what a round releases, comes from the study's
plan and never from the request.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray

from fedrx_client.approvals.approval import Approval
from fedrx_client.records.database import SiteStore
from fedrx_client.records.ledger import Ledger, PrivacyCap
from fedrx_client.training.clipping import clipped_gradient_sum, gradient_sum, public_rows
from fedrx_client.training.device import CPU, named_failures
from fedrx_client.training.local_epochs import LocalSettings, local_epochs, local_settings
from fedrx_client.training.microbatches import predictions, rows_for
from fedrx_client.training.noise import discrete_gaussian
from fedrx_client.training.randomness import RoundRandomness
from fedrx_client.training.sampling import poisson_sample
from fedrx_common.errors import BudgetExhausted, DataError, MisuseError, PeerError, counted
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import PatientModel, set_vector
from fedrx_models.metrics.registry import metric_plan
from fedrx_protocol.fixed_point import FixedPoint, IntVector, ValueOutOfRange
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
from fedrx_protocol.plan import LARGEST_UPDATE, Part, RoundPlan, StudyPlan
from fedrx_protocol.privacy.accountant import Account
from fedrx_protocol.privacy.events import Release
from fedrx_protocol.secagg.site import SiteParty
from fedrx_protocol.study.study import Study


class ModelMismatch(PeerError):
    """The broadcast model is not the one that the request names; the masks would not cancel."""


class NotForLiveSites(MisuseError):
    """A site with real patients was given something that only a simulation may use."""


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
        NotForLiveSites: A live site was given a seed, or a ledger that a power cut can harm.
        MisuseError: A live site's approval does not cover this study, cohort or release.
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
            _require_live(parts)
        self._permit()
        training, held_out = parts.cohort.split(study.cohort.held_out, parts.split_salt, parts.fold)
        with named_failures(parts.device):
            parts.model.to(parts.device)
            self._rows = self._rows_of_a_pass()  # before any patient takes room there
            self._training, self._held_out = (
                parts.model.prepared(encode(some, study.feature_schema).to(parts.device))
                for some in (training, held_out)
            )
        self._held_out_target = held_out.target
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
        permit = self._permit()
        party = self._parts.party
        if model_digest(model_bytes(weights)) != request.model_digest:
            raise ModelMismatch("the model that came is not the one that the request names.")
        party.check(request)
        plan = self._parts.plan.round(request.round, request.attempt)
        with named_failures(self._parts.device):
            set_vector(self._parts.model, weights)
            computed = [self._compute(part, plan) for part in plan.parts if part.name != "weight"]
        grids = {name: grid for one in computed for name, grid in one.grids.items()}
        vector = plan.layout.encode(grids)
        with self._parts.store.transaction():
            for one in computed:
                self._charge(replace(one.release, cohort=permit.cohort), permit.cap)
            return party.mask(request, vector)

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

    def _compute(self, part: Part, plan: RoundPlan) -> "_Computed":
        if part.name == "metrics":
            return self._metrics(part, plan)
        if self._study.steps == "local":
            return self._local_change(part, plan)
        return self._gradient(part, plan)

    def _gradient(self, part: Part, plan: RoundPlan) -> "_Computed":
        """One gradient sum over a Poisson sample, clipped per patient unless the mode is `none`."""
        training, private = self._study.training, self._study.privacy.mode != "none"
        batch = self._training
        if training.sample_rate < 1:
            chosen = poisson_sample(
                len(batch), training.sample_rate, self._generator(plan, "sampling")
            )
            batch = batch.select(torch.from_numpy(chosen))
        if private:
            norm = training.clipping_norm
            total = clipped_gradient_sum(self._parts.model, batch, norm, rows=self._rows).vector
        else:
            total = gradient_sum(self._parts.model, batch, mixed=training.mixed_precision)
        event = self._event(part, plan, sample_rate=training.sample_rate)
        grid = {"training": self._grid(part, total, plan)}
        return _Computed(self._with_weight(grid, plan, batch), event)

    def _local_change(self, part: Part, plan: RoundPlan) -> "_Computed":
        """The change of the weights after epochs of this site's own."""
        settings, private = self._local_settings, self._study.privacy.mode == "local"
        update = local_epochs(
            self._parts.model,
            self._training,
            settings,
            self._parts.randomness,
            site=self.name,
            round_=plan.round,
        )
        event = self._event(
            part,
            plan,
            noise_multiplier=settings.noise_multiplier,
            sample_rate=update.sample_rate,
            steps=update.steps,
        )
        if private:
            # Cut, not refused: a refusal would say something of the patients and cost nothing.
            total = np.clip(update.change, -LARGEST_UPDATE, LARGEST_UPDATE)
        else:
            total = len(self._training) * update.change
        grid = {"training": self._grid(part, total, plan)}
        return _Computed(self._with_weight(grid, plan, self._training), event)

    def _metrics(self, part: Part, plan: RoundPlan) -> "_Computed":
        """The bounded metric sums of the broadcast model on the held-out patients."""
        agreed = metric_plan(self._study, final=plan.round == self._study.final_round)
        predicted = predictions(self._parts.model, self._held_out, self._rows)
        state = agreed.state(predicted, self._held_out_target)
        return _Computed({"metrics": self._grid(part, state, plan)}, self._event(part, plan))

    def _with_weight(
        self, grid: dict[str, IntVector], plan: RoundPlan, batch: PatientBatch
    ) -> dict[str, IntVector]:
        """Add the number of patients, where the study sums it beside the values."""
        part = plan.by_name.get("weight")
        if part is not None:
            grid["weight"] = self._grid(part, np.array([float(len(batch))]), plan)
        return grid

    def _grid(self, part: Part, values: NDArray[np.float64], plan: RoundPlan) -> IntVector:
        """Values on the grid, with this site's share of the noise; checked against wrapping."""
        grid = FixedPoint(part.scale, part.limit).encode(values)
        if part.noise_multiplier:
            generator = self._generator(plan, f"{part.name} noise")
            grid += discrete_gaussian(part.site_noise_sd, part.length, generator)
        if grid.size and int(np.abs(grid).max()) > plan.site_limit:
            raise ValueOutOfRange(
                f"the {part.name} sum with its noise does not fit its share of 32 bits; "
                "nothing was sent."
            )
        return grid

    def _generator(self, plan: RoundPlan, purpose: str) -> np.random.Generator:
        return self._parts.randomness.generator(self.name, plan.round, purpose)

    def _event(
        self,
        part: Part,
        plan: RoundPlan,
        *,
        noise_multiplier: float | None = None,
        sample_rate: float = 1.0,
        steps: int = 1,
    ) -> Release:
        """The ledger line of one part of a round."""
        training = part.name == "training"
        noise = part.noise_multiplier if noise_multiplier is None else noise_multiplier
        return Release(
            time=self._now().isoformat(timespec="seconds"),
            study=self._study_digest,
            run=self._parts.run,
            round=plan.round,
            attempt=plan.attempt,
            purpose="training" if training else "metrics",
            noise_multiplier=noise,
            sample_rate=sample_rate,
            steps=steps,
            clipping_norm=self._study.training.clipping_norm if training else part.sensitivity,
            cohort=self._fingerprint,
            grid_slack=part.slack,
        )

    def _rows_of_a_pass(self) -> int:
        """From agreed numbers only: a patient more or less must not change how others round."""
        plan, training = self._parts.plan, self._study.training
        expected = plan.patients_per_site * training.sample_rate
        if self._study.steps == "local":
            expected = min(plan.patients_per_site, training.local.batch_size)
        clips = self._study.privacy.mode != "none"
        return (public_rows if clips else rows_for)(self._parts.model, expected)

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
        if not release.noise_multiplier:
            self._ledger.charge(release, cap=cap)
        elif self._study.opens_exact_sums:
            self._hold_to_promise(release)
            self._ledger.charge(release, cap=cap)
        else:
            self._ledger.charge(release, cap=cap, study_cap=self._promise)

    def _hold_to_promise(self, release: Release) -> None:
        """The study's promise where its metrics are exact: over what carries noise, alone."""
        private = [one for one in self._ledger.releases(release.study) if one.noise_multiplier]
        if Account.of(private).would_exceed([release], self._promise.epsilon, self._promise.delta):
            raise BudgetExhausted(
                f"run {release.run}, round {release.round}: this {release.purpose} release would "
                f"spend more than the study's promise of epsilon {self._promise.epsilon:g} at "
                f"delta {self._promise.delta:g}; it was not made."
            )

    @cached_property
    def _local_settings(self) -> LocalSettings:
        """Epochs of this site, with noise that spends the promise over all its steps."""
        plan, local = self._parts.plan, self._study.training.local
        private = self._study.privacy.mode == "local"
        return local_settings(
            # A private site counts in public numbers only: its own size would set rate and step.
            patients=plan.patients_per_site if private else max(1, len(self._training)),
            epochs=local.epochs,
            batch_size=local.batch_size,
            learning_rate=local.learning_rate,
            clipping_norm=self._study.training.clipping_norm,
            noise_multiplier=plan.local_noise,
            proximal=local.proximal,
            mixed=self._study.training.mixed_precision,
        )


@dataclass(frozen=True)
class _Permit:
    """The cap that holds for the next release, and the name its patients are counted under."""

    cap: PrivacyCap | None
    cohort: str


@dataclass(frozen=True, eq=False)
class _Computed:
    """What one part of a round puts into the vector, and the line that it costs."""

    grids: dict[str, IntVector]
    release: Release


def _require_live(parts: SiteParts) -> None:
    if parts.randomness.simulated:
        raise NotForLiveSites("noise from a seed protects nobody: use SystemRandomness.")
    if parts.store.durability != "power":
        raise NotForLiveSites("a ledger must survive a power cut: open it with durability 'power'.")


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
