"""What a site sends in a training step: the sum of its patients' clipped gradients.

One patient, with all their records, moves the sum by at most the clipping norm. That is the whole
of the sensitivity argument, so nothing here may depend on how many patients there are, or on which.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedrx_client.training import bookkeeping, vmapped
from fedrx_client.training.errors import TrainingInvalid
from fedrx_client.training.parameters import Batch, dimension, flat, positions, refuse_mixing
from fedrx_client.training.passes import in_passes, precision
from fedrx_client.training.pulls import Limits, watched

Method = Literal["auto", "bookkeeping", "vmap"]

CLIPPING_MARGIN = 1e-3
"""Patients are clipped to C / (1 + this), so that float32 rounding stays within C."""


@dataclass(frozen=True, eq=False)
class ClippedSum:
    """A clipped gradient sum, and what a site may look at but never send in clear.

    Attributes:
        vector: the sum, `(d,)` float64, in the order of the model's trained parameters.
        patients: how many were in the sample.
        clipped: how many of them were scaled down.
        not_finite: how many had a gradient that is not a number, and so contributed nothing.
    """

    vector: npt.NDArray[np.float64]
    patients: int
    clipped: int
    not_finite: int


def supports_bookkeeping(model: nn.Module, batch: Batch | None = None) -> bool:
    """Whether the fast closed forms apply; with a batch, also whether they prove right on it."""
    if batch is None or len(batch) == 0:
        return bookkeeping.has_rules(model)
    return bookkeeping.is_admitted(model, batch)


def clipped_gradient_sum(
    model: nn.Module, batch: Batch, clipping_norm: float, *, method: Method = "auto"
) -> ClippedSum:
    """Sum over patients of each one's gradient, scaled down to L2 norm `clipping_norm` at most.

    A patient whose gradient is not finite contributes nothing: any other choice would let one
    patient decide the sum. An empty batch gives zeros. Where the model knows how hard an outcome
    pulls, the factor depends on a patient's inputs alone; see `pulls`.

    Args:
        model: returns one loss per patient, `(B,)`; none of its operations mixes patients.
        batch: the patients of this step.
        clipping_norm: C, above 0.
        method: 'auto' is book-keeping where it proves right, else `vmap`.

    Raises:
        LossShapeInvalid: the model's loss is not one per patient.
        MixesPatients: a layer computes statistics over the batch.
        UnsupportedModel: no method gives this model's gradients per patient.
        TrainingInvalid: the clipping norm is not above 0.
    """
    if not 0 < clipping_norm < float("inf"):
        raise TrainingInvalid(f"The clipping norm must be above 0, but is {clipping_norm!r}.")
    refuse_mixing(model)
    total = np.zeros(dimension(model))
    clipped = not_finite = 0
    limits = Limits.of(model, clipping_norm / (1 + CLIPPING_MARGIN))
    with precision(model, clipped=True):
        for found in in_passes(model, batch, lambda some: _clip(model, some, limits, method)):
            total += found.vector.detach().cpu().double().numpy()
            clipped += int((found.finite & (found.factors < 1)).sum())
            not_finite += int((~found.finite).sum())
    return ClippedSum(total, len(batch), clipped, not_finite)


@dataclass(frozen=True, eq=False)
class _Clipped:
    """One pass: the sum `(d,)`, and of each patient the factor and whether all was finite, `(B,)`.

    Whoever is not finite has no part in the sum.
    """

    vector: Tensor
    factors: Tensor
    finite: Tensor


def _clip(model: nn.Module, batch: Batch, limits: Limits, method: Method) -> _Clipped:
    """Clip a batch with at least one patient."""
    if method == "bookkeeping" or (method == "auto" and bookkeeping.is_admitted(model, batch)):
        try:
            return _by_bookkeeping(model, batch, limits)
        except bookkeeping.NotCovered as use:
            if method == "bookkeeping":
                raise TrainingInvalid(f"Book-keeping does not cover this model: {use}.") from use
    return _by_vmap(model, batch, limits)


def _by_bookkeeping(model: nn.Module, batch: Batch, limits: Limits) -> _Clipped:
    with watched(model) as pulls_of:
        gradients = bookkeeping.patient_gradients(model, batch)
    finite = gradients.norms.isfinite()
    if not bool(finite.all()):
        return _of_the_finite(model, batch, limits, finite)
    with torch.no_grad():
        apart = {n: limits.factors_apart(n, gradients.lengths(n)) for n in limits.apart}
        factors = limits.factors(gradients.lengths_without(apart), pulls_of(batch))
        return _Clipped(gradients.weighted_sum(factors, apart), factors, finite)


def _of_the_finite(model: nn.Module, batch: Batch, limits: Limits, finite: Tensor) -> _Clipped:
    """A pass without the patients who are not finite: 0 * nan is nan, so weights do not help."""
    factors, vector = finite.to(torch.float32), flat({}, model)
    if bool(finite.any()):
        again = _by_bookkeeping(model, batch.select(finite.nonzero().squeeze(1).cpu()), limits)
        factors[finite], vector = again.factors.to(factors), again.vector
    return _Clipped(vector, factors, finite)


def _by_vmap(model: nn.Module, batch: Batch, limits: Limits) -> _Clipped:
    total, parts = flat({}, model), []
    places = {name: positions(model, name) for name in limits.apart}
    for gradients, pulls in vmapped.patient_gradients(model, batch):
        finite = gradients.norm(dim=1).isfinite()
        others = torch.where(finite[:, None], gradients, 0.0)
        for name, place in places.items():
            own = others[:, place]
            total[place] += limits.factors_apart(name, own.norm(dim=1)) @ own
            others[:, place] = 0.0
        factors = limits.factors(others.norm(dim=1), pulls)
        total = total + factors @ others
        parts.append((factors, finite))
    factors, finite = (torch.cat(some) for some in zip(*parts, strict=True))
    return _Clipped(total, factors, finite)


def gradient_sum(model: nn.Module, batch: Batch, *, mixed: bool = False) -> npt.NDArray[np.float64]:
    """Sum of the patients' gradients without clipping, `(d,)`: no privacy, for mode `none`.

    Args:
        model: see `clipped_gradient_sum`.
        batch: the patients of this step.
        mixed: whether a GPU may multiply in bfloat16.

    Raises:
        LossShapeInvalid: the model's loss is not one per patient.
    """
    total = np.zeros(dimension(model))
    with precision(model, clipped=False, mixed=mixed):
        for gradient in in_passes(
            model, batch, lambda some: bookkeeping.plain_gradient(model, some)
        ):
            total += gradient.detach().cpu().double().numpy()
    return total


def leave_one_out_sensitivity(
    model: nn.Module, batch: Batch, clipping_norm: float, *, method: Method = "auto"
) -> float:
    """How far the clipped sum moves, in L2, when the patient who moves it most is left out.

    A model keeps its promise where this is at most `clipping_norm`; every registered model is
    held to it in the tests, and a site's audit measures it on real patients.
    """
    everybody = torch.arange(len(batch))
    whole = clipped_gradient_sum(model, batch, clipping_norm, method=method).vector
    moves = [
        np.linalg.norm(
            whole
            - clipped_gradient_sum(
                model, batch.select(everybody[everybody != left_out]), clipping_norm, method=method
            ).vector
        )
        for left_out in range(len(batch))
    ]
    return float(max(moves, default=0.0))
