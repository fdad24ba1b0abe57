"""A patient as parts that are each as measured, or as in the study's public reference.

A coalition says of each part how far it is as measured: 1 for all the way, 0 for the reference.
Between them inputs are mixed in a straight line, so that a path from the reference to the patient
is a path in coalitions.
"""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import block_columns
from fedrx_models.cohort.visits import VisitColumns
from fedrx_models.contract import PatientModel
from fedrx_models.explain.outcome import Outcome, shown

Grain = Literal["whole", "parts"]
"""Features, blocks, markers and treatments; or features, genes, and the others visit by visit."""
PartKind = Literal["feature", "gene", "block", "missing_block", "marker", "treatment", "responses"]

_AT_ONCE = 2_000_000  # numbers in the inputs of one pass: 16 MB
_NOWHERE = -1


@dataclass(frozen=True)
class InputPart:
    """One part of what a model knows of a patient.

    Attributes:
        kind: what it is.
        name: of the feature, gene, block, marker or treatment in the study.
        block: of a gene.
        visit: row of the patient's visits; `None` for all of them, and for what has no visit.
    """

    kind: PartKind
    name: str
    block: str = ""
    visit: int | None = None


class Game:
    """What a model predicts for one patient when some parts are as in the reference.

    Args:
        model: the model, in double precision.
        patient: one patient, in double precision; for a forecast with at least one visit.
        outcome: the number that counts.
        grain: how finely blocks and courses are divided.

    Attributes:
        parts: in the study's order.
        active: positions of the parts in which the patient differs from the reference; no other
            part can have an effect.
    """

    def __init__(
        self, model: PatientModel, patient: PatientBatch, outcome: Outcome, grain: Grain
    ) -> None:
        self.model, self.outcome = model, outcome
        self.patient = _up_to_last_visit(patient) if model.schema.visits is not None else patient
        self._owners: dict[str, torch.Tensor] = {}
        self.parts: list[InputPart] = []
        self._own_features()
        self._own_blocks(grain)
        if self.model.schema.visits is not None:
            self._own_course(grain)
        self._own_responses()
        self._reference = self._made_reference()
        differs = torch.zeros(len(self.parts), dtype=torch.bool)
        for name, owner in self._owners.items():
            changed = getattr(self.patient, name)[0] != getattr(self._reference, name)[0]
            differs[owner[changed & (owner != _NOWHERE)]] = True
        self.active = tuple(torch.nonzero(differs).flatten().tolist())

    def worth(self, coalitions: torch.Tensor) -> torch.Tensor:
        """Predict for coalitions of the active parts, `(N, active)` -> `(N,)`, with a gradient."""
        size = sum(owner.numel() for owner in self._owners.values())
        rows = max(1, _AT_ONCE // max(size, 1))
        found = [
            shown(self.model, self._mixed(some), self.outcome)
            for some in torch.split(coalitions, rows)
        ]
        return torch.cat(found)

    def _mixed(self, coalitions: torch.Tensor) -> PatientBatch:
        count = len(coalitions)
        every = coalitions.new_zeros(count, len(self.parts) + 1)  # the last is never as measured
        every[:, list(self.active)] = coalitions
        mixed = {}
        for field in dataclasses.fields(PatientBatch):
            reference = getattr(self._reference, field.name)
            if field.name in self._owners:
                change = getattr(self.patient, field.name) - reference
                mixed[field.name] = reference + every[:, self._owners[field.name]] * change
            else:
                mixed[field.name] = reference.expand(count, *reference.shape[1:])
        return PatientBatch(**mixed)

    def _add(self, part: InputPart) -> int:
        self.parts.append(part)
        return len(self.parts) - 1

    def _empty(self, name: str) -> torch.Tensor:
        shape = getattr(self.patient, name).shape[1:]
        return self._owners.setdefault(name, torch.full(shape, _NOWHERE))

    def _own_features(self) -> None:
        owner = self._empty("x")
        for name, columns in self.model.explainable_inputs.items():
            owner[list(columns)] = self._add(InputPart("feature", name))

    def _own_blocks(self, grain: Grain) -> None:
        omics, there = self._empty("omics"), self._empty("omics_observed")
        places = block_columns(self.model.schema)
        for i, block in enumerate(self.model.schema.blocks):
            start = places[block.name].start
            if grain == "whole":
                omics[places[block.name]] = self._add(InputPart("block", block.name))
            else:
                for j, gene in enumerate(block.genes):
                    omics[start + j] = self._add(InputPart("gene", gene, block.name))
            there[i] = self._add(InputPart("missing_block", block.name))

    def _own_course(self, grain: Grain) -> None:
        """Values and carried values belong to the marker, at the visit where it was measured.

        When visits were, and what was measured at them, is the same in the reference.
        """
        columns, owner = VisitColumns.of(self.model.schema), self._empty("visits")
        visits = self.patient.visits[0]
        newest = _newest(visits, columns)
        rows = range(len(visits)) if grain == "parts" else [None]
        for m, marker in enumerate(self.model.schema.markers):
            for row in rows:
                part = self._add(InputPart("marker", marker.name, visit=row))
                here = slice(None) if row is None else slice(row, row + 1)
                owner[here, columns.value.start + m] = part
                carried = newest[:, m] >= 0 if row is None else newest[:, m] == row
                owner[carried, columns.last.start + m] = part
        for a, treatment in enumerate(self.model.schema.treatments):
            for row in rows:
                part = self._add(InputPart("treatment", treatment.name, visit=row))
                here = slice(None) if row is None else slice(row, row + 1)
                owner[here, columns.treatment.start + a] = part

    def _own_responses(self) -> None:
        """Known responses to other drugs, where the model reads them."""
        if getattr(self.model, "known", None) is None:
            return
        part = self._add(InputPart("responses", self.model.schema.target.name))
        for name in ("y", "y_observed"):
            self._empty(name)[:] = part

    def _made_reference(self) -> PatientBatch:
        changed = {"x": torch.zeros_like(self.patient.x)}
        changed["omics"] = torch.zeros_like(self.patient.omics)
        changed["omics_observed"] = torch.ones_like(self.patient.omics_observed)
        for name in ("visits", "y", "y_observed"):
            if name in self._owners:
                value = getattr(self.patient, name).clone()
                value[:, self._owners[name] != _NOWHERE] = 0.0
                changed[name] = value
        return dataclasses.replace(self.patient, **changed)


def in_double(model: PatientModel) -> PatientModel:
    """Copy a model in double precision, so that attributions add up; it is not trained on.

    Such a copy is returned as it is: a server makes one, and explains by it again and again.
    """
    if not any(p.requires_grad or p.dtype != torch.float64 for p in model.parameters()):
        return model.eval()
    shared = {id(part): part for part in (model.schema, model.config)}  # nothing changes them
    found = copy.deepcopy(model, shared).double().eval()
    for parameter in found.parameters():
        parameter.requires_grad = False
    return found


def _up_to_last_visit(patient: PatientBatch) -> PatientBatch:
    """The same patient without padding; outcomes, which a forecast does not read, go."""
    length = int(patient.lengths()[0])
    if not length:
        raise MisuseError("a patient without a visit has no forecast to explain.")
    none = patient.x.new_zeros(1, 0)
    summaries = patient.x.new_zeros(1, 0, 0)
    return dataclasses.replace(
        patient, visits=patient.visits[:, :length], summaries=summaries, y=none, y_observed=none
    )


def _newest(visits: torch.Tensor, columns: VisitColumns) -> torch.Tensor:
    """Visit at which each marker's carried value was measured, `(T, M)`; -1 where none is known."""
    found = torch.full((len(visits), columns.markers), _NOWHERE)
    last: Sequence[int] = [_NOWHERE] * columns.markers
    for row, visit in enumerate(visits):
        measured, known = visit[columns.observed], visit[columns.known]
        last = [
            row if measured[m] else (last[m] if known[m] else _NOWHERE)
            for m in range(columns.markers)
        ]
        found[row] = torch.tensor(last)
    return found
