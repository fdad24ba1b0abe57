"""A whole federated study on one machine: the real server and the real sites, and the baselines.

One function starts a study in a new run folder, one continues a run that was cut off; both end in
the same result. Which engine carries the messages changes nothing but the time it takes.
"""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, Literal

import torch

from fedrx_common.errors import MisuseError, RunError
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.contract import get_vector
from fedrx_models.files import MODEL_FILE, save_model
from fedrx_models.metrics.registry import measures_of
from fedrx_models.transfer import start_model, trained_positions
from fedrx_protocol.study.study import Study
from fedrx_server.app import make_server_app
from fedrx_server.report.card import model_card
from fedrx_server.report.write import write_report
from fedrx_server.rounds.exchange import Exchange
from fedrx_server.rounds.loop import RunParties, StudyRun
from fedrx_server.runs.checkpoints import RoundRecord
from fedrx_server.runs.folder import RunFolder
from fedrx_simulation.evaluation.evaluate import evaluate
from fedrx_simulation.evaluation.result import SimulationResult
from fedrx_simulation.federation.engines import ENGINES
from fedrx_simulation.federation.faults import Faults
from fedrx_simulation.federation.setup import EngineSetup
from fedrx_simulation.federation.sites import SimulatedConsortium, by_site, taking_part

EngineName = Literal["inprocess", "flower"]
Cohorts = Mapping[str, Cohort] | Sequence[Cohort]

# Checkpoints that stay, beside those of evaluated rounds, to draw the exact learning curve.
_CURVE_POINTS = 25


@dataclass(frozen=True)
class SimulationOptions:
    """How a study is simulated.

    Args:
        seed: Fixes every random choice; a live site would refuse it.
        engine: What carries the messages.
        dropout: Chance that a site drops out of an attempt at a round.
        delay_s: Mean reply time in simulated seconds; a reply after the deadline is lost.
        baselines: Whether pooled, site-alone and rule-based results are computed too.
        fold: Which part of each site's patients is held out, from 0.
    """

    seed: int
    engine: EngineName = "inprocess"
    dropout: float = 0.0
    delay_s: float = 0.0
    baselines: bool = True
    fold: int = 0

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise MisuseError(f"engine is '{self.engine}': use {' or '.join(ENGINES)}.")
        if not 0 <= self.seed < 2**64:
            raise MisuseError(f"seed is {self.seed}: use 0 or a positive number below 2^64.")
        Faults(self.dropout, self.delay_s)


@dataclass(frozen=True)
class Progress:
    """What a caller may show while a study runs.

    Args:
        stage: What is happening, in words.
        record: The round that just finished, if one did.
        rounds: Rounds in all, the final evaluation included.
        tells: What a round's headline could tell, by which noise hides it.
    """

    stage: str
    record: RoundRecord | None
    rounds: int
    tells: float = inf


Observer = Callable[[Progress], None]


def start(
    study: Study,
    cohorts: Cohorts,
    folder: Path,
    options: SimulationOptions,
    *,
    source: Mapping[str, Any] | None = None,
    study_text: str | None = None,
    start_from: Path | None = None,
    observer: Observer = lambda _: None,
) -> SimulationResult:
    """Run a study from its first round, in a new run folder.

    Args:
        study: The study.
        cohorts: One cohort a site.
        folder: Where to keep the run; must not exist, or be empty.
        options: How to simulate.
        source: Where the cohorts came from, as JSON values, for a resume.
        study_text: The study file as written.
        start_from: Model file of the study that this one starts from.
        observer: Called after every round.

    Raises:
        MisuseError: Something given cannot be used; no folder is made.
        StudyStopped: A round could not be completed; the folder can be resumed.
    """
    sites, notes = taking_part(study, by_site(cohorts))
    consortium = SimulatedConsortium(
        study, tuple(sites), uuid.uuid4().hex, options.seed, options.fold
    )
    consortium.check(sites)
    start_model(study, options.seed, start_from)
    meta = {
        "run_id": consortium.run_id,
        "options": {name: getattr(options, name) for name in options.__dataclass_fields__},
        "source": dict(source or {}),
        "cohorts": {site: cohort.fingerprint for site, cohort in sites.items()},
    }
    every = max(1, study.rounds // _CURVE_POINTS)
    kept = {*study.evaluation_rounds, *range(1, study.rounds, every), study.rounds}
    run = RunFolder.create(
        folder,
        study,
        consortium.signed_roster.to_json().decode(),
        meta,
        study_text=study_text,
        start=start_from,
        durability="process",
        keep_rounds=kept,
    )
    with run:
        return _continue(run, consortium, sites, options, observer, notes=notes)


def resume(
    folder: Path, cohorts: Cohorts, *, observer: Observer = lambda _: None
) -> SimulationResult:
    """Continue a run that was cut off; a finished one is evaluated again.

    Args:
        folder: The run folder.
        cohorts: The same cohorts that the run was started with.
        observer: Called after every round.

    Raises:
        RunError: No run folder, or one of another study.
        MisuseError: The cohorts are not those of the run.
    """
    given = by_site(cohorts)
    with RunFolder.open(folder, durability="process") as run:
        meta = run.meta
        sites, notes = taking_part(run.study, given)
        options = stored_options(run)
        for site in sorted(set(meta["cohorts"]) | set(sites)):
            found = sites[site].fingerprint if site in sites else None
            if meta["cohorts"].get(site) != found:
                raise MisuseError(
                    f"{folder}: the patients of site '{site}' are not those that the run was "
                    "started with; resume it with the same data."
                )
        consortium = SimulatedConsortium(
            run.study, tuple(sites), meta["run_id"], options.seed, options.fold
        )
        return _continue(run, consortium, sites, options, observer, notes=notes)


def _continue(
    run: RunFolder,
    consortium: SimulatedConsortium,
    sites: Mapping[str, Cohort],
    options: SimulationOptions,
    observer: Observer,
    *,
    notes: tuple[str, ...],
) -> SimulationResult:
    began = time.monotonic()
    # Sites' models are small and take turns: a second thread would only wait.
    torch.set_num_threads(1)
    study = run.study
    model = start_model(study, options.seed, run.start_file)
    setup = EngineSetup(
        consortium,
        sites,
        run.path / "sites",
        Faults(options.dropout, options.delay_s, study.schedule.round_deadline_s, options.seed),
    )

    def drive(exchange: Exchange) -> None:
        parties = RunParties(consortium.run_id, consortium.plan, consortium.roster)

        tells = measures_of(study.target)[0].tells

        def notify(record: RoundRecord) -> None:
            observer(Progress("training", record, study.final_round, tells))

        trained = trained_positions(model)
        StudyRun(parties, exchange, run, get_vector(model), notify, trained=trained).run()

    ENGINES[options.engine](setup).run(make_server_app(drive))

    def tell(stage: str) -> None:
        observer(Progress(stage, None, study.final_round))

    found = evaluate(run, setup, baselines=options.baselines, began=began, tell=tell)
    result = replace(found, notes=notes)
    card = model_card(study, result.privacy, len(sites), result.calibration)
    save_model(run.path / MODEL_FILE, result.model, study.digest, card)
    run.write_result(result.to_json())
    write_report(run.report_path, result.report)
    return result


def stored_options(run: RunFolder) -> SimulationOptions:
    """The options that a run was started with.

    Raises:
        RunError: The folder is not one of a simulation.
    """
    try:
        return SimulationOptions(**run.meta["options"])
    except (KeyError, TypeError):
        raise RunError(
            f"{run.path}: holds no simulation of this version of FedRx; name another run folder."
        ) from None
