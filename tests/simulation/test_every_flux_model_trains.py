"""Every model of markers over time trains in every privacy mode, and alike in both engines."""

import math

import numpy as np
import pytest
from flux_cohorts import flux_cohort, flux_document

import fedrx
from fedrx_common.errors import DataError
from fedrx_models.metrics.registry import measures_of
from fedrx_models.registry import models_of
from fedrx_protocol.study.study import Study

MODES = ["distributed", "local", "none"]
SMALL = {
    "tcn": {"channels": 6, "layers": 2},
    "lstm": {"size": 6},
    "transformer": {"size": 8, "heads": 2, "feed_forward": 8},
    "pathway_gnn": {"size": 4},
}
SITES, PATIENTS = 4, 30


def study_of(model, mode, rounds=3):
    return Study.from_document(
        {
            **flux_document(),
            "name": "course",
            "cohort": {"patients": SITES * PATIENTS, "largest_site": 2 * PATIENTS},
            "model": {"name": model, **SMALL.get(model, {})},
            "training": {
                "rounds": rounds,
                "local": {"batch_size": 15},
                "optimizer": {"name": "adam", "learning_rate": 0.05},
            },
            "privacy": {"mode": mode, "epsilon": 8.0},
            "metrics": {"evaluations": 1, "error_bound": 3.0},
        },
        source="s",
    )


def cohorts_of(study, patients=PATIENTS):
    return [flux_cohort(study.feature_schema, patients, i, f"s{i}") for i in range(SITES)]


def run(study, folder, **options):
    return fedrx.simulate(
        study, cohorts_of(study), seed=3, output=folder, baselines=False, **options
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", models_of("flux"))
def test_a_model_trains_in_a_mode(model, mode, tmp_path):
    study = study_of(model, mode)
    result = run(study, tmp_path / "run")
    assert len(result.rounds) == study.final_round
    assert np.isfinite(result.weights).all()
    assert (result.privacy.epsilon <= 8.0) if mode != "none" else math.isinf(result.privacy.epsilon)
    assert {m.key for m in measures_of(study.target)} <= set(result.metrics["federated"].flat())
    assert (tmp_path / "run" / "report.html").is_file()
    assert fedrx.load_model(tmp_path / "run" / "model.safetensors").study_digest == study.digest


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", models_of("flux"))
@pytest.mark.usefixtures("one_ray")
def test_both_engines_give_the_same_model(model, mode, tmp_path):
    study = study_of(model, mode, rounds=2)
    here = run(study, tmp_path / "here")
    there = run(study, tmp_path / "there", engine="flower")
    assert np.array_equal(here.weights, there.weights)
    assert here.reported == there.reported


def test_a_report_holds_the_last_value_and_the_pooled_model(tmp_path):
    study = study_of("linear_mixed", "none", rounds=40)
    result = fedrx.simulate(study, cohorts_of(study, 60), seed=3, output=tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    ratio, coverage = measures_of(study.target)
    assert ratio.name in page
    assert coverage.name in page
    rows = {key: result.report.row(key).value(ratio) for key in ("pooled", "federated", "fixed")}
    assert result.report.row("fixed").label == "Last value"
    assert rows["fixed"] == pytest.approx(1.0)
    assert rows["pooled"] < 0.95
    assert rows["federated"] < 1.0
    # Errors are cut at a bound in what is released, and in nothing else do the two differ.
    assert result.reported["ratio"] == pytest.approx(rows["federated"], abs=0.05)


def test_a_marker_that_no_site_has_is_refused_before_anything_runs(tmp_path):
    study = study_of("last_value", "none")
    schema, without = study.feature_schema, []
    for cohort in cohorts_of(study):
        visits = cohort.visits.copy()
        visits[:, :, 3] = np.nan  # time, episode, bilirubin, albumin
        values, nothing = cohort.values, np.zeros((len(cohort), 0))
        without.append(
            fedrx.Cohort(cohort.site, schema, cohort.patients, values, nothing, visits=visits)
        )
    with pytest.raises(DataError, match="nobody has marker 'albumin' measured at two visits"):
        fedrx.simulate(study, without, seed=3, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
