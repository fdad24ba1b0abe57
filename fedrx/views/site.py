"""What a hospital's person reads before saying yes, and afterwards: plain words, no decoration."""

from collections.abc import Iterable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from fedrx_client.approvals.approval import Approval, day
from fedrx_client.approvals.store import Approvals, KeptApproval
from fedrx_client.checks.study import CheckLine, read_releases
from fedrx_client.identity.identity import SiteIdentity
from fedrx_common.canonical_json import finite_or_none
from fedrx_protocol.plan import StudyPlan
from fedrx_protocol.privacy.accountant import Account, PrivacySpent
from fedrx_protocol.privacy.events import Release
from fedrx_protocol.study.changes import study_changes
from fedrx_protocol.study.study import Study
from fedrx_protocol.trust.roster import Roster, fingerprint
from fedrx_server.report.promise import in_a_line

NEVER_LEAVES = (
    "Never leaves: a patient's record, name or id; this site's own gradient, weights or metrics "
    "in the clear; its keys. What a coordinator that lies could work out is another matter: the "
    "page of each study says it."
)
LEDGER_ASSUMPTION = (
    "Epsilon is counted from this site's own ledger, for adding or removing one patient with all "
    "their records. Where the study's mode is 'distributed' it holds if at least as many sites as "
    "the study requires are honest and add their share of the noise; in mode 'local' it holds "
    "whatever the others do. A patient who was in every cohort can have lost what 'in all' says."
)


def study_page(plan: StudyPlan, patients: int) -> str:
    """Say what a study would do with a site's patients.

    Args:
        plan: the study for the roster's sites.
        patients: size of the cohort.
    """
    study = plan.study
    features = [feature.name for feature in study.features]
    blocks = [f"block {block.name} ({len(block.genes):,} genes)" for block in study.blocks]
    at_visits = [f"{part.name} at every visit" for part in study.markers]
    given = [f"{part.name} at every visit" for part in study.treatments]
    read = ", ".join([*features, *blocks, *at_visits, *given])
    told = "yes or no" if study.target.kind == "binary" else study.target.unit
    target = study.target.name + (f" ({told})" if told else "")
    lines = [
        f"Study '{study.name}'" + (f": {study.title}" if study.title else ""),
        f"Digest: {study.digest}",
        f"Patients: {patients} of this site, {study.cohort.held_out:.0%} of them held out to test.",
        f"Reads: {read}; and the target {target}.",
        f"Model: {study.model.name} with {plan.dimension:,} weights, {study.rounds} rounds.",
    ]
    if study.transfer is not None:
        frozen = ", ".join(study.transfer.freeze) or "nothing"
        lines += [
            f"Starts from: the model of study {study.transfer.study}; of it stays fixed: {frozen}.",
            (
                "Adds up: patients who were in that study too lose what both studies spend; this "
                "site's ledger counts both under their name."
            ),
        ]
    lines.append(f"Privacy: {in_a_line(plan)}")
    noisy = study.privacy.mode != "none"
    if noisy:
        twice = ceil(100 * plan.epsilon_at_two_sites) / 100  # a promise is rounded upwards
        lines.append(
            "At two hospitals: a patient who is at two sites of this study with the same records "
            f"is promised epsilon {twice:.2f}, not {study.privacy.epsilon:g}."
        )
    rounds = ", ".join(str(number - 1) for number in study.evaluation_rounds)
    how = "with noise" if study.metrics_are_private else "without noise"
    what = "change of the weights" if study.steps == "local" else "sum of gradients"
    noise = ", with noise added here" if noisy else ""
    lines += [
        f"Metrics: sums of errors over held-out patients, {how}, after rounds {rounds}.",
        (
            f"Leaves the building: each round a masked {what} over this site's patients{noise}; "
            f"only the sum over at least {plan.parameters.threshold} sites can be opened. Also "
            "public keys and key shares."
        ),
        NEVER_LEAVES,
        f"If the coordinator lies: {if_it_lies(plan)}",
    ]
    return "\n".join(lines)


def if_it_lies(plan: StudyPlan) -> str:
    """Say what a coordinator could work out by comparing sums over different lists of sites.

    Args:
        plan: the study for the roster's sites; taken as a live study.
    """
    study = plan.study
    if study.privacy.mode == "none":
        got = "this site's exact number of patients, gradient and metrics"
    elif study.opens_exact_sums:
        got = "this site's exact metrics and number of held-out patients, and about how many it has"
    else:
        within = f" to within about {plan.patients_seen_within:.0f}" * (plan.training_noise > 0)
        got = f"how many patients this site brings{within} (each single patient stays protected)"
    if study.opens_one_list(live=True):
        return (
            f"it could subtract sums over different lists of sites, and so get {got}. In this "
            "study this site opens sums over one list only, and refuses any other, so a round "
            "waits until every site is there. A second study on these patients over other sites "
            "would allow it again: mind the list of sites when you approve one."
        )
    return (
        f"it can repeat rounds with and without this site, subtract, and so get {got}. Nothing in "
        "this study prevents it; `stable_lists = true` in [secure_aggregation] would."
    )


def counted_page(approval: Approval, releases: Sequence[Release]) -> str:
    """Say under which name these patients' spending is counted, and how much it is so far.

    Args:
        approval: what is about to be signed.
        releases: everything in the ledger.
    """
    name = approval.cohort_name
    before = [one for one in releases if one.cohort == approval.cohort_key]
    if before or not releases:
        spent = Account.of(before).spent(approval.cap.delta if approval.cap else 1e-5).total
        return f"Counted as: '{name}', of which epsilon {spent:.3f} is spent so far."
    return (
        f"Counted as: '{name}', a new count. If these are patients of an earlier study here, give "
        "its name with --cohort instead."
    )


def changes_page(
    kept: KeptApproval, before: Study | None, wanted: Approval, after: Study, now: int
) -> str:
    """Say how a study differs from one of the same name that the site approved earlier.

    Args:
        kept: the earlier approval.
        before: its study; None where it was not kept.
        wanted: the approval that is about to be signed.
        after: its study.
        now: unix seconds.
    """
    earlier = kept.approval
    title = (
        f"Differs from study '{earlier.name}' ({earlier.study[:12]}), approved on "
        f"{day(earlier.approved_at)} and {kept.state(now)}:"
    )
    if before is None:
        return f"{title}\n  how cannot be said: that study's file is not kept here any more."
    lines = [f"  {change}" for change in study_changes(before, after)]
    if earlier.sites and earlier.sites != wanted.sites:
        lines.append(f"  roster: {', '.join(earlier.sites)} -> {', '.join(wanted.sites)}")
    return "\n".join([title, *lines])


def check_page(lines: Iterable[CheckLine]) -> str:
    """Show green and red lines, each red one with its remedy."""
    page = []
    for line in lines:
        page.append(f"{'ok ' if line.ok else 'NOT'}  {line.name}: {line.text}")
        if line.remedy:
            page.append(f"     -> {line.remedy}")
    return "\n".join(page)


def approvals_page(kept: Sequence[KeptApproval], now: int) -> str:
    """Show a line for each approval."""
    lines = []
    for one in kept:
        approval = one.approval
        cap = "no cap" if approval.cap is None else f"cap {approval.cap.epsilon:g}"
        lines.append(
            f"{one.state(now):9}  {approval.study[:12]}  {approval.name}  "
            f"{day(approval.approved_at)} to {day(approval.expires_at)}  {cap}  by {approval.by}"
        )
    return "\n".join(lines)


def roster_page(before: Roster, after: Roster) -> str:
    """Show who comes, who goes and whose keys change between two rosters."""
    lines = [f"Roster {before.serial} -> {after.serial}"]
    for site in sorted({*before.ids, *after.ids}):
        old, new = before.entry(site), after.entry(site)
        if new is not None and old is None:
            lines.append(f"comes: {site} ({new.name}), identity {fingerprint(new.identity)}")
        elif old is not None and new is None:
            lines.append(f"goes:  {site} ({old.name})")
        elif old is not None and new is not None and old.identity != new.identity:
            lines.append(f"new keys: {site} ({new.name}), identity {fingerprint(new.identity)}")
    if len(lines) == 1:
        lines.append("the same sites with the same keys; only their validity changes.")
    return "\n".join(lines)


def start_page(folder: Path, coordinator: str, device: str, now: int) -> str:
    """Show what a person should see when the site's agent starts.

    Args:
        folder: the site's folder.
        coordinator: its HOST:PORT, and the proxy on the way there if there is one.
        device: where the site computes.
        now: unix seconds.
    """
    identity = SiteIdentity(folder)
    roster = identity.roster(now)
    lines = [
        f"Site '{identity.site}' ({identity.name}), identity {identity.fingerprint}",
        (
            f"Believes consortium {fingerprint(identity.pin.consortium)}, roster {roster.serial}: "
            f"{', '.join(roster.ids)}"
        ),
        f"Coordinator: {coordinator}; connections go out only. Computes on {device}.",
    ]
    approvals, releases = Approvals(folder), read_releases(folder)
    kept = approvals.all()
    in_force = [one.approval for one in kept if one.state(now) == "in force"]
    for approval in in_force:
        told = "no cap (sums without noise)"
        if approval.cap is not None:
            own = [one for one in releases if one.cohort == approval.cohort_key]
            spent = finite_or_none(Account.of(own).spent(approval.cap.delta).total)
            told = (
                f"cap epsilon {approval.cap.epsilon:g} for '{approval.cohort_name}', "
                f"{_number(spent)} of it spent"
            )
        until, left = day(approval.expires_at), approval.time_left(now)
        lines.append(f"Approved: '{approval.name}' until {until} ({left} left), {told}.")
    if not in_force:
        lines.append("No study is approved: every request will be refused (`fedrx site approve`).")
    lines += [f"Not believed: {sentence}" for sentence in approvals.doubtful()]
    lines += [
        (
            "Can leave: for approved studies a masked vector a round, public keys and key shares; "
            "else the name of a refusal's reason."
        ),
        NEVER_LEAVES,
        "Stop with Ctrl-C or SIGTERM. Every request, answer and refusal: `fedrx site audit`.",
    ]
    return "\n".join(lines)


def ledger_page(document: dict[str, Any]) -> str:
    """Show what is spent and left, by study and in all."""
    lines = []
    for study in document["studies"]:
        name, spent = study["name"] or "no longer approved", study["spent"]
        cap = "no cap"
        if study["cap"] is not None:
            cap = f"cap {study['cap']:g}, left for its patients {_number(study['left'])}"
        lines.append(
            f"{study['study'][:12]} ({name}): {study['releases']} releases, "
            f"epsilon {_number(spent['total'])} at delta {spent['delta']:g}; {cap}."
        )
    total = document["in_all"]
    lines.append(f"in all: epsilon {_number(total['total'])} at delta {total['delta']:g}.")
    lines.append(document["assumption"])
    return "\n".join(lines)


def spent_document(spent: PrivacySpent) -> dict[str, float | None]:
    """Give a spent budget as JSON values; None where no noise was added."""
    return {
        "training": finite_or_none(spent.training),
        "metrics": finite_or_none(spent.metrics),
        "total": finite_or_none(spent.total),
        "delta": spent.delta,
    }


def _number(value: float | None) -> str:
    return "without bound (no noise)" if value is None else f"{value:.3f}"
