"""`fedrx whatif` and `fedrx monitor`: from files to an answer, or one sentence and exit code 2."""

import json
import struct
import xml.etree.ElementTree as ET
from datetime import date

import pytest

from fedrx.study_templates import TASKS, template
from fedrx_models.card import ModelCard
from fedrx_models.files import save_model
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import Study

PATIENT = {
    "patient": "p1",
    "features": {"age": 66},
    "visits": [
        {"time": 0, "inr": 1.0, "albumin": 3.9, "crp": 5, "warfarin": 5},
        {"time": 1, "inr": 1.1, "albumin": 3.9, "crp": 6, "warfarin": 5},
        {"time": 3, "inr": 1.6, "albumin": 3.8, "crp": 4, "warfarin": 5},
        {"time": 4, "inr": 1.9, "warfarin": 5},
    ],
}
WHATIF = ("whatif", "inr.safetensors", "--patient", "p.json")
MONITOR = ("monitor", "inr.safetensors", "--patient", "p.json")


@pytest.fixture
def inr(place):
    """A model of the INR study, as it starts, and a patient."""
    study = Study.parse(template("anticoagulation"), source=TASKS["anticoagulation"])
    model = build_model(study.model, study.feature_schema, seed=0)
    card = ModelCard(study=study.name, made=date(2026, 1, 2))
    save_model(place / "inr.safetensors", model, study.digest, card)
    (place / "p.json").write_text(json.dumps(PATIENT))
    return study


@pytest.mark.usefixtures("inr")
def test_the_twin_stands_beside_the_model_in_json_and_words(fedrx):
    ran = fedrx(*WHATIF, "--dose", "warfarin=10", "--json")
    assert ran.code == 0, ran.err
    twin = ran.json["twin"]
    assert [one["at"] for one in twin["now"]] == [1.0, 3.0, 7.0]
    assert twin["then"][-1]["value"] > twin["now"][-1]["value"]
    assert len(ran.json["then"]["points"]) == 9
    words = " ".join(fedrx(*WHATIF, "--dose", "warfarin=10").out.split())
    for part in (
        "Asked: warfarin 10 mg/day instead of 5 from 4 on.",
        "Hamberg",
        "Support: 'warfarin' is 2.0 public scales",
        "CYP2C9 genotype is not known",
        "not the effect seen in a trial",
        "no medical device",
    ):
        assert part in words


@pytest.mark.usefixtures("inr")
def test_a_figure_is_drawn_as_png_and_svg(fedrx, place):
    for name in ("a.png", "a.svg"):
        ran = fedrx(*WHATIF, "--dose", "warfarin=10", "--figure", name)
        assert ran.code == 0, ran.err
    png = (place / "a.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert png.startswith(b"\x89PNG")
    assert min(width, height) > 500
    text = " ".join(ET.parse(place / "a.svg").getroot().itertext())
    for part in ("what if, published", "inr (ratio)", "albumin (g/dL)", "time (days)", "decides"):
        assert part in text
    again = fedrx(*WHATIF, "--dose", "warfarin=10", "--figure", "a.png")
    assert (again.code, "already there" in again.err) == (2, True)
    assert fedrx(*WHATIF, "--dose", "warfarin=10", "--figure", "a.pdf").code == 2


@pytest.mark.usefixtures("inr")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--dose", "warfarin=25"), "the data cannot support an answer"),
        (("--dose", "heparin=5"), "no treatment 'heparin'"),
        (("--set", "age=300"), "outside the study's range"),
        ((), "nothing is asked"),
        (("--dose", "warfarin=5", "--data", "p.csv"), "--mapping"),
        (("--dose", "warfarin=5", "--data", "p.json"), "at least 100"),
    ],
)
def test_a_question_that_has_no_answer_is_one_sentence(fedrx, place, options, told):
    ran = fedrx(*WHATIF, *options, "--figure", "new.png")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert told in ran.err
    assert not (place / "new.png").exists()


@pytest.mark.usefixtures("inr")
def test_a_monitor_says_stay_and_what_it_rests_on(fedrx):
    ran = fedrx(*MONITOR, "--threshold", "inr=4", "--false-alarms", "0.1", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["decision"] == "stay"
    assert ran.json["false_alarms"] == 0.1
    assert ran.json["calibrated_on"] is None
    words = " ".join(fedrx(*MONITOR, "--threshold", "inr=4").out.split())
    for part in ("Patient p1: STAY", "inr: stay.", "chance to be above 4 ratio", "Not calibrated"):
        assert part in words


def test_a_site_s_cohort_calibrates_and_is_kept(fedrx, place, inr):
    from fedrx.api import SyntheticSites, load_cohorts  # noqa: PLC0415 - this test's alone
    from fedrx_client.clinic.patient_file import write_patient  # noqa: PLC0415 - likewise

    sites = load_cohorts(SyntheticSites(1, (60, 60)), inr.feature_schema, seed=4)
    (cohort,) = sites.values()
    (place / "ours.json").write_text(json.dumps([write_patient(cohort, i) for i in range(60)]))
    keep = ("--calibration", "kept.json", "--false-alarms", "0.5")
    made = fedrx(*MONITOR, "--calibrate", "ours.json", *keep, "--json")
    assert made.code == 0, made.err
    assert made.json["calibrated_on"] > 30
    read = fedrx(*MONITOR, *keep, "--json")
    assert read.json["markers"] == made.json["markers"]
    twice = fedrx(*MONITOR, "--calibrate", "ours.json", *keep)
    assert (twice.code, "already there" in twice.err) == (2, True)


@pytest.mark.usefixtures("inr")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--threshold", "inr=400"), "outside what is plausible"),
        (("--threshold", "4"), "give MARKER=VALUE"),
        (("--false-alarms", "-1"), "impossible"),
        (("--calibration", "none.json"), "no such calibration"),
        (("--calibrate", "p.json"), "too few to calibrate"),
        (("--study", "study.toml"), "is no model of study.toml"),
    ],
)
def test_a_monitor_that_cannot_watch_is_one_sentence(fedrx, options, told):
    ran = fedrx(*MONITOR, *options)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert told in ran.err


def test_a_dose_has_no_course_to_follow(fedrx, place):
    made = fedrx("model", "published", "pharmacogenetic", "--output", "iwpc.safetensors")
    assert made.code == 0, made.err
    (place / "p.json").write_text(json.dumps(PATIENT))
    ran = fedrx("monitor", "iwpc.safetensors", "--patient", "p.json")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
