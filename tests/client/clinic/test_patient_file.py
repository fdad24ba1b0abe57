"""patient.json: one patient in the study's own names, written and read back, or refused."""

import json

import numpy as np
import pytest
from flux_cohorts import flux_cohort, flux_schema
from hypothesis import given
from hypothesis import strategies as st

from fedrx.api import SyntheticSites, load_cohorts
from fedrx.study_templates import TASKS, template
from fedrx_client.clinic.patient_file import read_patient_file, read_patients, write_patient
from fedrx_common.errors import DataError
from fedrx_protocol.study.study import Study


def _study(task):
    return Study.parse(template(task), source=TASKS[task])


def _patients(task, count=6):
    schema = _study(task).feature_schema
    return next(iter(load_cohorts(SyntheticSites(1, (count, count)), schema, seed=4).values()))


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_patient_of_every_kind_of_study_comes_back_as_written(task):
    cohort = _patients(task)
    written = json.loads(json.dumps([write_patient(cohort, i) for i in range(len(cohort))]))
    read = read_patients(written, cohort.schema, source="p.json").cohort
    assert read.patients == cohort.patients
    for name, column in cohort.values.items():
        np.testing.assert_array_equal(read.values[name], column)
    for name, block in cohort.blocks.items():
        np.testing.assert_array_equal(read.blocks[name], block)
    np.testing.assert_array_equal(read.visits, cohort.visits)


def test_one_visit_is_enough_to_forecast_from():
    schema = flux_schema()
    one = write_patient(flux_cohort(schema, 3, seed=2), 0)
    one["visits"] = one["visits"][:1]
    assert len(read_patients(one, schema, source="p.json").cohort) == 1


WARFARIN = write_patient(_patients("dose"), 0)
SCHEMA = _study("dose").feature_schema


def _changed(**features):
    return {**WARFARIN, "features": {**WARFARIN["features"], **features}}


def test_units_are_converted_to_the_studys():
    read = read_patients(
        _changed(height_cm={"value": 70, "unit": "in"}, weight_kg={"value": 150, "unit": "lb"}),
        SCHEMA,
        source="p.json",
    ).cohort
    assert read.values["height_cm"][0] == pytest.approx(177.8)
    assert read.values["weight_kg"][0] == pytest.approx(68.0388555)


@pytest.mark.parametrize(
    ("patient", "told"),
    [
        (_changed(height_cm={"value": 70, "unit": "stone"}), "'stone' cannot be converted; give"),
        (
            _changed(height_cm=7000),
            "cm is outside the study's range of 100 to 230 cm; correct it, or give null",
        ),
        (_changed(cyp2c9="*1/*99"), "'*1/*99' is not known"),
        (_changed(shoe_size=43), "'shoe_size' is not in the study"),
        (_changed(height_cm=[1]), "cannot be used"),
        (_changed(amiodarone="maybe"), "neither yes nor no"),
        ({**WARFARIN, "features": {}}, "feature 'age_decade' is missing; give its value, or null"),
        ({**WARFARIN, "patient": ""}, "'patient' cannot be used"),
        ({**WARFARIN, "visits": [{"time": 0}]}, "the study knows of none"),
        ([], "holds 0 patients"),
        ([WARFARIN, WARFARIN], "is already on"),
        ("p1", "cannot be used"),
        ({**WARFARIN, "more": 1}, "'more' cannot be used"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_patient_and_field(patient, told):
    with pytest.raises(DataError) as error:
        read_patients(patient, SCHEMA, source="p.json")
    assert told in str(error.value)
    assert "p.json" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[1,", '{"a": NaN}', "\x00", '{"a":1,"a":2}'])
def test_what_is_not_json_is_refused(tmp_path, text):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"p\.json"):
        read_patient_file(path, SCHEMA)
    with pytest.raises(DataError, match="no such patient file"):
        read_patient_file(tmp_path / "none.json", SCHEMA)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["value", "unit", "patient", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    names=st.lists(st.sampled_from(sorted(WARFARIN["features"])), min_size=1, max_size=3),
    value=JSON,
    whole=st.booleans(),
)
def test_strange_values_are_read_or_refused_but_never_break_anything(names, value, whole):
    patient = value if whole else _changed(**dict.fromkeys(names, value))
    try:
        cohort = read_patients(patient, SCHEMA, source="p.json").cohort
    except DataError:
        return
    assert len(cohort) == 1
