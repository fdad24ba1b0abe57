"""From a run's folder to its report and its result: what a coordinator has seen, and no more."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fedrx_models.card import Calibration
from fedrx_models.metrics.registry import measures_of
from fedrx_models.pharmacogenomic.published import (
    FIXED_ACCURACY,
    PHARMACOGENETIC_ACCURACY,
    PUBLISHED_ON,
    is_applicable,
)
from fedrx_models.planning import plan_for
from fedrx_protocol.privacy.events import Release
from fedrx_protocol.privacy.figures import readable
from fedrx_protocol.study.schema import Target
from fedrx_protocol.study.study import Study
from fedrx_server.report.card import model_card
from fedrx_server.report.data import (
    Held,
    Intervals,
    LearningCurve,
    PrivacyStatement,
    ReportData,
    ResultRow,
    RowKey,
    RunCost,
)
from fedrx_server.report.privacy import (
    affordable,
    epsilon_curve,
    planned_releases,
    privacy_statement,
)
from fedrx_server.report.text import number
from fedrx_server.runs.checkpoints import RoundRecord
from fedrx_server.runs.registry import RunView

_PUBLISHED: tuple[tuple[RowKey, str, Mapping[str, float]], ...] = (
    ("published", "Published equation (IWPC 2009)", PHARMACOGENETIC_ACCURACY),
    ("fixed", "Fixed dose (35 mg/week)", FIXED_ACCURACY),
)


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
    """Which model was trained, as the study file has it, and what it started from."""
    chosen = [f"{key} = {json.dumps(value)}" for key, value in study.model.parameters.items()]
    known = [("Model", study.model.name)]
    known += [("Hyper-parameters", ", ".join(chosen))] if chosen else []
    logarithms = [marker.name for marker in study.markers if marker.transform == "log"]
    if logarithms:
        known.append(
            (
                "Errors",
                f"in each marker's own unit; learned on a log scale: {', '.join(logarithms)}",
            )
        )
    if study.transfer is None:
        return known
    frozen = ", ".join(study.transfer.freeze) or "nothing"
    return [*known, ("Starts from", f"study {study.transfer.study[:16]}…; frozen: {frozen}")]


def last_metrics(rounds: Sequence[RoundRecord]) -> Mapping[str, float]:
    """The metrics that were released last; empty before the first."""
    return next((record.metrics for record in reversed(rounds) if record.metrics), {})


def last_calibration(rounds: Sequence[RoundRecord]) -> Calibration | None:
    """What the last evaluation released of the model's intervals; None where it did not."""
    released = rounds[-1].calibration if rounds else None
    return None if released is None else Calibration.model_validate(released)


def intervals(
    study: Study,
    privacy: PrivacyStatement,
    calibration: Calibration | None,
    exact: Sequence[Held] = (),
) -> Intervals | None:
    """Say how a model's intervals were calibrated; None where they were not.

    Args:
        study: what was trained.
        privacy: what was spent.
        calibration: what the last evaluation released.
        exact: what they hold by site, where a simulation knows it.
    """
    if calibration is None:
        return None
    return Intervals(
        in_words=model_card(study, privacy, 0, calibration).intervals,
        released=[Held(one.of, one.plain, one.covered) for one in calibration.outcomes],
        exact=exact,
    )


def reported_row(reported: Mapping[str, float]) -> ResultRow | None:
    """Released metrics as a line of the report."""
    if not reported:
        return None
    return ResultRow(key="other", label="Federated, as reported", values=reported)


def reported_curve(
    rounds: Sequence[RoundRecord],
    target: Target,
    exact_rounds: Sequence[int] = (),
    exact: Sequence[float] = (),
) -> LearningCurve:
    """The headline by round as reported, and exact where a simulation has it.

    A round measures the model that it was given, so its metrics belong to the round before. A
    round whose headline is hidden by noise has no point.
    """
    measure = measures_of(target)[0]
    released = {r.round - 1: measure.figure(r.metrics) for r in rounds if r.metrics}
    reported = {at: one.shown for at, one in released.items() if one.shown is not None}
    noise = [released[at].noise or (value, value) for at, value in reported.items()]
    return LearningCurve(
        rounds=list(reported),
        reported=list(reported.values()),
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
    study, reported, roster = view.study, last_metrics(view.rounds), view.signed.roster
    under_way = ""
    if not view.finished:
        under_way = f"This run is not finished: {len(view.rounds)} of {study.final_round} rounds."
        if privacy.bounded:
            under_way += f" So far it spent ε = {number(privacy.epsilon)} for each patient"
            under_way += f", {privacy.assumption}."
    rows: list[ResultRow] = []
    # Without published figures the run's own would be a lone row, which says nothing that the
    # words do not say.
    if reported and is_applicable(study.feature_schema):
        own = ResultRow("federated", "Federated", reported, "this run, noise included")
        published = (ResultRow(key, name, at, PUBLISHED_ON) for key, name, at in _PUBLISHED)
        rows = [own, *published]
    return ReportData(
        **heading(study, view.run_id, simulation=False),
        measures=measures_of(study.target),
        outcome=under_way,
        rows=rows,
        reported=reported_row(reported),
        intervals=intervals(study, privacy, last_calibration(view.rounds)),
        privacy=privacy,
        consortium=[(entry.site, entry.name) for entry in roster.sites],
        curve=reported_curve(view.rounds, study.target),
        epsilon_curve=epsilon_curve(_releases(view), study.privacy.delta),
        cost=run_cost(view.rounds, sum(one.seconds for one in view.rounds), len(roster.sites)),
        details=[
            *model_details(study),
            ("Roster", f"serial {roster.serial}"),
            ("Rounds", f"{len(view.rounds)} of {study.final_round}"),
            ("Known to the coordinator", "sums over sites, their noise included; no site's own"),
        ],
    )


def run_result(view: RunView, privacy: PrivacyStatement) -> dict[str, Any]:
    """The object that `result.json` holds: as a simulation's, without what only that can know."""
    headline, last = measures_of(view.study.target)[0], last_calibration(view.rounds)
    return {
        "study": view.study.name,
        "study_digest": view.study.digest,
        "model": view.study.model.name,
        "run": view.name,
        "run_id": view.run_id,
        "finished": view.finished,
        "reported": readable(last_metrics(view.rounds), headline.key, headline.tells),
        **({"calibration": last.model_dump(mode="json")} if last else {}),
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
