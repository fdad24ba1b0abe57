"""What a federated model is held against: pooled data, each site alone, and simple rules.

The baselines see what no party of a real study could see, which is what a simulation is for. None
of them is private.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedrx_models.cohort import Cohort, concatenate
from fedrx_models.contract import DoseModel
from fedrx_models.encoding import encode
from fedrx_models.metrics import DoseMetrics, exact
from fedrx_models.pharmacogenomic.published import (
    FIXED_DOSE_MG_PER_WEEK,
    is_applicable,
    pharmacogenetic_dose,
)

# Full-batch training, stopped where a tenth of the training patients, set aside, is predicted
# best: the usual recipe of somebody who has all the data and no privacy to keep.
_STEPS = 400
_PATIENCE = 40
_LEARNING_RATE = 0.03
_VALIDATION = 0.1


@dataclass(frozen=True)
class Baselines:
    """Exact metrics on the held-out patients of all sites."""

    pooled: DoseMetrics
    site_alone: DoseMetrics
    fixed: DoseMetrics
    published: DoseMetrics | None

    def by_name(self) -> dict[str, DoseMetrics]:
        """The baselines that there are."""
        named = {
            "pooled": self.pooled,
            "site_alone": self.site_alone,
            "fixed": self.fixed,
            "published": self.published,
        }
        return {name: metrics for name, metrics in named.items() if metrics is not None}


def compute_baselines(
    model: DoseModel,
    training: Mapping[str, Cohort],
    held_out: Mapping[str, Cohort],
    seed: int,
) -> Baselines:
    """Train and judge every baseline.

    Args:
        model: The study's model with its start weights; it is not changed.
        training: Training patients by site.
        held_out: Held-out patients by site.
        seed: Fixes which patients steer the early stopping.
    """
    everyone = concatenate(list(held_out.values()))
    pooled = fit(model, concatenate(list(training.values())), seed)
    alone = [predict(fit(model, training[site], seed), cohort) for site, cohort in held_out.items()]
    fixed = np.full(len(everyone), FIXED_DOSE_MG_PER_WEEK)
    return Baselines(
        pooled=exact(predict(pooled, everyone), everyone.target),
        site_alone=exact(np.concatenate(alone), everyone.target),
        fixed=exact(fixed, everyone.target),
        published=(
            exact(pharmacogenetic_dose(everyone), everyone.target)
            if is_applicable(everyone.schema)
            else None
        ),
    )


def predict(model: DoseModel, cohort: Cohort) -> NDArray[np.float64]:
    """Predicted doses, shape `(patients,)`, in the target's unit."""
    return model.predict(encode(cohort, model.schema)).mean


def fit(model: DoseModel, cohort: Cohort, seed: int) -> DoseModel:
    """A copy of `model`, trained on `cohort` without privacy, stopped early."""
    model = copy.deepcopy(model)
    batch = encode(cohort, model.schema)
    aside = np.random.default_rng(seed).random(len(cohort)) < _VALIDATION
    if not aside.any() or aside.all():
        aside[: max(1, len(cohort) // 10)] = True
    fitting = batch.select(torch.from_numpy(~aside))
    watching = batch.select(torch.from_numpy(aside))
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
    best, best_loss, since = copy.deepcopy(model.state_dict()), float("inf"), 0
    for _ in range(_STEPS):
        optimizer.zero_grad()
        model(fitting).mean().backward()
        optimizer.step()
        with torch.no_grad():
            loss = float(model(watching).mean())
        since += 1
        if loss < best_loss:
            best, best_loss, since = copy.deepcopy(model.state_dict()), loss, 0
        if since >= _PATIENCE:
            break
    model.load_state_dict(best)
    return model
