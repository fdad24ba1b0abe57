"""From a finished run to its result: exact metrics, baselines, privacy spent, report.

A simulation owns its patients, so it may say how good the model really is; beside that stands
what a real coordinator would have seen.
"""

import time
from collections.abc import Mapping

from fedrx_client.data.quality import DataQuality
from fedrx_client.ledger import Ledger
from fedrx_client.store import SiteStore
from fedrx_models.cohort import Cohort, concatenate
from fedrx_models.contract import DoseModel, set_vector
from fedrx_models.metrics import DoseMetrics, exact
from fedrx_protocol.errors import RunError
from fedrx_protocol.privacy.events import Release
from fedrx_server.account import epsilon_curve, privacy_statement
from fedrx_server.report_data import (
    DoseGroups,
    GroupErrors,
    LearningCurve,
    Predictions,
    ReportData,
    ResultRow,
    RowKey,
)
from fedrx_server.report_run import (
    half_width,
    heading,
    reported_curve,
    reported_row,
    run_cost,
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
    seconds, reported = time.monotonic() - began, dict(run.rounds[-1].metrics or {})
    return SimulationResult(
        study=run.study,
        model=model,
        weights=checkpoint.weights,
        metrics=metrics,
        reported=reported,
        privacy=privacy,
        ledger=ledger,
        rounds=run.rounds,
        report=ReportData(
            **heading(run.study, consortium.run_id, simulation=True),
            rows=_rows(metrics),
            reported=reported_row(reported),
            reported_noise=half_width(reported) if reported else None,
            privacy=privacy,
            curve=_curve(run, consortium.model(), everyone),
            predictions=Predictions(everyone.target.tolist(), predicted.tolist()),
            groups=_groups(metrics),
            epsilon_curve=epsilon_curve(max(ledger.values(), key=len), run.study.privacy.delta),
            cost=run_cost(run.rounds, seconds, len(setup.sites)),
        ),
        folder=run.path,
        quality=DataQuality(**quality) if quality else None,
        seconds=seconds,
        sites=len(setup.sites),
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


def _curve(run: RunFolder, model: DoseModel, everyone: Cohort) -> LearningCurve:
    """Reported errors, and exact ones of the checkpoints that were kept."""
    rounds, errors = [], []
    for number in run.kept_rounds:
        if number < run.study.final_round:
            set_vector(model, run.checkpoint(number).weights)
            rounds.append(number)
            errors.append(exact(predict(model, everyone), everyone.target).mae)
    return reported_curve(run.rounds, rounds, errors)


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
