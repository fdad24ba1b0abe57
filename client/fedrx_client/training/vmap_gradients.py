"""Gradients patient by patient with `vmap(grad)`: any model, more memory, the reference in tests.

Each patient passes through the model alone, in a batch of one, so nothing can mix patients.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedrx_client.training.clip_factors import watched
from fedrx_client.training.errors import UnsupportedModel
from fedrx_client.training.microbatches import ROWS_STEP
from fedrx_client.training.parameters import (
    Batch,
    dimension,
    patient_losses,
    patient_tensors,
    trained,
)

VALUES_AT_ONCE = 2**24
"""Gradient values held at a time: 64 MiB in float32."""


class _Losses(nn.Module):
    """A model whose call checks the shape of its loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return patient_losses(self.model, batch)


def rows_at_once(model: nn.Module, rows: int) -> int:
    """Return how many of so many rows may be mapped at once, from the model's size alone."""
    room = VALUES_AT_ONCE // max(1, dimension(model)) // ROWS_STEP * ROWS_STEP
    return min(rows, max(ROWS_STEP, room))


def patient_gradients(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Compute the gradients of all patients of a batch, `(patients, d)`.

    With them come the norms of the gradients by the outputs, `(patients,)`, where the model knows
    them.

    Raises:
        MixesPatients: the model's loss is not one per patient.
        UnsupportedModel: an operation of the model cannot be mapped over patients.
    """
    checked = _Losses(model)
    weights = {f"model.{name}": p.detach() for name, p in trained(model).items()}
    fields = patient_tensors(batch)

    def loss(values: dict[str, Tensor], patient: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        changes: Any = {name: tensor.unsqueeze(0) for name, tensor in patient.items()}
        alone: Any = dataclasses.replace(batch, **changes)  # type: ignore[type-var]
        with watched(model) as output_norms_of:
            losses: Tensor = functional_call(checked, values, (alone,))
        norms = output_norms_of(alone)
        return losses.sum(), [] if norms is None else [norms.squeeze(0)]

    try:
        mapped = vmap(grad(loss, has_aux=True), in_dims=(None, 0), randomness="different")
        gradients, output_norms = mapped(weights, fields)
    except RuntimeError as error:
        raise UnsupportedModel(
            "No gradient per patient can be had from this model; replace layers such as nn.LSTM "
            f"by ones written out: {str(error).splitlines()[0]}"
        ) from error
    each = torch.cat([gradients[name].reshape(len(batch), -1) for name in weights], dim=1)
    return each, output_norms[0] if output_norms else None
