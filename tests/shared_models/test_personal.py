"""A private head corrects what differs at a site, and changes little where nothing does."""

import dataclasses

import numpy as np
import pytest
import torch
from omics_cohorts import TARGETS, omics_cohort, omics_schema

from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import get_vector
from fedrx_models.metrics.registry import exact_metrics
from fedrx_models.personal import personalise
from fedrx_models.registry import build_model, models_of
from fedrx_protocol.study.study import ModelSection

MODELS = models_of("pharmacogenomic")


def trained(kind, name="linear"):
    schema = omics_schema(kind)
    model, batch = build_model(ModelSection(name=name), schema, seed=0), None
    batch = encode(omics_cohort(schema, 400, seed=1), schema)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        model(batch).mean().backward()
        optimizer.step()
    return model


def test_a_laboratory_that_reads_higher_is_corrected():
    """Outcomes of this site are two reference deviations higher than the federation's."""
    model, schema = trained("continuous"), omics_schema("continuous")
    here = omics_cohort(schema, 150, seed=5)
    here = dataclasses.replace(here, target=here.target + 4.0)
    training, test = here.select(np.arange(100)), here.select(np.arange(100, 150))
    personal = personalise(model, encode(training, schema))

    def mae(one):
        predicted = one.predict(encode(test, schema)).mean
        return exact_metrics(schema.target, predicted, test.target).mae

    assert mae(model) > 3
    assert mae(personal) < 0.5 * mae(model)


@pytest.mark.parametrize("kind", TARGETS)
def test_a_site_like_the_others_changes_little(kind):
    model, schema = trained(kind), omics_schema(kind)
    personal = personalise(model, encode(omics_cohort(schema, 20, seed=8), schema))
    assert personal.head.shift.detach().abs().max() < 0.3
    assert personal.head.log_stretch.detach().abs().max() < 0.4


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_a_private_head_and_is_left_as_it_was(name):
    schema = omics_schema("panel")
    model = build_model(ModelSection(name=name), schema, seed=0)
    before = get_vector(model).copy()
    batch = encode(omics_cohort(schema, 30, seed=2), schema)
    personal = personalise(model, batch)
    assert np.array_equal(get_vector(model), before)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not np.array_equal(personal.predict(batch).mean, model.predict(batch).mean)


def test_a_site_without_patients_keeps_the_federated_model():
    schema = omics_schema("binary")
    model = build_model(ModelSection(name="mlp"), schema, seed=0)
    batch = encode(omics_cohort(schema, 10), schema)
    nobody = batch.select(torch.zeros(10, dtype=torch.bool))
    personal = personalise(model, nobody)
    assert np.array_equal(personal.predict(batch).mean, model.predict(batch).mean)


@pytest.mark.parametrize("shift", [-6.0, -1.0, 0.5, 6.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_search_ends_where_nothing_is_better(shift, seed):
    """The interval's loss has a value, but no slope before the head: it must not lead astray."""
    schema = omics_schema("continuous")
    model = build_model(ModelSection(name="linear"), schema, seed=0)
    here = omics_cohort(schema, 26, seed=seed)
    here = dataclasses.replace(here, target=np.clip(here.target + shift, -50, 50))
    batch = encode(here, schema)
    personal = personalise(model, batch)
    objective = personal(batch).sum() + personal.head.penalty()
    slopes = torch.autograd.grad(objective, [personal.head.shift, personal.head.log_stretch])
    assert all(slope.abs().max() < 0.01 for slope in slopes)
