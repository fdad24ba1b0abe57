"""Whom a trial should enrol, by probabilities that fit this site's patients."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import torch
from omics_cohorts import omics_cohort, omics_schema

from fedrx_client.clinic.responders import plan_enrolment
from fedrx_common.errors import MisuseError
from fedrx_models.card import ModelCard, ModelUnusable
from fedrx_models.contract import get_vector, set_vector
from fedrx_models.files import ModelFile
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection


@pytest.fixture(scope="module")
def overconfident():
    """A model whose log odds are twice as far from 0 as they should be, and 400 patients."""
    torch.manual_seed(0)
    schema = omics_schema("binary")
    model = build_model(ModelSection(name="linear"), schema, seed=1)
    vector = get_vector(model)
    set_vector(model, vector + np.random.default_rng(1).normal(0, 0.5, vector.shape))
    file = ModelFile(model, "ab" * 32, ModelCard(study="s", made=date(2026, 1, 1)), "cd" * 32)
    cohort = omics_cohort(schema, 400)
    said = file.predict(cohort).mean
    true = 1 / (1 + np.exp(-np.log(said / (1 - said)) / 2))
    happened = (np.random.default_rng(2).random(400) < true).astype(float)
    return file, replace(cohort, target=happened), true


def test_calibration_fits_and_the_expected_number_is_near_the_true_one(overconfident):
    file, cohort, true = overconfident
    plan = plan_enrolment(file, cohort, threshold=0.5)
    assert plan.brier < plan.brier_before
    inside = plan.probabilities >= 0.5
    assert plan.chosen.enrolled == inside.sum() > 0
    assert plan.chosen.low <= true[inside].sum() <= plan.chosen.high
    assert plan.curve.useful
    told = plan.to_json(file)
    assert sum(one["enrol"] for one in told["candidates"]) == plan.chosen.enrolled
    assert told["model"]["id"] == file.name


def test_so_many_responders_of_other_candidates(overconfident):
    file, cohort, _ = overconfident
    known, others = cohort.select(np.arange(400) < 300), cohort.select(np.arange(400) >= 300)
    plan = plan_enrolment(file, known, others, responders=10)
    assert plan.patients == others.patients
    assert plan.chosen.expected >= 10
    assert plan.chosen.enrolled < 100


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"threshold": 1.5}, "threshold must lie"),
        ({"responders": 1e6}, "ask for fewer"),
        ({"threshold": 0.5, "responders": 3}, "not both"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(overconfident, options, told):
    file, cohort, _ = overconfident
    with pytest.raises(MisuseError, match=told):
        plan_enrolment(file, cohort, **options)
    with pytest.raises(MisuseError, match=r"20 patients .* too few"):
        plan_enrolment(file, cohort.select(np.arange(400) < 20))


def test_a_dose_has_no_responders_and_a_withdrawn_model_plans_nothing(overconfident):
    schema = omics_schema("continuous")
    model = build_model(ModelSection(name="linear"), schema, seed=1)
    with pytest.raises(MisuseError, match="has no responders"):
        plan_enrolment(ModelFile(model, "ab" * 32), omics_cohort(schema, 60))
    file, cohort, _ = overconfident
    gone = ModelCard(study="s", made=date(2026, 1, 1), withdrawn="wrong")
    with pytest.raises(ModelUnusable):
        plan_enrolment(replace(file, card=gone), cohort)
