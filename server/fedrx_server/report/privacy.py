"""What a run has released, from its plan and its attempts alone: the coordinator's own account.

The coordinator never sees a site's ledger. It knows which attempts were begun and what each of
them releases, which is what a site that answered all of them has in its ledger.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

from fedrx_models.planning import plan_for
from fedrx_protocol.plan import StudyPlan
from fedrx_protocol.privacy.accountant import Account, Composition, epsilon_upper, privacy_spent
from fedrx_protocol.privacy.calibration import collusion_table
from fedrx_protocol.privacy.events import Purpose, Release
from fedrx_protocol.study.study import Study
from fedrx_server.report.data import EpsilonCurve, PrivacyStatement
from fedrx_server.report.promise import assumption_in_words

# Every release has a time and a cohort; the accountant counts neither.
_TIME, _COHORT = "1970-01-01T00:00:00Z", "00"


def planned_releases(
    study: Study, run: str, attempts: Iterable[tuple[int, int, int]]
) -> tuple[Release, ...]:
    """What each attempt releases.

    Args:
        study: The study.
        run: Name of the run.
        attempts: Round, attempt, and sites on the roster.
    """
    training, releases = study.training, []
    for number, attempt, sites in attempts:
        plan = plan_for(study, sites)
        for part in plan.round(number, attempt).parts:
            if part.name == "weight":
                continue
            trained = part.name == "training"
            noise, rate, steps = part.noise_multiplier, training.sample_rate, 1
            if trained and study.privacy.mode == "local":
                local = training.local
                noise, rate = plan.local_noise, min(1.0, local.batch_size / plan.patients_per_site)
                steps = local.epochs * math.ceil(1 / rate)
            release = Release(
                time=_TIME,
                study=study.digest,
                run=run,
                round=number,
                attempt=attempt,
                purpose="training" if trained else "metrics",
                noise_multiplier=noise,
                sample_rate=rate if trained else 1.0,
                steps=steps,
                clipping_norm=training.clipping_norm if trained else part.sensitivity,
                cohort=_COHORT,
                grid_slack=part.slack,
            )
            releases.append(release)
    return tuple(releases)


def spent_at_most(study: Study, releases: Sequence[Release]) -> float:
    """A quick upper bound on epsilon, for a live view; infinite where nothing is promised.

    Never above the promise: a site refuses what would break it, and such an attempt is no release.
    """
    if study.privacy.mode == "none":
        return math.inf
    by_purpose = [
        [release for release in releases if release.purpose == purpose]
        for purpose in _purposes(study)
    ]
    most = max(epsilon_upper(some, study.privacy.delta) for some in by_purpose)
    return min(most, study.privacy.epsilon)


def affordable(study: Study, releases: Sequence[Release]) -> tuple[Release, ...]:
    """As many of these releases as a site can have made: it refuses what breaks the promise."""
    promise = study.privacy
    if promise.mode == "none":
        return tuple(releases)
    refused: set[Release] = set()
    for purpose in _purposes(study):
        own = [release for release in releases if release.purpose == purpose]

        def breaks(count: int, own: list[Release] = own) -> bool:
            return Account.of(own[:count]).would_exceed((), promise.epsilon, promise.delta)

        within = bisect_left(range(1, len(own) + 1), True, key=breaks)  # noqa: FBT003 - a key's value
        refused.update(own[within:])
    return tuple(release for release in releases if release not in refused)


def privacy_statement(
    plan: StudyPlan, ledger: Mapping[str, tuple[Release, ...]], participants: int
) -> PrivacyStatement:
    """What was spent at the site that spent most, in words that say what it rests on.

    Args:
        plan: The study made concrete.
        ledger: Releases by site.
        participants: The fewest sites in any sum: they have the least noise to spare.
    """
    privacy = plan.study.privacy
    spent = [privacy_spent(releases, privacy.delta) for releases in ledger.values()]
    exact_metrics = plan.study.metrics.mode == "secure-sum" and privacy.mode != "none"
    training = max((one.training for one in spent), default=0.0)
    measured = max((one.metrics for one in spent), default=0.0)
    return PrivacyStatement(
        mode=privacy.mode,
        epsilon=training if exact_metrics else max(training, measured),
        delta=privacy.delta,
        promised_epsilon=None if privacy.mode == "none" else privacy.epsilon,
        assumption=assumption_in_words(plan, exact_metrics=exact_metrics),
        training_epsilon=training,
        metrics_epsilon=None if exact_metrics else measured,
        collusion=_collusion(plan, ledger, participants),
    )


def epsilon_curve(releases: Sequence[Release], delta: float) -> EpsilonCurve | None:
    """Privacy spent by round; nothing where a release carries no noise."""
    if not releases or any(release.noise_multiplier == 0 for release in releases):
        return None
    rounds: list[int] = []
    spent: list[float] = []
    for number in sorted({release.round for release in releases}):
        so_far = [release for release in releases if release.round <= number]
        rounds.append(number)
        spent.append(privacy_spent(so_far, delta).total)
    return EpsilonCurve(rounds, spent)


def _collusion(
    plan: StudyPlan, ledger: Mapping[str, tuple[Release, ...]], participants: int
) -> list[tuple[int, float]]:
    """By colluding sites, what a patient can lose at most: trained on or held out, anywhere."""
    if plan.study.privacy.mode != "distributed":
        return []
    # What was released under the promise: each site's trainings, and its metrics if they count.
    promised = {
        Composition.of(release for release in releases if release.purpose == purpose)
        for releases in ledger.values()
        for purpose in _purposes(plan.study)
    }
    tables = [
        collusion_table(
            spent,
            delta=plan.study.privacy.delta,
            min_honest=plan.parameters.min_honest,
            participants=participants,
            colluders=plan.parameters.max_colluding,
        )
        for spent in promised
    ]
    return [max(row) for row in zip(*tables, strict=True)]


def _purposes(study: Study) -> tuple[Purpose, ...]:
    """Whose releases carry noise, so that the promise is about them."""
    return ("training", "metrics") if study.metrics_are_private else ("training",)
