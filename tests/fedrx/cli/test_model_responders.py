"""`fedrx model responders`: a plan in words, as JSON and as a picture."""

import numpy as np
import pytest
from omics_cohorts import omics_cohort, omics_schema

from fedrx_models.contract import get_vector, set_vector
from fedrx_models.files import save_model
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection
from fedrx_simulation.cohorts.tables import write_tables


@pytest.fixture
def ask(place):
    schema = omics_schema("binary")
    model = build_model(ModelSection(name="linear"), schema, seed=1)
    vector = get_vector(model)
    set_vector(model, vector + np.random.default_rng(1).normal(0, 0.5, vector.shape))
    save_model(place / "m.safetensors", model, "ab" * 32)
    (written,) = write_tables({"a": omics_cohort(schema, 80)}, place / "tables")
    table = ("--source", written, "--mapping", "tables/mapping.toml")
    return ("model", "responders", "m.safetensors", *table)


def test_words_json_and_a_picture(fedrx, ask, place):
    ran = fedrx(*ask, "--threshold", "0.4", "--figure", "benefit.svg")
    assert ran.code == 0, ran.err
    words = " ".join(ran.out.split())
    assert "probability of 0.40 on" in words
    assert "Calibrated on 80 patients" in words
    assert b"net benefit" in (place / "benefit.svg").read_bytes()
    told = fedrx(*ask, "--responders", "5", "--json")
    assert told.code == 0, told.err
    assert told.json["expected"] >= 5
    assert len(told.json["candidates"]) == 80
    assert len(told.json["net_benefit"]["threshold"]) == 99


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--threshold", "2"), "threshold must lie"),
        (("--threshold", "0.5", "--responders", "3"), "not both"),
        (("--figure", "b.pdf"), ".png or .svg"),
    ],
)
def test_bad_input_is_one_sentence(fedrx, ask, more, told):
    ran = fedrx(*ask, *more)
    assert ran.code == 2
    assert told in ran.err
