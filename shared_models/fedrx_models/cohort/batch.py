"""Patients of a cohort as tensors: what a model reads."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fedrx_common.errors import DataError
from fedrx_models.cohort.visits import VisitColumns

_BY_VISIT = ("visits", "summaries")
_FEWEST = 2  # visits that a study keeps; no model is asked to read fewer


@dataclass(frozen=True, eq=False)
class PatientBatch:
    """Patients as tensors; every one is `(patients, ...)`, so that clipping can map over them.

    The blocks are side by side in one tensor, in the order of the study: `encoding.block_columns`
    says where each is. F, G, M, T, C and K may be 0.

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
