"""A model's trained parameters as one flat vector, in the order of `model.parameters()`."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedrx_client.training.errors import MixesPatients, UnsupportedModel


class Batch(Protocol):
    """Patients as tensors: a frozen dataclass whose tensors are `(patients, ...)`."""

    def __len__(self) -> int: ...

    def select(self, index: Tensor, /) -> Self:
        """Return the patients at these int64 positions, in this order."""


class MadeUp(Batch, Protocol):
    """Invented patients, which can be moved to the device that a model is on."""

    def to(self, to: torch.device, /) -> Self:
        """Return the same on a device."""


@runtime_checkable
class MakesUp(Protocol):
    """A model that can invent patients of its study: public, and the same each time."""

    def made_up(self, patients: int, /) -> MadeUp:
        """Invent so many of them, on the CPU."""


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training may change, by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def flat(parts: Mapping[str, Tensor], model: nn.Module) -> Tensor:
    """Join one tensor per trained parameter into `(d,)`; a missing one is zeros."""
    pieces = [
        parts[name].reshape(-1) if name in parts else torch.zeros_like(p).reshape(-1)
        for name, p in trained(model).items()
    ]
    if not pieces:
        raise UnsupportedModel("The model has no parameter that training may change.")
    return torch.cat(pieces)


def positions(model: nn.Module, layer: str) -> Tensor:
    """Return the places of a layer's trained parameters in `(d,)`, int64 `(n,)`."""
    starts, start = [], 0
    for name, p in trained(model).items():
        if name.startswith(f"{layer}."):
            starts.append(torch.arange(start, start + p.numel(), device=p.device))
        start += p.numel()
    return torch.cat(starts) if starts else torch.arange(0)


def dimension(model: nn.Module) -> int:
    """Return d, the number of trained values."""
    return sum(p.numel() for p in trained(model).values())


def refuse_mixing(model: nn.Module) -> None:
    """Raise on layers that compute statistics over the batch.

    Raises:
        MixesPatients: naming the first such layer.
    """
    for name, module in model.named_modules():
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 - torch has no public base
        running = getattr(module, "track_running_stats", False)
        if batch_norm or (running and isinstance(module, nn.modules.instancenorm._InstanceNorm)):  # noqa: SLF001 - same
            raise MixesPatients(
                f"Layer '{name or 'model'}' ({type(module).__name__}) mixes patients: use "
                "LayerNorm or GroupNorm."
            )


def patient_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Compute the model's loss per patient, `(B,)`, and check its shape.

    Raises:
        MixesPatients: any other shape, `(B, 1)` and a batch mean included.
    """
    losses = model(batch)
    expected = (len(batch),)
    shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
    if shape != expected:
        raise MixesPatients(
            f"The model returned a loss of shape {shape}, but the contract is one loss per "
            f"patient, {expected}: squeeze a trailing axis, and do not average over patients."
        )
    return losses  # type: ignore[no-any-return]  # nn.Module's call is untyped


def patient_tensors(batch: Batch) -> dict[str, Tensor]:
    """Return the fields of a batch that hold one entry per patient.

    A field belongs to the patients if selecting one more than there are makes it longer; the
    shape alone could be a coincidence.
    """
    if not dataclasses.is_dataclass(batch):
        raise UnsupportedModel(f"A batch must be a dataclass, but is {type(batch).__name__}.")
    longer = batch.select(torch.zeros(len(batch) + 1, dtype=torch.int64))
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return {
        name: value
        for name, value in fields.items()
        if isinstance(value, Tensor)
        and value.ndim > 0
        and getattr(longer, name).shape[0] == len(batch) + 1 != value.shape[0]
    }


def pull(weights: list[nn.Parameter], anchors: list[Tensor], proximal: float) -> None:
    """Add the gradient of mu/2 |w - w0|^2 (Li et al. 2020, arXiv:1812.06127, eq. 2)."""
    for p, anchor in zip(weights, anchors, strict=True):
        if proximal and p.grad is not None:
            p.grad += proximal * (p.detach() - anchor)


def split(vector: npt.NDArray[np.float64], weights: list[nn.Parameter]) -> list[Tensor]:
    """Cut a flat vector into tensors of the weights' shapes, float64 on the CPU."""
    pieces = torch.split(torch.from_numpy(vector), [p.numel() for p in weights])
    return [piece.reshape(p.shape) for piece, p in zip(pieces, weights, strict=True)]
