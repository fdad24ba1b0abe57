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
from fedrx_models.flux.forecaster import Forecaster
from fedrx_models.heads import ForecastHead

Vector = NDArray[np.float64]

_ITERATIONS = 100
_FEWEST_ITERATIONS = 25
_WORK = 5e9  # weights x rows x iterations: about ten seconds of one core
_VISIT = 4.0  # rows as which a visit counts: a network goes over it marker by marker
_VALIDATION = 0.1
_PATIENCE = 0.3  # of the iterations; with 0.12 one pooled IWPC fit in five stopped far too early


def predict(model: PatientModel, cohort: Cohort) -> NDArray[np.float64]:
    """Predicted outcomes: what the metrics judge, `(patients,)` or `(patients, K)`."""
    return model.predict(encode(cohort, model.schema)).mean


def fit(model: PatientModel, cohort: Cohort, seed: int) -> PatientModel:
    """A copy of `model`, trained on `cohort` without privacy as well as we know how.

    Full-batch L-BFGS, in double precision. How many iterations is decided on a tenth of the
    patients, set aside; then the model is trained again on all of them for as many. There are at
    most 100, and fewer the more a pass costs (see `_iterations`): a large network over long
    courses stops before L-BFGS has converged, so that it is a strong baseline there, not the best
    fit possible. A single patient cannot be both learned from and set aside: the model then stays
    as it is.
    """
    if len(cohort) < 2:
        return copy.deepcopy(model)
    trial = searchable(model).double()
    batch = trial.prepared(encode(cohort, model.schema).to(torch.float64))
    aside = np.random.default_rng(seed).random(len(cohort)) < _VALIDATION
    if not aside.any() or aside.all():
        aside = np.arange(len(cohort)) < max(1, len(cohort) // 10)
    watched = batch.select(torch.from_numpy(aside)).by_length()
    losses: list[float] = []
    most = _iterations(model, batch)

    def watch(weights: Vector) -> None:
        losses.append(_loss(trial, weights, watched)[0])
        if len(losses) - int(np.argmin(losses)) > _PATIENCE * most:
            raise StopIteration  # which ends the search; the best number of iterations is known

    rest = batch.select(torch.from_numpy(~aside)).by_length()
    _minimise(trial, rest, most, watch)
    final = searchable(model).double()
    _minimise(final, batch.by_length(), int(np.argmin(losses)) + 1 if losses else 1)
    _stretch(final, model, batch.by_length())
    return final.float()


def _iterations(model: PatientModel, batch: PatientBatch) -> int:
    """Most iterations of a search: a rule of the sizes alone, never of the clock.

    A pass costs about weights x rows: a patient is one, and a visit is `_VISIT` of them. L-BFGS
    needs some iterations to move at all, and a small model converges within the most.
    """
    visits = sum(part.visits.shape[1] * len(part) for part in batch.by_length())
    rows = _VISIT * visits or len(batch)
    cost = sum(weight.numel() for weight in _trained(model)) * rows
    return int(min(max(_WORK / cost, _FEWEST_ITERATIONS), _ITERATIONS))


def searchable(model: PatientModel) -> PatientModel:
    """A copy for L-BFGS, the one place that says so: its slopes belong to its loss's value.

    The stretch of a forecast's band stays as it is: it has a loss of its own.
    """
    found = copy.deepcopy(model)
    found.head.joint = True
    if isinstance(found.head, ForecastHead):
        found.head.log_stretch.requires_grad_(requires_grad=False)
    return found


def _stretch(fitted: PatientModel, model: PatientModel, parts: list[PatientBatch]) -> None:
    """Set the stretch of a forecast's band, in place, all else as it is; then train as `model`."""
    fitted.head.joint = model.head.joint
    if not isinstance(fitted.head, ForecastHead) or not isinstance(model.head, ForecastHead):
        return
    wanted = model.head.log_stretch.weight.requires_grad
    if wanted and isinstance(fitted, Forecaster):
        with torch.no_grad():
            fitted.head.set_stretch([fitted.outputs(part) for part in parts], parts)
    fitted.head.log_stretch.requires_grad_(wanted)


def _minimise(
    model: PatientModel,
    parts: list[PatientBatch],
    iterations: int,
    watch: Callable[[Vector], None] = lambda _: None,
) -> None:
    """L-BFGS on the mean loss, in place, in double precision."""
    start = parameters_to_vector(_trained(model)).detach().numpy()
    found = minimize(
        lambda weights: _loss(model, weights, parts),
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


def _loss(model: PatientModel, weights: Vector, parts: list[PatientBatch]) -> tuple[float, Vector]:
    """Mean loss over all patients and its gradient, `(d,)`, at `weights`: those trained."""
    trained = _trained(model)
    # A copy: the parameters become views of what they are set from.
    vector_to_parameters(torch.from_numpy(weights.copy()), trained)
    patients, value, slope = sum(map(len, parts)), 0.0, np.zeros(len(weights))
    for part in parts:
        share = model(part).sum() / patients
        gradient = torch.autograd.grad(share, trained)
        value += float(share.detach())
        slope += torch.cat([piece.reshape(-1) for piece in gradient]).numpy()
    return value, slope
