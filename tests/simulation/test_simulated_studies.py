"""Whole simulated studies: results, what evaluate says of them, and folders that go on."""

import json
import math

import numpy as np
import pytest

import fedrx
from fedrx_common.errors import MisuseError, RunError
from fedrx_models.metrics.dose import exact
from fedrx_models.planning import make_plan
from fedrx_server.report.figures import error_by_group
from fedrx_server.report.plotting import BLUE
from fedrx_server.runs.folder import RunFolder
from fedrx_simulation.evaluation.baselines import predict
from fedrx_simulation.federation.sites import SimulatedConsortium, by_site
from fedrx_simulation.simulate import SimulationOptions, resume, start

SOURCE = fedrx.SyntheticSites(sites=4, patients=(40, 50))
STUDY = fedrx.override(fedrx.default_study()[0], rounds=6)


@pytest.fixture(scope="module")
def cohorts():
    return fedrx.load_cohorts(SOURCE, STUDY.feature_schema, seed=9)


@pytest.fixture(scope="module")
def finished(cohorts, tmp_path_factory):
    """One study in mode `distributed`, with baselines."""
    folder = tmp_path_factory.mktemp("study") / "run"
    return fedrx.simulate(STUDY, source=SOURCE, seed=9, output=folder)


def test_exact_metrics_are_those_of_the_held_out_patients(finished, cohorts):
    consortium = SimulatedConsortium(finished.study, tuple(cohorts), "any", seed=9)
    held_out = [consortium.split(cohort)[1] for cohort in by_site(cohorts).values()]
    predicted = np.concatenate([predict(finished.model, cohort) for cohort in held_out])
    target = np.concatenate([cohort.target for cohort in held_out])
    assert finished.metrics["federated"].mae == pytest.approx(exact(predicted, target).mae)
    assert finished.metrics["federated"].n == len(target)


def test_reported_metrics_are_those_of_the_last_round(finished):
    assert finished.reported == finished.rounds[-1].metrics
    assert finished.reported["mae_low"] <= finished.reported["mae_high"]


def test_the_account_is_the_sites_own_ledgers(finished):
    evaluations = len(finished.study.evaluation_rounds)
    for releases in finished.ledger.values():
        assert [e.purpose for e in releases].count("training") == 6
        assert [e.purpose for e in releases].count("metrics") == evaluations
    privacy = finished.privacy
    assert 0 < privacy.training_epsilon <= 1
    assert 0 < privacy.metrics_epsilon <= 1
    assert privacy.epsilon == max(privacy.training_epsilon, privacy.metrics_epsilon)
    assert "at least 3 of 4 sites" in privacy.assumption


def test_collusion_costs_more_and_more(finished):
    spent = [epsilon for _, epsilon in finished.privacy.collusion]
    assert spent == sorted(spent)
    assert len(spent) >= 2


def test_collusion_counts_the_held_out_patients_too(finished):
    """Four sites took part and three honest ones are promised: one colluder is the headline."""
    privacy = finished.privacy
    assert privacy.metrics_epsilon > privacy.training_epsilon
    assert dict(privacy.collusion)[1] == pytest.approx(privacy.epsilon)


def test_the_report_has_its_curves(finished):
    report = finished.report
    assert report.epsilon_curve.epsilon == sorted(report.epsilon_curve.epsilon)
    assert report.epsilon_curve.epsilon[-1] == pytest.approx(finished.privacy.epsilon, rel=0.2)
    assert report.curve.rounds == []  # noise hides every figure of so few held-out patients
    assert finished.reported_headline.hidden
    assert list(report.curve.exact_rounds)
    assert report.curve.exact[-1] == pytest.approx(finished.metrics["federated"].mae)
    assert len(report.predictions.actual) == finished.metrics["federated"].n


def test_no_two_models_look_alike_among_the_dose_groups(finished):
    bars = error_by_group(finished.report.groups, "mg/week").data
    looks = {bar.name: (bar.marker.color, bar.marker.pattern.shape) for bar in bars}
    assert looks.pop("Federated") == (BLUE, "")
    assert len(looks) == 5
    assert len(set(looks.values())) == 5
    assert BLUE not in {color for color, _ in looks.values()}


def test_result_json_holds_no_infinity_and_no_nan(finished):
    text = json.dumps(finished.to_json(), allow_nan=False)
    assert json.loads((finished.folder / "result.json").read_text()) == json.loads(text)


def test_without_privacy_the_federation_is_the_pooled_gradient(cohorts, tmp_path):
    """In mode `none` nothing is promised, nothing is clipped, and metrics are exact."""
    result = fedrx.simulate(
        fedrx.override(STUDY, privacy="none"),
        cohorts,
        seed=9,
        baselines=False,
        output=tmp_path / "run",
    )
    assert math.isinf(result.privacy.epsilon)
    assert result.to_json()["privacy"]["epsilon"] is None
    assert result.reported["mae"] == pytest.approx(result.metrics["federated"].mae, rel=0.01)
    assert result.report.epsilon_curve is None
    assert "no noise was added" in result.privacy.assumption


def test_exact_sums_of_metrics_are_said_to_be_outside_the_promise(cohorts, tmp_path):
    study = STUDY.with_(metrics={"mode": "secure-sum"})
    result = fedrx.simulate(study, cohorts, seed=9, baselines=False, output=tmp_path / "run")
    assert result.privacy.metrics_epsilon is None
    assert result.privacy.epsilon == result.privacy.training_epsilon <= 1
    assert "outside this guarantee" in result.privacy.assumption
    assert result.reported["mae"] == pytest.approx(result.metrics["federated"].mae, rel=0.01)


@pytest.mark.parametrize("model", ["linear", "mlp"])
@pytest.mark.parametrize("mode", ["distributed", "none", "local"])
def test_every_model_runs_in_every_mode(cohorts, tmp_path, mode, model):
    study = fedrx.override(STUDY, privacy=mode, model=model, rounds=2)
    result = fedrx.simulate(study, cohorts, seed=9, baselines=False, output=tmp_path / "run")
    assert np.isfinite(result.weights).all()
    assert len(result.rounds) == 3


def test_sites_of_one_or_two_patients_take_part(tmp_path):
    study = fedrx.override(STUDY, rounds=2)
    source = fedrx.SyntheticSites(sites=12, patients=(1, 2))
    result = fedrx.simulate(study, source=source, seed=3, output=tmp_path / "run")
    assert len(result.rounds) == 3


def test_an_unfinished_run_has_no_result(cohorts, tmp_path):
    study = STUDY.with_(schedule={"attempts": 1})
    with pytest.raises(fedrx.FedRxError, match="round 1"):
        fedrx.simulate(study, cohorts, seed=1, dropout=0.97, output=tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()
    with RunFolder.open(tmp_path / "run") as run:
        assert run.meta["options"]["dropout"] == 0.97


def test_cohorts_of_another_run_are_refused(finished):
    others = fedrx.load_cohorts(SOURCE, STUDY.feature_schema, seed=10)
    with pytest.raises(MisuseError, match="site 'site-1' are not those"):
        resume(finished.folder, others)


def test_too_large_and_too_small_sites_leave_no_folder(cohorts, tmp_path):
    for section, sentence in (
        ({"largest_site": 20}, "allows at most 20"),
        ({"minimum_per_site": 60}, "at least 60"),
    ):
        with pytest.raises(MisuseError, match=sentence):
            start(STUDY.with_(cohort=section), cohorts, tmp_path / "run", SimulationOptions(seed=1))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(cohorts, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        start(STUDY, cohorts, tmp_path, SimulationOptions(seed=1))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_consortiums_keys_follow_from_its_seed(cohorts):
    first, again, other = (
        SimulatedConsortium(STUDY, tuple(cohorts), "run", seed).roster.digest for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_the_plan_is_the_one_for_so_many_sites():
    assert make_plan(STUDY, 21).parameters.threshold == 15
    with pytest.raises(MisuseError, match="2 sites are too few"):
        make_plan(STUDY, 2)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_no_generator_takes(seed):
    with pytest.raises(MisuseError, match="below 2\\^64"):
        SimulationOptions(seed=seed)
