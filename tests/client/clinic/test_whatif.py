"""What if: the same patient twice, with the support of the question, or one sentence."""

from datetime import date

import numpy as np
import pytest
from flux_cohorts import flux_cohort, flux_schema

from fedrx_client.clinic.patient_file import read_patients
from fedrx_client.clinic.predict import predict
from fedrx_client.clinic.whatif import Dose, NoOverlap, Setting, read_dose, read_setting, what_if
from fedrx_common.errors import DataError, MisuseError
from fedrx_models.card import ModelCard
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.files import load_model, save_model
from fedrx_models.fitting import fit
from fedrx_models.pharmacogenomic.published_model import published_model
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection

SCHEMA = flux_schema()
CARD = ModelCard(study="course", made=date(2026, 1, 2))
VISITS = [
    {"time": 0, "bilirubin": 9, "albumin": 50, "platelets": 50, "drug": 0, "oxygen": False},
    {"time": 1, "bilirubin": 8, "albumin": 51, "platelets": 52, "drug": 10, "oxygen": False},
    {"time": 2, "bilirubin": 7, "albumin": 50, "platelets": 51, "drug": 10, "oxygen": False},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    start = build_model(ModelSection(name="linear_mixed"), SCHEMA, seed=0)
    trained = fit(start, flux_cohort(SCHEMA, 120, seed=1), 0)
    return load_model(
        save_model(tmp_path_factory.mktemp("m") / "m.safetensors", trained, "d", CARD)
    )


def patient(visits=VISITS, age=60.0):
    document = {"patient": "p1", "features": {"age": age}, "visits": visits}
    return read_patients(document, SCHEMA, source="p.json").cohort


def ask(model, *texts, known=None, who=None):
    doses = [read_dose(one, SCHEMA) for one in texts]
    return what_if(model, who or patient(), [], doses, known)


def test_the_answer_is_the_model_s_own_for_another_dose(model):
    found = ask(model, "drug=20")
    assert found.asked == ("drug 20 mg instead of 10 from 2 on",)
    changed = [*VISITS[:2], {**VISITS[2], "drug": 20}]
    assert found.now.points == predict(model, patient())[0].points
    assert found.then.points == predict(model, patient(changed))[0].points
    assert found.then.points[0].value < found.now.points[0].value  # the drug lowers bilirubin
    told = found.to_json(model)
    assert told["support"]["distance"] == 2.0
    assert told["twin"] is None
    assert "trial" in told["learned"]
    assert told["model"]["id"] == model.name


def test_a_feature_and_a_flag_are_asked_together(model):
    settings = [read_setting("age=70", SCHEMA)]
    found = what_if(model, patient(), settings, [read_dose("oxygen=yes", SCHEMA)])
    assert found.asked == ("age 70 years instead of 60", "oxygen yes instead of no from 2 on")
    changed = [*VISITS[:2], {**VISITS[2], "oxygen": True}]
    assert found.then.points == predict(model, patient(changed, 70.0))[0].points


def test_a_former_visit_ends_the_course_and_a_later_time_adds_a_visit(model):
    former = ask(model, "drug=20@1")
    changed = [VISITS[0], {**VISITS[1], "drug": 20}]
    assert former.then.points == predict(model, patient(changed))[0].points
    assert [visit["time"] for visit in former.visits] == [0, 1]
    later = ask(model, "drug=20@4")
    empty = {"time": 4, "drug": 20, "oxygen": False}
    assert later.then.points == predict(model, patient([*VISITS, empty]))[0].points
    assert later.now.points == predict(model, patient([*VISITS, {**empty, "drug": 10}]))[0].points


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (("drug=20@1.5",), "the time of no visit of the latest episode; give one of: 0, 1, 2"),
        (("drug=20@9",), "forecasts up to 6"),
        (("drug=20@1", "oxygen=yes@2"), "begin at one time"),
        (("drug=20", "drug=10"), "asked twice"),
        (("drug",), "give TREATMENT=AMOUNT"),
        (("drug=-3",), "give TREATMENT=AMOUNT"),
        (("drug=nan",), "give TREATMENT=AMOUNT"),
        (("drug=much",), "give TREATMENT=AMOUNT"),
        (("drug=5@soon",), "give TREATMENT=AMOUNT"),
        (("magic=5",), "no treatment 'magic', only: drug, oxygen"),
        (("oxygen=5",), "given or not"),
        ((), "nothing is asked"),
    ],
)
def test_a_question_that_cannot_be_read_is_one_sentence(model, texts, told):
    with pytest.raises(MisuseError) as caught:
        ask(model, *texts)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("age", "give NAME=VALUE"),
        ("age=", "give NAME=VALUE"),
        ("drug=5", "A treatment is asked by --dose"),
        ("weight=5", "no feature 'weight', only: age"),
    ],
)
def test_a_setting_that_cannot_be_read_is_one_sentence(text, told):
    with pytest.raises(MisuseError) as caught:
        read_setting(text, SCHEMA)
    assert told in str(caught.value)


def test_values_outside_the_study_s_range_name_the_field(model):
    with pytest.raises(DataError, match=r"what is asked.*'age'"):
        what_if(model, patient(), [Setting("age", 200.0)], [])
    with pytest.raises(DataError, match="drug"):
        what_if(model, patient(), [], [Dose("drug", 80.0)])


def test_a_question_without_overlap_is_refused_with_its_distance(model):
    with pytest.raises(NoOverlap) as caught:
        ask(model, "drug=45")
    assert "drug 45 mg instead of 10 from 2 on" in str(caught.value)
    assert "4.5 public scales" in str(caught.value)
    known = flux_cohort(SCHEMA, 120, seed=1)
    visits = known.visits.copy()
    visits[:, :, 5] = np.where(np.isnan(visits[:, :, 0]), np.nan, 0.0)
    never = Cohort("a", SCHEMA, known.patients, known.values, np.zeros((120, 0)), visits=visits)
    with pytest.raises(NoOverlap, match="patients in the same state"):
        ask(model, "drug=20", known=never)
    assert ask(model, "drug=0", known=known).support.measure == "cohort"


def test_the_patient_is_no_witness_of_the_own_question(model):
    known = flux_cohort(SCHEMA, 100, seed=1)
    ids = ("p1", *known.patients[1:])
    nothing = np.zeros((100, 0))
    same = Cohort("a", SCHEMA, ids, known.values, nothing, visits=known.visits)
    with pytest.raises(MisuseError, match="99 patients are too few"):
        ask(model, "drug=5", known=same)


def test_one_patient_is_asked_about(model):
    with pytest.raises(MisuseError, match="one patient, but 2"):
        ask(model, "drug=5", who=flux_cohort(SCHEMA, 2))


def test_a_dose_model_is_asked_about_a_genotype(tmp_path):
    from fedrx.api import default_study  # noqa: PLC0415 - this test's alone

    study, _ = default_study()
    equation = published_model("pharmacogenetic", study.feature_schema)
    saved = load_model(save_model(tmp_path / "m.safetensors", equation, study.digest, CARD))
    values = {one.name: None for one in study.feature_schema.features}
    values |= {"age_decade": 6, "height_cm": 170, "weight_kg": 80, "vkorc1": "G/G"}
    values |= {"cyp2c9": "*1/*1", "race": "White", "enzyme_inducer": False, "amiodarone": False}
    document = {"patient": "p1", "features": values}
    one = read_patients(document, study.feature_schema, source="p").cohort
    settings = [read_setting(t, study.feature_schema) for t in ("cyp2c9=*1/*3", "amiodarone=yes")]
    found = what_if(saved, one, settings, [])
    root = 5.6044 - 0.2614 * 6 + 0.0087 * 170 + 0.0128 * 80
    assert found.now.points[0].value == pytest.approx(root**2, rel=1e-3)
    assert found.then.points[0].value == pytest.approx((root - 0.9357 - 0.5503) ** 2, rel=1e-3)
    assert found.asked == ("cyp2c9 *1/*3 instead of *1/*1", "amiodarone yes instead of no")
