"""`fedrx predict`: from a patient's file to a value that a person can check, or one sentence."""

import csv
import json

import pytest
from bedside import PATIENT

ASK = ("predict", "iwpc.safetensors", "--patient", "p.json")


@pytest.fixture
def patient(place, fedrx):
    made = fedrx("model", "published", "pharmacogenetic", "--output", "iwpc.safetensors")
    assert made.code == 0, made.err
    (place / "p.json").write_text(json.dumps(PATIENT))
    return place / "p.json"


@pytest.mark.usefixtures("patient")
def test_json_has_value_interval_what_was_filled_and_the_model(fedrx):
    ran = fedrx(*ASK, "--json")
    assert ran.code == 0, ran.err
    (found,) = ran.json["predictions"]
    root = 5.6044 - 0.2614 * 6 + 0.0087 * 66 * 2.54 + 0.0128 * 80 - 0.8677 - 0.9357
    assert found["value"] == pytest.approx(root**2, rel=1e-4)
    assert found["unit"] == "mg/week"
    assert found["low"] < found["value"] < found["high"]
    assert [one["feature"] for one in found["filled"]] == ["asian_population"]
    assert found["model"]["id"].startswith("warfarin_dose-")
    assert "medical device" in found["model"]["intended_use"]


@pytest.mark.usefixtures("patient")
def test_a_person_reads_the_same(fedrx):
    ran = fedrx(*ASK)
    words = " ".join(ran.out.split())
    assert ran.code == 0, ran.err
    assert "Patient p1" in words
    assert "mg/week" in words
    assert "Missing: asian_population" in words
    assert "no medical device" in words


@pytest.mark.usefixtures("patient")
def test_a_table_of_patients_becomes_a_table_of_predictions(fedrx, place, patient):
    second = {**PATIENT, "patient": "p2"}
    patient.write_text(json.dumps([PATIENT, second]))
    ran = fedrx(*ASK, "--output", "out.csv")
    assert ran.code == 0, ran.err
    rows = list(csv.DictReader((place / "out.csv").open()))
    assert [row["patient"] for row in rows] == ["p1", "p2"]
    assert float(rows[0]["value"]) == float(rows[1]["value"])
    again = fedrx(*ASK, "--output", "out.csv")
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "already there" in again.err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"height_cm": {"value": 66, "unit": "parsec"}}, "'parsec' cannot be converted"),
        ({"height_cm": 999}, "outside the study's range"),
        ({"vkorc1": "C/T"}, "'C/T' is not known"),
    ],
)
def test_a_patient_that_cannot_be_read_is_one_sentence(fedrx, patient, change, told):
    patient.write_text(json.dumps({**PATIENT, "features": {**PATIENT["features"], **change}}))
    ran = fedrx(*ASK)
    assert (ran.code, ran.err.count("\n"), ran.out) == (2, 1, "")
    assert told in ran.err


@pytest.mark.usefixtures("patient")
def test_models_that_may_not_be_used_are_refused(fedrx, place):
    small = fedrx(*ASK, "--study", "study.toml")
    assert small.code == 2
    assert "is no model of study.toml" in small.err
    shown = fedrx("model", "card", "iwpc.safetensors", "--expires", "2026-01-01")
    assert shown.code == 0, shown.err
    expired = fedrx(*ASK)
    assert (expired.code, expired.out) == (2, "")
    assert "expired on 2026-01-01" in expired.err
    assert fedrx("model", "card", "iwpc.safetensors", "--withdraw", "wrong unit").code == 0
    withdrawn = fedrx(*ASK, "--output", "out.csv")
    assert withdrawn.code == 2
    assert "wrong unit" in withdrawn.err
    assert not (place / "out.csv").exists()


@pytest.mark.usefixtures("patient")
def test_a_source_without_a_mapping_and_strange_cards_are_refused(fedrx, place):
    (place / "p.csv").write_text("id,dose\np1,3\n")
    ran = fedrx("predict", "iwpc.safetensors", "--patient", "p.csv")
    assert (ran.code, "--mapping" in ran.err) == (2, True)
    assert fedrx("model", "card", "iwpc.safetensors", "--expires", "tomorrow").code == 2
    assert fedrx("model", "card", "iwpc.safetensors", "--withdraw", " ").code == 2
    assert fedrx("model", "published", "magic", "--output", "m.safetensors").code == 2
    assert fedrx("model", "published", "clinical", "--output", "iwpc.safetensors").code == 2


def test_a_simulation_ends_by_naming_the_command_for_one_of_its_patients(fedrx, place):
    ran = fedrx("simulate", "--sites", "4", "--patients", "40..50", "--rounds", "2", "--seed", "1",
                "--no-baselines", "--output", "run")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "fedrx predict run --patient run/patient.json" in " ".join(ran.out.split())
    found = fedrx("predict", "run", "--patient", "run/patient.json", "--json")
    assert found.code == 0, found.err
    assert found.json["predictions"][0]["model"]["epsilon"] > 0


@pytest.mark.usefixtures("patient")
def test_the_guideline_is_beside_the_answer(fedrx):
    ran = fedrx(*ASK, "--guideline", "warfarin", "--json")
    assert ran.code == 0, ran.err
    (found,) = ran.json["predictions"]
    assert found["guideline"]["disagrees"] == ""
    assert "IWPC's pharmacogenetic algorithm" in " ".join(found["guideline"]["sentences"])
    shown = fedrx(*ASK, "--guideline", "warfarin")
    assert "CC0 1.0" in shown.out


def test_a_fixed_dose_disagrees_first(fedrx, patient):
    assert patient.is_file()
    assert fedrx("model", "published", "fixed", "--output", "fixed.safetensors").code == 0
    ran = fedrx("predict", "fixed.safetensors", *ASK[2:], "--guideline", "warfarin")
    assert ran.code == 0, ran.err
    assert ran.out.lstrip().startswith("Differs from the guideline: The model's 35 mg/week")
    wide = fedrx("predict", "fixed.safetensors", *ASK[2:], "--guideline", "warfarin",
                 "--disagreement", "5")  # fmt: skip
    assert "Differs" not in wide.out


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--guideline", "aspirin"), "there is no guideline 'aspirin'"),
        (("--guideline", "clopidogrel"), "needs CYP2C19"),
        (("--disagreement", "0.2"), "belongs to --guideline"),
        (("--guideline", "warfarin", "--disagreement", "-1"), "disagreement of -1.0"),
    ],
)
def test_a_guideline_that_cannot_be_given_is_refused(fedrx, more, told):
    ran = fedrx(*ASK, *more)
    assert ran.code == 2
    assert told in ran.err
