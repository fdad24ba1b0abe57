"""Every flux model on a follow-up table, fold by fold: what `pbcseq.py` and `aids.py` share.

Patients are dealt out to four sites as `fedrx simulate --sites 4` does, and a fifth of each site's
is left out, five times, `repeats` times over. Without privacy the number of rounds is chosen inside
each fold: a fifth of the training patients is set aside, the number with the least loss on them
counts, and the model is trained anew on all. With privacy nothing is chosen on the patients, which
would cost them more than the account says: the recipe was fixed beforehand.

An error is a patient's mean over the own visits, relative to the last value's in the same patients;
its 95 % interval over folds and repeats takes into account that they share training patients. The
paired test is over patients, each with the mean over repeats, against the last value.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from federation import FOLDS, Privacy, Recipe, folds_within, trained
from numpy.typing import NDArray

from fedrx.api import PatientFile, load_cohorts
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.cohort import Cohort, concatenate
from fedrx_models.cohort.encoding import encode
from fedrx_models.cohort.visits import forecast_target
from fedrx_models.metrics.forecast import exact_forecast, patient_scores
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import OptimizerSection, Study
from fedrx_simulation.comparison.statistics import mean_interval, paired_p

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
SITES = 4
DELTA = 1e-4
CLIPPING_NORM = 1.0
ASIDE = 0.2
BASELINE = "last_value"

Floats = NDArray[np.float64]
Chosen = NDArray[np.bool_]

_STEPS = OptimizerSection(name="adam", learning_rate=0.01, momentum=0.9)
_NOISY = Recipe({}, OptimizerSection(name="adam", learning_rate=0.02, momentum=0.9), 60)
_ROUNDS = (20, 40, 80, 160)
SIZES: Mapping[str, dict[str, object]] = {
    BASELINE: {},
    "linear_mixed": {},
    "tcn": {"channels": 8, "layers": 2},
    "lstm": {"size": 8},
    "transformer": {"size": 8, "heads": 2, "feed_forward": 16},
    "pathway_gnn": {"size": 4},
}


@dataclass(frozen=True)
class Part:
    """What one column of the table is about.

    Attributes:
        name: its heading.
        who: the patients, `(patients,)`; None for all.
        pair: the marker and horizon, as the metrics name it; None for the mean over all.
    """

    name: str
    who: Chosen | None = None
    pair: str | None = None


@dataclass(frozen=True)
class Patients:
    """All sites' patients in a row, and the site of each, `(patients,)`."""

    cohort: Cohort
    batch: PatientBatch
    sites: NDArray[np.object_]

    def some(self, chosen: Chosen) -> PatientBatch:
        """Those chosen, `(patients,)`."""
        return self.batch.select(torch.from_numpy(np.flatnonzero(chosen)))


def read(example: str, mapping: str, table: str) -> Patients:
    """The patients of an example; exits where they are missing."""
    path, folder = DATA / table, ROOT / "examples" / example
    if not path.is_file():
        sys.exit(f"REAL DATA MISSING: {path} is not here, so nothing was measured.")
    study = Study.load(folder / "study.toml")
    source = PatientFile(path, folder / mapping, sites=SITES)
    cohorts = load_cohorts(source, study.feature_schema, seed=0)
    cohort = concatenate(list(cohorts.values()))
    sites = np.concatenate([np.full(len(c), site, dtype=object) for site, c in cohorts.items()])
    return Patients(cohort, encode(cohort, cohort.schema), sites)


def forecasts(name: str, patients: Patients, epsilon: str, seed: int) -> tuple[Floats, Floats]:
    """Forecasts `(patients, T, H, M, 3)` by models that never saw the patient, and the folds."""
    fold = folds_within(patients.sites, seed)
    found = np.empty((*patients.cohort.target.shape[:-1], 3))
    privacy = Privacy.told(epsilon, DELTA, CLIPPING_NORM)
    for k in range(FOLDS):
        recipe = replace(_NOISY, parameters=SIZES[name])
        if privacy.epsilon is None:
            recipe = chosen(name, patients, fold != k, seed)
        batch = patients.some(fold != k)
        model = trained(name, recipe, patients.cohort.schema, batch, privacy, seed=seed)
        found[fold == k] = model.predict(patients.some(fold == k)).mean
    return found, fold


def chosen(name: str, patients: Patients, train: Chosen, seed: int) -> Recipe:
    """The recipe with the number of rounds that does best on training patients set aside."""
    aside = train & (np.random.default_rng(seed).random(len(train)) < ASIDE)
    watched, rest = patients.some(aside), patients.some(train & ~aside)
    recipes = [Recipe(SIZES[name], _STEPS, rounds) for rounds in _ROUNDS]
    exactly = Privacy(None, DELTA, CLIPPING_NORM)

    def loss(recipe: Recipe) -> float:
        model = trained(name, recipe, patients.cohort.schema, rest, exactly, seed=seed)
        with torch.no_grad():
            return float(model(watched).mean())

    return min(recipes, key=loss)


@dataclass(frozen=True)
class Asked:
    """Which models, with which epsilon or "none", and how many times all folds."""

    models: tuple[str, ...]
    epsilon: str
    repeats: int


@dataclass(frozen=True)
class Line:
    """One model at one epsilon.

    Attributes:
        parts: by part, `(folds * repeats, 2)`: error relative to the last value, and the percent
            of outcomes within the 80 % interval.
        scores: `(patients,)`, each patient's own relative error, mean over repeats.
    """

    parts: dict[str, Floats]
    scores: Floats


def measured(name: str, patients: Patients, parts: list[Part], asked: Asked) -> Line:
    """Train and judge every fold of every repeat."""
    found = [forecasts(name, patients, asked.epsilon, seed) for seed in range(asked.repeats)]
    target = patients.cohort.target
    return Line(
        {
            part.name: np.array(
                [
                    judged(predicted, patients.cohort, part, fold == k)
                    for predicted, fold in found
                    for k in range(FOLDS)
                ]
            )
            for part in parts
        },
        np.mean([patient_scores(predicted, target) for predicted, _ in found], axis=0),
    )


def judged(predicted: Floats, cohort: Cohort, part: Part, left_out: Chosen) -> tuple[float, float]:
    """Relative error and coverage of one part of the patients left out."""
    who = left_out if part.who is None else left_out & part.who
    found = exact_forecast(predicted[who], cohort.target[who], forecast_target(cohort.schema))
    if part.pair is None:
        return found.ratio or np.nan, found.coverage or np.nan
    pair = next(pair for pair in found.pairs if pair.name == part.pair)
    return pair.ratio or np.nan, pair.coverage or np.nan


def shown(found: Floats) -> str:
    """The mean over folds and repeats with its interval, and the coverage."""
    ratios, covered = found.T
    low, high = mean_interval(ratios, 1 / (FOLDS - 1)) or (np.nan, np.nan)
    return f"{ratios.mean():8.3f} {f'({low:.2f}–{high:.2f})':12}{covered.mean():5.1f} %"


def table(patients: Patients, parts: list[Part], asked: Asked) -> None:
    """Print one line for each model."""
    heads = "".join(f"{part.name:>29}" for part in parts)
    print(f"{'model':14}{'epsilon':>8}{heads}{'p':>10}{'s':>6}")
    rule = measured(BASELINE, patients, parts, asked)
    for name in asked.models:
        start = time.perf_counter()
        line = rule if name == BASELINE else measured(name, patients, parts, asked)
        p = paired_p((line.scores - rule.scores)[np.isfinite(rule.scores)])
        test = "–" if p is None else f"{p:.1e}"
        cells = "".join(f"  {shown(line.parts[part.name])}" for part in parts)
        taken = time.perf_counter() - start
        print(f"{name:14}{asked.epsilon:>8}{cells}{test:>10}{taken:6.0f}", flush=True)


def buildable(schema: FeatureSchema) -> tuple[str, ...]:
    """Every flux model; `pathway_gnn` where there are edges between markers."""
    return tuple(name for name in SIZES if schema.graph is not None or name != "pathway_gnn")


def run(doc: str | None, prepare: Callable[[], tuple[Patients, list[Part]]]) -> None:
    """The command line of a benchmark."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--models", help="separated by commas; all that can be built if left out")
    parser.add_argument("--epsilons", default="none,8")
    parser.add_argument("--repeats", type=int, default=3)
    told = parser.parse_args()
    torch.set_num_threads(1)
    patients, parts = prepare()
    print(f"{len(patients.cohort)} patients; {FOLDS} folds, {told.repeats} times; delta {DELTA:g}")
    models = tuple(told.models.split(",")) if told.models else buildable(patients.cohort.schema)
    for epsilon in told.epsilons.split(","):
        table(patients, parts, Asked(models, epsilon, told.repeats))
