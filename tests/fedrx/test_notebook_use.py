"""`import fedrx` in a notebook: a study, its cohorts, one call, and what comes back."""

import numpy as np
import pytest

import fedrx as front
from fedrx_common.errors import MisuseError, RunError
from fedrx_models.contract import get_vector
from fedrx_protocol.study.study import StudyError


@pytest.fixture
def study(place):
    return front.Study.load(place / "study.toml")


@pytest.fixture
def cohorts(place, study):
    source = front.PatientFile(place / "patients.csv", place / "mapping.toml", "site")
    return front.load_cohorts(source, study.feature_schema, seed=0)


def test_a_study_and_its_cohorts_give_weights_metrics_ledger_and_figures(study, cohorts):
    result = front.simulate(study, cohorts, seed=1)
    assert result.weights.shape == get_vector(result.model).shape
    assert np.isfinite(result.weights).all()
    assert set(result.metrics) == {"pooled", "federated", "personalised", "site_alone", "fixed"}
    assert set(result.ledger) == set(cohorts)
    assert all(len(releases) == 3 + 2 for releases in result.ledger.values())
    assert {"learning_curve", "error_by_dose_group"} & set(result.figures)
    assert [record.round for record in result.rounds] == [1, 2, 3, 4]
    assert result.folder.is_dir()
    frames = result.frames
    assert set(frames["metrics"].index) == set(result.metrics)
    assert frames["metrics"].loc["federated", "mae"] == result.metrics["federated"].mae
    assert frames["rounds"]["round"].tolist() == [1, 2, 3, 4]
    assert frames["spent"]["site"].value_counts().to_dict() == dict.fromkeys(cohorts, 5)


def test_a_list_of_cohorts_and_a_path_will_do(place, cohorts):
    options = {"seed": 1, "baselines": False}
    by_path = front.simulate(place / "study.toml", list(cohorts.values()), **options)
    by_name = front.simulate(str(place / "study.toml"), cohorts, **options)
    assert np.array_equal(by_path.weights, by_name.weights)


def test_two_sites_with_the_same_id_are_refused(study, cohorts, tmp_path):
    first, *others = cohorts.values()
    with pytest.raises(MisuseError, match="two cohorts belong to site 'hospital-A'"):
        front.simulate(study, [first, first, *others], output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_cohort_is_refused(study):
    with pytest.raises(MisuseError, match="no cohort was given"):
        front.simulate(study, [])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"engine": "steam"}, "engine is 'steam'"), ({"seed": -1}, "seed is -1")],
)
def test_impossible_options_are_refused(study, cohorts, options, sentence):
    with pytest.raises(MisuseError, match=sentence):
        front.simulate(study, cohorts, **options)


def test_the_saved_model_predicts_as_the_result_does(study, cohorts):
    result = front.simulate(study, cohorts, seed=1, baselines=False)
    loaded = front.load_model(result.folder / "model.safetensors")
    assert np.array_equal(get_vector(loaded.model), result.weights)


def test_a_notebooks_run_is_resumed_with_its_cohorts(study, cohorts, tmp_path):
    first = front.simulate(study, cohorts, seed=1, baselines=False, output=tmp_path / "run")
    with pytest.raises(RunError, match="came from a notebook"):
        front.resume(tmp_path / "run")
    again = front.resume(tmp_path / "run", cohorts, study=study)
    assert np.array_equal(first.weights, again.weights)
    fewer = {site: cohort for site, cohort in cohorts.items() if site != "hospital-B"}
    with pytest.raises(MisuseError, match="patients of site 'hospital-B'"):
        front.resume(tmp_path / "run", fewer)


def test_every_round_is_shown_to_the_observer(study, cohorts):
    seen = []
    front.simulate(study, cohorts, seed=1, observer=seen.append, baselines=False)
    assert [step.record.round for step in seen if step.record] == [1, 2, 3, 4]
    assert all(step.rounds == 4 for step in seen)


def test_another_model_starts_from_its_own_parameters(study):
    with_hidden = study.with_(model={"name": "mlp", "hidden": [3]})
    assert front.override(with_hidden, model="linear").model.parameters == {}
    assert front.override(with_hidden, model="mlp").model.parameters == {"hidden": [3]}


def test_fewer_rounds_have_fewer_evaluations(study):
    assert front.override(study, rounds=1).metrics.evaluations == 1
    local = study.with_(training={"local": {"rounds": 50}})
    assert front.override(local, rounds=7, privacy="local").rounds == 7
    with pytest.raises(StudyError, match="rounds"):
        front.override(study, rounds=0)


def test_synthetic_sites_need_a_study_that_can_be_generated(study):
    small = study.with_(cohort={"patients": 60})
    with pytest.raises(MisuseError, match="generator"):
        front.simulate(small, seed=1)
