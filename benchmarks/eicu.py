"""Flux models on the open demo of the eICU database: errors relative to the last value, one table.

    .venv/bin/python benchmarks/eicu.py [--models tcn,lstm] [--epsilons none,8,3] [--splits 0,1,2]

Six markers 1, 6 and 24 hours ahead, four regions as sites, a fifth of the patients held out. The
headline is the mean over the 18 of mean absolute error divided by that of the last value, every
visit counting alike; coverage is that of the 80 % interval.

Sites add their patients' gradients, and a patient's gradient does not depend on the site. So a step
is taken on all training patients at once, with the noise of the whole sum; that the sites' sums add
up to it is checked first. Needs the real table beside the checkout.
"""

import argparse
import dataclasses
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from eicu_data import DATA, cohorts, schema
from numpy.typing import NDArray

from fedrx_client.training import clipped_gradient_sum, gradient_sum
from fedrx_models.build import build_model
from fedrx_models.cohort import Cohort, concatenate
from fedrx_models.contract import PatientBatch, PatientModel, get_vector, set_vector
from fedrx_models.encoding import encode
from fedrx_models.measures import exact_metrics
from fedrx_models.metrics_forecast import ForecastMetrics
from fedrx_models.visits import VisitColumns
from fedrx_protocol.privacy.calibration import training_noise_multiplier
from fedrx_protocol.study import ModelSection, OptimizerSection
from fedrx_server.optimizer import ServerOptimizer

HELD_OUT = 0.2
DELTA = 1e-5
CLIPPING_NORM = 1.0
_ALIKE = 64  # patients of like length that go through a model together
_ROUNDING = 1e-3

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        parameters: of the model, without privacy.
        rate: Adam's.
        rounds: steps.
        sample_rate: share of the patients in a step.
        private: all of these where there is noise; None for the same.
    """

    parameters: dict[str, object] = field(default_factory=dict)
    rate: float = 3e-3
    rounds: int = 240
    sample_rate: float = 0.12
    private: "Recipe | None" = None


_PRIVATE = Recipe(rate=8e-3, rounds=100, sample_rate=0.25)
RECIPES = {
    "last_value": Recipe(rounds=0),
    "linear_mixed": Recipe(rate=6e-3, private=_PRIVATE),
    "tcn": Recipe(private=dataclasses.replace(_PRIVATE, parameters={"channels": 24, "layers": 2})),
    "lstm": Recipe(private=dataclasses.replace(_PRIVATE, parameters={"size": 16})),
    "transformer": Recipe(
        private=dataclasses.replace(_PRIVATE, parameters={"size": 16, "feed_forward": 32})
    ),
    "pathway_gnn": Recipe(private=dataclasses.replace(_PRIVATE, parameters={"size": 4})),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(RECIPES))
    parser.add_argument("--epsilons", default="none")
    parser.add_argument("--splits", default="0", help="seeds of the split, start and noise")
    parser.add_argument("--sites", choices=["region", "hospital"], default="region")
    parser.add_argument("--rounds", type=int, help="instead of the recipe's")
    told = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"REAL DATA MISSING: {DATA} is not here, so nothing was measured.")
    torch.set_num_threads(1)
    sites = cohorts(told.sites)
    print(f"{len(sites)} sites, {sum(map(len, sites.values()))} patients; delta {DELTA}")
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


def recipe_for(name: str, epsilon: str, rounds: int | None) -> Recipe:
    """The recipe without or with privacy; `rounds` replaces its own."""
    recipe = RECIPES[name]
    if epsilon != "none" and recipe.private is not None:
        recipe = recipe.private
    return recipe if rounds is None else dataclasses.replace(recipe, rounds=rounds)


def measured(
    name: str, recipe: Recipe, sites: dict[str, Cohort], epsilon: str, seed: int
) -> ForecastMetrics:
    """Train on four fifths of the patients, judge on the others."""
    parts = [cohort.split(HELD_OUT, b"eicu split %d" % seed) for cohort in sites.values()]
    training = [encode(part, part.schema) for part, _ in parts if len(part)]
    held_out = concatenate([part for _, part in parts if len(part)])
    model = build_model(ModelSection(name=name, **recipe.parameters), schema(), seed)
    train(model, training, recipe, None if epsilon == "none" else float(epsilon), seed)
    found = exact_metrics(schema().target, predicted(model, held_out), held_out.target)
    if not isinstance(found, ForecastMetrics):
        raise TypeError(f"{type(found).__name__} is not of a forecast.")
    return found


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
    settings = OptimizerSection(
        name="adam", learning_rate=recipe.rate, momentum=0.9, decay="linear"
    )
    optimizer = ServerOptimizer(settings, get_vector(model), recipe.rounds)
    rng = np.random.default_rng(seed)
    for round_ in range(1, recipe.rounds + 1):
        chosen = np.flatnonzero(rng.random(len(everybody)) < recipe.sample_rate)
        some = everybody.select(torch.from_numpy(chosen))
        total = gradient_of(model, some, clipped=bool(noise))
        if noise:
            total = total + rng.normal(0.0, noise * CLIPPING_NORM, total.shape)
        optimizer.step(total / (recipe.sample_rate * len(everybody)), round_)
        set_vector(model, optimizer.weights)


def check_sums(model: PatientModel, sites: list[PatientBatch]) -> None:
    """Stop unless a few sites' sums add up to the sum over their patients."""
    few = [site.select(torch.arange(min(4, len(site)))) for site in sites[:8]]
    names = [f.name for f in dataclasses.fields(PatientBatch)]
    joined = PatientBatch(**{n: torch.cat([getattr(site, n) for site in few]) for n in names})
    apart = sum(clipped_gradient_sum(model, site, CLIPPING_NORM).vector for site in few)
    together = gradient_of(model, joined, clipped=True)
    if np.linalg.norm(apart - together) > _ROUNDING * np.linalg.norm(together):
        raise SystemExit("the sites' sums do not add up to the pooled sum: nothing was measured.")


def gradient_of(model: PatientModel, batch: PatientBatch, *, clipped: bool) -> Floats:
    """The gradient sum, `(d,)`; patients of like length go together, without their padding."""
    total = np.zeros(sum(p.numel() for p in model.parameters()))
    for rows in by_length(batch):
        some = without_padding(batch.select(rows))
        if clipped:
            total += clipped_gradient_sum(model, some, CLIPPING_NORM).vector
        else:
            total += gradient_sum(model, some)
    return total


def by_length(batch: PatientBatch) -> list[torch.Tensor]:
    """Positions of the patients, in groups of like numbers of visits."""
    lengths = batch.visits[:, :, VisitColumns.valid].sum(dim=1)
    return [rows for rows in torch.argsort(lengths).split(_ALIKE) if len(rows)]


def without_padding(batch: PatientBatch) -> PatientBatch:
    """The same patients, cut after the last visit of any: no loss and no forecast changes."""
    count = max(2, int(batch.visits[:, :, VisitColumns.valid].sum(dim=1).max()))
    forecasts = VisitColumns.of(schema()).forecasts
    return dataclasses.replace(
        batch,
        visits=batch.visits[:, :count],
        y=batch.y[:, : count * forecasts],
        y_observed=batch.y_observed[:, : count * forecasts],
    )


def predicted(model: PatientModel, held_out: Cohort) -> Floats:
    """Forecasts for all of a cohort's visits, `(n, T, H, M, 3)`; padding is NaN."""
    batch = encode(held_out, held_out.schema)
    found = np.full((*held_out.target.shape[:-1], 3), np.nan)
    for rows in by_length(batch):
        some = without_padding(batch.select(rows))
        found[rows.numpy(), : some.visits.shape[1]] = model.predict(some).mean
    return found


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
