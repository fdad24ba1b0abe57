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
from fedrx_client.training.parameters import Batch, dimension, flat, refuse_mixing
from fedrx_client.training.passes import in_passes, precision

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
    patient decide the sum. An empty batch gives zeros.

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
    bound = clipping_norm / (1 + CLIPPING_MARGIN)
    with precision(model, clipped=True):
        for vector, norms in in_passes(
            model, batch, lambda some: _clip(model, some, bound, method)
        ):
            total += vector.detach().cpu().double().numpy()
            clipped += int((norms.isfinite() & (norms > clipping_norm)).sum())
            not_finite += int((~norms.isfinite()).sum())
    return ClippedSum(total, len(batch), clipped, not_finite)


def _clip(model: nn.Module, batch: Batch, bound: float, method: Method) -> tuple[Tensor, Tensor]:
    """Clipped sum `(d,)` and norms `(B,)` of a batch with at least one patient."""
    if method == "bookkeeping" or (method == "auto" and bookkeeping.is_admitted(model, batch)):
        try:
            return _by_bookkeeping(model, batch, bound)
        except bookkeeping.NotCovered as use:
            if method == "bookkeeping":
                raise TrainingInvalid(f"Book-keeping does not cover this model: {use}.") from use
    return _by_vmap(model, batch, bound)


def _by_bookkeeping(model: nn.Module, batch: Batch, bound: float) -> tuple[Tensor, Tensor]:
    gradients = bookkeeping.patient_gradients(model, batch)
    finite = gradients.norms.isfinite()
    if not bool(finite.all()):
        # 0 * nan is nan, so these patients must not be in the pass at all.
        rest = finite.nonzero().squeeze(1).cpu()
        if len(rest) == 0:
            return flat({}, model), gradients.norms
        vector, _ = _by_bookkeeping(model, batch.select(rest), bound)
        return vector, gradients.norms
    with torch.no_grad():
        return gradients.weighted_sum(_factors(gradients.norms, bound)), gradients.norms


def _by_vmap(model: nn.Module, batch: Batch, bound: float) -> tuple[Tensor, Tensor]:
    total, norms = flat({}, model), []
    for each in vmapped.patient_gradients(model, batch):
        norm = each.norm(dim=1)
        finite = norm.isfinite()
        total = total + _factors(norm[finite], bound) @ each[finite]
        norms.append(norm)
    return total, torch.cat(norms)


def _factors(norms: Tensor, bound: float) -> Tensor:
    return (bound / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)


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
