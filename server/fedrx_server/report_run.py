"""From a run's folder to its report and its result: what a coordinator has seen, and no more."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fedrx_models.measures import measures_of
from fedrx_protocol.privacy.events import Release
from fedrx_protocol.schema import Target
from fedrx_protocol.study import Study
from fedrx_server.account import (
    affordable,
    epsilon_curve,
    plan_for,
    planned_releases,
    privacy_statement,
)
from fedrx_server.checkpoints import RoundRecord
from fedrx_server.report_data import (
    LearningCurve,
    PrivacyStatement,
    ReportData,
    ResultRow,
    RunCost,
)
from fedrx_server.report_text import number
from fedrx_server.runs import RunView


def heading(study: Study, run: str, *, simulation: bool) -> dict[str, Any]:
    """What a report says before its first figure."""
    return {
        "title": study.title or study.name,
        "study": study.name,
        "study_digest": study.digest,
        "run": run,
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "simulation": simulation,
        "description": study.description,
        "target": study.target.name,
        "unit": study.target.unit,
    }


def model_details(study: Study) -> list[tuple[str, str]]:
    """Which model was trained, as the study file has it, and what it started from if not anew."""
    chosen = [f"{key} = {json.dumps(value)}" for key, value in study.model.parameters.items()]
    known = [("Model", study.model.name)]
    known += [("Hyper-parameters", ", ".join(chosen))] if chosen else []
    if study.transfer is None:
        return known
    frozen = ", ".join(study.transfer.freeze) or "nothing"
    return [*known, ("Starts from", f"study {study.transfer.study[:16]}…; frozen: {frozen}")]


def last_metrics(rounds: Sequence[RoundRecord]) -> Mapping[str, float]:
    """The metrics that were released last; empty before the first."""
    return next((record.metrics for record in reversed(rounds) if record.metrics), {})


def reported_row(reported: Mapping[str, float]) -> ResultRow | None:
    """Released metrics as a line of the report."""
    if not reported:
        return None
    return ResultRow(
        key="other",
        label="Federated, as reported",
        values=reported,
    )


def noise_interval(metrics: Mapping[str, float], target: Target) -> tuple[float, float] | None:
    """The 95 % interval of the reported headline for its noise; none without noise.

    It is cut to the headline's range, so the two sides may differ.
    """
    headline = measures_of(target)[0].key
    if f"{headline}_low" not in metrics:
        return None
    return metrics[f"{headline}_low"], metrics[f"{headline}_high"]


def reported_curve(
    rounds: Sequence[RoundRecord],
    target: Target,
    exact_rounds: Sequence[int] = (),
    exact: Sequence[float] = (),
) -> LearningCurve:
    """The headline by round as reported, and exact where a simulation has it.

    A round's metrics speak of the model it was given, so they stand at the round before.
    """
    headline = measures_of(target)[0].key
    released = [(record.round - 1, record.metrics) for record in rounds if record.metrics]
    # Noise can leave a headline that cannot be computed; the round then has none.
    reported = [(at, metrics) for at, metrics in released if headline in metrics]
    noise = [noise_interval(m, target) or (m[headline], m[headline]) for _, m in reported]
    return LearningCurve(
        rounds=[at for at, _ in reported],
        reported=[metrics[headline] for _, metrics in reported],
        noise=noise if any(low < high for low, high in noise) else (),
        exact_rounds=exact_rounds,
        exact=exact,
    )


def run_cost(rounds: Sequence[RoundRecord], seconds: float, sites: int) -> RunCost:
    """What the rounds took."""
    return RunCost(
        rounds=len(rounds),
        sites=sites,
        seconds=seconds,
        bytes_up=sum(record.bytes_up for record in rounds),
        bytes_down=sum(record.bytes_down for record in rounds),
        dropped_by_round=[record.dropped for record in rounds],
        repeated_attempts=sum(record.attempt for record in rounds),
    )


def run_privacy(view: RunView) -> PrivacyStatement:
    """What a live run has spent so far, by its plan and its attempts; takes a moment to compute."""
    sites = len(view.signed.roster.sites)
    plan = plan_for(view.study, sites)
    fewest = min((record.survivors for record in view.rounds), default=sites)
    return privacy_statement(plan, {"any site": _releases(view)}, fewest)


def run_report(view: RunView, privacy: PrivacyStatement) -> ReportData:
    """The report of a live run, finished or under way, and what `run_privacy` says of it."""
    reported = last_metrics(view.rounds)
    seconds = sum(record.seconds for record in view.rounds)
    return ReportData(
        **heading(view.study, view.run_id, simulation=False),
        measures=measures_of(view.study.target),
        outcome="" if view.finished else _under_way(view, privacy),
        reported=reported_row(reported),
        reported_noise=noise_interval(reported, view.study.target),
        privacy=privacy,
        curve=reported_curve(view.rounds, view.study.target),
        epsilon_curve=epsilon_curve(_releases(view), view.study.privacy.delta),
        cost=run_cost(view.rounds, seconds, len(view.signed.roster.sites)),
        details=[
            *model_details(view.study),
            ("Roster", f"serial {view.signed.roster.serial}"),
            ("Rounds", f"{len(view.rounds)} of {view.study.final_round}"),
            ("Known to the coordinator", "sums over sites, their noise included; no site's own"),
        ],
    )


def run_result(view: RunView, privacy: PrivacyStatement) -> dict[str, Any]:
    """The object that `result.json` holds: as a simulation's, without what only that can know."""
    return {
        "study": view.study.name,
        "study_digest": view.study.digest,
        "model": view.study.model.name,
        "run": view.name,
        "run_id": view.run_id,
        "finished": view.finished,
        "reported": dict(last_metrics(view.rounds)),
        "privacy": privacy.to_json(),
        "rounds": len(view.rounds),
        "rounds_planned": view.study.final_round,
        "sites": len(view.signed.roster.sites),
        "seconds": round(sum(record.seconds for record in view.rounds), 3),
        "bytes_up": sum(record.bytes_up for record in view.rounds),
        "bytes_down": sum(record.bytes_down for record in view.rounds),
        "repeated_attempts": sum(record.attempt for record in view.rounds),
        "dropouts": sum(record.dropped for record in view.rounds),
    }


def _releases(view: RunView) -> tuple[Release, ...]:
    planned = planned_releases(view.study, view.run_id, view.attempts())
    return affordable(view.study, planned)


def _under_way(view: RunView, privacy: PrivacyStatement) -> str:
    told = f"This run is not finished: {len(view.rounds)} of {view.study.final_round} rounds."
    if privacy.bounded:
        told += f" So far it spent ε = {number(privacy.epsilon)} for each patient"
        told += f", {privacy.assumption}."
    return told
