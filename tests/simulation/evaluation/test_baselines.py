"""What a federated model is held against: better with more patients, and repeatable."""

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import fedrx
from fedrx_models.cohort.cohort import concatenate
from fedrx_models.contract import get_vector
from fedrx_models.metrics.dose import exact
from fedrx_models.pharmacogenomic.published import FIXED_DOSE_MG_PER_WEEK
from fedrx_models.registry import build_model
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_simulation.evaluation.baselines import compute_baselines, fit, fixed_prediction, predict

STUDY = fedrx.default_study()[0]


@cache
def planted(sites=6):
    """Small sites whose doses follow one equation plus noise."""
    source = fedrx.SyntheticSites(sites=sites, patients=(30, 40), missingness=0.0)
    cohorts = fedrx.load_cohorts(source, STUDY.feature_schema, seed=2)
    parts = {site: cohort.split(0.4, b"salt") for site, cohort in cohorts.items()}
    training = {site: part[0] for site, part in parts.items()}
    return training, {site: part[1] for site, part in parts.items()}


def model(name="linear"):
    section = STUDY.model.__class__(name=name)
    return build_model(section, STUDY.feature_schema, seed=0)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_pooled_beats_each_site_alone_beats_nothing(name):
    training, held_out = planted()
    found = compute_baselines(model(name), training, held_out, seed=1)
    assert found.pooled.mae < found.site_alone.mae
    assert found.pooled.mae < found.fixed.mae
    assert found.pooled.n == sum(len(cohort) for cohort in held_out.values())


def test_baselines_are_deterministic_and_leave_the_model_alone():
    training, held_out = planted()
    start = model()
    before = get_vector(start).copy()
    first, again = (compute_baselines(start, training, held_out, seed=1) for _ in range(2))
    assert first == again
    assert np.array_equal(get_vector(start), before)


def test_every_model_is_told_before_it_is_trained():
    training, held_out = planted()
    told = []
    compute_baselines(model(), training, held_out, seed=1, tell=told.append)
    alone = [f"comparing with each site alone, {i} of 6" for i in range(1, 7)]
    assert told == ["comparing with pooled data", *alone]


def test_the_fixed_dose_is_the_fixed_dose():
    training, held_out = planted()
    found = compute_baselines(model(), training, held_out, seed=1).fixed
    target = np.concatenate([cohort.target for cohort in held_out.values()])
    assert found.mae == pytest.approx(np.abs(target - FIXED_DOSE_MG_PER_WEEK).mean())


def test_the_published_equation_stands_beside_them_where_it_can_be_computed():
    training, held_out = planted()
    named = compute_baselines(model(), training, held_out, seed=1).by_name()
    assert list(named) == ["pooled", "site_alone", "fixed", "published"]
    # The doses were drawn from it, so no linear model trained on 100 patients does better.
    assert named["published"].mae < named["pooled"].mae


OTHER_OUTCOMES = {
    "binary": {"kind": "binary", "name": "bleeding", "rate": 0.3},
    "survival": {"kind": "survival", "name": "bleeding", "time_unit": "year", "edges": [1.0, 2.0]},
    "mg/day": {"name": "dose", "unit": "mg/day", "minimum": 0.0, "maximum": 60.0, "mean": 5.0,
               "scale": 2.0},
}  # fmt: skip


def with_outcome(cohort, schema):
    """The same patients with another outcome, from their doses."""
    daily = cohort.target / 7
    yes = (daily > np.median(daily)) * 1.0
    target = {
        "binary": yes,
        "survival": np.stack([0.1 + daily / 10, yes], axis=1),
        "continuous": daily,
    }[schema.target.kind]
    return replace(cohort, schema=schema, target=target)


@pytest.mark.parametrize("kind", OTHER_OUTCOMES)
def test_warfarins_features_with_another_outcome_have_no_dose_to_compare_with(kind):
    document = STUDY.feature_schema.model_dump(mode="json") | {"target": OTHER_OUTCOMES[kind]}
    schema = FeatureSchema.model_validate(document)
    _, held_out = planted()
    few = {site: with_outcome(cohort, schema) for site, cohort in list(held_out.items())[:2]}
    start = build_model(STUDY.model.__class__(name="linear"), schema, seed=0)
    found = compute_baselines(start, few, few, seed=1)
    assert found.published is None
    everyone = concatenate(list(few.values()))
    reference = predict(start, everyone)  # a linear model starts at the public reference
    assert np.allclose(fixed_prediction(everyone), reference)


def test_training_beats_the_start():
    training, held_out = planted()
    everyone = concatenate(list(held_out.values()))
    start = model()
    untrained = exact(predict(start, everyone), everyone.target).mae
    trained = fit(start, concatenate(list(training.values())), seed=1)
    assert exact(predict(trained, everyone), everyone.target).mae < 0.95 * untrained


@pytest.mark.parametrize("patients", [0, 1, 2, 3])
def test_sites_with_hardly_any_patients_have_a_baseline_too(patients):
    training, _ = planted()
    few = next(iter(training.values())).select(range(patients))
    for seed in range(3):
        fitted = fit(model(), few, seed=seed)
        assert np.isfinite(get_vector(fitted)).all()
        if patients < 2:
            assert np.array_equal(get_vector(fitted), get_vector(model()))


def test_whoever_steers_the_stopping_is_trained_on_in_the_end():
    """The last fit sees all patients: another split can change the number of steps only."""
    training, _ = planted()
    pooled = concatenate(list(training.values()))
    weights = {get_vector(fit(model(), pooled, seed=seed)).tobytes() for seed in range(6)}
    assert len(weights) < 6


def test_predicting_changes_no_model():
    _, held_out = planted()
    start = model()
    twin = copy.deepcopy(start)
    predict(start, next(iter(held_out.values())))
    assert np.array_equal(get_vector(start), get_vector(twin))
