"""`fedrx site embed`: the latent space of a site's own patients, for the site alone."""

import csv
import stat

import numpy as np
import pytest

from fedrx_models.contract import get_vector, set_vector
from fedrx_models.files import save_model
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import Study

BLOCK = """
[[blocks]]
name = "expression"
kind = "expression"
unit = "sd"
minimum = -9
maximum = 9
genes = ["CYP2C9", "VKORC1", "TP53"]
"""
BLOCK_FILE = """
[blocks.expression]
file = "expression.csv"
patient = "id"
unit = "sd"
"""


@pytest.fixture
def omics(joined, place):
    """Site `a` has approved a study with a block, which every fourth patient lacks."""
    study = (place / "study.toml").read_text()
    study = study.replace('name = "linear"', 'name = "multiomics_vae"\nlatent = 3\nhidden = 8')
    (place / "study.toml").write_text(study + BLOCK)
    (place / "mapping.toml").write_text((place / "mapping.toml").read_text() + BLOCK_FILE)
    values = np.random.default_rng(0).normal(size=(40, 3))
    rows = [f"p{i},{','.join(f'{v:.3f}' for v in values[i])}" for i in range(40) if i % 4]
    (place / "expression.csv").write_text("\n".join(["id,CYP2C9,VKORC1,TP53", *rows]) + "\n")
    files = ("study.toml", "--data", "patients.csv", "--mapping", "mapping.toml")
    joined("site", "approve", "a", *files, "--max-epsilon", "9", "--by", "DPO", "--yes")


@pytest.fixture
def trained(place):
    study = Study.load(place / "study.toml")
    model = build_model(study.model, study.feature_schema, seed=3)
    vector = get_vector(model)  # moved as by a training: untrained, everybody lies at the prior
    set_vector(model, vector + np.random.default_rng(3).normal(0, 0.2, vector.shape))
    return save_model(place / "model.safetensors", model, study.digest)


@pytest.mark.usefixtures("omics", "trained")
def test_a_site_writes_its_patients_latent_places(fedrx, place):
    given = ("site", "embed", "a", "model.safetensors", "--output")
    ran = fedrx(*given, "latent.csv", "--ids")
    assert ran.code == 0, ran.err
    assert "40 patients in 3 dimensions" in ran.out
    assert "must not leave this site" in ran.out
    assert stat.S_IMODE((place / "latent.csv").stat().st_mode) == 0o600
    rows = list(csv.DictReader((place / "latent.csv").open()))
    assert list(rows[0]) == ["patient", "has_expression", "latent_1", "latent_2", "latent_3"]
    assert {row["patient"] for row in rows} == {f"p{i}" for i in range(40)}
    for row in rows:
        place_ = [float(row[f"latent_{i}"]) for i in (1, 2, 3)]
        lacks = int(row["patient"][1:]) % 4 == 0
        assert row["has_expression"] == ("0" if lacks else "1")
        assert (place_ == [0, 0, 0]) == lacks  # without a block a patient lies at the prior
    assert fedrx(*given, "pseudonyms.csv").code == 0
    hidden = list(csv.DictReader((place / "pseudonyms.csv").open()))
    assert not {row["patient"] for row in hidden} & {row["patient"] for row in rows}
    assert [row | {"patient": ""} for row in hidden] == [row | {"patient": ""} for row in rows]


@pytest.mark.usefixtures("omics", "trained")
def test_a_table_that_is_there_is_not_overwritten(refused, place):
    (place / "latent.csv").write_text("mine")
    said = refused("site", "embed", "a", "model.safetensors", "--output", "latent.csv")
    assert "name another file" in said
    assert (place / "latent.csv").read_text() == "mine"


@pytest.mark.usefixtures("omics", "trained")
def test_a_table_in_no_folder_is_refused(refused):
    said = refused("site", "embed", "a", "model.safetensors", "--output", "nowhere/latent.csv")
    assert "nowhere is no folder: make it, or name another file." in said


@pytest.mark.usefixtures("approved", "trained")
def test_a_model_without_a_latent_space_is_refused(refused):
    said = refused("site", "embed", "a", "model.safetensors", "--output", "latent.csv")
    assert "'linear' has no latent space" in said
