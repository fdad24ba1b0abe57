"""What every dose model promises, whoever wrote it.

A model sees one batch type, returns one loss per patient and never mixes patients: clipping, and
with it the privacy promise, rests on that. `tests/shared_models` runs one suite over all models.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import nn

from fedrx_models.errors import ModelMismatch
from fedrx_protocol.errors import DataError
from fedrx_protocol.schema import FeatureSchema
from fedrx_protocol.weights import WeightSpec


@dataclass(frozen=True, eq=False)
class DoseBatch:
    """Patients as tensors.

    Attributes:
        x: `(B, F)` float32, columns as in `encoding.column_names`.
        y: `(B,)` float32, normalised target.

    Raises:
        DataError: if the shapes do not belong together.
    """

    x: torch.Tensor
    y: torch.Tensor

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.y.shape != self.x.shape[:1]:
            raise DataError(
                f"a batch needs x of shape (B, F) and y of shape (B,), "
                f"not {tuple(self.x.shape)} and {tuple(self.y.shape)}."
            )

    def __len__(self) -> int:
        return self.x.shape[0]

    def select(self, index: torch.Tensor) -> "DoseBatch":
        """The patients at `index`: int64 positions, or a boolean mask `(B,)`."""
        return DoseBatch(x=self.x[index], y=self.y[index])

    def to(self, device: torch.device | str) -> "DoseBatch":
        """The same batch on a device."""
        return DoseBatch(x=self.x.to(device), y=self.y.to(device))


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted targets with an interval, each `(B,)` float64 in the target's unit.

    Attributes:
        mean: the central prediction: the model's mean, transformed back (so it is the median
            of the predicted distribution where the target's transform is not the identity).
        lower: lower end of the interval.
        upper: upper end of the interval.
        level: nominal coverage of the interval.
    """

    mean: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    level: float = 0.9


class DoseModel(nn.Module, ABC):
    """A dose model: built from a frozen config and a schema, trained on `forward`.

    Attributes:
        name: the name in the study file.
        config: its validated hyper-parameters.
        schema: the features and target it was built for.
    """

    name: str
    config: BaseModel
    schema: FeatureSchema

    @abstractmethod
    def forward(self, batch: DoseBatch) -> torch.Tensor:
        """Loss per patient, `(B,)`; no patient's loss depends on another patient."""

    @abstractmethod
    def predict(self, batch: DoseBatch) -> Prediction:
        """Predictions for the patients of `batch`, whose `y` is not looked at."""

    @property
    @abstractmethod
    def explainable_inputs(self) -> dict[str, tuple[int, ...]]:
        """By feature name, the columns of `DoseBatch.x` that an explanation may vary."""


def weight_spec(model: nn.Module) -> WeightSpec:
    """Names and shapes of the trained arrays, in the order of the flat weight vector."""
    named = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    return WeightSpec(names=tuple(n for n, _ in named), shapes=tuple(s for _, s in named))


def get_vector(model: nn.Module) -> NDArray[np.float32]:
    """All weights as one flat float32 vector `(d,)`, in the order of `weight_spec`."""
    parts = [p.detach().reshape(-1).to("cpu", torch.float32) for p in model.parameters()]
    flat: NDArray[np.float32] = torch.cat(parts).numpy()
    return flat


def set_vector(model: nn.Module, vector: NDArray[np.floating]) -> None:
    """Set all weights from a flat vector `(d,)`.

    Raises:
        ModelMismatch: if the length differs or a value is not finite; the model is unchanged.
    """
    size = sum(p.numel() for p in model.parameters())
    flat = np.asarray(vector, dtype=np.float32)
    if flat.shape != (size,):
        raise ModelMismatch(f"the model has {size} weights, but {flat.shape} were given.")
    if not np.isfinite(flat).all():
        raise ModelMismatch("a weight is not a finite number.")
    source, start = torch.from_numpy(flat.copy()), 0
    with torch.no_grad():
        for parameter in model.parameters():
            piece = source[start : start + parameter.numel()]
            parameter.copy_(piece.reshape(parameter.shape))
            start += parameter.numel()
