"""Forecasts that start from another study's weights, through the whole protocol."""

import numpy as np
import pytest
from flux_cohorts import flux_cohort, flux_document

import fedrx
from fedrx_models.contract import ModelFileInvalid
from fedrx_models.transfer import trained_positions
from fedrx_protocol.study.study import Study

SITES = 4
FROZEN = "network.layers"


def study_of(mode="none", rounds=3, **changes):
    return Study.from_document(
        {
            **flux_document(),
            "name": "course",
            "cohort": {"patients": SITES * 30, "largest_site": 60},
            "model": {"name": "tcn", "channels": 6, "layers": 2},
            "training": {
                "rounds": rounds,
                "local": {"batch_size": 15},
                "optimizer": {"name": "adam", "learning_rate": 0.01},
            },
            "privacy": {"mode": mode, "epsilon": 8.0},
            "metrics": {"evaluations": 0, "error_bound": 4.0},
            **changes,
        },
        source="s",
    )


def run(study, folder, **options):
    schema = study.feature_schema
    cohorts = [flux_cohort(schema, 30, seed=i, site=f"s{i}") for i in range(SITES)]
    return fedrx.simulate(
        study, cohorts, output=folder, **{"baselines": False, "seed": 3} | options
    )


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    return run(study_of(rounds=30), tmp_path_factory.mktemp("earlier") / "run")


@pytest.mark.parametrize("mode", ["distributed", "local", "none"])
def test_frozen_weights_stay_to_the_last_bit_and_the_others_move(earlier, mode, tmp_path):
    study = study_of(mode, transfer={"study": earlier.study.digest, "freeze": [FROZEN]})
    found = run(study, tmp_path / "run", start_from=earlier.folder / "model.safetensors")
    found.model.get_submodule(FROZEN).requires_grad_(requires_grad=False)
    trained = trained_positions(found.model)
    before, after = earlier.weights, found.weights
    assert np.array_equal(before[~trained], after[~trained])
    assert (before[trained] != after[trained]).mean() > 0.5


def test_it_begins_where_the_earlier_study_ended_and_is_personalised(earlier, tmp_path):
    study = study_of(rounds=1, transfer={"study": earlier.study.digest})
    start = earlier.folder / "model.safetensors"
    warm = run(study, tmp_path / "warm", start_from=start, baselines=True)
    cold = run(study_of(rounds=1), tmp_path / "cold")
    assert warm.metrics["federated"].ratio < cold.metrics["federated"].ratio
    assert {"federated", "personalised", "site_alone", "pooled", "fixed"} == set(warm.metrics)
    assert f"study {earlier.study.digest[:16]}" in (tmp_path / "warm" / "report.html").read_text()


def test_a_forecast_of_fewer_markers_starts_from_one_of_more(earlier, tmp_path):
    target = {**flux_document()["target"], "markers": ["platelets"]}
    changes = {"transfer": {"study": earlier.study.digest}, "target": target}
    start = earlier.folder / "model.safetensors"
    found = run(study_of(rounds=2, **changes), tmp_path / "run", start_from=start)
    assert [pair.name for pair in found.metrics["federated"].pairs] == [
        "platelets 1",
        "platelets 4",
    ]


def test_nothing_is_made_where_the_weights_mean_something_else(earlier, tmp_path):
    changes = {"transfer": {"study": earlier.study.digest}, "treatments": []}
    start = earlier.folder / "model.safetensors"
    with pytest.raises(ModelFileInvalid, match="trained on other treatments"):
        run(study_of(**changes), tmp_path / "run", start_from=start)
    assert not (tmp_path / "run").exists()
