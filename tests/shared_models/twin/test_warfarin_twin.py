"""The published warfarin model gives what its publication prints, and follows a patient."""

import dataclasses

import numpy as np
import pytest

from fedrx.study_templates import TASKS, template
from fedrx_common.errors import MisuseError
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.visits import FIRST_VALUE, visit_width
from fedrx_models.twin.inr import has_twin, twin_forecast
from fedrx_models.twin.warfarin import (
    CLEARANCE_LEFT,
    EC50_MG_PER_L,
    draw_patients,
    inr_course,
    typical_patient,
)
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import Study

# Daily racemic dose in mg for a steady INR of 2.5 at 50, 70 and 90 years: Hamberg et al., Clin
# Pharmacol Ther 2007;81:529-38, table 5.
TABLE_5 = {
    ("*1/*1", "G/G"): (9.08, 7.72, 6.36),
    ("*1/*1", "A/G"): (5.94, 5.06, 4.16),
    ("*1/*1", "A/A"): (4.32, 3.68, 3.04),
    ("*1/*2", "G/G"): (6.22, 5.30, 4.40),
    ("*1/*2", "A/G"): (4.10, 3.50, 2.90),
    ("*1/*2", "A/A"): (2.98, 2.54, 2.10),
    ("*1/*3", "G/G"): (5.04, 4.30, 3.58),
    ("*1/*3", "A/G"): (3.30, 2.82, 2.34),
    ("*1/*3", "A/A"): (2.40, 2.06, 1.71),
    ("*2/*2", "G/G"): (2.54, 2.16, 1.77),
    ("*2/*2", "A/G"): (1.66, 1.41, 1.16),
    ("*2/*2", "A/A"): (1.21, 1.03, 0.84),
    ("*2/*3", "G/G"): (2.82, 2.40, 1.97),
    ("*2/*3", "A/G"): (1.85, 1.57, 1.29),
    ("*2/*3", "A/A"): (1.35, 1.14, 0.94),
    ("*3/*3", "G/G"): (1.38, 1.18, 1.00),
    ("*3/*3", "A/G"): (0.90, 0.77, 0.65),
    ("*3/*3", "A/A"): (0.66, 0.56, 0.47),
}


def together(patients):
    """Virtual patients in one row each."""
    names = [field.name for field in dataclasses.fields(patients[0])]
    return type(patients[0])(
        *(np.concatenate([getattr(one, name) for one in patients]) for name in names)
    )


def daily(days, *amounts):
    """Doses at the beginning of each day, `(amounts, hours)`."""
    doses = np.zeros((len(amounts), 24 * days))
    doses[:, ::24] = np.array(amounts)[:, None]
    return doses


def test_all_54_published_doses_lead_to_an_inr_of_2_5():
    kinds = [
        (age, *genotypes, dose)
        for genotypes, doses in TABLE_5.items()
        for age, dose in zip((50, 70, 90), doses, strict=True)
    ]
    patients = together([typical_patient(*kind[:3]) for kind in kinds])
    steady = inr_course(patients, daily(100, *(kind[3] for kind in kinds)))[:, -24:].max(axis=1)
    assert len(steady) == 54
    np.testing.assert_allclose(steady, 2.5, rtol=0.03)


def test_the_inr_rises_with_the_dose_and_returns_without_it():
    one = typical_patient(60, "*1/*1", "A/G")
    doses = daily(60, 2.0, 5.0, 10.0)
    doses[:, 24 * 20 :] = 0.0
    course = inr_course(together([one] * 3), doses, baseline=1.1)
    after_20_days = course[:, 24 * 20 - 1]
    assert 1.1 < after_20_days[0] < after_20_days[1] < after_20_days[2]
    assert course[:, -1] == pytest.approx(1.1, abs=0.05)
    assert inr_course(one, np.zeros(48), 1.1) == pytest.approx(1.1)


def test_half_the_step_changes_little(monkeypatch):
    one, doses = typical_patient(60, "*3/*3", "A/A"), daily(20, 2.0)
    usual = inr_course(one, doses)
    monkeypatch.setattr("fedrx_models.twin.warfarin._STEP_H", 0.25)
    np.testing.assert_allclose(inr_course(one, doses), usual, atol=0.01)


def test_the_spread_between_patients_is_the_published_one_and_repeatable():
    drawn = draw_patients(20_000, 5, 71, "*1/*1", "G/G")
    again = draw_patients(20_000, 5, 71, "*1/*1", "G/G")
    np.testing.assert_array_equal(drawn.slow, again.slow)
    for values, middle, variation in (
        (drawn.clearance, 0.314, 0.31),
        (drawn.central, 13.8, 0.262),
        (drawn.ec50, 4.61, 0.409),
        (drawn.fast, 11.6, 0.141),
    ):
        assert np.median(values) == pytest.approx(middle, rel=0.02)
        assert values.std() / values.mean() == pytest.approx(variation, rel=0.04)
    mixed = draw_patients(20_000, 5, 71, None, None)
    assert mixed.clearance.mean() < drawn.clearance.mean()


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ((12, "*1/*1", "G/G"), "18 to 100 years, not 12"),
        ((60, "*1/*5", "G/G"), "CYP2C9 '*1/*5'"),
        ((60, "*1/*1", "C/T"), "VKORC1 'C/T'"),
    ],
)
def test_what_the_model_does_not_know_is_refused(kind, told):
    with pytest.raises(MisuseError) as caught:
        typical_patient(*kind)
    assert told in str(caught.value)
    with pytest.raises(MisuseError, match="finite"):
        inr_course(typical_patient(60, "*1/*1", "G/G"), np.array([-1.0]))


def inr_schema():
    document = Study.parse(template("anticoagulation"), source=TASKS["anticoagulation"])
    schema = document.feature_schema.model_dump(mode="json")
    schema["features"] += [
        {"name": "cyp2c9", "kind": "category", "values": [*CLEARANCE_LEFT, "*1/*5"]},
        {"name": "vkorc1", "kind": "category", "values": [*EC50_MG_PER_L]},
    ]
    return FeatureSchema.model_validate(schema)


def patient(schema, inr, dose, age=66.0, cyp2c9=0, vkorc1=0):
    """One patient with a visit a day."""
    visits = np.full((1, schema.visits.most, visit_width(schema)), np.nan)
    days = len(inr)
    visits[0, :days, 0], visits[0, :days, 1] = np.arange(days), 0
    visits[0, :days, FIRST_VALUE] = inr
    visits[0, :days, FIRST_VALUE + 3] = dose
    values = {
        "age": np.array([age]),
        "cyp2c9": np.array([cyp2c9], np.int16),
        "vkorc1": np.array([vkorc1], np.int16),
    }
    return Cohort("here", schema, ("p1",), values, np.zeros((1, 0)), visits=visits)


def test_the_twin_knows_genotype_and_dose_and_follows_what_was_measured():
    schema = inr_schema()
    assert has_twin(schema)
    flat, doses = [1.0] * 6, [5.0] * 6
    usual = twin_forecast(patient(schema, flat, doses), 0)
    assert usual.at == (1.0, 3.0, 7.0)
    assert (usual.low < usual.value).all()
    assert (usual.value < usual.high).all()
    assert usual.notes == ()
    slow = twin_forecast(patient(schema, [1.0, *[np.nan] * 5], doses, cyp2c9=5), 0)
    fast = twin_forecast(patient(schema, [1.0, *[np.nan] * 5], doses), 0)
    assert (slow.value > fast.value).all()
    sensitive = twin_forecast(patient(schema, [1.0, 1.4, 2.0, 2.6, 3.1, 3.5], doses), 0)
    assert (sensitive.value > fast.value).all()
    more = twin_forecast(patient(schema, flat, [*doses[:5], 10.0]), 0)
    assert more.value[-1] > usual.value[-1]


def test_the_twin_says_what_it_assumed():
    schema = inr_schema()
    told = twin_forecast(patient(schema, [2.4, 2.5], [5.0, 5.0], np.nan, 6), 0).notes
    assert any("taken for 28 days" in one for one in told)
    assert any("age is not known" in one for one in told)
    assert any("CYP2C9 genotype is not known" in one for one in told)
    with pytest.raises(MisuseError, match="18 to 100 years"):
        twin_forecast(patient(schema, [1.0], [5.0], 104.0), 0)
    weekly = schema.model_dump(mode="json")
    weekly["treatments"][0]["unit"] = "tablets"
    other = FeatureSchema.model_validate(weekly)
    assert not has_twin(other)
    with pytest.raises(MisuseError, match="in mg/day"):
        twin_forecast(patient(other, [1.0], [5.0]), 0)
