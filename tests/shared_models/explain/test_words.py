"""Sentences that a clinician reads, for every kind of outcome and of reason."""

import numpy as np
import pytest
from flux_cohorts import flux_schema
from omics_cohorts import omics_schema

from fedrx_models.cohort.cohort import Cohort
from fedrx_models.explain.explanation import Explanation, Reason, explain, with_unit
from fedrx_models.explain.outcome import Outcome, Question, outcome_of
from fedrx_models.explain.words import bullet_list, in_words, label, main_reasons, sentence
from fedrx_models.registry import build_model

DOSE = Outcome("dose", "continuous", "mg/week")


def reason(name, value, effect, kind="feature", block="", time=None):
    visit = None if time is None else 0
    return Reason(kind, name, block, visit, time, value, effect)


@pytest.mark.parametrize(
    ("what", "outcome", "said"),
    [
        (
            reason("cyp2c9", "*3/*3", -9.04),
            DOSE,
            "CYP2C9 *3/*3 lowers the dose by 9 mg/week",
        ),
        (reason("weight_kg", "120 kg", 4.26), DOSE, "weight 120 kg raises the dose by 4.3 mg/week"),
        (reason("amiodarone", "yes", -12.6), DOSE, "amiodarone lowers the dose by 13 mg/week"),
        (reason("smoker", "no", 0.1), DOSE, "no smoker raises the dose by 0.1 mg/week"),
        (reason("vkorc1", "not known", -1), DOSE, "VKORC1 not known lowers the dose by 1 mg/week"),
        (
            reason("weight_kg", "120 kg", 0.123),
            Outcome("toxic", "binary", ""),
            "weight 120 kg raises the probability of toxic by 12 percentage points",
        ),
        (
            reason("smoker", "yes", -3.04),
            Outcome("relapse", "survival", "months"),
            "smoker shortens the time without relapse by 3 months",
        ),
        (
            reason("smoker", "yes", 0.5),
            Outcome("drug2", "panel", "ln uM", 2),
            "smoker raises the response to drug2 by 0.5 ln uM",
        ),
    ],
)
def test_a_reason_is_one_sentence(study, what, outcome, said):
    assert sentence(what, outcome, study.feature_schema) == said


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (reason("drug", "15 mg", -2.0, "treatment"), "drug 15 mg lowers"),
        (reason("oxygen", "yes", -2.0, "treatment"), "oxygen lowers"),
        (reason("albumin", "32 mg/L", 2.0, "marker"), "albumin 32 mg/L raises"),
        (reason("albumin", "32 mg/L", 2.0, "marker", time=6.0), "albumin 32 mg/L at 6 hours"),
    ],
)
def test_a_course_names_markers_treatments_and_times(what, said):
    schema = flux_schema()
    outcome = outcome_of(schema, Question(marker="platelets", horizon=1.0))
    found = sentence(what, outcome, schema)
    assert found.startswith(said)
    assert "platelets in 1 hour by 2 mg/L" in found


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (reason("TP53", "2.1 z", 1.0, "gene", "expression"), "TP53 expression of 2.1 z raises"),
        (reason("expression", "", 1.0, "block"), "the expression of all genes raises"),
        (
            reason("expression", "not known", 1.0, "missing_block"),
            "expression not measured raises",
        ),
        (reason("response", "", 1.0, "responses"), "the known responses to other drugs raises"),
    ],
)
def test_genes_and_blocks_have_words(what, said):
    assert sentence(what, DOSE, omics_schema()).startswith(said)


@pytest.mark.parametrize(
    ("name", "unit", "said"),
    [
        ("age_decade", "decade", "age"),
        ("cyp2c9", "", "CYP2C9"),
        ("HLA", "", "HLA"),
        ("enzyme_inducer", "", "enzyme inducer"),
        ("dose_mg_per_week", "mg_per_week", "dose"),
        ("inr", "", "inr"),
    ],
)
def test_names_of_a_study_become_words(name, unit, said):
    assert label(name, unit) == said


def test_numbers_keep_three_digits_and_an_unknown_one_says_so():
    assert with_unit(72.345, "kg") == "72.3 kg"
    assert with_unit(7.0, "decade") == "7 decades"
    assert with_unit(1.0, "day") == "1 day"
    assert with_unit(np.nan, "kg") == "not known"


def test_three_main_reasons_of_a_real_study(study, make_cohort):
    """The whole way, on the warfarin study: values in words, effects that a weight gives."""
    schema = study.feature_schema
    by_name = {feature.name: feature for feature in schema.features}
    values = {
        name: np.array([feature.mean])
        if feature.kind == "number"
        else np.array([False])
        if feature.kind == "flag"
        else np.array([0], dtype=np.int16)
        for name, feature in by_name.items()
    }
    values["cyp2c9"] = np.array([by_name["cyp2c9"].values.index("*3/*3")], dtype=np.int16)
    values["amiodarone"] = np.array([True])
    patient = Cohort("a", schema, ("p1",), values, np.array([20.0]))
    model = build_model(study.model, schema, seed=0)
    columns = model.explainable_inputs
    level = by_name["cyp2c9"].values.index("*3/*3") - 1
    model.network.weight.data[0, columns["cyp2c9"][level]] = -1.0
    model.network.weight.data[0, columns["amiodarone"][0]] = -0.3
    (found,) = explain(model, patient)
    first, second = main_reasons(found, schema)
    assert first.startswith("CYP2C9 *3/*3 lowers the dose by 1")
    assert second.startswith("amiodarone lowers the dose by ")
    told = in_words(found, schema)
    assert told.startswith("The model predicts 13 mg/week as the dose, against 29 mg/week")
    assert told.endswith(".")
    assert bullet_list([first]).startswith("- CYP2C9")


def test_effects_that_no_one_would_notice_are_left_out(study):
    small = Explanation("p", "linear", "exact", DOSE, 30.0, 30.1, (reason("smoker", "yes", 0.1),))
    assert main_reasons(small, study.feature_schema) == ()
    assert "No single reason stands out." in in_words(small, study.feature_schema)
