"""Flux models on the open demo of the eICU database: errors relative to the last value, one table.

    .venv/bin/python benchmarks/eicu.py [--models tcn,lstm] [--epsilons none,8,3] [--splits 0,1,2]
    .venv/bin/python benchmarks/eicu.py --models tcn --sites hospital --epsilons none,8,3
    .venv/bin/python benchmarks/eicu.py --models tcn --pooled

Six markers 1, 6 and 24 hours ahead, four regions as sites, a fifth of the patients held out. The
headline is the mean over the 18 of mean absolute error divided by that of the last value, every
visit counting alike; coverage is that of the 80 % interval.

Sites add their patients' gradients, and a patient's gradient does not depend on the site. So a step
is taken on all training patients at once, with the noise of the whole sum; that the sites' sums add
up to it is checked first. With `--pooled` the study engine trains over the sites, secure
aggregation included, and is held against the same model trained by one who holds all patients.

Rate, weight decay and rounds without privacy, and the shape of `tcn`, were chosen on the training
patients of split 0, a quarter set aside at a time. Its held-out patients had no say; those of other
splits had. Needs the real table beside the checkout.
"""

import argparse
import dataclasses
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from eicu_data import DATA, cohorts, schema

from fedrx_client.training.clipping import clipped_gradient_sum, gradient_sum
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.cohort import Cohort, concatenate
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import PatientModel, get_vector, set_vector
from fedrx_models.fitting import predict
from fedrx_models.metrics.forecast import ForecastMetrics
from fedrx_models.metrics.registry import exact_metrics
from fedrx_models.registry import build_model
from fedrx_protocol.privacy.calibration import training_noise_multiplier
from fedrx_protocol.study.study import ModelSection, OptimizerSection, Study
from fedrx_server.rounds.optimizer import ServerOptimizer
from fedrx_simulation.federation.sites import SimulatedConsortium
from fedrx_simulation.simulate import SimulationOptions, start

HELD_OUT = 0.2
DELTA = 1e-5
CLIPPING_NORM = 1.0
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        parameters: of the model, without privacy.
        rate: Adam's.
        weight_decay: Adam's.
        rounds: steps.
        sample_rate: share of the patients in a step.
        private: all of these where there is noise; None for the same.
    """

    parameters: dict[str, object] = field(default_factory=dict)
    rate: float = 6e-3
    weight_decay: float = 2.0
    rounds: int = 160
    sample_rate: float = 0.12
    private: "Recipe | None" = None


_PRIVATE = Recipe(rate=8e-3, rounds=100, sample_rate=0.25)
RECIPES = {
    "last_value": Recipe(rounds=0),
    "linear_mixed": Recipe(private=_PRIVATE),
    "tcn": Recipe(private=replace(_PRIVATE, parameters={"channels": 8, "linear_path": False})),
    "lstm": Recipe(private=replace(_PRIVATE, parameters={"size": 8, "linear_path": False})),
    "transformer": Recipe(
        private=replace(_PRIVATE, parameters={"size": 8, "feed_forward": 16, "linear_path": False})
    ),
    "pathway_gnn": Recipe(private=replace(_PRIVATE, parameters={"size": 4})),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(RECIPES))
    parser.add_argument("--epsilons", default="none")
    parser.add_argument("--splits", default="0", help="seeds of the split, start and noise")
    parser.add_argument("--sites", choices=["region", "hospital"], default="region")
    parser.add_argument("--rounds", type=int, help="instead of the recipe's")
    parser.add_argument(
        "--pooled", action="store_true", help="federated by the study engine against pooled"
    )
    told = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"REAL DATA MISSING: {DATA} is not here, so nothing was measured.")
    torch.set_num_threads(1)
    sites = cohorts(told.sites)
    print(f"{len(sites)} sites, {sum(map(len, sites.values()))} patients; delta {DELTA}")
    if told.pooled:
        compare_with_pooled(told, sites)
        return
    print(f"{'model':14}{'epsilon':>8}{'split':>6}{'ratio':>8}{'coverage':>10}{'of pairs':>12}  s")
    for seed in map(int, told.splits.split(",")):
        for name in told.models.split(","):
            for epsilon in told.epsilons.split(",") if name != "last_value" else ["none"]:
                recipe = recipe_for(name, epsilon, told.rounds)
                start = time.perf_counter()
                found = measured(name, recipe, sites, epsilon, seed)
                taken = time.perf_counter() - start
                print(line_of(name, epsilon, seed, found) + f"{taken:6.0f}", flush=True)
                print(table_of(found), flush=True)


def compare_with_pooled(told: argparse.Namespace, sites: dict[str, Cohort]) -> None:
    """A line for each training: federated, pooled, and the one over the other."""
    print(f"{'model':14}{'split':>6}{'federated':>11}{'pooled':>8}{'over':>8}")
    for seed in map(int, told.splits.split(",")):
        for name in told.models.split(","):
            recipe = recipe_for(name, "none", told.rounds)
            pair = federated_and_pooled(name, recipe, sites, seed)
            ours, theirs = (found.row_ratio or np.nan for found in pair)
            over = ours / theirs
            print(f"{name:14}{seed:6}{ours:11.4f}{theirs:8.4f}{over:8.4f}", flush=True)


def recipe_for(name: str, epsilon: str, rounds: int | None) -> Recipe:
    """The recipe without or with privacy; `rounds` replaces its own."""
    recipe = RECIPES[name]
    if epsilon != "none" and recipe.private is not None:
        recipe = recipe.private
    return recipe if rounds is None else replace(recipe, rounds=rounds)


def measured(
    name: str, recipe: Recipe, sites: dict[str, Cohort], epsilon: str, seed: int
) -> ForecastMetrics:
    """Train on four fifths of the patients, judge on the others."""
    parts = [cohort.split(HELD_OUT, b"eicu split %d" % seed) for cohort in sites.values()]
    training = [encode(part, part.schema) for part, _ in parts if len(part)]
    held_out = concatenate([part for _, part in parts if len(part)])
    model = build_model(ModelSection(name=name, **recipe.parameters), schema(), seed)
    train(model, training, recipe, None if epsilon == "none" else float(epsilon), seed)
    return judged(model, held_out)


def judged(model: PatientModel, held_out: Cohort) -> ForecastMetrics:
    """Exact metrics on patients that the model did not see."""
    found = exact_metrics(schema().target, predict(model, held_out), held_out.target)
    if not isinstance(found, ForecastMetrics):
        raise TypeError(f"{type(found).__name__} is not of a forecast.")
    return found


def federated_and_pooled(
    name: str, recipe: Recipe, sites: dict[str, Cohort], seed: int
) -> tuple[ForecastMetrics, ForecastMetrics]:
    """The same model trained by the study engine over all sites, and by one who holds everybody.

    Two trainings from the same start on the same patients, which draw samples of their own.
    """
    study = study_of(name, recipe, sites)
    by_site = {cohort.site: cohort for cohort in sites.values()}
    parts = [
        SimulatedConsortium(study, tuple(by_site), "", seed).split(c) for c in by_site.values()
    ]
    training, held_out = (concatenate([part[i] for part in parts]) for i in (0, 1))
    with TemporaryDirectory() as folder:
        options = SimulationOptions(seed=seed, baselines=False)
        result = start(study, by_site, Path(folder) / "run", options)
    pooled = build_model(study.model, schema(), seed)
    train(pooled, [encode(training, training.schema)], recipe, None, seed)
    return judged(result.model, held_out), judged(pooled, held_out)


def study_of(name: str, recipe: Recipe, sites: dict[str, Cohort]) -> Study:
    """The recipe as a study without privacy, for the study engine."""
    sizes = [len(cohort) for cohort in sites.values()]
    document = schema().model_dump(mode="json") | {
        "name": "eicu_demo",
        "cohort": {"patients": sum(sizes), "largest_site": max(sizes), "held_out": HELD_OUT},
        "model": {"name": name, **recipe.parameters},
        "training": {
            "rounds": recipe.rounds,
            "sample_rate": recipe.sample_rate,
            "optimizer": optimizer_of(recipe).model_dump(mode="json"),
        },
        "privacy": {"mode": "none"},
        "metrics": {"evaluations": 0, "error_bound": 4.0},
    }
    return Study.from_document(document, source="eicu.py")


def optimizer_of(recipe: Recipe) -> OptimizerSection:
    """The coordinator's Adam; its rate falls to 0 over the rounds."""
    return OptimizerSection(
        name="adam", learning_rate=recipe.rate, weight_decay=recipe.weight_decay
    )


def train(
    model: PatientModel, sites: list[PatientBatch], recipe: Recipe, epsilon: float | None, seed: int
) -> None:
    """The coordinator's Adam on the sum over all sites' sampled patients."""
    names = [f.name for f in dataclasses.fields(PatientBatch)]
    everybody = PatientBatch(**{n: torch.cat([getattr(site, n) for site in sites]) for n in names})
    if recipe.rounds:
        check_sums(model, sites)
    noise = 0.0
    if epsilon is not None:
        noise = training_noise_multiplier(epsilon, DELTA, recipe.sample_rate, recipe.rounds)
    optimizer = ServerOptimizer(optimizer_of(recipe), get_vector(model), recipe.rounds)
    rng = np.random.default_rng(seed)
    for round_ in range(1, recipe.rounds + 1):
        chosen = np.flatnonzero(rng.random(len(everybody)) < recipe.sample_rate)
        some = everybody.select(torch.from_numpy(chosen))
        if noise:
            total = clipped_gradient_sum(model, some, CLIPPING_NORM).vector
            total = total + rng.normal(0.0, noise * CLIPPING_NORM, total.shape)
        else:
            total = gradient_sum(model, some)
        optimizer.step(total / (recipe.sample_rate * len(everybody)), round_)
        set_vector(model, optimizer.weights)


def check_sums(model: PatientModel, sites: list[PatientBatch]) -> None:
    """Stop unless a few sites' sums add up to the sum over their patients."""
    few = [site.select(torch.arange(min(4, len(site)))) for site in sites[:8]]
    names = [f.name for f in dataclasses.fields(PatientBatch)]
    joined = PatientBatch(**{n: torch.cat([getattr(site, n) for site in few]) for n in names})
    apart = sum(clipped_gradient_sum(model, site, CLIPPING_NORM).vector for site in few)
    together = clipped_gradient_sum(model, joined, CLIPPING_NORM).vector
    if np.linalg.norm(apart - together) > _ROUNDING * np.linalg.norm(together):
        raise SystemExit("the sites' sums do not add up to the pooled sum: nothing was measured.")


def line_of(name: str, epsilon: str, seed: int, found: ForecastMetrics) -> str:
    """The headline of one training."""
    covered = [pair.coverage for pair in found.pairs if pair.coverage is not None]
    ends = f"{min(covered):.0f}..{max(covered):.0f} %"
    return (
        f"{name:14}{epsilon:>8}{seed:6}{found.row_ratio or np.nan:8.4f}"
        f"{found.coverage or np.nan:8.1f} %{ends:>12}"
    )


def table_of(found: ForecastMetrics) -> str:
    """Each marker's ratio at each horizon, patients counting alike."""
    said = [f"{pair.name} {pair.ratio or np.nan:.3f}" for pair in found.pairs]
    return "    " + ", ".join(said)


if __name__ == "__main__":
    main()
