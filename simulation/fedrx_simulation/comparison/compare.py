"""Models side by side: the same folds, the same left-out sites, the same seeds for each of them.

One cell is one federated training, judged on patients it never saw. A finished cell is one small
file, so that a comparison that was cut off goes on where it stopped. The privacy of every cell is
the study's; the comparison itself is for a machine that owns its patients.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import DataError, MisuseError, RunError, counted
from fedrx_models.cohort.cohort import Cohort, concatenate
from fedrx_models.metrics.forecast import patient_scores
from fedrx_models.metrics.panel import exact_panel
from fedrx_models.metrics.registry import exact_metrics, measures_of
from fedrx_models.metrics.survival import patient_errors
from fedrx_protocol.study.schema import (
    BinaryTarget,
    ForecastTarget,
    PanelTarget,
    SurvivalTarget,
    Target,
)
from fedrx_protocol.study.study import Study
from fedrx_server.runs.files import lock_folder, read_json, unwritable_named
from fedrx_simulation.evaluation.baselines import personalised, predict
from fedrx_simulation.federation.sites import SimulatedConsortium, by_site
from fedrx_simulation.simulate import SimulationOptions, start

Scheme = Literal["folds", "sites"]
Floats = NDArray[np.float64]
KeptT = TypeVar("KeptT")

_RUNNING = "running-"
_FORMAT = 2  # of the cells on disk; 1 did not say whose the scores are


@dataclass(frozen=True)
class ComparisonPlan:
    """What is compared, and how often.

    Args:
        studies: By a model's name, the study with that model; they differ in nothing else.
        folds: Parts into which each site's patients are divided; 0 for none.
        leave_one_site_out: Whether each site is also left out once, and judged on.
        seeds: Seeds of the splits and of all else that is random, one repetition each.
        personalised: Whether each model is judged with a private head at each site too; a site
            that was left out has no patients to fit one to, so this is for folds.
    """

    studies: Mapping[str, Study]
    folds: int = 5
    leave_one_site_out: bool = False
    seeds: tuple[int, ...] = (0,)
    personalised: bool = False

    def __post_init__(self) -> None:
        if not self.studies or (len(self.studies) == 1 and not self.leave_one_site_out):
            raise MisuseError(
                "a comparison needs at least two models, separated by commas, or one model and "
                "--leave-one-site-out."
            )
        if self.folds == 1 or self.folds < 0:
            raise MisuseError(f"--folds is {self.folds}: use 2 or more, or 0 for none.")
        if not self.folds and not self.leave_one_site_out:
            raise MisuseError("there is nothing to compare on: use --folds 5, or more.")
        if self.personalised and not self.folds:
            raise MisuseError(
                "--personalised needs --folds: a site that is left out has no patients to fit a "
                "private head to."
            )
        for study in self.studies.values():
            if study is not None and study.transfer is not None:
                raise MisuseError(
                    "a comparison trains every model from the beginning: remove [transfer] from "
                    "the study file."
                )

    @property
    def target(self) -> Target:
        """The outcome that all predict."""
        return next(iter(self.studies.values())).target

    def cells(self, sites: Sequence[str]) -> Iterator["Cell"]:
        """Every training, the models of one split next to each other."""
        for seed in self.seeds:
            for fold in range(self.folds):
                yield from (Cell(model, "folds", seed, str(fold)) for model in self.studies)
            for site in sites if self.leave_one_site_out else ():
                yield from (Cell(model, "sites", seed, site) for model in self.studies)


@dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        model: Its model.
        scheme: Whether a fold or a site is left out.
        seed: Its seed.
        part: The fold's number, or the site.
    """

    model: str
    scheme: Scheme
    seed: int
    part: str

    @property
    def file(self) -> str:
        """Name of the file of its outcome."""
        return f"{self.scheme}-{self.seed}-{self.part}-{self.model}.json"


@dataclass(frozen=True)
class CellResult:
    """How one training did on the patients that were left out.

    Attributes:
        metrics: exact metrics by key.
        scores: one number for each unit of the paired test, lower is better: a patient's loss,
            or for a panel, by drug, 1 minus the correlation; `None` if it cannot be computed.
        units: whose scores these are: each patient's number among all patients, see
            `patient_numbers`, or each drug's; the same patient has the same in every repeat.
        personal: the same with a private head at each site, where that was asked for.
    """

    metrics: Mapping[str, float]
    scores: Sequence[float | None]
    units: Sequence[int]
    personal: "CellResult | None" = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "CellResult":
        """From its JSON values."""
        personal = document["personal"]
        return cls(
            document["metrics"],
            document["scores"],
            document["units"],
            None if personal is None else cls.of(personal),
        )


CellObserver = Callable[[Cell, int, int], None]


def compare(
    plan: ComparisonPlan,
    cohorts: Mapping[str, Cohort],
    folder: Path,
    observer: CellObserver = lambda *_: None,
) -> dict[Cell, CellResult]:
    """Train every cell that is not in the folder yet.

    Args:
        plan: What to compare.
        cohorts: Patients by site.
        folder: Where outcomes are kept; one of the same comparison is continued.
        observer: Called before a cell is trained, with its number and how many there are.

    Raises:
        MisuseError: Something given cannot be used, or the folder is of another comparison.
        DataError: A site has fewer patients than there are folds, or a cell trains on or holds
            out no patients, or patients who are all alike.
        RunInUse: Another process works in the folder.
        StudyStopped: A training could not be completed; the same call continues.
    """
    _check(plan, cohorts)
    _claim(folder, plan, cohorts)
    cells = list(plan.cells(sorted(cohorts)))
    found: dict[Cell, CellResult] = {}
    lock = lock_folder(folder)
    try:
        for left in folder.glob(f"{_RUNNING}*"):  # of a comparison that was killed
            shutil.rmtree(left)
        for number, cell in enumerate(cells, start=1):
            path = folder / "cells" / cell.file
            if not path.is_file():
                observer(cell, number, len(cells))
                with tempfile.TemporaryDirectory(dir=folder, prefix=_RUNNING) as place:
                    _write(path, asdict(_train(plan, cell, cohorts, Path(place) / "run")))
            found[cell] = _kept(path, CellResult.of)
    finally:
        os.close(lock)
    return found


def _check(plan: ComparisonPlan, cohorts: Mapping[str, Cohort]) -> None:
    """Check the patients that every cell trains on and holds out, before the first training."""
    for site, cohort in cohorts.items():
        if len(cohort) < plan.folds:
            raise DataError(
                f"site '{site}' has {counted(len(cohort), 'patient')}, fewer than the "
                f"{plan.folds} folds: use fewer folds, or leave the site out."
            )
    first, *_ = plan.studies
    for cell in plan.cells(sorted(cohorts)):
        if cell.model != first:  # the split is the same
            continue
        split = _split(plan, cell, cohorts)
        sites = by_site(split.cohorts)
        consortium = SimulatedConsortium(
            split.study, tuple(sites), "checking", cell.seed, split.fold
        )
        try:
            consortium.check_split(sites)
        except DataError as error:
            where, fewer = f"without site '{cell.part}'", ""
            if cell.scheme == "folds":
                where, fewer = f"fold {int(cell.part) + 1}", "use fewer folds, or "
            reason = str(error).partition(":")[0]
            raise DataError(
                f"{where}, seed {cell.seed}: {reason}; {fewer}give another --seed, or more "
                "patients."
            ) from None


def _claim(folder: Path, plan: ComparisonPlan, cohorts: Mapping[str, Cohort]) -> None:
    """Write what the folder compares, or check it against what is there already."""
    described = {
        "format": _FORMAT,
        "models": {name: study.digest for name, study in plan.studies.items()},
        "folds": plan.folds,
        "leave_one_site_out": plan.leave_one_site_out,
        "seeds": list(plan.seeds),
        "personalised": plan.personalised,
        "cohorts": {site: cohort.fingerprint for site, cohort in sorted(cohorts.items())},
    }
    path = folder / "comparison.json"
    with unwritable_named(folder):
        if path.is_file():
            begun = read_json(path)
            if begun.get("format") != _FORMAT:
                raise MisuseError(
                    f"{folder}: holds a comparison of another version of FedRx; name another "
                    "folder."
                )
            if begun != described:
                raise MisuseError(
                    f"{folder}: holds another comparison (other models, folds, seeds, study or "
                    "patients); name another folder, or repeat the same command to continue it."
                )
            return
        if folder.exists() and any(folder.iterdir()):
            raise MisuseError(
                f"{folder}: is not empty and holds no comparison; name another folder."
            )
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        _write(path, described)


def begun_with(folder: Path) -> tuple[int, ...]:
    """Read the seeds of the comparison in a folder; none if there is no comparison."""
    path = folder / "comparison.json"
    if not os.path.isfile(path):  # noqa: PTH113 - unlike Path's, never raises
        return ()
    return _kept(path, lambda document: tuple(document["seeds"]))


def _kept(path: Path, of: Callable[[Mapping[str, Any]], KeptT]) -> KeptT:
    """Read a file of a comparison.

    Raises:
        RunError: it cannot be read, or holds something else.
    """
    try:
        return of(read_json(path))
    except (KeyError, TypeError):
        raise RunError(f"{path}: is damaged; remove it and compare again.") from None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that appears under its name only when it is complete."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    os.replace(partial, path)  # noqa: PTH105 - the atomic replacement, by its usual name


@dataclass(frozen=True)
class _Split:
    """The study of one cell, the sites that take part in it, and which fold they hold out."""

    study: Study
    cohorts: Mapping[str, Cohort]
    fold: int


def _split(plan: ComparisonPlan, cell: Cell, cohorts: Mapping[str, Cohort]) -> _Split:
    study = plan.studies[cell.model]
    if cell.scheme == "folds":
        study = study.with_(cohort={"held_out": 1 / plan.folds})
        return _Split(study, dict(sorted(cohorts.items())), int(cell.part))
    others = {s: c for s, c in sorted(cohorts.items()) if s != cell.part}
    # The agreed size need not be that of the table: in proportion, a step is as long as with all.
    share = sum(map(len, others.values())) / sum(map(len, cohorts.values()))
    study = study.with_(cohort={"patients": max(1, round(study.cohort.patients * share))})
    return _Split(study, others, 0)


def _train(
    plan: ComparisonPlan, cell: Cell, cohorts: Mapping[str, Cohort], folder: Path
) -> CellResult:
    """Train one cell, and judge it on the patients that were left out."""
    split = _split(plan, cell, cohorts)
    study, fold = split.study, split.fold
    options = SimulationOptions(seed=cell.seed, baselines=False, fold=fold)
    numbers = patient_numbers(cohorts)
    result = start(study, split.cohorts, folder, options)
    if cell.scheme == "sites":
        judged = cohorts[cell.part]
        units = _numbers_of([judged], numbers)
        return judge(study.target, predict(result.model, judged), judged.target, units)
    consortium = SimulatedConsortium(study, tuple(sorted(cohorts)), "judging", cell.seed, fold)
    parts = {site: consortium.split(cohorts[site]) for site in sorted(cohorts)}
    training, held_out = ({site: part[i] for site, part in parts.items()} for i in (0, 1))
    judged = concatenate(list(held_out.values()))
    units = _numbers_of(held_out.values(), numbers)
    found = judge(study.target, predict(result.model, judged), judged.target, units)
    if not plan.personalised:
        return found
    predicted = personalised(result.model, training, held_out)
    return replace(found, personal=judge(study.target, predicted, judged.target, units))


def patient_numbers(cohorts: Mapping[str, Cohort]) -> dict[tuple[str, str], int]:
    """Number all patients, by site and name: sites, and patients in them, in sorted order.

    The order of a table's rows plays no part, as in a cohort's fingerprint.
    """
    everybody = sorted((site, name) for site, one in cohorts.items() for name in one.patients)
    return {patient: number for number, patient in enumerate(everybody)}


def _numbers_of(judged: Iterable[Cohort], numbers: Mapping[tuple[str, str], int]) -> list[int]:
    return [numbers[one.site, name] for one in judged for name in one.patients]


def judge(target: Target, predicted: Floats, actual: Floats, patients: Sequence[int]) -> CellResult:
    """Compute metrics and paired scores of predictions.

    A left-out site may be too small, or too uniform, for its kind of metric; it then has scores
    only.

    Args:
        target: The outcome.
        predicted: What a prediction's `mean` holds.
        actual: What a cohort's `target` holds.
        patients: Each patient's number among all.
    """
    try:
        metrics = exact_metrics(target, predicted, actual).flat()
    except DataError:
        metrics = {}
    scores: list[float | None]
    units: Sequence[int] = patients
    if isinstance(target, PanelTarget):
        by_drug = exact_panel(predicted, actual, target).by_drug or {}
        found = [by_drug.get(drug.name) for drug in target.drugs]
        scores = [None if value is None else 1.0 - value for value in found]
        units = range(len(target.drugs))
    elif isinstance(target, SurvivalTarget):
        scores = [float(error) for error in patient_errors(predicted, actual, target)]
    elif isinstance(target, ForecastTarget):
        errors = patient_scores(predicted, actual).tolist()
        scores = [None if math.isnan(error) else error for error in errors]
    else:
        apart = np.abs(predicted - actual)
        scores = [float(e**2 if isinstance(target, BinaryTarget) else e) for e in apart]
    return CellResult(metrics, scores, list(units))


def headline_of(plan: ComparisonPlan) -> str:
    """Give the key of the metric that ranks models: for a panel the correlation."""
    if isinstance(plan.target, PanelTarget):
        return "correlation"
    return measures_of(plan.target)[0].key
