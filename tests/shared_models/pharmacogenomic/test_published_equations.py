"""The published equations, against sums worked out by hand from the paper's appendix."""

import dataclasses

import numpy as np
import pytest

from fedrx_common.errors import DataError
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.pharmacogenomic.published import (
    EQUATIONS,
    clinical_dose,
    fixed_dose,
    is_applicable,
    is_complete,
    pharmacogenetic_dose,
)
from fedrx_protocol.study.schema import FeatureSchema


@pytest.fixture
def cohort(study):
    """A white man of 63 with common genotypes; an Asian woman on amiodarone; much missing."""
    schema = study.feature_schema
    levels = {f.name: f.values for f in schema.features if f.kind == "category"}

    def codes(name, *values):
        return np.array([levels[name].index(v) if v else -1 for v in values], np.int16)

    flag = np.array([False, True, False])
    values = {
        "age_decade": [6.0, 7.0, np.nan],
        "height_cm": [180.0, 150.0, 168.0],
        "weight_kg": [90.0, 50.0, np.nan],
        "vkorc1": codes("vkorc1", "A/G", "A/A", None),
        "cyp2c9": codes("cyp2c9", "*1/*1", "*2/*3", None),
        "race": codes("race", "White", "Asian", "Unknown"),
        "gender": codes("gender", "male", "female", None),
        "enzyme_inducer": np.array([True, False, False]),
        "amiodarone": flag,
        "smoker": ~flag,
        "valve_replacement": flag,
        "thromboembolism": flag,
        "asian_population": codes("asian_population", None, "Chinese", None),
    }
    return Cohort("a", schema, ("x", "y", "z"), values, [30.0, 10.0, 20.0])


def test_the_pharmacogenetic_equation(cohort):
    first = 5.6044 - 0.2614 * 6 + 0.0087 * 180 + 0.0128 * 90 - 0.8677 + 1.1816
    second = 5.6044 - 0.2614 * 7 + 0.0087 * 150 + 0.0128 * 50 - 1.6974 - 1.9206 - 0.1092 - 0.5503
    third = 5.6044 - 0.2614 * 6 + 0.0087 * 168 + 0.0128 * 78 - 0.4854 - 0.2188 - 0.1032
    expected = np.square([first, second, third])
    assert pharmacogenetic_dose(cohort) == pytest.approx(expected)


def test_the_clinical_equation(cohort):
    first = 4.0376 - 0.2546 * 6 + 0.0118 * 180 + 0.0134 * 90 + 1.2799
    second = 4.0376 - 0.2546 * 7 + 0.0118 * 150 + 0.0134 * 50 - 0.6752 - 0.5695
    third = 4.0376 - 0.2546 * 6 + 0.0118 * 168 + 0.0134 * 78 + 0.0443
    assert clinical_dose(cohort) == pytest.approx(np.square([first, second, third]))


def test_the_clinical_equation_ignores_genotypes(cohort):
    other = {**cohort.values, "vkorc1": np.zeros(3, np.int16), "cyp2c9": np.zeros(3, np.int16)}
    changed = dataclasses.replace(cohort, values=other)
    assert np.array_equal(clinical_dose(changed), clinical_dose(cohort))


def test_the_fixed_dose(cohort):
    assert fixed_dose(cohort).tolist() == [35.0, 35.0, 35.0]


def test_an_unknown_race_is_taken_as_mixed(cohort):
    values = {**cohort.values, "race": np.array([0, 1, -1], np.int16)}
    changed = dataclasses.replace(cohort, values=values)
    assert np.array_equal(pharmacogenetic_dose(changed), pharmacogenetic_dose(cohort))


def test_a_dose_is_never_negative(cohort):
    values = {
        **cohort.values,
        "age_decade": np.full(3, 11.0),
        "height_cm": np.full(3, 100.0),
        "weight_kg": np.full(3, 25.0),
        "vkorc1": np.full(3, 2, np.int16),
        "cyp2c9": np.full(3, 5, np.int16),
        "amiodarone": np.full(3, fill_value=True),
        "enzyme_inducer": np.full(3, fill_value=False),
    }
    assert pharmacogenetic_dose(dataclasses.replace(cohort, values=values)).max() == 0.0


def test_complete_patients_are_found(cohort):
    assert is_complete(cohort).tolist() == [True, True, False]


@pytest.mark.parametrize(
    "change",
    [
        "without vkorc1",
        "height in metres",
        "other diplotypes",
        "age as a flag",
        "dose a day",
        "bleeding",
    ],
)
def test_a_schema_that_does_not_fit_is_recognised(study, change):
    document = study.feature_schema.model_dump(mode="json")
    by_name = {feature["name"]: feature for feature in document["features"]}
    if change == "without vkorc1":
        document["features"].remove(by_name["vkorc1"])
    elif change == "dose a day":
        document["target"]["unit"] = "mg/day"
    elif change == "bleeding":
        document["target"] = {"kind": "binary", "name": "bleeding", "rate": 0.1}
    elif change == "height in metres":
        by_name["height_cm"]["unit"] = "m"
    elif change == "other diplotypes":
        by_name["cyp2c9"]["values"] = ("*1/*1", "other")
    else:
        index = document["features"].index(by_name["age_decade"])
        document["features"][index] = {"name": "age_decade", "kind": "flag"}
    assert is_applicable(study.feature_schema)
    assert not is_applicable(FeatureSchema.model_validate(document))


@pytest.mark.parametrize("name", ["pharmacogenetic", "clinical"])
def test_another_studys_cohort_is_refused(make_cohort, name):
    with pytest.raises(DataError, match="need a dose in mg/week, and the features age_decade"):
        EQUATIONS[name](make_cohort(2))
    with pytest.raises(DataError, match="need a dose in mg/week"):
        is_complete(make_cohort(2))
