"""A model trained in one place, on patients who may be seen together: no privacy, nothing leaves.

For what a federated model is held against: each site alone, and all pooled in a simulation.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import PatientModel

Vector = NDArray[np.float64]

_ITERATIONS = 100
_VALIDATION = 0.1
_PATIENCE = 30  # with 12 the pooled fit of one IWPC split in five stopped far too early


def predict(model: PatientModel, cohort: Cohort) -> NDArray[np.float64]:
    """Predicted outcomes: what the metrics judge, `(patients,)` or `(patients, K)`."""
    return model.predict(encode(cohort, model.schema)).mean


def fit(model: PatientModel, cohort: Cohort, seed: int) -> PatientModel:
    """A copy of `model`, trained on `cohort` without privacy as well as we know how.

    Full-batch L-BFGS. How many iterations is decided on a tenth of the patients, set aside; then
    the model is trained anew on all of them for as many. A single patient cannot be both learned
    from and set aside: the model then stays as it is.
    """
    if len(cohort) < 2:
        return copy.deepcopy(model)
    batch = encode(cohort, model.schema).to(torch.float64)
    aside = np.random.default_rng(seed).random(len(cohort)) < _VALIDATION
    if not aside.any() or aside.all():
        aside = np.arange(len(cohort)) < max(1, len(cohort) // 10)
    watched = batch.select(torch.from_numpy(aside))
    trial = searchable(model).double()
    losses: list[float] = []

    def watch(weights: Vector) -> None:
        losses.append(_loss(trial, weights, watched)[0])
        if len(losses) - int(np.argmin(losses)) > _PATIENCE:
            raise StopIteration  # which ends the search; the best number of iterations is known

    _minimise(trial, batch.select(torch.from_numpy(~aside)), _ITERATIONS, watch)
    final = searchable(model).double()
    _minimise(final, batch, int(np.argmin(losses)) + 1 if losses else 1)
    return final.float()


def searchable(model: PatientModel) -> PatientModel:
    """A copy for L-BFGS, the one place that says so: its slopes belong to its loss's value."""
    found = copy.deepcopy(model)
    found.head.joint = True
    return found


def _minimise(
    model: PatientModel,
    batch: PatientBatch,
    iterations: int,
    watch: Callable[[Vector], None] = lambda _: None,
) -> None:
    """L-BFGS on the mean loss, in place, in double precision."""
    start = parameters_to_vector(_trained(model)).detach().numpy()
    found = minimize(
        lambda weights: _loss(model, weights, batch),
        start,
        jac=True,
        method="L-BFGS-B",
        callback=watch,
        options={"maxiter": iterations},
    )
    vector_to_parameters(torch.from_numpy(found.x), _trained(model))


def _trained(model: PatientModel) -> list[torch.nn.Parameter]:
    """Weights that the study does not freeze."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _loss(model: PatientModel, weights: Vector, batch: PatientBatch) -> tuple[float, Vector]:
    """Mean loss and its gradient, `(d,)`, at `weights`: those that are trained."""
    trained = _trained(model)
    # A copy: the parameters become views of what they are set from.
    vector_to_parameters(torch.from_numpy(weights.copy()), trained)
    value = model(batch).mean()
    gradient = torch.autograd.grad(value, trained)
    return float(value.detach()), torch.cat([part.reshape(-1) for part in gradient]).numpy()
