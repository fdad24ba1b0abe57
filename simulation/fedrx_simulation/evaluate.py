"""From a finished run to its result: exact metrics, baselines, privacy spent, report.

A simulation owns its patients, so it may say how good the model really is; beside that stands
what a real coordinator would have seen.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fedrx_client.data.quality import DataQuality
from fedrx_client.ledger import Ledger
from fedrx_client.store import SiteStore
from fedrx_models.cohort import Cohort, concatenate
from fedrx_models.contract import DoseModel, set_vector
from fedrx_models.metrics import DoseMetrics, exact
from fedrx_protocol.errors import RunError
from fedrx_protocol.plan import StudyPlan
from fedrx_protocol.privacy.accountant import privacy_spent
from fedrx_protocol.privacy.calibration import collusion_table
from fedrx_protocol.privacy.events import Release
from fedrx_server.report_data import (
    DoseGroups,
    EpsilonCurve,
    GroupErrors,
    LearningCurve,
    Predictions,
    PrivacyStatement,
    ReportData,
    ResultRow,
    RowKey,
    RunCost,
)
from fedrx_server.run_folder import RunFolder
from fedrx_simulation.baselines import compute_baselines, predict
from fedrx_simulation.engines.setup import EngineSetup
from fedrx_simulation.result import SimulationResult

_LABELS: Mapping[RowKey, tuple[str, str]] = {
    "pooled": ("Pooled", "all patients in one place, no privacy"),
    "federated": ("Federated", "patients stay at their sites"),
    "site_alone": ("Each site alone", "every site trains on its own patients only"),
    "published": ("Published equation", "IWPC 2009, pharmacogenetic"),
    "fixed": ("Fixed dose", "35 mg/week for everybody"),
}


def evaluate(
    run: RunFolder, setup: EngineSetup, *, baselines: bool, began: float
) -> SimulationResult:
    """Judge a finished run.

    Args:
        run: The run folder, still open.
        setup: Sites and their patients.
        baselines: Whether to train the baselines.
        began: `time.monotonic()` when this call to simulate began.

    Raises:
        RunError: The run has not finished.
    """
    consortium, quality = setup.consortium, run.meta["source"].get("quality")
    model = consortium.model()
    checkpoint = run.latest_checkpoint()
    if checkpoint is None or checkpoint.record.round < run.study.final_round:
        raise RunError(f"{run.path}: the run has not finished; resume it.")
    training, held_out = _split(setup)
    everyone = concatenate(list(held_out.values()))
    set_vector(model, checkpoint.weights)
    predicted = predict(model, everyone)
    metrics = {"federated": exact(predicted, everyone.target)}
    if baselines:
        found = compute_baselines(consortium.model(), training, held_out, consortium.seed)
        metrics = {**found.by_name(), **metrics}
    ledger = _ledgers(setup)
    # The round with the fewest sites in it has the least noise to spare for colluders.
    privacy = privacy_statement(consortium.plan, ledger, min(r.survivors for r in run.rounds))
    seconds = time.monotonic() - began
    return SimulationResult(
        study=run.study,
        model=model,
        weights=checkpoint.weights,
        metrics=metrics,
        reported=dict(run.rounds[-1].metrics or {}),
        privacy=privacy,
        ledger=ledger,
        rounds=run.rounds,
        report=ReportData(
            **_heading(run, consortium.run_id),
            rows=_rows(metrics),
            reported=_reported_row(run),
            reported_noise=_reported_noise(run),
            privacy=privacy,
            curve=_curve(run, consortium.model(), everyone),
            predictions=Predictions(everyone.target.tolist(), predicted.tolist()),
            groups=_groups(metrics),
            epsilon_curve=_epsilon_curve(ledger, run.study.privacy.delta),
            cost=_cost(run, seconds, len(setup.sites)),
        ),
        folder=run.path,
        quality=DataQuality(**quality) if quality else None,
        seconds=seconds,
        sites=len(setup.sites),
    )


def _heading(run: RunFolder, run_id: str) -> dict[str, Any]:
    """What a report says before its first figure."""
    study = run.study
    return {
        "title": study.title or study.name,
        "study": study.name,
        "study_digest": study.digest,
        "run": run_id,
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "simulation": True,
        "description": study.description,
        "target": study.target.name,
        "unit": study.target.unit,
    }


def privacy_statement(
    plan: StudyPlan, ledger: Mapping[str, tuple[Release, ...]], participants: int
) -> PrivacyStatement:
    """What was spent at the site that spent most, in words that say what it rests on."""
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
        assumption=_assumption(plan, exact_metrics=exact_metrics),
        training_epsilon=training,
        metrics_epsilon=None if exact_metrics else measured,
        collusion=_collusion(plan, ledger, participants),
    )


def _assumption(plan: StudyPlan, *, exact_metrics: bool) -> str:
    parameters = plan.parameters
    words = {
        "none": "no noise was added: secure aggregation alone protects each site's sum",
        "local": "whoever else colludes: each site adds the whole noise itself",
        "distributed": (
            f"if at least {parameters.min_honest} of {parameters.n} sites are honest and take part"
        ),
    }[plan.study.privacy.mode]
    return words + ("; the metrics are exact sums outside this guarantee" if exact_metrics else "")


def _collusion(
    plan: StudyPlan, ledger: Mapping[str, tuple[Release, ...]], participants: int
) -> list[tuple[int, float]]:
    if plan.study.privacy.mode != "distributed":
        return []
    training = max(
        (sum(release.purpose == "training" for release in site) for site in ledger.values()),
        default=0,
    )
    part = plan.round(1, 0).by_name["training"]
    return collusion_table(
        part.noise_multiplier,
        sample_rate=plan.study.training.sample_rate,
        releases=training,
        delta=plan.study.privacy.delta,
        min_honest=plan.parameters.min_honest,
        participants=participants,
        colluders=plan.parameters.max_colluding,
        grid_slack=part.slack,
    )


def _split(setup: EngineSetup) -> tuple[dict[str, Cohort], dict[str, Cohort]]:
    parts = {site: setup.consortium.split(cohort) for site, cohort in setup.cohorts.items()}
    return (
        {site: part[0] for site, part in parts.items()},
        {site: part[1] for site, part in parts.items()},
    )


def _ledgers(setup: EngineSetup) -> dict[str, tuple[Release, ...]]:
    found = {}
    for site in setup.sites:
        with SiteStore(setup.sites_folder / site / "site.db", durability="process") as store:
            found[site] = Ledger(store).releases()
    return found


def _rows(metrics: Mapping[str, DoseMetrics]) -> list[ResultRow]:
    return [
        ResultRow(
            key=key,
            label=label,
            detail=detail,
            mae=metrics[key].mae,
            r2=metrics[key].r2,
            within_20_percent=metrics[key].within_20_percent,
        )
        for key, (label, detail) in _LABELS.items()
        if key in metrics
    ]


def _reported_row(run: RunFolder) -> ResultRow | None:
    reported = run.rounds[-1].metrics
    if not reported:
        return None
    return ResultRow(
        key="other",
        label="Federated, as reported",
        mae=reported["mae"],
        r2=reported.get("r2"),
        within_20_percent=reported.get("within_20_percent"),
    )


def _reported_noise(run: RunFolder) -> float | None:
    reported = run.rounds[-1].metrics
    return _half_width(reported) if reported else None


def _half_width(metrics: Mapping[str, float]) -> float:
    return (metrics.get("mae_high", 0.0) - metrics.get("mae_low", 0.0)) / 2


def _curve(run: RunFolder, model: DoseModel, everyone: Cohort) -> LearningCurve:
    """Reported errors, and exact ones of the checkpoints that were kept.

    A round's metrics speak of the model it was given, so they stand at the round before.
    """
    reported = [(record.round - 1, record.metrics) for record in run.rounds if record.metrics]
    rounds, errors = [], []
    for number in run.kept_rounds:
        if number < run.study.final_round:
            set_vector(model, run.checkpoint(number).weights)
            rounds.append(number)
            errors.append(exact(predict(model, everyone), everyone.target).mae)
    return LearningCurve(
        rounds=[number for number, _ in reported],
        reported=[metrics["mae"] for _, metrics in reported],
        noise=[_half_width(metrics) for _, metrics in reported],
        exact_rounds=rounds,
        exact=errors,
    )


def _groups(metrics: Mapping[str, DoseMetrics]) -> DoseGroups | None:
    groups = metrics["federated"].groups
    if not groups:
        return None
    shown = [key for key in _LABELS if key in metrics]
    return DoseGroups(
        labels=[group.name for group in groups],
        models=[
            GroupErrors(_LABELS[key][0], [group.mae or 0.0 for group in metrics[key].groups])
            for key in shown
        ],
        patients=[int(group.n) for group in groups],
    )


def _epsilon_curve(ledger: Mapping[str, tuple[Release, ...]], delta: float) -> EpsilonCurve | None:
    """Privacy spent by round, at the site with most releases."""
    releases = max(ledger.values(), key=len, default=())
    if not releases or any(release.noise_multiplier == 0 for release in releases):
        return None
    rounds: list[int] = []
    spent: list[float] = []
    for number in sorted({release.round for release in releases}):
        so_far = [release for release in releases if release.round <= number]
        rounds.append(number)
        spent.append(privacy_spent(so_far, delta).total)
    return EpsilonCurve(rounds, spent)


def _cost(run: RunFolder, seconds: float, sites: int) -> RunCost:
    return RunCost(
        rounds=len(run.rounds),
        sites=sites,
        seconds=seconds,
        bytes_up=sum(record.bytes_up for record in run.rounds),
        bytes_down=sum(record.bytes_down for record in run.rounds),
        dropped_by_round=[record.dropped for record in run.rounds],
        repeated_attempts=sum(record.attempt for record in run.rounds),
    )
