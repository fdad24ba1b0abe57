"""After go-live: predictions kept under pseudonyms, compared with what happened, with an alarm."""

from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pytest
from omics_cohorts import omics_cohort, omics_schema

from fedrx_client.clinic.follow_up import (
    evidence_against,
    follow_up,
    kept_predictions,
    require_followed,
)
from fedrx_client.clinic.follow_up_page import follow_up_page
from fedrx_client.clinic.predict import predict
from fedrx_client.records.follow_up import FOLLOW_UP, FollowUpStore, FollowUpUnusable
from fedrx_common.errors import MisuseError
from fedrx_models.card import ModelCard
from fedrx_models.files import ModelFile
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection

KEY = b"k" * 32
START = int(datetime(2026, 1, 15, tzinfo=UTC).timestamp())
MONTH = 30 * 86_400


def predicted(store, kind, n=60, outcome=None):
    """Serve n patients over three months; their outcomes come back."""
    schema = omics_schema(kind)
    model = build_model(ModelSection(name="linear"), schema, seed=1)
    file = ModelFile(model, "ab" * 32, ModelCard(study="s", made=date(2026, 1, 1)), "cd" * 32)
    cohort = omics_cohort(schema, n)
    found = predict(file, cohort)
    for i, one in enumerate(found):
        store.add(kept_predictions(file, one, KEY, START + (3 * i // n) * MONTH + i))
    values = np.array([one.points[0].value for one in found])
    if outcome is not None:
        cohort = replace(cohort, target=outcome(np.random.default_rng(2), values, found))
    return file, cohort


def inside(rng, values, found):
    reach = np.array([one.points[0].high - one.points[0].value for one in found])
    return values + reach * rng.normal(0, 1 / 1.645, len(values))


def test_promises_that_hold_ring_no_alarm(tmp_path):
    store = FollowUpStore(tmp_path)
    file, cohort = predicted(store, "continuous", outcome=inside)
    (found,) = follow_up(file, store.all(), cohort, KEY)
    assert (found.kept, found.patients) == (60, 60)
    assert found.level == pytest.approx(0.9)
    assert found.share == pytest.approx(0.9, abs=0.08)
    assert found.low < found.share < found.high
    assert found.alarm == ""
    assert [month.month for month in found.months] == ["2026-01", "2026-02", "2026-03"]
    assert sum(month.patients for month in found.months) == 60
    assert sum(n for _, _, n in found.calibration) == 60


def test_coverage_that_falls_rings_one(tmp_path):
    store = FollowUpStore(tmp_path)
    shifted = lambda rng, values, found: inside(rng, values, found) + 4.0  # noqa: E731
    file, cohort = predicted(store, "continuous", outcome=shifted)
    (found,) = follow_up(file, store.all(), cohort, KEY)
    assert found.evidence >= 20
    assert "more than chance" in found.alarm
    assert found.error == pytest.approx(4.0, abs=0.7)
    page = follow_up_page("<b>charite", [found])
    assert "Alarm" in page
    assert "&lt;b&gt;charite" in page
    assert page.count("<svg") == 2
    assert "<script" not in page


def test_a_probability_is_judged_by_how_often_it_happens(tmp_path):
    store = FollowUpStore(tmp_path)
    fair = lambda rng, values, _: (rng.random(len(values)) < values).astype(float)  # noqa: E731
    file, cohort = predicted(store, "binary", outcome=fair)
    (found,) = follow_up(file, store.all(), cohort, KEY)
    assert (found.kind, found.alarm) == ("probability", "")
    always = replace(cohort, target=np.ones(60))
    (wrong,) = follow_up(file, store.all(), always, KEY)
    assert "more than chance" in wrong.alarm


def test_the_newest_prediction_of_a_patient_counts_and_unknown_outcomes_wait(tmp_path):
    store = FollowUpStore(tmp_path)
    file, cohort = predicted(store, "continuous", n=10, outcome=inside)
    store.add([replace(store.all()[0], value=40.0, low=39.0, high=41.0, time=START + 5 * MONTH)])
    target = cohort.target.copy()
    target[0] = 40.0
    back = replace(cohort, target=target).select([i != 1 for i in range(10)])
    (found,) = follow_up(file, store.all(), back, KEY)
    assert (found.kept, found.patients) == (10, 9)
    assert found.months[-1].month == "2026-06"
    assert found.months[-1].share == 1.0
    (other,) = follow_up(file, store.all(), cohort, b"x" * 32)
    assert (other.kept, other.patients, other.share) == (10, 0, None)
    assert "No outcome has come back" in follow_up_page("a", [other])


def test_false_alarms_are_rarer_than_asked_for_however_often_one_looks():
    rng = np.random.default_rng(5)
    promised = np.full(300, 0.1)
    rung = [
        evidence_against(promised, (rng.random(300) < 0.1).astype(float), (0.5, 1.0, 1.5)).max()
        >= 20
        for _ in range(1000)
    ]
    assert np.mean(rung) <= 0.05
    found = [
        evidence_against(promised, (rng.random(300) < 0.25).astype(float), (0.5, 1.0, 1.5)).max()
        >= 20
        for _ in range(100)
    ]
    assert np.mean(found) >= 0.95


def test_the_file_holds_pseudonyms_only_and_forgets(tmp_path):
    store = FollowUpStore(tmp_path)
    file, cohort = predicted(store, "continuous", n=10)
    path = tmp_path / FOLLOW_UP
    assert path.stat().st_mode & 0o077 == 0
    text = path.read_bytes()
    assert all(patient.encode() not in text for patient in cohort.patients if len(patient) > 2)
    pseudonyms = {one.patient for one in store.all()}
    assert pseudonyms.isdisjoint(cohort.patients)
    study = file.study_digest
    assert store.counts() == {study: 10}
    assert store.counts(before=START + MONTH) == {study: 4}
    store.remove(study, before=START + MONTH)
    assert store.counts() == {study: 6}
    gone = next(iter(pseudonyms - {one.patient for one in store.all()}))
    assert gone.encode() not in path.read_bytes()
    store.remove(study)
    assert store.all() == ()


def test_what_cannot_be_followed_is_one_sentence(tmp_path):
    with pytest.raises(MisuseError, match="survival outcome is not followed up"):
        require_followed(omics_schema("survival"))
    store = FollowUpStore(tmp_path)
    file, cohort = predicted(store, "continuous", n=5)
    with pytest.raises(MisuseError, match="false-alarm rate"):
        follow_up(file, store.all(), cohort, KEY, 0.0)
    (tmp_path / FOLLOW_UP).write_bytes(b"no database, but long enough to be looked at" * 30)
    with pytest.raises(FollowUpUnusable, match="cannot be read or written"):
        store.all()
