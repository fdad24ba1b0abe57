"""Drug response on 568 cell lines (GDSC), federated over their tissues: three tables.

    .venv/bin/python benchmarks/gdsc.py lines [--models linear,mlp] [--epsilons none,8,3]
    .venv/bin/python benchmarks/gdsc.py drugs
    .venv/bin/python benchmarks/gdsc.py latent

`lines`: five folds over lines, mean over all 265 drugs of the correlation of predicted and true
ln IC50, a drug's correlation being the mean over seeds; the smallest and largest seed's; and a
paired test over drugs against the first model. A seed deals the folds, and draws start weights and
noise. `drugs`: five folds over drugs by
name, per-drug correlation over lines. `latent`: a ridge on the latent space of `multiomics_vae`
against PCA of the same size, with blocks dropped at random. How the tissues train together:
`gdsc_federation`.

Rounds are chosen inside each fold, on a fifth of its training lines; private runs and `drugs` have
fixed rounds. The public reference of a drug comes from the lines that lack expression, which are
never used else.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from gdsc_data import Floats, Lines, read
from gdsc_federation import (
    FOLDS,
    RECIPES,
    SQUARED,
    Federation,
    Recipe,
    by_site,
    correlations,
    folds,
    model_of,
)
from gdsc_latent import latent
from scipy.stats import ttest_rel

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode
from fedrx_models.registry import build_model
from fedrx_protocol.privacy.calibration import training_noise_multiplier
from fedrx_protocol.study.study import ModelSection

DELTA = 1e-4
PRIVATE_ROUNDS = 100
UNSEEN = Recipe({"size": 4, "hidden": 64, "known_responses": True, **SQUARED}, 1e-3, (15,))
"""How `drug_gene_gnn` is trained for drugs that it never saw."""


def chosen_rounds(
    name: str,
    batch: PatientBatch,
    cohort: Cohort,
    *,
    tissues: Floats,
    train: Floats,
    seed: int,
) -> int:
    """The number of rounds that a fifth of the training lines, set aside, likes best."""
    recipe = RECIPES[name]
    aside = train & (np.random.default_rng(seed).random(len(train)) < 1 / FOLDS)
    there = batch.select(torch.from_numpy(np.flatnonzero(aside)))
    federation, seen = Federation(by_site(batch, tissues, train & ~aside)), {}
    for rounds in recipe.rounds:
        model = model_of(name, cohort.schema, seed)
        federation.train(model, recipe.rate, rounds)
        found = correlations(model.predict(there).mean, cohort.target[aside])
        seen[rounds] = float(np.nanmean(found))
    return max(seen, key=lambda rounds: seen[rounds])


def lines(data: Lines, models: list[str], epsilons: list[str], seeds: range) -> None:
    """Five folds over lines, dealt anew for each seed."""
    columns = f"{'model':22}{'epsilon':>8}{'correlation':>13}{'of seeds':>14}"
    print(f"{columns}{'p':>10}{'rounds':>9}{'s':>7}")
    for epsilon in epsilons:
        first = None
        for name in models:
            start = time.perf_counter()
            results = [_cross_validated(data, name, epsilon, seed) for seed in seeds]
            each = [np.nanmean(found) for found, _ in results]
            found = np.nanmean([found for found, _ in results], axis=0)
            rounds = np.mean([rounds for _, rounds in results])
            first = found if first is None else first
            p = ttest_rel(found, first, nan_policy="omit").pvalue if name != models[0] else np.nan
            print(
                f"{name:22}{epsilon:>8}{np.nanmean(found):13.4f}"
                f"{f'{min(each):.3f}–{max(each):.3f}':>14}{p:10.1e}{rounds:9.0f}"
                f"{time.perf_counter() - start:7.0f}",
                flush=True,
            )


def _cross_validated(data: Lines, name: str, epsilon: str, seed: int) -> tuple[Floats, list[int]]:
    """Per-drug correlations `(drugs,)` over five folds, and the rounds of each."""
    recipe, rounds = RECIPES[name], []
    fold = folds(len(data.tissues), seed)
    cohort = data.with_blocks(recipe.blocks)
    batch = encode(cohort, cohort.schema)
    predicted = np.full(data.response.shape, np.nan)
    noise = 0.0
    if epsilon != "none":
        noise = training_noise_multiplier(float(epsilon), DELTA, 1.0, PRIVATE_ROUNDS)
    for k in range(FOLDS):
        train = fold != k
        model = model_of(name, cohort.schema, seed + k, **(recipe.private if noise else {}))
        federation = Federation(by_site(batch, data.tissues, train), noise, seed + k)
        if noise:
            rounds.append(PRIVATE_ROUNDS)
        else:
            rounds.append(
                chosen_rounds(name, batch, cohort, tissues=data.tissues, train=train, seed=seed + k)
            )
        federation.train(model, recipe.private_rate if noise else recipe.rate, rounds[-1])
        test = np.flatnonzero(~train)
        predicted[test] = model.predict(batch.select(torch.from_numpy(test))).mean
    return correlations(predicted, data.response), rounds


def drugs(data: Lines, seed: int) -> None:
    """Five folds over drugs by name; every line is trained on."""
    cohort = data.with_blocks(UNSEEN.blocks)
    batch = encode(cohort, cohort.schema)
    compounds = np.array([drug.identity for drug in cohort.schema.target.drugs], dtype=object)
    fold = _by_name(compounds, seed)
    everybody = np.ones(len(data.tissues), dtype=np.bool_)
    section = ModelSection(name="drug_gene_gnn", **UNSEEN.parameters)
    predicted, means = (np.full(data.response.shape, np.nan) for _ in range(2))
    for k in range(FOLDS):
        hidden = fold == k
        known = _without(batch, hidden)
        model = build_model(section, cohort.schema, seed=seed + k)
        federation = Federation(by_site(known, data.tissues, everybody))
        federation.train(model, UNSEEN.rate, *UNSEEN.rounds)
        predicted[:, hidden] = model.predict(known).mean[:, hidden]
        mean = (known.y.sum(1) / known.y_observed.sum(1).clamp(min=1)).numpy()
        means[:, hidden] = mean[:, None]
        print(f"fold {k + 1} of {FOLDS}: {hidden.sum()} drugs held out", flush=True)
    against = correlations(means, data.response)
    for told, values in (("line's mean over the drugs", means), ("drug_gene_gnn", predicted)):
        each = correlations(values, data.response)
        p = np.nan if values is means else ttest_rel(each, against, nan_policy="omit").pvalue
        print(f"{told:30}{np.nanmean(each):8.4f}{p:10.1e}", flush=True)


def _by_name(compounds: Floats, seed: int) -> Floats:
    """A fold for each entry of the panel; one drug under several ids is in one fold."""
    names = sorted(set(compounds))
    of_name = dict(zip(names, folds(len(names), seed), strict=True))
    return np.array([of_name[compound] for compound in compounds])


def _without(batch: PatientBatch, hidden: Floats) -> PatientBatch:
    """The same lines, on which nobody tried the hidden drugs."""
    seen = torch.from_numpy((~hidden).astype(np.float32))
    return PatientBatch(
        batch.x, batch.y * seen, batch.y_observed * seen, batch.omics, batch.omics_observed
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=["lines", "drugs", "latent"])
    parser.add_argument("--models", default=",".join(RECIPES))
    parser.add_argument("--epsilons", default="none")
    parser.add_argument("--seed", type=int, default=0, help="the first, or the only one")
    parser.add_argument("--seeds", type=int, default=1, help="of `lines`: how many")
    told = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", RuntimeWarning)  # a constant prediction has no correlation
    data, seeds = read(), range(told.seed, told.seed + told.seeds)
    if told.table == "lines":
        lines(data, told.models.split(","), told.epsilons.split(","), seeds)
    elif told.table == "drugs":
        drugs(data, told.seed)
    else:
        latent(data, told.seed)


if __name__ == "__main__":
    main()
