"""From a finished run to its result: exact metrics, baselines, privacy spent, report.

A simulation owns its patients, so it may say how good the model really is. Beside that it shows
what a real coordinator would have seen.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedrx_client.data.quality.account import DataQuality
from fedrx_client.records.database import SiteStore
from fedrx_client.records.ledger import Ledger
from fedrx_common.errors import RunError
from fedrx_models.cohort.cohort import Cohort, concatenate
from fedrx_models.contract import PatientModel, get_vector, set_vector
from fedrx_models.metrics.dose import DoseMetrics
from fedrx_models.metrics.forecast import ForecastMetrics
from fedrx_models.metrics.registry import Metrics, exact_metrics, measures_of
from fedrx_models.transfer import start_model
from fedrx_protocol.privacy.events import Release
from fedrx_protocol.study.schema import ContinuousTarget, ForecastTarget
from fedrx_server.report.data import (
    DoseGroups,
    GroupErrors,
    Held,
    LearningCurve,
    Predictions,
    ReportData,
    ResultRow,
    RowKey,
)
from fedrx_server.report.from_run import (
    heading,
    intervals,
    last_calibration,
    model_details,
    reported_curve,
    reported_row,
    run_cost,
)
from fedrx_server.report.privacy import epsilon_curve, privacy_statement
from fedrx_server.runs.folder import RunFolder
from fedrx_simulation.evaluation.baselines import compute_baselines, personalised, predict
from fedrx_simulation.evaluation.coverage import Coverage, coverage_by_site
from fedrx_simulation.evaluation.forecast_examples import forecast_pictures
from fedrx_simulation.evaluation.missing_blocks import block_curve
from fedrx_simulation.evaluation.result import SimulationResult
from fedrx_simulation.federation.setup import EngineSetup

_SITES_SHOWN = 30

_LABELS: Mapping[RowKey, tuple[str, str]] = {
    "pooled": ("Pooled", "all patients in one place, no privacy"),
    "federated": ("Federated", "patients stay at their sites"),
    "personalised": ("Personalised", "a private head at each site, which never leaves it"),
    "site_alone": ("Each site alone", "every site trains on its own patients only"),
    "published": ("Published equation", "IWPC 2009, pharmacogenetic"),
    "fixed": ("Fixed dose (35 mg/week)", "the same for everybody"),
}


def evaluate(
    run: RunFolder,
    setup: EngineSetup,
    *,
    baselines: bool,
    began: float,
    tell: Callable[[str], None] = lambda _: None,
) -> SimulationResult:
    """Judge a finished run.

    Args:
        run: The run folder, still open.
        setup: Sites and their patients.
        baselines: Whether to train the baselines.
        began: `time.monotonic()` when this call to simulate began.
        tell: Called with what is done now, in words.

    Raises:
        RunError: The run has not finished.
    """
    study, consortium = run.study, setup.consortium
    checkpoint = run.latest_checkpoint()
    if checkpoint is None or checkpoint.record.round < study.final_round:
        raise RunError(f"{run.path}: the run has not finished; resume it.")
    model = consortium.model()
    set_vector(model, checkpoint.weights)
    tell("judging the model")
    judged = _judge(run, setup, model, baselines, tell)
    ledger: dict[str, tuple[Release, ...]] = {}
    for site in setup.sites:
        with SiteStore(setup.sites_folder / site / "site.db", durability="process") as store:
            ledger[site] = Ledger(store).releases()
    # The round with the fewest sites has the least noise to spare.
    fewest = min(record.survivors for record in run.rounds)
    privacy = privacy_statement(consortium.plan, ledger, fewest)
    calibration, coverage = last_calibration(run.rounds), {}
    if calibration is not None:
        coverage = coverage_by_site(model, judged.held_out, calibration)
    tell("writing the report")
    report = _report(run, setup, model, judged)
    seconds, quality = time.monotonic() - began, run.meta["source"].get("quality")
    return SimulationResult(
        study=study,
        model=model,
        weights=get_vector(model),
        metrics=judged.metrics,
        reported=dict(run.rounds[-1].metrics or {}),
        privacy=privacy,
        ledger=ledger,
        rounds=run.rounds,
        report=replace(
            report,
            privacy=privacy,
            intervals=intervals(study, privacy, calibration, _held(coverage)),
            epsilon_curve=epsilon_curve(max(ledger.values(), key=len), study.privacy.delta),
            cost=run_cost(run.rounds, seconds, len(setup.sites)),
        ),
        folder=run.path,
        quality=DataQuality(**quality) if quality else None,
        seconds=seconds,
        sites=len(setup.sites),
        calibration=calibration,
        coverage=coverage,
    )


def _held(coverage: Mapping[str, Coverage]) -> list[Held]:
    """Give the lines of the report: all patients, and the largest sites."""
    largest = sorted(coverage, key=lambda site: (site != "", -coverage[site].patients))
    return [
        Held(f"Site {site}" if site else "All", one.plain, one.calibrated, one.patients)
        for site in largest[: 1 + _SITES_SHOWN]
        for one in [coverage[site]]
    ]


@dataclass(frozen=True, eq=False)
class _Judged:
    """The held-out patients of all sites, what was predicted of them, and how good that is."""

    held_out: Mapping[str, Cohort]
    everyone: Cohort
    predicted: NDArray[np.float64]
    metrics: Mapping[str, Metrics]


def _judge(
    run: RunFolder,
    setup: EngineSetup,
    model: PatientModel,
    baselines: bool,  # noqa: FBT001 - private, and named by every caller's own argument
    tell: Callable[[str], None],
) -> _Judged:
    """Compute exact metrics of the federated model and, if wanted, of the baselines."""
    parts = {site: setup.consortium.split(cohort) for site, cohort in setup.cohorts.items()}
    training = {site: part[0] for site, part in parts.items()}
    held_out = {site: part[1] for site, part in parts.items()}
    everyone, target = concatenate(list(held_out.values())), run.study.target
    predicted = predict(model, everyone)
    metrics = {"federated": exact_metrics(target, predicted, everyone.target)}
    if baselines:
        seed = setup.consortium.seed
        first = start_model(run.study, seed, run.start_file)
        tell("fitting a private head at each site")
        personal = personalised(model, training, held_out)
        metrics["personalised"] = exact_metrics(target, personal, everyone.target)
        metrics |= compute_baselines(first, training, held_out, seed, tell).by_name()
    return _Judged(held_out, everyone, predicted, metrics)


def _report(run: RunFolder, setup: EngineSetup, model: PatientModel, judged: _Judged) -> ReportData:
    """Gather what the report shows of the results."""
    study, reported = run.study, dict(run.rounds[-1].metrics or {})
    everyone, predicted, federated = judged.everyone, judged.predicted, judged.metrics["federated"]
    labels = {**_LABELS}
    if "published" not in judged.metrics:  # then the outcome is no dose of warfarin either
        labels["fixed"] = ("Public reference", "the same prediction for everybody")
    if isinstance(study.target, ForecastTarget):
        labels["fixed"] = ("Last value", "every marker stays as it was last measured")
    predictions = forecast = None
    if isinstance(study.target, ContinuousTarget):  # single patients can be plotted
        predictions = Predictions(everyone.target.tolist(), predicted.tolist())
    if isinstance(federated, ForecastMetrics):
        invented = run.meta["source"].get("kind") == "synthetic"
        forecast = forecast_pictures(model, everyone, predicted, federated, invented=invented)
    return ReportData(
        **heading(study, setup.consortium.run_id, simulation=True),
        measures=measures_of(study.target),
        rows=[
            ResultRow(key=key, label=label, detail=detail, values=judged.metrics[key].flat())
            for key, (label, detail) in labels.items()
            if key in judged.metrics
        ],
        reported=reported_row(reported),
        curve=_curve(run, setup.consortium.model(), everyone),
        predictions=predictions,
        groups=_groups(judged.metrics),
        forecast=forecast,
        blocks=block_curve(model, everyone, setup.consortium.seed),
        details=model_details(study),
    )


def _curve(run: RunFolder, model: PatientModel, everyone: Cohort) -> LearningCurve:
    """Give the headline as reported, and exact from the checkpoints that were kept.

    Where these patients have no headline, as when no two can be compared, there is no point.
    """
    target = run.study.target
    headline = measures_of(target)[0].key
    rounds, found = [], []
    for number in run.kept_rounds:
        if number < run.study.final_round:
            set_vector(model, run.checkpoint(number).weights)
            metrics = exact_metrics(target, predict(model, everyone), everyone.target).flat()
            if headline in metrics:
                rounds.append(number)
                found.append(metrics[headline])
    return reported_curve(run.rounds, target, rounds, found)


def _groups(metrics: Mapping[str, Metrics]) -> DoseGroups | None:
    """Give errors by dose group, for weekly doses."""
    doses = {key: one for key, one in metrics.items() if isinstance(one, DoseMetrics)}
    groups = doses["federated"].groups if "federated" in doses else ()
    if not groups:
        return None
    return DoseGroups(
        labels=[group.name for group in groups],
        models=[
            GroupErrors(label, [group.mae or 0.0 for group in doses[key].groups], key)
            for key, (label, _) in _LABELS.items()
            if key in doses
        ],
        patients=[int(group.n) for group in groups],
    )
