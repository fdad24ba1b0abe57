"""A prediction says its value, how sure it is, what was filled in, and what is unusual."""

import math
from datetime import date, timedelta

import numpy as np
import pytest

from fedrx.api import SyntheticSites, load_cohorts
from fedrx.study_templates import TASKS, template
from fedrx_client.clinic.patient_file import read_patients, write_patient
from fedrx_client.clinic.predict import as_rows, predict
from fedrx_models.card import ModelCard, ModelUnusable
from fedrx_models.cohort.encoding import encode
from fedrx_models.files import change_card, load_model, save_model
from fedrx_models.pharmacogenomic.published import EQUATIONS
from fedrx_models.pharmacogenomic.published_model import published_model
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import Study


def _study(task):
    return Study.parse(template(task), source=TASKS[task])


def _cohort(schema, count, **knobs):
    sites = SyntheticSites(1, (count, count), **knobs)
    return next(iter(load_cohorts(sites, schema, seed=4).values()))


@pytest.fixture
def saved(tmp_path):
    def save(task):
        study = _study(task)
        model = build_model(study.model, study.feature_schema, seed=1)
        card = ModelCard(study=study.name, made=date(2026, 1, 2), epsilon=1.0, delta=1e-5, sites=3)
        return load_model(save_model(tmp_path / "m.safetensors", model, study.digest, card))

    return save


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_kind_of_outcome_has_a_value_with_its_unit(saved, task):
    model = saved(task)
    cohort = _cohort(model.model.schema, 3)
    found = predict(model, cohort)
    assert [one.patient for one in found] == list(cohort.patients)
    for one in found:
        told = one.to_json(model)
        assert told["unit"]
        assert told["model"]["epsilon"] == 1.0
        assert "person decides" in told["model"]["decides"]
        for point in one.points:
            assert point.value is not None or task in {"forecast", "anticoagulation"}
            if point.low is not None and point.high is not None and point.value is not None:
                assert point.low <= point.value <= point.high
        assert len(as_rows([one], model)) == len(one.points)


# Age in decades, cm, kg, VKORC1, CYP2C9, race, inducer, amiodarone, and by hand from the equation
# (N Engl J Med 2009;360:753-64, supplement S1e): 5.6044 - 0.2614 age + 0.0087 cm + 0.0128 kg + ...
BY_HAND = [
    ((6, 170, 80, "G/G", "*1/*1", "White", False, False), 5.6044 - 1.5684 + 1.479 + 1.024),
    ((6, 170, 80, "A/G", "*1/*1", "White", False, False), 5.6044 - 1.5684 + 1.479 + 1.024 - 0.8677),
    ((6, 170, 80, "A/A", "*1/*1", "White", False, False), 5.6044 - 1.5684 + 1.479 + 1.024 - 1.6974),
    ((5, 160, 60, "A/A", "*1/*1", "Asian", False, False), 5.6044 - 1.307 + 1.392 + 0.768 - 1.8066),
    ((7, 180, 90, "G/G", "*1/*2", "White", False, False), 5.6044 - 1.8298 + 1.566 + 1.152 - 0.5211),
    ((7, 180, 90, "G/G", "*1/*3", "White", False, False), 5.6044 - 1.8298 + 1.566 + 1.152 - 0.9357),
    ((7, 180, 90, "G/G", "*2/*2", "White", False, False), 5.6044 - 1.8298 + 1.566 + 1.152 - 1.0616),
    ((4, 165, 70, "G/G", "*2/*3", "White", True, False), 5.6044 - 1.0456 + 1.4355 + 0.896 - 0.739),
    ((8, 150, 50, "A/G", "*3/*3", "White", False, True), 5.6044 - 2.0912 + 1.305 + 0.64 - 3.7492),
    (
        (6, 170, 80, None, None, "Black or African American", False, False),
        5.6044 - 1.5684 + 1.479 + 1.024 - 0.4854 - 0.2188 - 0.276,
    ),
]


@pytest.mark.parametrize(("patient", "root"), BY_HAND)
def test_the_published_equation_gives_the_dose_computed_by_hand(tmp_path, patient, root):
    study = _study("dose")
    schema = study.feature_schema
    model = published_model("pharmacogenetic", schema)
    file = load_model(save_model(tmp_path / "iwpc.safetensors", model, study.digest))
    names = ("age_decade", "height_cm", "weight_kg", "vkorc1", "cyp2c9", "race")
    names += ("enzyme_inducer", "amiodarone")
    document = write_patient(_cohort(schema, 1), 0)
    document["features"] |= dict(zip(names, patient, strict=True))
    (found,) = predict(file, read_patients(document, schema, source="p.json").cohort)
    assert found.points[0].value == pytest.approx(root**2, abs=2e-4)
    assert {one.feature for one in found.filled} >= {
        name for name, value in zip(names, patient, strict=True) if value is None
    }


@pytest.mark.parametrize("equation", ["pharmacogenetic", "clinical", "fixed"])
def test_a_published_model_equals_its_equation_for_every_patient(equation):
    schema = _study("dose").feature_schema
    cohort = _cohort(schema, 300, missingness=0.4)
    predicted = published_model(equation, schema).predict(encode(cohort, schema)).mean
    target = schema.target
    expected = np.clip(EQUATIONS[equation](cohort), target.minimum, target.maximum)
    np.testing.assert_allclose(predicted, expected, rtol=1e-4)


def test_what_is_missing_and_what_is_unusual_is_said(saved):
    model = saved("dose")
    document = write_patient(_cohort(model.model.schema, 1, missingness=0.0), 0)
    number = {"age_decade": 6, "height_cm": 168, "weight_kg": 78}

    def ask(**features):
        changed = {**document, "features": {**document["features"], **number, **features}}
        read = read_patients(changed, model.model.schema, source="p.json").cohort
        (found,) = predict(model, read)
        return found

    assert ask().warnings == ()
    before = set(ask().filled)
    (filled,) = set(ask(height_cm=None).filled) - before
    assert filled.feature == "height_cm"
    assert "public mean, 168 cm" in filled.how
    assert "weight_kg is 180 kg, 5.1 standard deviations above" in ask(weight_kg=180).warnings[0]
    tall_and_light = ask(height_cm=195, weight_kg=25, age_decade=2).warnings
    assert "unusual for the study's public reference" in " ".join(tall_and_light)
    nothing = dict.fromkeys(document["features"])
    assert "More than half" in " ".join(ask(**nothing).warnings)


def test_a_withdrawn_or_expired_model_predicts_for_nobody(saved):
    model = saved("dose")
    cohort = _cohort(model.model.schema, 1)
    today = date.today()  # noqa: DTZ011 - the hospital's day
    change_card(model.path, expires=today + timedelta(days=1))
    assert predict(load_model(model.path), cohort)
    change_card(model.path, expires=today)
    with pytest.raises(ModelUnusable, match="expired on"):
        predict(load_model(model.path), cohort)
    change_card(model.path, expires=None, withdrawn="the reference was wrong")
    with pytest.raises(ModelUnusable, match=r"withdrawn \(the reference was wrong\)"):
        predict(load_model(model.path), cohort)


def test_the_digest_follows_weights_and_study_but_not_the_card(saved):
    model = saved("dose")
    changed = load_model(change_card(model.path, expires=date(2030, 1, 1)).path)
    assert changed.digest == model.digest
    other = build_model(_study("dose").model, model.model.schema, seed=1)
    again = load_model(save_model(model.path, other, "cd" * 32))
    assert again.digest != model.digest
    assert again.card is None
    assert math.isfinite(again.predict(_cohort(model.model.schema, 1)).mean[0])
