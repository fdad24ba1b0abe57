"""What every model promises, whoever wrote it.

A model sees one batch type, returns one loss per patient and never mixes patients: clipping, and
with it the privacy promise, rests on that. `tests/shared_models` runs one suite over all models.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import nn

from fedrx_models.errors import ModelMismatch
from fedrx_models.visits import VisitColumns
from fedrx_protocol.errors import DataError
from fedrx_protocol.schema import FeatureSchema
from fedrx_protocol.weights import WeightSpec

Floats = NDArray[np.float64]

UNDER_NOISE = "under_noise"
"""Key of a hyper-parameter's `json_schema_extra`: a better start than the default, with noise."""

_BY_VISIT = ("visits", "summaries")
_FEWEST = 2  # visits that a study keeps; no model is asked to read fewer


@dataclass(frozen=True, eq=False)
class PatientBatch:
    """Patients as tensors; every one is `(patients, ...)`, so that whoever clips can map over them.

    The blocks lie side by side in one tensor, in the order of the study: `encoding.block_columns`
    says where each stands. F, G, M, T, C and K may be 0.

    Attributes:
        x: `(B, F)` float32, columns as in `encoding.column_names`.
        y: `(B, K)` float32: the normalised target (K = 1), 0 or 1 (binary, K = 1), the event in
            each time bin (survival), the normalised response to each drug (panel), or the
            normalised changes from the last value, by visit, horizon and marker (forecast).
        y_observed: `(B, K)` float32, 1 where `y` is known, else 0; for survival, 1 while the
            patient was at risk. Where it is 0, `y` is 0.
        omics: `(B, G)` float32, all blocks' genes, normalised; 0 where missing.
        omics_observed: `(B, M)` float32, for each block 1 where the patient has it, else 0.
        visits: `(B, T, C)` float32, what is known at each visit, in order, columns as in
            `visits.VisitColumns`; rows after a patient's last visit are 0. `(B, 0, 0)`, the
            default, for a study without visits.
        summaries: `(B, T, S)`, what a model would compute of `visits` alone in every pass, where
            `PatientModel.prepared` has computed it once; `(B, 0, 0)`, the default, where not.
        apart: `(B, 1)` float32, 1 for a patient on whom a forecast's band is stretched, and who
            trains nothing else; 0, the default, for all others.

    Raises:
        DataError: if the shapes do not belong together.
    """

    x: torch.Tensor
    y: torch.Tensor
    y_observed: torch.Tensor
    omics: torch.Tensor
    omics_observed: torch.Tensor
    visits: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, 0, 0))
    summaries: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, 0, 0))
    apart: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, 0))

    def __post_init__(self) -> None:
        for name in _BY_VISIT:
            if getattr(self, name).shape == (0, 0, 0):
                object.__setattr__(self, name, self.x.new_zeros(self.x.shape[0], 0, 0))
        if self.apart.shape == (0, 0):
            object.__setattr__(self, "apart", self.x.new_zeros(self.x.shape[0], 1))
        shapes = {f.name: tuple(getattr(self, f.name).shape) for f in dataclasses.fields(self)}
        patients = self.x.shape[:1]
        alike = all(
            len(shape) == (3 if name in _BY_VISIT else 2) and shape[:1] == patients
            for name, shape in shapes.items()
        )
        alike = alike and shapes["summaries"][1] in (0, shapes["visits"][1])
        if not alike or shapes["y"] != shapes["y_observed"]:
            told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise DataError(
                "a batch needs tensors of shape (patients, columns), y and y_observed alike, "
                f"not {told}."
            )

    @classmethod
    def tabular(cls, x: torch.Tensor, y: torch.Tensor) -> "PatientBatch":
        """A batch without blocks, whose outcomes `(B,)` or `(B, K)` are all known."""
        y = y if y.ndim == 2 else y[:, None]
        none = x.new_zeros(x.shape[0], 0)
        return cls(x=x, y=y, y_observed=torch.ones_like(y), omics=none, omics_observed=none)

    def __len__(self) -> int:
        return self.x.shape[0]

    def select(self, index: torch.Tensor) -> "PatientBatch":
        """The patients at `index`: int64 positions, or a boolean mask `(B,)`."""
        return self._each(lambda tensor: tensor[index])

    def lengths(self) -> torch.Tensor:
        """How many visits each patient has, `(B,)`; 0 in a study without visits."""
        if not self.visits.shape[2]:
            return torch.zeros(len(self), device=self.visits.device)
        return self.visits[:, :, VisitColumns.valid].sum(dim=1)

    def padded_lengths(self) -> torch.Tensor:
        """How many visits each patient is padded to, `(B,)`: T, a half of it, a quarter, ...

        It follows from the patient's own visits only. A product of another shape is rounded
        otherwise, and a patient whose presence changed how others are rounded would change more
        than a bound says.
        """
        lengths, half = self.lengths(), self.visits.shape[1]
        padded = torch.full_like(lengths, half)
        while half // 2 >= _FEWEST:
            half //= 2
            padded = torch.where(lengths <= half, half, padded)
        return padded

    def cut_to(self, visits: int) -> "PatientBatch":
        """The same patients with so many visits, none of whom may have more.

        No loss changes, nothing is copied; forecasts are then of as many visits.
        """
        if visits == self.visits.shape[1]:
            return self
        outcomes = self.y.shape[1] // self.visits.shape[1] * visits
        return dataclasses.replace(
            self,
            visits=self.visits[:, :visits],
            summaries=self.summaries[:, :visits],
            y=self.y[:, :outcomes],
            y_observed=self.y_observed[:, :outcomes],
        )

    def by_length(self) -> list["PatientBatch"]:
        """All patients once: those padded to one length together, cut to it; longest first."""
        padded = self.padded_lengths()
        lengths = sorted({int(length) for length in padded.tolist()}, reverse=True)
        return [self.select(padded == length).cut_to(length) for length in lengths]

    def with_visits(self, visits: torch.Tensor) -> "PatientBatch":
        """The same patients with other `visits`, `(B, T, C)`; summaries of the old ones go."""
        none = self.x.new_zeros(len(self), 0, 0)
        return dataclasses.replace(self, visits=visits, summaries=none)

    def to(self, to: torch.device | torch.dtype | str) -> "PatientBatch":
        """The same batch on a device, or in another floating type."""
        return self._each(lambda tensor: tensor.to(to))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "PatientBatch":
        return PatientBatch(
            **{f.name: change(getattr(self, f.name)) for f in dataclasses.fields(self)}
        )


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
        joint: whether an interval's loss moves the prediction that it lies around. Rounds keep
            the two apart; a search along a line needs slopes that belong to the loss's value.
    """

    joint: bool

    @property
    def bounded_layers(self) -> dict[str, float]:
        """Own layers in which no patient's gradient is longer than this, whatever the weights."""

    def pulls(self, outputs: torch.Tensor, batch: PatientBatch) -> torch.Tensor | None:
        """Length of each loss's slope by the outputs, `(B,)` in 0..1; None where it may be more."""

    def __call__(self, outputs: torch.Tensor, batch: PatientBatch) -> torch.Tensor:
        """Loss per patient, `(B,)`."""

    def predict(self, outputs: torch.Tensor) -> AnyPrediction:
        """Predictions of the target's kind, in its unit."""


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

    def prepared(self, batch: PatientBatch) -> PatientBatch:
        """The same patients, with all that no training changes computed once.

        For whoever passes the same patients through a model many times. Losses and predictions
        are those of `batch`, up to rounding. Most models compute nothing of the kind.
        """
        return batch

    @property
    def bounded_layers(self) -> dict[str, float]:
        """Layers in which no patient's gradient is longer than this, whatever the weights."""
        return {f"head.{name}": length for name, length in self.head.bounded_layers.items()}

    def pulls(self, outputs: torch.Tensor, batch: PatientBatch) -> torch.Tensor | None:
        """How hard each patient's outcome pulls at the head's outputs, `(B,)` in 0..1.

        None where that is not known, or where the loss is not the head's alone.
        """
        return self.head.pulls(outputs, batch)

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
