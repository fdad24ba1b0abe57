"""What the latent space of `multiomics_vae` keeps of a cell line, for `gdsc.py`."""

import numpy as np
import torch
from gdsc_data import Floats, Lines
from gdsc_federation import FOLDS, RECIPES, Federation, by_site, correlations, folds, model_of

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import encode, without_blocks
from fedrx_models.pharmacogenomic.multiomics_vae import MultiomicsVae
from fedrx_protocol.study.schema import FeatureSchema

_LATENT = {"hidden": 32, "linear_path": False, "reconstruction": 0.1, "kl": 1e-4}
"""Without a linear path, so that the outcome must pass through the latent space."""
_RATE, _ROUNDS = 5e-4, 30


def latent(data: Lines, seed: int) -> None:
    """A ridge on the latent space, against PCA of the same size, as blocks are dropped.

    The latent space is also trained on the training lines' responses; PCA never sees them.
    """
    recipe = RECIPES["multiomics_vae"]
    cohort = data.with_blocks(recipe.blocks)
    whole = encode(cohort, cohort.schema)
    fold = folds(len(data.tissues), seed)
    print(f"{'dropped':>8}{'vae':>9}{'pca':>9}")
    for share in (0.0, 0.3, 0.6):
        batch = _with_dropped(whole, cohort.schema, share, np.random.default_rng(seed))
        row = {}
        for told in ("vae", "pca"):
            predicted = np.full(data.response.shape, np.nan)
            for k in range(FOLDS):
                train = fold != k
                places = _places(
                    told, batch, cohort.schema, tissues=data.tissues, train=train, seed=seed + k
                )
                predicted[~train] = _ridge(places, data.response, train)[~train]
            row[told] = np.nanmean(correlations(predicted, data.response))
        print(f"{share:8.1f}{row['vae']:9.4f}{row['pca']:9.4f}", flush=True)


def _places(
    told: str,
    batch: PatientBatch,
    schema: FeatureSchema,
    *,
    tissues: Floats,
    train: Floats,
    seed: int,
) -> Floats:
    """Where every line lies, `(lines, latent)`, learned from the training lines."""
    size = int(RECIPES["multiomics_vae"].parameters["latent"])
    if told == "pca":
        values = batch.omics.double().numpy()
        values = values - values[train].mean(axis=0)
        directions = np.linalg.svd(values[train], full_matrices=False)[2][:size]
        return values @ directions.T
    model = model_of("multiomics_vae", schema, seed, **_LATENT)
    if not isinstance(model, MultiomicsVae):
        raise TypeError("another model answers to this name")
    Federation(by_site(batch, tissues, train)).train(model, _RATE, _ROUNDS)
    return model.latent(batch)


def _with_dropped(
    batch: PatientBatch, schema: FeatureSchema, share: float, rng: np.random.Generator
) -> PatientBatch:
    """Each block of each line missing with this chance; the last that a line has stays."""
    kept = torch.from_numpy(rng.random(tuple(batch.omics_observed.shape)) >= share)
    kept[(batch.omics_observed * kept).sum(1) == 0] = True
    return without_blocks(batch, schema, kept)


def _ridge(places: Floats, response: Floats, train: Floats) -> Floats:
    """Predictions `(lines, drugs)` of a ridge for each drug; its penalty from inner folds."""
    scaled = (places - places[train].mean(0)) / (places[train].std(0) + 1e-9)
    inputs = np.hstack([scaled, np.ones((len(scaled), 1))])
    inner = np.random.default_rng(0).random(len(train)) < 1 / FOLDS
    best, score = 1.0, -np.inf
    for penalty in (30.0, 100.0, 300.0, 1000.0, 3000.0):
        found = _solve(inputs, response, train & ~inner, penalty)
        here = train & inner
        mean = np.nanmean(correlations(found[here], response[here]))
        best, score = (penalty, mean) if mean > score else (best, score)
    return _solve(inputs, response, train, best)


def _solve(inputs: Floats, response: Floats, train: Floats, penalty: float) -> Floats:
    free = penalty * np.eye(inputs.shape[1])
    free[-1, -1] = 1e-6
    predicted = np.empty(response.shape)
    for j, values in enumerate(response.T):
        known = train & np.isfinite(values)
        some = inputs[known]
        predicted[:, j] = inputs @ np.linalg.solve(some.T @ some + free, some.T @ values[known])
    return predicted
