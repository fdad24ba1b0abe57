"""What a federated model is held against: pooled data, each site alone, and simple rules.

The baselines see what no party of a real study could see, which is what a simulation is for. None
of them is private.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from fedrx_models.cohort import Cohort, concatenate
from fedrx_models.contract import DoseBatch, DoseModel
from fedrx_models.encoding import encode
from fedrx_models.metrics import DoseMetrics, exact
from fedrx_models.pharmacogenomic.published import (
    FIXED_DOSE_MG_PER_WEEK,
    is_applicable,
    pharmacogenetic_dose,
)

Vector = NDArray[np.float64]

_ITERATIONS = 100
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
    """A copy of `model`, trained on `cohort` without privacy as well as we know how.

    Full-batch L-BFGS. How many iterations is decided on a tenth of the patients, set aside; then
    the model is trained anew on all of them for as many. A single patient cannot be both learned
    from and set aside: the model then stays as it is.
    """
    if len(cohort) < 2:
        return copy.deepcopy(model)
    batch = _double(encode(cohort, model.schema))
    aside = np.random.default_rng(seed).random(len(cohort)) < _VALIDATION
    if not aside.any() or aside.all():
        aside = np.arange(len(cohort)) < max(1, len(cohort) // 10)
    watched = batch.select(torch.from_numpy(aside))
    trial = copy.deepcopy(model).double()
    losses: list[float] = []

    def watch(weights: Vector) -> None:
        losses.append(_loss(trial, weights, watched)[0])

    _minimise(trial, batch.select(torch.from_numpy(~aside)), _ITERATIONS, watch)
    final = copy.deepcopy(model).double()
    _minimise(final, batch, int(np.argmin(losses)) + 1 if losses else 1)
    return final.float()


def _minimise(
    model: DoseModel,
    batch: DoseBatch,
    iterations: int,
    watch: Callable[[Vector], None] = lambda _: None,
) -> None:
    """L-BFGS on the mean loss, in place, in double precision."""
    start = parameters_to_vector(model.parameters()).detach().numpy()
    found = minimize(
        lambda weights: _loss(model, weights, batch),
        start,
        jac=True,
        method="L-BFGS-B",
        callback=watch,
        options={"maxiter": iterations},
    )
    vector_to_parameters(torch.from_numpy(found.x), model.parameters())


def _loss(model: DoseModel, weights: Vector, batch: DoseBatch) -> tuple[float, Vector]:
    """Mean loss and its gradient, `(d,)`, at `weights`."""
    # A copy: the parameters become views of what they are set from.
    vector_to_parameters(torch.from_numpy(weights.copy()), model.parameters())
    value = model(batch).mean()
    gradient = torch.autograd.grad(value, list(model.parameters()))
    return float(value.detach()), torch.cat([part.reshape(-1) for part in gradient]).numpy()


def _double(batch: DoseBatch) -> DoseBatch:
    return DoseBatch(x=batch.x.double(), y=batch.y.double())
