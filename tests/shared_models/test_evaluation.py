"""What an evaluation releases: metrics and histograms in one vector; a patient moves it little."""

import dataclasses

import numpy as np
import pytest
from flux_cohorts import flux_cohort, flux_schema
from omics_cohorts import omics_cohort, omics_schema

import fedrx
from fedrx_common.errors import MisuseError
from fedrx_models.calibration.conformal import ScoreTotals
from fedrx_models.calibration.release import CONFIDENCE, CalibrationPlan
from fedrx_models.calibration.scores import absolute, scores_by_outcome
from fedrx_models.card import INTENDED_USE, Calibration, ModelCard
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import Forecast, Prediction
from fedrx_models.evaluation import EvaluationPlan, evaluation_plan
from fedrx_models.files import load_model, save_model
from fedrx_models.metrics.forecast import ForecastPlan
from fedrx_models.metrics.panel import PanelPlan
from fedrx_models.metrics.registry import metric_plan
from fedrx_models.planning import make_plan
from fedrx_models.registry import build_model
from fedrx_protocol.privacy.accountant import epsilon_of
from fedrx_protocol.study.study import ModelSection

STUDY = fedrx.default_study()[0]
CALIBRATED = STUDY.with_(metrics={"calibration": True})


def case(kind):
    """A plan with calibration, a model, and patients."""
    if kind == "forecast":
        schema = flux_schema()
        cohort = flux_cohort(schema, 60)
        model = build_model(ModelSection(name="linear_mixed"), schema, seed=0)
        metrics = ForecastPlan.of(schema, final=True, error_bound=3.0)
    elif kind == "panel":
        cohort = omics_cohort(omics_schema("panel"), 60)
        schema = cohort.schema
        model = build_model(ModelSection(name="linear"), schema, seed=0)
        metrics = PanelPlan(final=True, error_bound=5.0, target=schema.target)
    else:
        schema = STUDY.feature_schema
        source = fedrx.SyntheticSites(sites=1, patients=(60, 60))
        (cohort,) = fedrx.load_cohorts(source, schema, seed=1).values()
        model = build_model(ModelSection(name="linear"), schema, seed=0)
        metrics = metric_plan(STUDY, final=True)
    share = 0.5
    plan = EvaluationPlan(metrics, np.sqrt(1 - share), CalibrationPlan.of(schema))
    return plan, model, cohort


KINDS = ["continuous", "panel", "forecast"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_patient_moves_the_vector_by_more_than_its_sensitivity(kind):
    plan, model, cohort = case(kind)
    predicted = model.predict(encode(cohort, model.schema))
    found = plan.contributions(predicted, cohort.target)
    assert found.shape == (60, plan.size)
    norms = np.linalg.norm(found, axis=1)
    assert norms.max() <= plan.sensitivity == 1.0
    assert norms.max() > 0.6  # the bound is not far from what a patient can do


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_nor_where_hostile_weights_predict_nonsense(kind, value):
    plan, model, cohort = case(kind)
    predicted = model.predict(encode(cohort, model.schema))
    parts = {"mean": np.full_like(predicted.mean, value)}
    if isinstance(predicted, Prediction):
        parts |= {"lower": parts["mean"], "upper": parts["mean"]}
    found = plan.contributions(dataclasses.replace(predicted, **parts), cohort.target)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found, axis=1).max() <= 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_metrics_and_radii_are_those_computed_apart(kind):
    plan, model, cohort = case(kind)
    predicted = model.predict(encode(cohort, model.schema))
    metrics, calibration = plan.read(plan.state(predicted, cohort.target), 0.0)
    alone = plan.metrics.from_state(plan.metrics.state(predicted.mean, cohort.target))
    assert metrics.flat() == pytest.approx(alone.flat())
    assert calibration.level == predicted.level == plan.calibration.level
    assert calibration.confidence == 1.0
    scores, grid = scores_by_outcome(model, cohort), plan.calibration.grid
    assert [one.of for one in calibration.outcomes] == list(scores)
    for one in calibration.outcomes:
        radius = ScoreTotals(grid, grid.total(absolute(scores[one.of]))).calibrate(predicted.level)
        assert one.radius == (radius.value if np.isfinite(radius.value) else None)


def test_a_models_own_edge_is_on_the_grid():
    """So that the coverage of its own intervals can be reported."""
    assert 1.0 in CalibrationPlan.of(STUDY.feature_schema).grid.edges


def test_noise_is_met_and_told():
    plan, model, cohort = case("continuous")
    rng = np.random.default_rng(0)
    state = 50 * plan.state(model.predict(encode(cohort, model.schema)), cohort.target)
    _, exact = plan.read(state, 0.0)
    metrics, found = plan.read(state + rng.normal(0, 5.0, plan.size), 5.0)
    assert found.confidence == CONFIDENCE
    assert found.noise_sd == pytest.approx(5.0 * np.sqrt(2))  # half of the budget
    assert found.patients == pytest.approx(3000, abs=150)
    assert found.outcomes[0].radius >= exact.outcomes[0].radius
    assert metrics.n == pytest.approx(3000, rel=0.1)


def test_a_histogram_that_noise_hides_gives_no_radius():
    plan, model, cohort = case("continuous")
    state = plan.state(model.predict(encode(cohort, model.schema)), cohort.target)
    _, found = plan.read(state, 500.0)
    assert found.outcomes[0].radius is None
    assert found.missing == plan.calibration.outcomes


def test_without_the_key_an_evaluation_is_bit_for_bit_its_metrics():
    _, model, cohort = case("continuous")
    predicted = model.predict(encode(cohort, model.schema))
    for study, final in ((STUDY, True), (STUDY, False), (CALIBRATED, False)):
        plan, alone = evaluation_plan(study, final=final), metric_plan(study, final=final)
        assert plan.size == alone.size
        state = alone.state(predicted.mean, cohort.target)
        assert np.array_equal(plan.state(predicted, cohort.target), state)
        assert plan.read(state, 2.0) == (alone.from_state(state, noise_sd=2.0), None)


def test_calibration_takes_its_share_of_one_release_and_nothing_more():
    plain, calibrated = make_plan(STUDY, 21), make_plan(CALIBRATED, 21)
    assert calibrated.final.length == plain.final.length + 13
    assert calibrated.between == plain.between
    assert calibrated.final.sensitivity == plain.final.sensitivity
    assert calibrated.training_noise == plain.training_noise
    # The grid of a longer vector costs a little more slack, which the noise pays for.
    assert calibrated.metrics_noise == pytest.approx(plain.metrics_noise, rel=1e-3)
    epsilon, delta = STUDY.privacy.epsilon, STUDY.privacy.delta
    assert epsilon_of(calibrated.paid_metrics, delta) <= epsilon


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_file_predicts_calibrated_intervals_and_says_so(kind, tmp_path):
    plan, model, cohort = case(kind)
    names = plan.calibration.outcomes
    outcomes = [{"of": name, "radius": 1.4} for name in names]
    if len(outcomes) > 1:
        outcomes[0]["radius"] = None
    made = Calibration.model_validate(
        {"level": plan.calibration.level, "confidence": 0.95, "patients": 812.4}
        | {"noise_sd": 7.0, "outcomes": outcomes}
    )
    card = ModelCard(study="dose", made="2026-01-02", epsilon=1.0, delta=1e-5, sites=3)
    path = save_model(tmp_path / "m.safetensors", model, "0" * 64, card)
    before = load_model(path)
    assert "calibration" not in card.model_dump_json()
    save_model(path, model, "0" * 64, card.model_copy(update={"calibration": made}))
    after = load_model(path)
    assert after.card.calibration == made
    assert after.digest == before.digest
    assert "about 812 held-out patients under ε = 1" in after.card.intervals
    narrow, wide = before.predict(cohort), after.predict(cohort)
    if isinstance(wide, Forecast):
        reach = wide.mean[..., 2] - wide.mean[..., 1], narrow.mean[..., 2] - narrow.mean[..., 1]
        assert f"those of {names[0]} stay" in after.card.intervals
        same = np.isclose(reach[0], reach[1]) | np.isnan(reach[0])
        assert same[:, :, 0, 0].all()  # the first marker at the first horizon has no radius
        assert not same.all()
    else:
        reach = wide.upper - wide.lower, narrow.upper - narrow.lower
        assert (reach[0] > reach[1]).all()
    assert before.card.intervals == ""
    assert after.card.intended_use == INTENDED_USE


def test_a_probability_has_no_interval_to_calibrate():
    with pytest.raises(MisuseError, match="binary outcome has no interval"):
        CalibrationPlan.of(omics_schema("binary"))
