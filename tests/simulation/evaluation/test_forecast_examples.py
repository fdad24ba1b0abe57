"""What is drawn of a simulated forecast: the right patients, values and shares, and no ids."""

import dataclasses

import numpy as np
import pytest
from flux_cohorts import HORIZONS, flux_cohort, flux_document, flux_schema

import fedrx
from fedrx_models.cohort.cohort import concatenate
from fedrx_models.contract import get_vector, set_vector
from fedrx_models.fitting import predict
from fedrx_models.metrics.forecast import patient_scores
from fedrx_models.metrics.registry import exact_metrics
from fedrx_models.registry import build_model
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import ModelSection, Study
from fedrx_simulation.evaluation.forecast_examples import forecast_pictures

SITES = 3


def model_of(schema, name="linear_mixed"):
    """Moved away from the last value, as by a training."""
    model = build_model(ModelSection(name=name), schema, seed=0)
    vector = get_vector(model)
    set_vector(model, vector + np.random.default_rng(0).normal(0, 0.05, vector.shape))
    return model


def drawn(schema=None, name="linear_mixed", patients=60):
    schema = schema or flux_schema(most=20)
    cohort, model = flux_cohort(schema, patients), model_of(schema, name)
    predicted = predict(model, cohort)
    metrics = exact_metrics(schema.target, predicted, cohort.target)
    return cohort, predicted, forecast_pictures(model, cohort, predicted, metrics, invented=True)


def test_patients_stand_in_order_of_their_errors():
    cohort, predicted, pictures = drawn()
    scores = patient_scores(predicted, cohort.target)
    ranks = []
    for patient in pictures.patients:
        values = [value for course in patient.courses for value in course.values]
        found = [
            i
            for i in range(len(cohort))
            if set(values) <= set(cohort.visits[i, :, 2:5].reshape(-1).tolist())
        ]
        assert len(found) == 1  # measured values of one patient and no other
        ranks.append(scores[found[0]])
    assert ranks == sorted(ranks)
    assert len(ranks) == 3


def test_a_forecast_is_the_one_made_at_its_origin():
    _, predicted, pictures = drawn()
    course = pictures.patients[1].courses[1]
    assert list(course.ahead) == [horizon["at"] for horizon in HORIZONS]
    medians = predicted[:, :, :, 1, 0].reshape(-1, len(HORIZONS))
    assert any(np.array_equal(row, course.median) for row in medians)
    assert all(low <= mid <= high for low, mid, high in zip(
        course.lower, course.median, course.upper, strict=True
    ))  # fmt: skip
    assert min(course.times) <= 0 < max(course.times)
    known = [v for t, v in zip(course.times, course.values, strict=True) if t <= 0]
    assert course.last == known[-1]


def test_no_picture_mixes_two_stays():
    """Times of a second stay begin anew; measured from the origin, none may run backwards."""
    schema = flux_schema(most=20)
    _, _, pictures = drawn(schema, patients=200)
    for patient in pictures.patients:
        for course in patient.courses:
            assert (np.diff(course.times) > 0).all()


def test_shares_below_the_quantiles_agree_with_the_coverage():
    cohort, predicted, pictures = drawn()
    assert [one.marker for one in pictures.quantiles] == ["bilirubin", "albumin", "platelets"]
    outcome = cohort.target[:, :, :, 1, 0]
    below = np.where(np.isnan(outcome), np.nan, predicted[:, :, :, 1, 2] >= outcome)
    shares = [np.nanmean(row) for row in below.reshape(len(cohort), -1) if not np.isnan(row).all()]
    albumin = pictures.quantiles[1]
    assert list(albumin.nominal) == pytest.approx([10, 50, 90])
    assert albumin.actual[2] == pytest.approx(100 * np.mean(shares))
    assert albumin.actual[0] <= albumin.actual[1] <= albumin.actual[2]


def test_pairs_are_those_of_the_metrics():
    cohort, predicted, pictures = drawn()
    exact = exact_metrics(cohort.schema.target, predicted, cohort.target)
    assert len(pictures.pairs) == 6
    for pair, metric in zip(pictures.pairs, exact.pairs, strict=True):
        assert metric.name == f"{pair.marker} {pair.horizon:g}"
        assert (pair.ratio, pair.coverage) == (metric.ratio, metric.coverage)
        assert 0 < pair.ratio_reach < 1
        assert 0 < pair.coverage_reach < 50


def test_only_a_network_of_markers_has_a_ripple():
    assert drawn()[2].ripple == []
    rows = drawn(name="pathway_gnn")[2].ripple
    assert [row.leader.split()[0] for row in rows] == ["bilirubin", "albumin", "platelets"]
    albumin = rows[1]
    assert albumin.leader == "albumin +10 mg/L"
    assert albumin.moves[1] is None
    assert albumin.moves[0] == pytest.approx(0, abs=1e-6)
    assert abs(albumin.moves[2]) > 1e-4


def test_a_marker_that_nobody_was_measured_in_is_left_out():
    document = flux_document(most=20)
    schema = FeatureSchema.model_validate(document)
    cohort = flux_cohort(schema, 30)
    visits = cohort.visits.copy()
    visits[:, :, 2] = np.nan  # bilirubin
    bare = type(cohort)(
        "s", schema, cohort.patients, cohort.values, np.zeros((30, 0)), visits=visits
    )
    model = model_of(schema, "pathway_gnn")
    predicted = predict(model, bare)
    metrics = exact_metrics(schema.target, predicted, bare.target)
    pictures = forecast_pictures(model, bare, predicted, metrics, invented=False)
    assert [row.leader.split()[0] for row in pictures.ripple] == ["albumin", "platelets"]
    assert [one.marker for one in pictures.quantiles] == ["albumin", "platelets"]
    nothing = pictures.patients[0].courses[0]
    assert (list(nothing.values), nothing.last, list(nothing.median)) == ([], None, [])


def test_where_nothing_ever_changes_nobody_is_chosen():
    schema = flux_schema()
    cohort = flux_cohort(schema, 20)
    outcome = cohort.target.copy()
    outcome[..., 0] = outcome[..., 1]
    still = dataclasses.replace(cohort, target=outcome)
    model = model_of(schema)
    predicted = predict(model, still)
    metrics = exact_metrics(schema.target, predicted, still.target)
    pictures = forecast_pictures(model, still, predicted, metrics, invented=True)
    assert pictures.patients == []
    assert {pair.ratio for pair in pictures.pairs} == {None}


def study_of(model="pathway_gnn"):
    document = {
        **flux_schema().model_dump(mode="json"),
        "name": "course",
        "cohort": {"patients": SITES * 30, "largest_site": 60},
        "model": {"name": model},
        "training": {"rounds": 2},
        "privacy": {"mode": "none"},
        "metrics": {"evaluations": 0, "error_bound": 4.0},
    }
    return Study.from_document(document, source="s")


def test_a_simulations_report_holds_them_and_no_id(tmp_path):
    study = study_of()
    cohorts = [flux_cohort(study.feature_schema, 30, i, f"s{i}") for i in range(SITES)]
    found = fedrx.simulate(study, cohorts, output=tmp_path / "run", seed=1, baselines=False)
    assert {"error_by_horizon", "calibration", "which_markers_follow"} <= set(found.figures)
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Forecasts of single patients" in report
    # Cohorts from a notebook may be anybody's.
    assert "do not pass it on" in report
    for patient in concatenate(cohorts).patients:
        assert patient not in report
