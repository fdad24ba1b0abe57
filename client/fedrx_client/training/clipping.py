"""What a site sends in a training step: the sum of its patients' clipped gradients.

One patient, with all their records, moves the sum by at most the clipping norm. The sensitivity
argument rests on this alone, so nothing here may depend on how many patients there are, or which.
"""

from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedrx_client.training import bookkeeping, vmap_gradients
from fedrx_client.training.clip_factors import ClipBounds, watched
from fedrx_client.training.errors import TrainingInvalid
from fedrx_client.training.microbatches import (
    ROWS_STEP,
    USUAL_ROWS,
    fixed_passes,
    microbatches,
    on_cpu,
    precision,
    rows_for,
)
from fedrx_client.training.parameters import (
    Batch,
    MakesUp,
    dimension,
    flat,
    positions,
    refuse_mixing,
)

Method = Literal["auto", "bookkeeping", "vmap"]

CLIPPING_MARGIN = 1e-3
"""Patients are clipped to C / (1 + this), so that float32 rounding stays within C."""


@dataclass(frozen=True, eq=False)
class ClippedSum:
    """A clipped gradient sum, and counts that a site may read but never sends in clear.

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


def supports_bookkeeping(model: nn.Module) -> bool:
    """Return whether the fast closed forms prove right on patients that the model makes up."""
    return bookkeeping.is_admitted(model)


def clipped_gradient_sum(
    model: nn.Module,
    batch: Batch,
    clipping_norm: float,
    *,
    method: Method = "auto",
    rows: int = USUAL_ROWS,
) -> ClippedSum:
    """Sum the patients' gradients, each scaled down to L2 norm `clipping_norm` at most.

    A patient whose gradient is not finite, or too long for float32, contributes nothing: any other
    choice would let one patient decide the sum. An empty batch gives zeros. Where the model knows
    the length of the gradient by its outputs, the factor depends on a patient's inputs alone; see
    `output_gradient_norms`.

    Args:
        model: returns one loss per patient, `(B,)`; none of its operations mixes patients.
        batch: the patients of this step.
        clipping_norm: C, above 0.
        method: 'auto' is book-keeping where it proves right, else `vmap`; which of them follows
            from the model alone.
        rows: of a pass, from public numbers: see `public_rows`.

    Raises:
        MixesPatients: the model's loss is not one per patient, or a layer computes statistics over
            the batch.
        UnsupportedModel: no method gives this model's gradients per patient.
        TrainingInvalid: the clipping norm is not above 0.
    """
    if not 0 < clipping_norm < float("inf"):
        raise TrainingInvalid(f"The clipping norm must be above 0, but is {clipping_norm!r}.")
    refuse_mixing(model)
    total = np.zeros(dimension(model))
    clipped = not_finite = 0
    limits = ClipBounds.of(model, clipping_norm / (1 + CLIPPING_MARGIN))
    fast = method == "bookkeeping" or (method == "auto" and bookkeeping.is_admitted(model))
    clip = _by_bookkeeping if fast else _by_vmap
    rows = rows if fast else vmap_gradients.rows_at_once(model, rows)
    with precision(model, clipped=True):
        for some, patients in fixed_passes(batch, rows):
            found = clip(model, some, torch.arange(rows) < patients, limits)
            total += found.vector.detach().cpu().double().numpy()
            clipped += int((found.finite & (found.factors < 1))[:patients].sum())
            not_finite += int((~found.finite)[:patients].sum())
    return ClippedSum(total, len(batch), clipped, not_finite)


@dataclass(frozen=True, eq=False)
class _Clipped:
    """One pass: the sum `(d,)`, and of each row the factor and whether all was finite, `(rows,)`.

    What is not finite has no part in the sum.
    """

    vector: Tensor
    factors: Tensor
    finite: Tensor


def _by_bookkeeping(model: nn.Module, batch: Batch, there: Tensor, limits: ClipBounds) -> _Clipped:
    """Compute one pass; of its rows those `there`, bool `(rows,)`, are patients."""
    try:
        with watched(model) as output_norms_of:
            gradients = bookkeeping.patient_gradients(model, batch)
    except bookkeeping.NotCovered as use:
        raise TrainingInvalid(f"Book-keeping does not cover this model: {use}.") from use
    finite = gradients.norms <= bookkeeping.LONGEST  # which nan is not
    if not bool(finite.all()):
        gradients = gradients.only(finite)
    with torch.no_grad():
        here = there.to(gradients.norms)
        apart = {n: here * limits.factors_apart(n, gradients.lengths(n)) for n in limits.apart}
        factors = here * limits.factors(gradients.lengths_without(apart), output_norms_of(batch))
        return _Clipped(gradients.weighted_sum(factors, apart), factors, finite)


def _by_vmap(model: nn.Module, batch: Batch, there: Tensor, limits: ClipBounds) -> _Clipped:
    """Compute one pass; of its rows those `there`, bool `(rows,)`, are patients."""
    total = flat({}, model)
    gradients, output_norms = vmap_gradients.patient_gradients(model, batch)
    finite = gradients.norm(dim=1) <= bookkeeping.LONGEST
    here = there.to(gradients)
    others = torch.where(finite[:, None], gradients, 0.0)
    for name in limits.apart:
        place = positions(model, name)
        own = others[:, place]
        total[place] += (here * limits.factors_apart(name, own.norm(dim=1))) @ own
        others[:, place] = 0.0
    factors = here * limits.factors(others.norm(dim=1), output_norms)
    return _Clipped(total + factors @ others, factors, finite)


_rows: WeakKeyDictionary[nn.Module, dict[float, int]] = WeakKeyDictionary()


def public_rows(model: nn.Module, expected: float) -> int:
    """Return the rows of a pass over clipped gradients, the same for the model's life.

    On an accelerator they must fit its memory. That is tried once, on made-up patients with as many
    visits as a study allows, and with room for twice as many: a patient who let a pass fail, and
    with it the passes of all others be halved, would change how those are rounded. A pass that
    fails later fails the step.

    Args:
        model: where it is to compute.
        expected: patients in a step at an average site, from agreed numbers only.

    Raises:
        torch.OutOfMemoryError: the device has no room for the smallest pass.
    """
    known = _rows.setdefault(model, {})
    if expected in known:
        return known[expected]
    rows = rows_for(model, expected)
    while not on_cpu(model) and isinstance(model, MakesUp):
        try:
            batch = model.made_up(2 * rows).to(next(model.parameters()).device)
            clipped_gradient_sum(model, batch, 1.0, rows=2 * rows)
        except torch.OutOfMemoryError:
            if rows == ROWS_STEP:
                raise
        else:
            break
        # Outside the handler, which would keep the tensors of the failed pass alive.
        rows = ROWS_STEP * max(1, rows // 2 // ROWS_STEP)
        torch.cuda.empty_cache()
    known[expected] = rows
    return rows


def gradient_sum(model: nn.Module, batch: Batch, *, mixed: bool = False) -> npt.NDArray[np.float64]:
    """Sum the patients' gradients without clipping, `(d,)`: no privacy, for mode `none`.

    Args:
        model: see `clipped_gradient_sum`.
        batch: the patients of this step.
        mixed: whether a GPU may multiply in bfloat16.

    Raises:
        MixesPatients: the model's loss is not one per patient.
    """
    total = np.zeros(dimension(model))
    with precision(model, clipped=False, mixed=mixed):
        for gradient in microbatches(
            model, batch, lambda some: bookkeeping.plain_gradient(model, some)
        ):
            total += gradient.detach().cpu().double().numpy()
    return total


def leave_one_out_sensitivity(
    model: nn.Module,
    batch: Batch,
    clipping_norm: float,
    *,
    method: Method = "auto",
    rows: int = USUAL_ROWS,
) -> float:
    """Measure how far the clipped sum moves, in L2, without the patient who moves it most.

    A model keeps its promise where this is at most `clipping_norm`; every registered model is
    held to it in the tests, and a site's audit measures it on real patients.
    """

    def found(some: Batch) -> npt.NDArray[np.float64]:
        return clipped_gradient_sum(model, some, clipping_norm, method=method, rows=rows).vector

    everybody, whole = torch.arange(len(batch)), found(batch)
    moves = [
        np.linalg.norm(whole - found(batch.select(everybody[everybody != left_out])))
        for left_out in range(len(batch))
    ]
    return float(max(moves, default=0.0))
