"""Invented patients of a study, drawn around its public reference, without any real patient.

On these, a site tries what it must know about a model. The answer says nothing about a real
patient, and no real patient changes it.
"""

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import column_names, outcome_count
from fedrx_models.cohort.visits import (
    EPISODE,
    FIRST_VALUE,
    TIME,
    Courses,
    VisitColumns,
    restore_marker,
    visit_width,
    visits_section,
)
from fedrx_protocol.study.schema import FeatureSchema, ForecastTarget

_MISSING = 0.2


def made_up(schema: FeatureSchema, patients: int) -> PatientBatch:
    """Invent a number of patients, always the same ones.

    The first patient, and every second one after, has as many visits as the study allows; the
    others have half as many. Outcomes are 0 or 1, which every kind of target reads. Some outcomes
    are unknown, and some blocks are missing. Every fourth patient is set apart, which only a
    forecast reads.
    """
    rng = np.random.default_rng(0)
    if isinstance(schema.target, ForecastTarget):
        visits = Courses(schema, _visits(rng, schema, patients)).tensor()
        valid = visits[:, :, VisitColumns.valid].numpy()
        outcomes = np.repeat(valid, VisitColumns.of(schema).forecasts, axis=1)
    else:
        visits = torch.zeros(patients, 0, 0)
        outcomes = np.ones((patients, outcome_count(schema.target)))
    observed = outcomes * (rng.random(outcomes.shape) > _MISSING)
    there = rng.random((patients, len(schema.blocks))) > _MISSING
    genes = [len(block.genes) for block in schema.blocks]
    return PatientBatch(
        x=_tensor(rng.normal(size=(patients, len(column_names(schema))))),
        y=_tensor(observed * rng.integers(0, 2, observed.shape)),
        y_observed=_tensor(observed),
        omics=_tensor(rng.normal(size=(patients, sum(genes))) * np.repeat(there, genes, axis=1)),
        omics_observed=_tensor(there),
        visits=visits,
        apart=_tensor(np.arange(patients)[:, None] % 4 == 3),
    )


def _visits(rng: Generator, schema: FeatureSchema, patients: int) -> NDArray[np.float64]:
    """Invent visits as a `Cohort` holds them, a unit of time apart, all of one episode."""
    most = visits_section(schema).most
    visits = np.zeros((patients, most, visit_width(schema)))
    visits[:, :, TIME], visits[:, :, EPISODE] = np.arange(most), 0
    for i, marker in enumerate(schema.markers):
        values = restore_marker(marker, rng.normal(size=(patients, most)))
        values[rng.random(values.shape) < _MISSING] = np.nan
        visits[:, :, FIRST_VALUE + i] = values
    for i, treatment in enumerate(schema.treatments, FIRST_VALUE + len(schema.markers)):
        visits[:, :, i] = treatment.scale * rng.integers(0, 2, (patients, most))
    visits[1::2, max(1, most // 2) :] = np.nan
    return visits


def _tensor(values: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))
