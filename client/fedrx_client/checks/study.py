"""A site's dry run of a study: green and red lines, and for each red one what to do.

Nothing here sends anything, charges the ledger or needs the coordinator; checks of the network are
handed in by the caller as further lines.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import ceil
from pathlib import Path

import torch

from fedrx_client.approvals.approval import DEFAULT_COHORT, cohort_key
from fedrx_client.approvals.store import Approvals
from fedrx_client.data.load import LoadResult
from fedrx_client.identity.identity import SiteIdentity
from fedrx_client.participation.site import check_cohort_size
from fedrx_client.records.database import LEDGER, SiteStore
from fedrx_client.records.ledger import Ledger
from fedrx_client.training.clipping import clipped_gradient_sum, public_rows
from fedrx_client.training.device import devices, named_failures, pick_device
from fedrx_common.errors import DataError, FedRxError, MisuseError, counted
from fedrx_models.cohort.cohort import Cohort, require_variety
from fedrx_models.cohort.encoding import encode
from fedrx_models.transfer import study_model
from fedrx_protocol.plan import StudyPlan
from fedrx_protocol.privacy.accountant import Account
from fedrx_protocol.privacy.events import Purpose, Release
from fedrx_protocol.study.schema import NumberFeature
from fedrx_protocol.study.study import Study

LEAST_DISK_BYTES = 100_000_000
_MOST_MISSING = 0.5
_TIME = "1970-01-01T00:00:00+00:00"  # of a planned release; the account does not read it


@dataclass(frozen=True)
class CheckLine:
    """One finding.

    Attributes:
        name: what was looked at.
        ok: green or red.
        text: what was found.
        remedy: what to do; empty where nothing is to be done.
    """

    name: str
    ok: bool
    text: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if not self.ok and not self.remedy:
            raise MisuseError(f"the red line '{self.name}' names no remedy.")


@dataclass(frozen=True)
class Check:
    """One thing to look at.

    Attributes:
        name: what it is called on the page.
        look: finds out; an error of ours that it raises is a red line.
        remedy: what to do about such an error.
    """

    name: str
    look: Callable[[], CheckLine]
    remedy: str

    def line(self) -> CheckLine:
        """Look, and return what was found."""
        try:
            return self.look()
        except FedRxError as error:
            return CheckLine(self.name, ok=False, text=str(error), remedy=self.remedy)


@dataclass(frozen=True)
class DryRun:
    """What a dry run works on.

    Attributes:
        folder: the site's folder.
        study: the study.
        load: reads the patients.
        plan_of: makes the study concrete for a number of sites.
        now: unix seconds.
        passphrase: of the site's keys, if they are encrypted.
        installed: FedRx release installed here.
        quality: looks at the loaded data by every rule, given the overrides in force.
    """

    folder: Path
    study: Study
    load: Callable[[], LoadResult]
    plan_of: Callable[[Study, int], StudyPlan]
    now: int
    passphrase: str | None = None
    installed: str = version("fedrx")
    quality: Callable[[LoadResult, Mapping[str, str]], Iterable[CheckLine]] | None = None

    def lines(self, more: Sequence[Check] = ()) -> tuple[CheckLine, ...]:
        """All findings, in the order in which a person would repair them.

        Args:
            more: further checks, e.g. of the network.
        """
        own = (
            Check(
                "keys and roster",
                lambda: trust(self.folder, self.passphrase, self.now),
                "Restore or renew what is named, or join anew.",
            ),
            Check("disk", lambda: disk(self.folder), "Repair the folder."),
        )
        first = tuple(check.line() for check in (*own, *more))
        try:
            loaded = self.load()
        except FedRxError as error:
            remedy = "Correct the table or the mapping, then check again."
            return (*first, CheckLine("data", ok=False, text=str(error), remedy=remedy))
        study, cohort = self.study, loaded.cohort
        checks = (
            Check("training", lambda: training_step(study, cohort), "Correct the study's model."),
            *(_training_on(device, study, cohort) for device in devices()[1:]),
            Check(
                "approval",
                lambda: approval(
                    study, cohort, self.folder, installed=self.installed, now=self.now
                ),
                "Run `fedrx site approve`.",
            ),
            Check("privacy budget", self._budget, "Repair what is named first."),
        )
        return (
            *first,
            data_quality(loaded),
            *self._quality(loaded),
            *outcome(cohort),
            cohort_size(study, cohort),
            *(check.line() for check in checks),
        )

    def _quality(self, loaded: LoadResult) -> tuple[CheckLine, ...]:
        if self.quality is None:
            return ()
        try:
            overrides = Approvals(self.folder).find(self.study.digest, self.now).overrides
        except MisuseError:
            overrides = {}  # the approval's own line says why
        try:
            return tuple(self.quality(loaded, overrides))
        except FedRxError as error:
            remedy = "Correct the source or the mapping, then check again."
            return (CheckLine("quality", ok=False, text=str(error), remedy=remedy),)

    def _budget(self) -> CheckLine:
        sites = len(SiteIdentity(self.folder).roster(self.now).ids)
        plan = self.plan_of(self.study, sites)
        try:
            key = Approvals(self.folder).kept(self.study.digest).approval.cohort_key
        except MisuseError:
            key = cohort_key(DEFAULT_COHORT)  # not approved yet: the usual name
        return privacy_budget(plan, key, self.folder, self.now)


def data_quality(loaded: LoadResult) -> CheckLine:
    """Green unless a number is missing for more than half of the patients.

    A missing category is a level of its own, which may be the usual one: it is only shown.
    """
    quality, features = loaded.quality, loaded.cohort.schema.features
    numbers = {one.name for one in features if isinstance(one, NumberFeature)}
    empty = [
        name
        for name, count in quality.missing.items()
        if name in numbers and count > _MOST_MISSING * max(1, quality.rows_kept)
    ]
    return CheckLine(
        "data",
        ok=not empty,
        text=quality.text().replace("\n", " "),
        remedy=f"Most patients have no {', '.join(empty)}: check columns and codes in the mapping."
        if empty
        else "",
    )


def outcome(cohort: Cohort) -> tuple[CheckLine, ...]:
    """Mention outcomes that are all alike; one small site may well have such patients."""
    try:
        require_variety(cohort.schema.target, cohort.target, "of this site's patients")
    except DataError as error:
        remedy = "A small site may take part like this; if it cannot be true, mend the mapping."
        return (CheckLine("outcome", ok=True, text=str(error), remedy=remedy),)
    return ()


def cohort_size(study: Study, cohort: Cohort) -> CheckLine:
    """Compare the cohort with the study's sizes."""
    try:
        check_cohort_size(study, cohort)
    except DataError as error:
        remedy = "Bring a cohort of that size, or ask the consortium to change the study."
        return CheckLine("cohort size", ok=False, text=str(error), remedy=remedy)
    section = study.cohort
    patients = counted(len(cohort), "patient")
    text = f"{patients}; allowed are {section.minimum_per_site} to {section.largest_site}."
    if len(cohort) > section.patients:
        text += f" All sites together should have {section.patients} (cohort.patients)."
    return CheckLine("cohort size", ok=True, text=text)


def _training_on(device: torch.device, study: Study, cohort: Cohort) -> Check:
    """Check the same step on one of this machine's slower devices, under a name of its own."""
    name = f"training on {device.type}"
    return Check(
        name,
        lambda: replace(training_step(study, cohort, device=device), name=name),
        "Correct the study's model, or start the site with another --device.",
    )


def training_step(
    study: Study,
    cohort: Cohort,
    *,
    device: torch.device | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> CheckLine:
    """Build the model, and time one pass over the whole cohort with a gradient per patient.

    Args:
        study: the study.
        cohort: the patients.
        device: where; the best one if left out.
        clock: seconds.
    """
    device = device or pick_device()
    norm = study.training.clipping_norm
    with named_failures(device):
        model = study_model(study, seed=0).to(device)
        rows = public_rows(model, len(cohort))  # in a round the agreed size; this stays here
        batch = encode(cohort, study.feature_schema).to(device)
        clipped_gradient_sum(model, batch, norm, rows=rows)  # the first one also warms up
        start = clock()
        step = clipped_gradient_sum(model, batch, norm, rows=rows)
        passed = clock() - start
    seconds = passed * (study.training.local.epochs if study.steps == "local" else 1)
    limit = study.schedule.round_deadline_s
    text = (
        f"{study.model.name} on {device.type}: about {seconds:.3g} s of computation a round, "
        f"{seconds * study.rounds:.3g} s in all {study.rounds} rounds; the deadline is {limit:g} s."
    )
    if step.not_finite:
        remedy = "Some patients give no finite gradient: check units and ranges in the mapping."
    elif seconds > limit:
        remedy = "Use a faster machine, or ask for a longer schedule.round_deadline_s."
    else:
        remedy = ""
    return CheckLine("training", ok=not remedy, text=text, remedy=remedy)


def planned_releases(plan: StudyPlan, cohort: str) -> tuple[Release, ...]:
    """List what the site will have released after the study, if no round must be tried again.

    Args:
        plan: the study for the roster's number of sites.
        cohort: what the ledger counts these patients by.
    """
    study, local = plan.study, plan.study.training.local
    private_local = study.privacy.mode == "local"
    rate, steps = study.training.sample_rate, 1
    if private_local:
        rate = min(1.0, local.batch_size / plan.patients_per_site)
        steps = local.epochs * ceil(1 / rate)

    def release(number: int, purpose: Purpose, noise: float, slack: float) -> Release:
        trains = purpose == "training"
        return Release(
            time=_TIME,
            study=study.digest,
            run="planned",
            round=number,
            attempt=0,
            purpose=purpose,
            noise_multiplier=noise,
            sample_rate=rate if trains else 1.0,
            steps=steps if trains else 1,
            clipping_norm=study.training.clipping_norm,
            cohort=cohort,
            grid_slack=slack,
        )

    found = []
    for number in range(1, study.final_round + 1):
        for name, part in plan.round(number, 0).by_name.items():
            if name == "training":
                noise = plan.local_noise if private_local else part.noise_multiplier
                found.append(release(number, "training", noise, part.slack))
            elif name == "metrics":
                found.append(release(number, "metrics", part.noise_multiplier, part.slack))
    return tuple(found)


def privacy_budget(plan: StudyPlan, cohort: str, folder: Path, now: int) -> CheckLine:
    """Compare what the study would cost these patients with what is left of the approved cap.

    Args:
        plan: the study for the roster's number of sites.
        cohort: what the ledger counts these patients by.
        folder: the site's folder.
        now: unix seconds.

    Raises:
        LedgerDamaged: a line of the ledger was changed, removed or reordered.
    """
    study = plan.study
    planned = planned_releases(plan, cohort)
    if study.opens_exact_sums:
        text = "sums without noise are opened: no epsilon holds for this study."
        return CheckLine("privacy budget", ok=True, text=text)
    delta = study.privacy.delta
    cost = Account.of(planned).spent(delta).total
    text = f"the study will cost about epsilon {cost:.2f} at delta {delta:g}"
    try:
        cap = Approvals(folder).find(study.digest, now).cap
    except MisuseError:
        cap = None  # the approval's own line is red and says why
    if cap is None:
        return CheckLine("privacy budget", ok=True, text=f"{text}; no cap is in force.")
    others = [
        one for one in read_releases(folder) if one.cohort == cohort and one.study != study.digest
    ]
    spent = Account.of(others).spent(cap.delta).total
    text += (
        f"; other studies spent epsilon {spent:.2f} on these patients, and the cap for all "
        f"together is epsilon {cap.epsilon:g} at delta {cap.delta:g}."
    )
    fits = not Account.of(others).would_exceed(planned, cap.epsilon, cap.delta)
    remedy = "" if fits else "Raise the cap with `fedrx site approve`, or leave this study out."
    return CheckLine("privacy budget", ok=fits, text=text, remedy=remedy)


def read_releases(folder: Path) -> tuple[Release, ...]:
    """Read everything in a site's ledger; nothing where there is none yet.

    Raises:
        LedgerDamaged: a line was changed, removed or reordered.
    """
    if not (folder / LEDGER).is_file():
        return ()
    with SiteStore(folder / LEDGER) as store:
        return Ledger(store).releases()


def approval(study: Study, cohort: Cohort, folder: Path, *, installed: str, now: int) -> CheckLine:
    """Whether an approval in force covers this study, cohort and release.

    Raises:
        MisuseError: none does; the text says why.
    """
    found = Approvals(folder).find(study.digest, now)
    found.require_cohort(cohort.fingerprint, len(cohort))
    found.require_version(installed)
    text = f"given by {found.by}, ends in {found.time_left(now)}."
    return CheckLine("approval", ok=True, text=text)


def trust(folder: Path, passphrase: str | None, now: int) -> CheckLine:
    """Keys readable, roster and CA verified against the pinned consortium.

    Raises:
        MisuseError: something is missing, changed or expired; the text says what.
    """
    identity = SiteIdentity(folder)
    identity.keys(passphrase)
    roster = identity.roster(now)
    identity.authority(now)
    text = f"keys readable; roster {roster.serial} with {len(roster.ids)} sites and the CA valid."
    return CheckLine("keys and roster", ok=True, text=text)


def disk(folder: Path) -> CheckLine:
    """Whether the folder can be written, and has room for ledger and logs."""
    probe = folder / ".check"
    try:
        with probe.open("wb") as file:
            file.write(b"fedrx")
            os.fsync(file.fileno())
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        text, remedy = f"{folder} cannot be written ({error.strerror}).", "Repair disk and rights."
        return CheckLine("disk", ok=False, text=text, remedy=remedy)
    enough = free >= LEAST_DISK_BYTES
    remedy = "" if enough else f"Free at least {LEAST_DISK_BYTES // 10**6} MB."
    text = f"{folder} can be written, {free / 1e9:.1f} GB free."
    return CheckLine("disk", ok=enough, text=text, remedy=remedy)
