"""Real follow-up tables, read as the examples map them: counts are those of their provenance.

A year apart is 0.75 to 1.25 years, so that fewer patients count than were followed.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedrx_client.data.load import load_dealt, load_split
from fedrx_client.data.mapping import TableMapping
from fedrx_models.cohort.cohort import concatenate
from fedrx_models.cohort.visits import EPISODE, FIRST_VALUE, TIME
from fedrx_models.fitting import fit, predict
from fedrx_models.metrics.forecast import exact_forecast
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection, Study

pytestmark = pytest.mark.real_data
EXAMPLES = Path(__file__).parents[3] / "examples"
SITES = 4


@pytest.fixture(scope="module")
def read(real_data_root):
    """`read(example, mapping, table)` deals a table's patients out to four sites."""

    def load(example, mapping, table, **changes):
        path = real_data_root / table
        if not path.is_file():
            pytest.skip(f"REAL DATA MISSING: {path} is not here, so nothing real was tested")
        where = TableMapping.load(EXAMPLES / example / mapping)
        schema = Study.load(EXAMPLES / example / "study.toml").feature_schema
        if "split_by" in changes:
            return load_split(path, where, schema, **changes)
        return load_dealt(path, where, schema, sites=SITES)

    return load


def test_every_visit_of_the_cirrhosis_trial_is_accounted_for(read):
    loaded = read("cirrhosis", "pbcseq.toml", "pbcseq/pbcseq.csv")
    quality, pooled = loaded.quality, concatenate(list(loaded.cohorts.values()))
    assert quality.rows_read == 1945
    assert quality.rows_kept + sum(quality.dropped.values()) == 1945
    assert (quality.rows_kept, len(pooled)) == (1851, 256)
    assert list(loaded.cohorts) == [f"part-{i}" for i in range(1, SITES + 1)]
    assert {name: n for name, n in quality.unknown.items() if n} == {"albumin": 2}
    assert quality.missing["cholesterol"] == 783
    assert quality.missing["bilirubin"] == 0
    years = pooled.visits[:, :, TIME]
    assert np.nanmax(years) == pytest.approx(5152 / 365.25)
    assert np.isfinite(pooled.target[:, :, 0, 0, 0]).sum() == 1220


def test_every_visit_of_the_hiv_trial_is_accounted_for(read):
    loaded = read("hiv", "aids.toml", "aids/aids_ddI_ddC.csv")
    quality, pooled = loaded.quality, concatenate(list(loaded.cohorts.values()))
    assert quality.rows_read == 1405
    assert quality.dropped["visits of patients with nothing to forecast"] == 467 - 406
    assert (quality.rows_kept, len(pooled)) == (1344, 406)
    assert not any(quality.unknown.values())
    # Whoever is seen again is forecast: every visit but each patient's last has a next one.
    assert np.isfinite(pooled.target[..., 0]).sum() == 1405 - 467
    arms = pooled.visits[:, 0, -1]
    assert ((arms == 0) | (arms == 1)).all()
    assert np.nanmax(pooled.visits[:, :, FIRST_VALUE]) == pytest.approx(24.12, abs=0.01)


@pytest.mark.parametrize(
    ("example", "mapping", "table", "most"),
    [
        ("cirrhosis", "pbcseq.toml", "pbcseq/pbcseq.csv", 0.97),
        ("hiv", "aids.toml", "aids/aids_ddI_ddC.csv", 0.97),
    ],
)
def test_a_model_of_the_pooled_patients_beats_the_last_value(read, example, mapping, table, most):
    """On a fifth of the patients, split by a fixed salt."""
    torch.set_num_threads(1)
    cohorts = read(example, mapping, table).cohorts.values()
    parts = [cohort.split(0.2, b"real courses") for cohort in cohorts]
    train, test = (concatenate([part[side] for part in parts]) for side in (0, 1))
    model = build_model(ModelSection(name="linear_mixed"), train.schema, seed=0)
    predicted = predict(fit(model, train, seed=0), test)
    found = exact_forecast(predicted, test.target, test.schema.target)
    assert found.ratio < most
    assert 70 < found.coverage < 90


@pytest.mark.slow
def test_every_hour_of_intensive_care_is_accounted_for(read):
    loaded = read("intensive_care", "eicu.toml", "eicu_demo/hourly.csv.gz", split_by="region")
    quality = loaded.quality
    assert quality.rows_read == 124_094
    assert quality.rows_kept + sum(quality.dropped.values()) == 124_094
    assert {site: len(cohort) for site, cohort in loaded.cohorts.items()} == {
        "Midwest": 587,
        "Northeast": 118,
        "South": 498,
        "West": 368,
    }
    assert quality.unknown["respiration"] == 547
    stays = [np.nanmax(cohort.visits[:, :, EPISODE], axis=1) for cohort in loaded.cohorts.values()]
    several = np.concatenate(stays) > 0
    assert 100 < several.sum() < 334  # patients with several stays count once
