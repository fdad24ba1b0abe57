"""Every model that takes the warfarin study's columns, on 21 real sites: two tables.

    .venv/bin/python benchmarks/iwpc_models.py [--models linear,mlp] [--epsilons none,8] [--seeds 3]

`folds`: five folds within each site, mean over folds. `sites`: each site is left out once and
judged on, mean over sites. Absolute error in mg a week, its 95 % interval, the paired test over
patients against the first model, and for the folds the error with a private head at each site.
A patient's error is the mean over seeds.

`fedrx compare` trains with masks and transport, and takes hours for the same tables; see
`federation.py`. Needs the real patient table beside the checkout.
"""

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from federation import FOLDS, Privacy, Recipe, folds_within, trained
from iwpc import DATA, ROOT
from numpy.typing import NDArray

from fedrx.api import PatientFile, default_study, load_cohorts
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.cohort import concatenate
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import PatientModel
from fedrx_models.personal import personalise
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import OptimizerSection
from fedrx_simulation.comparison.statistics import mean_interval, paired_p

DELTA = 1e-5
CLIPPING_NORM = 0.3

Floats = NDArray[np.float64]


_SGD = OptimizerSection(name="sgd", learning_rate=2.0, momentum=0.9)
_ADAM = OptimizerSection(name="adam", learning_rate=0.02, momentum=0.9)
RECIPES = {
    "linear": Recipe({}, _SGD, 100),
    "mlp": Recipe({}, _SGD, 100),
    "genomic_cnn": Recipe({"channels": 4, "layers": 1, "hidden": 16}, _ADAM, 50),
    "genomic_transformer": Recipe(
        {"size": 8, "heads": 2, "layers": 1, "feed_forward": 16, "hidden": 16}, _ADAM, 50
    ),
}


@dataclass(frozen=True)
class Patients:
    """All sites' patients in a row.

    Attributes:
        sites: `(patients,)`, the site of each.
        doses: `(patients,)`, mg a week.
    """

    schema: FeatureSchema
    batch: PatientBatch
    sites: NDArray[np.object_]
    doses: Floats

    def some(self, chosen: NDArray[np.bool_]) -> PatientBatch:
        """Those chosen, `(patients,)`."""
        return self.batch.select(torch.from_numpy(np.flatnonzero(chosen)))


def read() -> Patients:
    """The patients of the default study; exits where they are missing."""
    if not DATA.is_file():
        sys.exit(f"REAL DATA MISSING: {DATA} is not here, so nothing was measured.")
    schema = default_study()[0].feature_schema
    source = PatientFile(DATA, ROOT / "examples" / "warfarin" / "iwpc.toml", "Project Site")
    cohorts = load_cohorts(source, schema, seed=0)
    everybody = concatenate(list(cohorts.values()))
    sites = np.concatenate([np.full(len(c), site, dtype=object) for site, c in cohorts.items()])
    return Patients(schema, encode(everybody, schema), sites, np.array(everybody.target))


@dataclass(frozen=True)
class Judged:
    """What held-out patients say of a model.

    Attributes:
        errors: `(patients,)`, absolute, mg a week, mean over seeds.
        personal: the same with a private head at each site; empty where there is none.
        parts: `(n,)`, errors of what was left out, each the mean over its patients.
        overlap: held-out patients for each training patient, where training sets overlap.
    """

    errors: Floats
    personal: Floats
    parts: Floats
    overlap: float


def federated(
    name: str, patients: Patients, train: NDArray[np.bool_], epsilon: str, seed: int
) -> PatientModel:
    """The federated model of these training patients."""
    privacy = Privacy.told(epsilon, DELTA, CLIPPING_NORM)
    batch = patients.some(train)
    return trained(name, RECIPES[name], patients.schema, batch, privacy, seed=seed)


def by_folds(name: str, patients: Patients, epsilon: str, seeds: range) -> Judged:
    """Five folds within each site, dealt anew for each seed."""
    errors, personal = np.empty((2, len(seeds), len(patients.sites)))
    parts = []
    for row, seed in enumerate(seeds):
        fold = folds_within(patients.sites, seed)
        for k in range(FOLDS):
            model = federated(name, patients, fold != k, epsilon, seed)
            errors[row, fold == k] = _errors(model, patients, fold == k)
            parts.append(errors[row, fold == k].mean())
            for site in sorted(set(patients.sites)):
                here = patients.sites == site
                own = personalise(model, patients.some(here & (fold != k)))
                there = here & (fold == k)
                personal[row, there] = _errors(own, patients, there)
    return Judged(errors.mean(0), personal.mean(0), np.array(parts), 1 / (FOLDS - 1))


def by_sites(name: str, patients: Patients, epsilon: str, seeds: range) -> Judged:
    """Each site left out once; the mean over sites."""
    errors = np.empty((len(seeds), len(patients.sites)))
    sites = sorted(set(patients.sites))
    for row, seed in enumerate(seeds):
        for site in sites:
            here = patients.sites == site
            model = federated(name, patients, ~here, epsilon, seed)
            errors[row, here] = _errors(model, patients, here)
    parts = np.array([errors[:, patients.sites == site].mean() for site in sites])
    return Judged(errors.mean(0), np.array([]), parts, 0.0)


def _errors(model: PatientModel, patients: Patients, who: NDArray[np.bool_]) -> Floats:
    found: Floats = np.abs(model.predict(patients.some(who)).mean - patients.doses[who])
    return found


def table(
    scheme: str, models: list[str], epsilons: list[str], patients: Patients, seeds: range
) -> None:
    """Print one scheme's table."""
    judge = by_folds if scheme == "folds" else by_sites
    print(f"{scheme:22}{'epsilon':>8}{'MAE':>8}{'95 %':>15}{'personal':>10}{'p':>10}{'s':>6}")
    for epsilon in epsilons:
        first = None
        for name in models:
            start = time.perf_counter()
            judged = judge(name, patients, epsilon, seeds)
            low, high = mean_interval(judged.parts, judged.overlap) or (np.nan, np.nan)
            first = judged if first is None else first
            p = paired_p(judged.errors - first.errors)
            own = f"{judged.personal.mean():10.3f}" if judged.personal.size else f"{'–':>10}"
            test = "–" if p is None else f"{p:.1e}"
            print(
                f"{name:22}{epsilon:>8}{judged.parts.mean():8.3f}{f'{low:.2f}–{high:.2f}':>15}"
                f"{own}{test:>10}{time.perf_counter() - start:6.0f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(RECIPES))
    parser.add_argument("--epsilons", default="none,8,3,1")
    parser.add_argument("--schemes", default="folds,sites")
    parser.add_argument("--seeds", type=int, default=1, help="of folds, start weights and noise")
    told = parser.parse_args()
    torch.set_num_threads(1)
    patients, seeds = read(), range(told.seeds)
    for scheme in told.schemes.split(","):
        table(scheme, told.models.split(","), told.epsilons.split(","), patients, seeds)


if __name__ == "__main__":
    main()
