"""Every model that takes the warfarin study's columns, on 21 real sites: two tables.

    .venv/bin/python benchmarks/iwpc_models.py [--models linear,mlp] [--epsilons none,8,3,1]

`folds`: five folds within each site, mean over patients. `sites`: each site is left out once and
judged on, mean over sites. Absolute error in mg a week, its 95 % interval, the paired test over
patients against the first model, and for the folds the error with a private head at each site.

`fedrx simulate --compare` trains with masks and transport, and takes hours for the same tables; see
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

from fedrx.front_door import PatientFile, default_study, load_cohorts
from fedrx_models.cohort import concatenate
from fedrx_models.contract import PatientBatch, PatientModel
from fedrx_models.encoding import encode
from fedrx_models.personal import personalise
from fedrx_protocol.schema import FeatureSchema
from fedrx_protocol.study import OptimizerSection
from fedrx_simulation.compare_stats import mean_interval, paired_p

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


def federated(
    name: str, patients: Patients, train: NDArray[np.bool_], epsilon: str
) -> PatientModel:
    """The federated model of these training patients."""
    privacy = Privacy.told(epsilon, DELTA, CLIPPING_NORM)
    return trained(name, RECIPES[name], patients.schema, patients.some(train), privacy)


def by_folds(name: str, patients: Patients, epsilon: str, seed: int) -> list[Floats]:
    """Absolute errors `(patients,)` of the federated and of the personalised models."""
    fold = folds_within(patients.sites, seed)
    errors, personal = np.empty((2, len(fold)))
    for k in range(FOLDS):
        model = federated(name, patients, fold != k, epsilon)
        errors[fold == k] = _errors(model, patients, fold == k)
        for site in sorted(set(patients.sites)):
            here = patients.sites == site
            own = personalise(model, patients.some(here & (fold != k)))
            personal[here & (fold == k)] = _errors(own, patients, here & (fold == k))
    by_fold = np.array([errors[fold == k].mean() for k in range(FOLDS)])
    return [errors, personal, by_fold]


def by_sites(name: str, patients: Patients, epsilon: str) -> list[Floats]:
    """Absolute errors `(patients,)` of models that never saw the patient's site."""
    errors = np.empty(len(patients.sites))
    for site in sorted(set(patients.sites)):
        here = patients.sites == site
        errors[here] = _errors(federated(name, patients, ~here, epsilon), patients, here)
    means = [errors[patients.sites == site].mean() for site in sorted(set(patients.sites))]
    return [errors, np.array([]), np.array(means)]


def _errors(model: PatientModel, patients: Patients, who: NDArray[np.bool_]) -> Floats:
    found: Floats = np.abs(model.predict(patients.some(who)).mean - patients.doses[who])
    return found


def table(scheme: str, models: list[str], epsilons: list[str], patients: Patients) -> None:
    """Print one scheme's table."""
    print(f"{scheme:22}{'epsilon':>8}{'MAE':>8}{'95 %':>15}{'personal':>10}{'p':>10}{'s':>6}")
    for epsilon in epsilons:
        first = None
        for name in models:
            start = time.perf_counter()
            if scheme == "folds":
                errors, personal, parts = by_folds(name, patients, epsilon, seed=0)
                low, high = mean_interval(parts, 1 / (FOLDS - 1)) or (np.nan, np.nan)
            else:
                errors, personal, parts = by_sites(name, patients, epsilon)
                low, high = mean_interval(parts, 0.0) or (np.nan, np.nan)
            first = errors if first is None else first
            p = paired_p(errors - first)
            own = f"{personal.mean():10.3f}" if personal.size else f"{'–':>10}"
            test = "–" if p is None else f"{p:.1e}"
            shown = errors.mean() if scheme == "folds" else parts.mean()
            print(
                f"{name:22}{epsilon:>8}{shown:8.3f}{f'{low:.2f}–{high:.2f}':>15}{own}{test:>10}"
                f"{time.perf_counter() - start:6.0f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(RECIPES))
    parser.add_argument("--epsilons", default="none,8,3,1")
    parser.add_argument("--schemes", default="folds,sites")
    told = parser.parse_args()
    torch.set_num_threads(1)
    patients = read()
    for scheme in told.schemes.split(","):
        table(scheme, told.models.split(","), told.epsilons.split(","), patients)


if __name__ == "__main__":
    main()
