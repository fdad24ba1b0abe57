"""`fedrx model ripple`: which markers follow when one moves, asked of a finished model."""

import numpy as np
import pytest
from flux_cohorts import flux_cohort, flux_schema

from fedrx.study_templates import new_study
from fedrx_client.data.load import load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import get_vector, set_vector
from fedrx_models.files import save_model
from fedrx_models.flux.ripple import ripple
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection, Study
from fedrx_simulation.cohorts.tables import write_tables


@pytest.fixture
def models(place):
    """Models moved away from the last value, as by a training."""
    schema = flux_schema()
    found = {}
    for name in ("pathway_gnn", "tcn"):
        model = build_model(ModelSection(name=name), schema, seed=0)
        vector = get_vector(model)
        set_vector(model, vector + np.random.default_rng(0).normal(0, 0.1, vector.shape))
        save_model(place / f"{name}.safetensors", model, "ab" * 32)
        found[name] = model
    return found


ASK = ("model", "ripple", "pathway_gnn.safetensors", "--marker", "albumin", "--by", "5")


@pytest.mark.usefixtures("models")
def test_it_says_which_follow_when_how_much_and_how_surely(fedrx):
    said = fedrx(*ASK)
    assert said.code == 0, said.err
    words = " ".join(said.out.split())
    assert "If albumin is measured 5 mg/L higher, so many hours later" in words
    assert "platelets (mg/L)" in words
    assert "No path of the network is long enough to move: bilirubin." in words
    assert "synthetic patients" in words
    assert words.index("albumin (mg/L)") < words.index("platelets (mg/L)")


def test_json_has_every_marker_at_every_horizon(fedrx, models, place):
    schema = flux_schema()
    (written,) = write_tables({"a": flux_cohort(schema, 30, seed=9)}, place / "tables")
    table = ("--data", written, "--mapping", "tables/mapping.toml")
    ran = fedrx(*ASK, *table, "--json")
    assert ran.code == 0, ran.err
    found = ran.json
    assert (found["marker"], found["by"], found["unit"]) == ("albumin", 5.0, "mg/L")
    assert found["time_unit"] == "hour"
    mapping = TableMapping.load(place / "tables" / "mapping.toml")
    cohort = load_cohort(written, mapping, schema, site="a").cohort
    expected = ripple(models["pathway_gnn"], encode(cohort, schema), "albumin", 5.0)
    assert found["patients"] == expected.patients > 0
    assert len(found["follows"]) == 6
    for cell in found["follows"]:
        h = expected.horizons.index(cell["horizon"])
        m = expected.markers.index(cell["marker"])
        assert cell["mean"] == pytest.approx(expected.mean[h, m])
        assert cell["lower"] <= cell["mean"] <= cell["upper"]
        assert cell["forecast_band"] == pytest.approx(expected.band[h, m])


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((*ASK[:4], "sodium", "--by", "5"), "'sodium' is no marker of the study: bilirubin, alb"),
        ((*ASK[:6], "99"), "can move by 99 mg/L and stay between 1 and 99"),
        ((*ASK[:6], "0"), "must move by an amount other than 0"),
        ((*ASK[:6], "nan"), "must move by an amount other than 0"),
        ((*ASK[:2], "tcn.safetensors", *ASK[3:]), "a model 'tcn', which has no network of markers"),
        ((*ASK[:2], "none.safetensors", *ASK[3:]), "there is no such model file"),
        ((*ASK, "--data", "patients.csv"), "needs --data and --mapping"),
        ((*ASK, "--study", "other.toml"), "is no model of other.toml"),
        ((*ASK, "--study", "study.toml"), "is no model of study.toml"),
    ],
)
def test_a_question_that_cannot_be_is_one_sentence(refused, place, argv, words):
    (place / "other.toml").write_text(new_study("pathway_gnn", "anticoagulation"))
    assert words in refused(*argv)


def test_a_model_of_the_study_that_was_meant_answers(fedrx, place):
    text = new_study("pathway_gnn", "forecast")
    (place / "icu.toml").write_text(text)
    study = Study.parse(text)
    model = build_model(study.model, study.feature_schema, seed=0)
    # A simulation changes sizes, and so the digest, but no marker.
    save_model(place / "icu.safetensors", model, "cd" * 32)
    asked = ("model", "ripple", "icu.safetensors", "--marker", "creatinine", "--by", "0.5")
    said = fedrx(*asked, "--study", "icu.toml")
    assert said.code == 0, said.err
    assert "+0.5" in said.out
