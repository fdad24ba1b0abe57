"""A private head of a forecast: it corrects a site whose courses differ, and no other."""

import dataclasses

import numpy as np
import pytest
import torch
from flux_cohorts import flux_cohort, flux_schema

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.encoding import encode
from fedrx_models.fitting import fit, predict
from fedrx_models.metrics.registry import exact_metrics
from fedrx_models.personal import personalise, private_head_bytes, with_private_head
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection

SCHEMA = flux_schema()


@pytest.fixture(scope="module")
def model():
    first = build_model(ModelSection(name="linear_mixed"), SCHEMA, seed=0)
    return fit(first, flux_cohort(SCHEMA, 300, seed=1), seed=0)


def rising(cohort, by):
    """The same patients, whose albumin is `by` higher at every horizon than it was."""
    target = cohort.target.copy()
    target[:, :, :, 1, 0] += by
    return dataclasses.replace(cohort, target=target)


def judged(model, cohort):
    return exact_metrics(SCHEMA.target, predict(model, cohort), cohort.target)


def test_a_site_where_a_marker_rises_faster_is_corrected(model):
    here, there = (rising(flux_cohort(SCHEMA, n, seed=n), 8.0) for n in (80, 60))
    personal = personalise(model, encode(here, SCHEMA))
    before, after = (judged(one, there) for one in (model, personal))
    names = [pair.name for pair in before.pairs]
    at = names.index("albumin 4")
    assert after.pairs[at].ratio < 0.85 * before.pairs[at].ratio
    # Its band had been elsewhere; it is where the outcomes are, and the others' stay.
    assert before.pairs[at].coverage < 60 < after.pairs[at].coverage
    other = names.index("platelets 4")
    assert after.pairs[other].ratio == pytest.approx(before.pairs[other].ratio, abs=0.05)


def test_a_site_like_the_others_changes_little(model):
    personal = personalise(model, encode(flux_cohort(SCHEMA, 40, seed=8), SCHEMA))
    assert personal.head.shift.detach().abs().max() < 0.3
    assert personal.head.log_stretch.detach().abs().max() < 0.4


def test_the_search_ends_where_nothing_is_better(model):
    batch = encode(rising(flux_cohort(SCHEMA, 30, seed=3), -8.0), SCHEMA)
    personal = personalise(model, batch)
    objective = personal(batch).sum() + personal.head.penalty()
    slopes = torch.autograd.grad(objective, [personal.head.shift, personal.head.log_stretch])
    assert all(slope.abs().max() < 0.05 for slope in slopes)


def test_a_site_without_patients_keeps_the_federated_model(model):
    cohort = flux_cohort(SCHEMA, 10)
    nobody = encode(cohort, SCHEMA).select(torch.zeros(10, dtype=torch.bool))
    personal = personalise(model, nobody)
    assert np.array_equal(predict(personal, cohort), predict(model, cohort), equal_nan=True)


def test_it_is_kept_and_read_again(model):
    cohort = flux_cohort(SCHEMA, 30, seed=2)
    personal = personalise(model, encode(cohort, SCHEMA))
    again = with_private_head(model, private_head_bytes(personal), "head")
    assert np.array_equal(predict(again, cohort), predict(personal, cohort), equal_nan=True)


def test_the_head_of_another_forecast_is_refused(model):
    personal = personalise(model, encode(flux_cohort(SCHEMA, 10), SCHEMA))
    document = flux_schema().model_dump(mode="json")
    document["target"]["markers"] = ["albumin"]
    fewer = build_model(ModelSection(name="tcn"), type(SCHEMA).model_validate(document), seed=0)
    with pytest.raises(MisuseError, match="of a model with 18 outputs, not 6"):
        with_private_head(fewer, private_head_bytes(personal), "head")
