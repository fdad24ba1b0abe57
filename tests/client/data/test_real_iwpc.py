"""The real consortium's table: patients, sites and published accuracy come out as published."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedrx_client.data.load import load_split
from fedrx_client.data.mapping import TableMapping
from fedrx_models.cohort.cohort import concatenate
from fedrx_models.cohort.encoding import encode
from fedrx_models.metrics.dose import exact
from fedrx_models.pharmacogenomic.published import EQUATIONS, is_complete
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection, Study

pytestmark = pytest.mark.real_data
EXAMPLE = Path(__file__).parents[3] / "examples" / "warfarin"


@pytest.fixture(scope="module")
def loaded(real_data_root):
    return load_split(
        real_data_root / "iwpc" / "iwpc_subject_data.csv",
        TableMapping.load(EXAMPLE / "iwpc.toml"),
        Study.load(EXAMPLE / "study.toml").feature_schema,
        split_by="Project Site",
    )


@pytest.fixture(scope="module")
def pooled(loaded):
    return concatenate(list(loaded.cohorts.values()))


def test_all_patients_with_a_stable_dose_are_kept_at_their_sites(loaded):
    assert list(loaded.cohorts) == [str(site) for site in range(1, 22)]
    assert loaded.quality.rows_read == 5700
    assert loaded.quality.rows_kept == sum(map(len, loaded.cohorts.values())) == 5410
    assert len(loaded.cohorts["3"]) == 828
    assert len(loaded.cohorts["13"]) == 63


def test_the_account_matches_the_provenance(loaded, pooled):
    quality = loaded.quality
    assert quality.missing["vkorc1"] == 102
    assert quality.missing["age_decade"] == 39
    assert quality.unknown["cyp2c9"] == 17
    assert sum(quality.imputed.values()) == 312 + 553 + 477
    assert np.isnan(loaded.cohorts["9"].values["height_cm"]).all()
    assert pooled.target.max() == 315.0


@pytest.mark.parametrize(
    ("equation", "within", "mae", "r2"),
    [
        ("pharmacogenetic", 46.0, 8.37, 0.447),
        ("clinical", 39.0, 10.0, 0.272),
        ("fixed", 30.0, 13.22, -0.043),
    ],
)
def test_the_published_equations_are_reproduced(pooled, equation, within, mae, r2):
    complete = pooled.select(is_complete(pooled))
    assert len(complete) == 4302
    metrics = exact(EQUATIONS[equation](complete), complete.target)
    assert metrics.within_20_percent == pytest.approx(within, abs=1.0)
    assert metrics.mae == pytest.approx(mae, abs=0.005)
    assert metrics.r2 == pytest.approx(r2, abs=0.0005)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_a_model_trained_on_the_pooled_patients_beats_the_published_equation(loaded, name):
    """On held-out patients of all sites, split by a fixed salt."""
    torch.set_num_threads(1)
    parts = [cohort.split(0.2, b"real iwpc") for cohort in loaded.cohorts.values()]
    train, test = (concatenate([part[side] for part in parts]) for side in (0, 1))
    model = build_model(ModelSection(name=name), train.schema, seed=0)
    batch = encode(train, train.schema)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in range(150):
        optimizer.zero_grad()
        model(batch).mean().backward()
        optimizer.step()
    found = exact(model.predict(encode(test, test.schema)).mean, test.target)
    published = exact(EQUATIONS["pharmacogenetic"](test), test.target)
    assert found.mae < published.mae
    assert found.mae < 0.9 * exact(EQUATIONS["clinical"](test), test.target).mae
