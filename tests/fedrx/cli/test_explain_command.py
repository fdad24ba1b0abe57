"""`fedrx explain`: reasons in words, numbers and pictures, for a patient and for a cohort."""

import json

import numpy as np
import pytest
from bedside import PATIENT
from flux_cohorts import flux_cohort, flux_schema
from omics_cohorts import omics_cohort, omics_schema

from fedrx_client.clinic.patient_file import write_patient
from fedrx_models.contract import get_vector, set_vector
from fedrx_models.files import save_model
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection

ASK = ("explain", "iwpc.safetensors", "--patient", "p.json")


@pytest.fixture
def warfarin(place, fedrx):
    made = fedrx("model", "published", "pharmacogenetic", "--output", "iwpc.safetensors")
    assert made.code == 0, made.err
    (place / "p.json").write_text(json.dumps(PATIENT))
    return place


def test_a_clinician_reads_words_and_the_numbers_add_up(fedrx, warfarin):
    ran = fedrx(*ASK)
    words = " ".join(ran.out.split())
    assert ran.code == 0, ran.err
    assert "CYP2C9 *1/*3 lowers the dose by" in words
    assert "no medical device" in words
    told = fedrx(*ASK, "--json", "--figure", "why.svg")
    assert told.code == 0, told.err
    (found,) = told.json["explanations"]
    added = sum(one["effect"] for one in found["reasons"])
    assert added == pytest.approx(found["prediction"] - found["baseline"], abs=1e-3)
    assert found["model"]["id"].startswith("warfarin_dose-")
    assert b"CYP2C9" in (warfarin / "why.svg").read_bytes()


@pytest.mark.parametrize("method", ["exact", "kernel_shap", "lime", "integrated_gradients"])
def test_every_method_adds_up(fedrx, warfarin, method):
    assert warfarin.is_dir()
    ran = fedrx(*ASK, "--json", "--method", method)
    assert ran.code == 0, ran.err
    (found,) = ran.json["explanations"]
    assert found["method"] == method
    added = sum(one["effect"] for one in found["reasons"])
    assert added == pytest.approx(found["prediction"] - found["baseline"], abs=1e-3)


def test_a_cohorts_effects_stay_at_the_site(fedrx, warfarin):
    second = {**PATIENT, "patient": "p2", "features": {**PATIENT["features"], "vkorc1": "A/A"}}
    (warfarin / "p.json").write_text(json.dumps([PATIENT, second]))
    ran = fedrx(*ASK, "--cohort", "--figure", "all.png")
    assert ran.code == 0, ran.err
    assert "they stay at this site" in " ".join(ran.out.split())
    assert (warfarin / "all.png").read_bytes().startswith(b"\x89PNG")
    told = fedrx(*ASK, "--cohort", "--json")
    assert told.json["cohort"]["patients"] == 2
    assert "stay at this site" in told.json["stays"]
    refused = fedrx(*ASK, "--figure", "one.svg")
    assert refused.code == 2
    assert "a figure shows one" in refused.err
    assert not (warfarin / "one.svg").exists()


def shaken(place, name, cohort, **parameters):
    section = ModelSection.model_validate({"name": name, **parameters})
    model = build_model(section, cohort.schema, seed=1)
    vector = get_vector(model)
    set_vector(model, vector + np.random.default_rng(0).normal(0, 0.05, vector.shape))
    save_model(place / "m.safetensors", model, "ab" * 32)
    (place / "c.json").write_text(json.dumps(write_patient(cohort, 0)))


def test_a_transformer_says_what_it_read(fedrx, place):
    shaken(place, "transformer", flux_cohort(flux_schema(), 3), size=8, heads=2, feed_forward=8)
    ask = ("explain", "m.safetensors", "--patient", "c.json", "--marker", "platelets")
    ran = fedrx(*ask, "--json")
    assert ran.code == 0, ran.err
    (found,) = ran.json["explanations"]
    assert found["outcome"]["name"] == "platelets"
    assert sum(one["share"] for one in found["attention"]) <= 1 + 1e-5
    assert found["attention"][0]["of"].startswith("visit ")
    assert "Read most" in fedrx(*ask).out


@pytest.mark.parametrize(
    ("name", "cohort"),
    [
        ("pathway_gnn", lambda: flux_cohort(flux_schema(), 3)),
        ("drug_gene_gnn", lambda: omics_cohort(omics_schema("panel"), 3)),
    ],
)
def test_a_graph_model_says_what_its_edges_carry(fedrx, place, name, cohort):
    shaken(place, name, cohort())
    ran = fedrx("explain", "m.safetensors", "--patient", "c.json", "--json")
    assert ran.code == 0, ran.err
    (found,) = ran.json["explanations"]
    assert all(" – " in one["edge"] for one in found["edges"])
    shown = fedrx("explain", "m.safetensors", "--patient", "c.json")
    assert ("fedrx model ripple" in shown.out) == (name == "pathway_gnn")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--method", "guess"), "'guess' is not a method"),
        (("--marker", "inr"), "has no marker"),
        (("--figure", "why.pdf"), "ends in .png or .svg"),
        (("--figure", "p.svg"), "already there"),
        (("--figure", "nowhere/p.svg"), "its folder is not there"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(fedrx, warfarin, more, told):
    (warfarin / "p.svg").write_text("mine")
    ran = fedrx(*ASK, *more)
    assert ran.code == 2
    assert told in ran.err
    assert (warfarin / "p.svg").read_text() == "mine"


def test_a_withdrawn_model_explains_nothing(fedrx, warfarin):
    assert warfarin.is_dir()
    assert fedrx("model", "card", "iwpc.safetensors", "--withdraw", "wrong reference").code == 0
    ran = fedrx(*ASK)
    assert ran.code == 2
    assert "wrong reference" in ran.err
