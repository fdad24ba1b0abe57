"""What every model promises.

A model sees one batch type, returns one loss per patient and never mixes patients: clipping, and
with it the privacy promise, rests on that. `tests/shared_models` runs one suite over all models.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import nn

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.batch import PatientBatch
from fedrx_protocol.messages.weights import WeightSpec
from fedrx_protocol.study.schema import FeatureSchema


class WeightsMismatch(MisuseError, refusal="ModelMismatch"):
    """Weights do not fit the model; loading them would silently train or dose with nonsense."""


class ModelFileInvalid(MisuseError):
    """A model file is damaged, of another study, or not ours; nothing of it was used."""


Floats = NDArray[np.float64]
UNDER_NOISE = "under_noise"
"""Key of a hyper-parameter's `json_schema_extra`: a better start than the default, with noise."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted numbers with an interval, in the target's unit; `(B,)`, or `(B, K)` for a panel.

    Attributes:
        mean: the central prediction: the model's mean, transformed back (so it is the median
            of the predicted distribution where the target's transform is not the identity).
        lower: lower end of the interval.
        upper: upper end of the interval.
        level: nominal coverage of the interval.
    """

    mean: Floats
    lower: Floats
    upper: Floats
    level: float = 0.9


@dataclass(frozen=True, eq=False)
class Probability:
    """How likely the outcome is for each patient; it is its own uncertainty.

    Attributes:
        mean: probability of "yes", `(B,)` float64 in 0..1.
    """

    mean: Floats


@dataclass(frozen=True, eq=False)
class SurvivalCurves:
    """How likely each patient is to be free of the event at the end of each time bin.

    Attributes:
        mean: survival, `(B, bins)` float64 in 0..1, falling.
        hazards: chance of the event in each bin, given that it did not happen before; `(B, bins)`.
    """

    mean: Floats
    hazards: Floats


@dataclass(frozen=True, eq=False)
class Forecast:
    """Where each marker will be, from every visit and at every horizon, with an interval.

    Attributes:
        mean: `(B, T, H, M, 3)` float64, in each marker's unit: the median, and the lower and the
            upper end of the interval; NaN where no last value is known.
        level: nominal coverage of the interval.
    """

    mean: Floats
    level: float = 0.8


AnyPrediction = Prediction | Probability | SurvivalCurves | Forecast
"""What a model predicts, by kind of outcome; `mean` is what the metrics judge."""


class Head(Protocol):
    """What turns a model's outputs `(B, K)` into losses and predictions: a module.

    Attributes:
        joint: whether an interval's loss moves the prediction that it is around. Rounds keep
            the two apart; a search along a line needs slopes that belong to the loss's value.
    """

    joint: bool

    @property
    def bounded_layers(self) -> dict[str, float]:
        """Own layers in which no patient's gradient is longer than this, whatever the weights."""

    def output_gradient_norms(
        self, outputs: torch.Tensor, batch: PatientBatch
    ) -> torch.Tensor | None:
        """Length of each loss's slope by the outputs, `(B,)` in 0..1; None where it may be more."""

    def __call__(self, outputs: torch.Tensor, batch: PatientBatch) -> torch.Tensor:
        """Loss per patient, `(B,)`."""

    def predict(self, outputs: torch.Tensor) -> AnyPrediction:
        """Predictions of the target's kind, in its unit."""

    def central(self, outputs: torch.Tensor) -> torch.Tensor:
        """What `predict` reports at the centre, before its unit, with a gradient.

        The normalised number `(B, K)`, a probability or the hazards, or the normalised median
        change `(B, T, H, M)` of a forecast.
        """


class PatientModel(nn.Module, ABC):
    """A model of one outcome: built from a frozen config and a schema, trained on `forward`.

    Attributes:
        name: the name in the study file.
        config: its validated hyper-parameters.
        schema: the features, blocks and target it was built for.
        head: turns its outputs into losses and predictions; a site may put its own around it.
    """

    name: str
    config: BaseModel
    schema: FeatureSchema
    head: Head

    @abstractmethod
    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """Loss per patient, `(B,)`; no patient's loss depends on another patient."""

    @abstractmethod
    def predict(self, batch: PatientBatch) -> AnyPrediction:
        """Predictions for the patients of `batch`, whose `y` is not looked at."""

    @abstractmethod
    def outputs(self, batch: PatientBatch) -> torch.Tensor:
        """What the head turns into predictions, with a gradient; `batch.y` as in `predict`."""

    def made_up(self, patients: int) -> PatientBatch:
        """Invented patients of this study, the same each time; the first has as many visits as any.

        What a site must decide about a model, without looking at a patient, it tries on these.
        """
        from fedrx_models.cohort.made_up import made_up  # noqa: PLC0415 - which rests on this module

        return made_up(self.schema, patients)

    def prepared(self, batch: PatientBatch) -> PatientBatch:
        """The same patients, with all that no training changes computed once.

        For callers that pass the same patients through a model many times. Losses and predictions
        are those of `batch`, up to rounding. Most models compute nothing of the kind.
        """
        return batch

    @property
    def bounded_layers(self) -> dict[str, float]:
        """Layers in which no patient's gradient is longer than this, whatever the weights."""
        return {f"head.{name}": length for name, length in self.head.bounded_layers.items()}

    def output_gradient_norms(
        self, outputs: torch.Tensor, batch: PatientBatch
    ) -> torch.Tensor | None:
        """How hard each patient's outcome pulls at the head's outputs, `(B,)` in 0..1.

        None where that is not known, or where the loss is not the head's alone.
        """
        return self.head.output_gradient_norms(outputs, batch)

    @property
    @abstractmethod
    def explainable_inputs(self) -> dict[str, tuple[int, ...]]:
        """By feature name, the columns of `PatientBatch.x` that an explanation may vary."""


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
        WeightsMismatch: if the length differs or a value is not finite; the model is unchanged.
    """
    size = sum(p.numel() for p in model.parameters())
    flat = np.asarray(vector, dtype=np.float32)
    if flat.shape != (size,):
        raise WeightsMismatch(f"the model has {size} weights, but {flat.shape} were given.")
    if not np.isfinite(flat).all():
        raise WeightsMismatch("a weight is not a finite number.")
    source, start = torch.from_numpy(flat.copy()), 0
    with torch.no_grad():
        for parameter in model.parameters():
            piece = source[start : start + parameter.numel()]
            parameter.copy_(piece.reshape(parameter.shape))
            start += parameter.numel()
