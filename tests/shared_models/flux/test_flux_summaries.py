"""What flux models read at a visit, against the same worked out in plain loops."""

import dataclasses
import math

import numpy as np
import torch
from flux_cohorts import flux_cohort, flux_schema
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_models.cohort.encoding import encode
from fedrx_models.cohort.visits import VisitColumns
from fedrx_models.flux.summaries import FAINTEST, VisitSummaries, look_back

MEMORIES_AT = 4  # of a marker's values: newest, known, age, observed; then two for each memory


def batch_of(patients=5, seed=0):
    schema = flux_schema()
    return schema, encode(flux_cohort(schema, patients, seed), schema)


def fading_mean(batch, columns, patient, visit, marker, memory):
    """Weighted mean of what was measured in the episode up to a visit, and the weights' sum."""
    visits = batch.visits[patient].double().numpy()
    start = max(t for t in range(visit + 1) if visits[t, columns.starts] == 1)
    total = weight = 0.0
    for t in range(start, visit + 1):
        if visits[t, columns.observed][marker] == 1:
            age = visits[visit, columns.elapsed] - visits[t, columns.elapsed]
            share = math.exp(-age / memory)
            total += share * visits[t, columns.value][marker]
            weight += share
    return total / weight if weight > FAINTEST else None, weight


@settings(deadline=None, max_examples=51)
@given(seed=st.integers(0, 50))
def test_fading_means_are_those_of_the_episode(seed):
    schema, batch = batch_of(seed=seed)
    summaries, columns = VisitSummaries(schema), VisitColumns.of(schema)
    _, markers = summaries.parts(batch)
    for patient in range(len(batch)):
        for visit in range(int(batch.visits[patient, :, columns.valid].sum())):
            for marker in range(columns.markers):
                found = markers[patient, visit, marker]
                for i, memory in enumerate(summaries.memories):
                    mean, weight = fading_mean(batch, columns, patient, visit, marker, memory)
                    apart, much = found[MEMORIES_AT + 2 * i : MEMORIES_AT + 2 * i + 2].tolist()
                    newest = float(batch.visits[patient, visit, columns.last][marker])
                    expected = 0.0 if mean is None else mean - newest
                    np.testing.assert_allclose(apart, expected, atol=2e-4)
                    np.testing.assert_allclose(much, math.log1p(weight) / 2, atol=1e-4)


def test_shapes_are_as_promised_and_padding_is_zero():
    schema, batch = batch_of()
    summaries, columns = VisitSummaries(schema), VisitColumns.of(schema)
    shared, markers = summaries.parts(batch)
    assert shared.shape[2] == summaries.shared_width
    assert markers.shape[2:] == (columns.markers, summaries.marker_width)
    whole = summaries(batch)
    assert whole.shape[2] == summaries.width
    padding = batch.visits[:, :, columns.valid] == 0
    assert padding.any()
    assert (whole[padding] == 0).all()


def test_nobody_looks_ahead_or_into_another_episode():
    schema, batch = batch_of(patients=20)
    columns = VisitColumns.of(schema)
    before, ages = look_back(batch.visits, columns)
    assert (torch.triu(before, diagonal=1) == 0).all()
    assert (ages >= 0).all()
    episode = batch.visits[:, :, columns.starts].cumsum(dim=1)
    assert (episode.max(dim=1).values > 1).any()
    assert (before[episode[:, :, None] != episode[:, None, :]] == 0).all()


def test_a_rare_value_does_not_drown_the_others():
    schema, batch = batch_of()
    columns = VisitColumns.of(schema)
    visits = batch.visits.clone()
    visits[:, :, columns.last] *= 1e4
    visits[:, :, columns.value] *= 1e4
    assert VisitSummaries(schema)(dataclasses.replace(batch, visits=visits)).abs().max() < 20
