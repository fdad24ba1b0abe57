"""`fedrx site follow-up`: what came back, a page, an alarm as exit code 1, and forgetting."""

from dataclasses import replace
from datetime import date

import pytest

from fedrx_client.clinic.follow_up import kept_predictions
from fedrx_client.clinic.predict import predict
from fedrx_client.data.load import load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_client.participation.settings import pseudonym_key
from fedrx_client.records.audit_log import AuditLog
from fedrx_client.records.follow_up import FollowUpStore
from fedrx_models.card import ModelCard
from fedrx_models.files import load_model, save_model
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import Study

ASK = ("site", "follow-up", "a", "--source", "patients.csv", "--mapping", "mapping.toml")
SERVICES = """
[[service]]
id = "d"
hook = "patient-view"
model = "m.safetensors"
mapping = "m.toml"
"""


@pytest.fixture
def site(fedrx, place):
    """A site that serves a model; `kept(shift)` keeps its predictions, moved by so much."""
    made = fedrx("site", "init", "a", "--name", "A", "--site", "a")
    assert made.code == 0, made.err
    study = Study.load(place / "study.toml")
    model = build_model(study.model, study.feature_schema, seed=1)
    card = ModelCard(study=study.name, made=date(2026, 1, 1))
    file = load_model(save_model(place / "a" / "m.safetensors", model, study.digest, card))
    (place / "a" / "services.toml").write_text(SERVICES)
    mapping = TableMapping.load(place / "mapping.toml")
    cohort = load_cohort("patients.csv", mapping, study.feature_schema, site="a").cohort

    def kept(shift):
        key = pseudonym_key(place / "a")
        for one in predict(file, cohort):
            rows = kept_predictions(file, one, key, 1_700_000_000)
            moved = [replace(row, low=row.low + shift, high=row.high + shift) for row in rows]
            FollowUpStore(place / "a").add(moved)
        return study

    return kept


def test_intervals_that_hold(fedrx, site, place):
    site(0.0)
    ran = fedrx(*ASK, "--page", "after.html")
    assert ran.code == 0, ran.err
    assert "45 of 45 predicted patients have an outcome" in " ".join(ran.out.split())
    page = (place / "after.html").read_text()
    assert "2023-11" in page
    assert "For this site alone" in page
    told = fedrx(*ASK, "--json")
    (found,) = told.json["followed"]
    assert found["share"] >= 0.9
    assert found["alarm"] == ""
    assert "person decides" in found["decides"]
    again = fedrx(*ASK, "--page", "after.html")
    assert again.code == 2
    assert "already there" in again.err


def test_an_alarm_is_exit_code_1_and_a_sentence(fedrx, site):
    site(80.0)
    ran = fedrx(*ASK)
    assert ran.code == 1
    assert ran.err.startswith("Alarm: dose: 0 % of 45 patients")


def test_forgetting_removes_them_and_the_log_says_so(fedrx, site, place):
    study = site(0.0)
    ran = fedrx("site", "forget", "a", "--older-than", "30", "--by", "DPO", "--yes")
    assert ran.code == 0, ran.err
    assert "45 kept predictions" in ran.err + ran.out
    assert FollowUpStore(place / "a").all() == ()
    last = AuditLog(place / "a" / "audit.log").lines()[-1].entry
    assert (last.kind, last.study) == ("retention", study.digest)
    assert "45 kept predictions removed by DPO" in last.reason
    site(0.0)
    old = fedrx("site", "forget", "a", "--older-than", "36500", "--yes")
    assert "Nothing is kept" in old.err + old.out
    assert len(FollowUpStore(place / "a").all()) == 45


def test_what_cannot_be_compared_is_one_sentence(fedrx, site, place):
    nothing = fedrx(*ASK)
    assert nothing.code == 2
    assert "follow_up = true" in nothing.err
    site(0.0)
    assert fedrx(*ASK, "--false-alarm", "2").code == 2
    (place / "a" / "services.toml").unlink()
    gone = fedrx(*ASK)
    assert gone.code == 2
    assert "give --model" in gone.err
    assert fedrx(*ASK, "--model", "a/m.safetensors").code == 0
