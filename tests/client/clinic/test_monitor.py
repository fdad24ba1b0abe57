"""Stay or pivot for one patient: found, in words, with what the promise rests on."""

import json
from datetime import date

import numpy as np
import pytest
from flux_cohorts import flux_cohort, flux_schema

from fedrx_client.clinic.monitor import (
    MonitorCalibration,
    Threshold,
    calibrate,
    read_threshold,
    watch,
)
from fedrx_common.errors import MisuseError
from fedrx_models.card import ModelCard, ModelUnusable
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.visits import EPISODE, FIRST_VALUE, TIME
from fedrx_models.files import change_card, load_model, save_model
from fedrx_models.fitting import fit
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection

SCHEMA = flux_schema(most=30)
CARD = ModelCard(study="course", made=date(2026, 1, 2))
RATE = 1.5  # a patient-month is 730 visits of this study, so few alarms in a course


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    start = build_model(ModelSection(name="linear_mixed"), SCHEMA, seed=0)
    trained = fit(start, flux_cohort(SCHEMA, 150, seed=1), 0)
    path = tmp_path_factory.mktemp("m") / "m.safetensors"
    return load_model(save_model(path, trained, "d", CARD))


@pytest.fixture(scope="module")
def kept(model):
    return calibrate(model, flux_cohort(SCHEMA, 300, seed=2))


def course(drift=0.0, seed=3):
    """One patient with one long episode, whose albumin drifts from the ninth visit on."""
    cohort = flux_cohort(SCHEMA, 60, seed=seed, missingness=0.0)
    valid = ~np.isnan(cohort.visits[:, :, TIME])
    single = np.nansum(cohort.visits[:, :, EPISODE], axis=1) == 0
    i = int(np.argmax(valid.sum(axis=1) * single))
    visits = cohort.visits[i : i + 1].copy()
    away = drift * np.maximum(np.arange(visits.shape[1]) - 8, 0)
    visits[0, :, FIRST_VALUE + 1] = np.clip(visits[0, :, FIRST_VALUE + 1] + away, 1, 99)
    values = {name: column[i : i + 1] for name, column in cohort.values.items()}
    return Cohort("here", SCHEMA, ("p1",), values, np.zeros((1, 0)), visits=visits)


def test_a_drift_is_found_in_the_marker_that_drifts_and_told_in_words(model, kept):
    found = watch(model, course(drift=3.0), (), kept, RATE)
    told = {one.marker: one for one in found.markers}
    assert found.decision == "pivot"
    assert told["albumin"].assessment.decision == "pivot"
    assert told["albumin"].assessment.distance > 0
    assert told["albumin"].alarmed is not None
    assert told["platelets"].assessment.evidence < told["albumin"].assessment.evidence
    sentence = told["albumin"].sentence
    for part in ("pivot", "outside the band", "since hour", "half-widths above", "alarm"):
        assert part in sentence
    assert found.patients == round(kept.reached.patients)
    assert "Calibrated on" in found.basis


def test_a_course_as_forecast_stays(model, kept):
    assert watch(model, course(), (), kept, RATE).decision == "stay"
    plain = watch(model, course(), (), None, RATE)
    assert plain.decision == "stay"
    assert plain.patients is None
    assert "model's own band" in plain.basis


def test_no_more_false_alarms_than_asked_for(model, kept):
    quiet = flux_cohort(SCHEMA, 200, seed=9)
    alarms, months = 0, 0.0
    for i in range(200):
        one = quiet.select([i])
        found = watch(model, one, (), kept, RATE)
        alarms += any(marker.alarmed is not None for marker in found.markers)
        rows = one.visits[0][~np.isnan(one.visits[0, :, TIME])]
        last = rows[rows[:, EPISODE] == rows[-1, EPISODE], TIME]
        months += (last[-1] - last[0]) / 730.5
    assert alarms <= RATE * months + 3 * np.sqrt(RATE * months)


def test_too_few_patients_for_a_rate_call_no_alarm_and_say_so(model, kept):
    found = watch(model, course(drift=3.0), (), kept, 1e-3)
    assert found.decision == "stay"
    assert "too few to promise 0.001" in found.basis
    assert found.to_json(model)["markers"][0]["level"] is None


def test_an_early_warning_comes_before_the_threshold(model):
    one = course()
    newest = one.visits[0][~np.isnan(one.visits[0, :, TIME])][-1, FIRST_VALUE + 1]
    near, far = Threshold("albumin", newest + 0.01), Threshold("albumin", 98.0)
    found = watch(model, one, (far,))
    assert found.warnings == ()
    assert "no early warning; chance to be above 98 mg/L" in found.crossed[0]
    below = watch(model, one, (Threshold("albumin", 2.0),))
    assert "below 2 mg/L" in below.crossed[0]
    chance = watch(model, one, (near,))
    if chance.warnings:
        assert chance.warnings[0].probability >= 0.5
        assert "EARLY WARNING" in chance.crossed[0]
    visits = one.visits.copy()
    visits[0, :, FIRST_VALUE + 1] = np.nan
    never = Cohort("here", SCHEMA, ("p1",), one.values, np.zeros((1, 0)), visits=visits)
    assert "never measured" in watch(model, never, (far,)).crossed[0]


def test_a_calibration_is_kept_and_read_back_for_its_model_only(model, kept, tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(kept.to_json()))
    read = MonitorCalibration.load(path, model)
    assert read.months == kept.months
    assert watch(model, course(3.0), (), read, RATE) == watch(model, course(3.0), (), kept, RATE)
    document = {**kept.to_json(), "model": "another"}
    for text, told in (
        (json.dumps(document), "of another model"),
        (json.dumps({**kept.to_json(), "scores": {}}), "cannot be read"),
        ("[]", "is no calibration"),
        ("{", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(MisuseError, match=told):
            MonitorCalibration.load(path, model)
    with pytest.raises(MisuseError, match="no such calibration"):
        MonitorCalibration.load(tmp_path / "none.json", model)


def test_the_json_names_the_model_and_who_decides(model, kept):
    told = watch(model, course(3.0), (Threshold("albumin", 98.0),), kept, RATE).to_json(model)
    json.dumps(told)
    assert told["decision"] == "pivot"
    assert told["false_alarms"] == RATE
    assert "person decides" in told["model"]["decides"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("albumin", "give MARKER=VALUE"),
        ("albumin=high", "give MARKER=VALUE"),
        ("albumin=inf", "give MARKER=VALUE"),
        ("inr=4", "forecasts no 'inr', only: bilirubin"),
        ("albumin=400", "outside what is plausible, 1 to 99 mg/L"),
    ],
)
def test_a_threshold_that_cannot_be_read_is_one_sentence(text, told):
    with pytest.raises(MisuseError) as caught:
        read_threshold(text, SCHEMA)
    assert told in str(caught.value)


def test_what_cannot_be_followed_is_refused(model):
    with pytest.raises(MisuseError, match="one patient, but 2"):
        watch(model, flux_cohort(SCHEMA, 2))
    with pytest.raises(MisuseError, match="rate of 0"):
        watch(model, course(), (), None, 0.0)
    with pytest.raises(MisuseError, match="at least 30"):
        calibrate(model, flux_cohort(SCHEMA, 10))
    change_card(model.path, withdrawn="wrong unit")
    gone = load_model(model.path)
    change_card(model.path, withdrawn="")
    with pytest.raises(ModelUnusable):
        watch(gone, course())
