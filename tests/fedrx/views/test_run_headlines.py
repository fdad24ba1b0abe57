"""What a live run says of its model, whatever kind of outcome the study has."""

import pytest
from omics_cohorts import TARGETS, omics_schema

from fedrx.views.run import _HEADLINES, figures, readable_metrics
from fedrx_models.metrics.registry import measures_of
from fedrx_server.service.status import LiveState


def state(metrics, unit="", **more):
    return LiveState(
        name="r-1",
        run="r-1.0",
        study="r",
        of=4,
        threshold=3,
        version="1",
        metrics=metrics,
        metrics_round=2,
        unit=unit,
        **more,
    )


@pytest.mark.parametrize(
    ("metrics", "unit", "words"),
    [
        (
            {"mae": 8.5, "mae_low": 7, "mae_high": 10},
            "mg",
            "MAE 8.50 (7.00 to 10.00 by its noise) mg",
        ),
        ({"n": 9.0, "mae": 1.25}, "ln uM", "MAE 1.25 ln uM"),
        ({"auc": 0.71234, "brier": 0.2}, "probability", "ROC AUC 0.712"),
        (
            {"concordance": 0.7, "concordance_low": 0.6, "concordance_high": 0.8},
            "months",
            "concordance 0.700 (0.600 to 0.800 by its noise)",
        ),
        ({"ratio": 0.87654, "coverage": 80.0}, "", "relative error 0.877"),
        ({"n": 3.0}, "months", "unknown"),
    ],
)
def test_the_headline_of_every_kind(metrics, unit, words):
    assert figures(state(metrics, unit))[0] == f"after round 2: {words}"


HIDDEN = [
    ({"mae": 0.0, "mae_low": 0.0, "mae_high": 17.15}, "MAE"),
    ({"concordance": 0.49, "concordance_low": 0.2, "concordance_high": 0.78}, "concordance"),
    ({"ratio": 1.26, "ratio_low": 0.87, "ratio_high": 1.65}, "relative error"),
    ({"auc": 0.98, "auc_low": 0.7, "auc_high": 1.0}, "ROC AUC"),
]


@pytest.mark.parametrize(("metrics", "name"), HIDDEN)
def test_what_noise_hides_is_no_number_for_a_person_and_null_for_a_program(metrics, name):
    live = state(metrics, "mg/week", tells=6.0 if "mae" in metrics else None)
    assert figures(live)[0] == f"after round 2: {name} hidden by noise"
    key, low, _ = metrics
    assert readable_metrics(live) == {**metrics, key: None}
    assert readable_metrics(live)[low] == metrics[low]


def test_a_headline_that_noise_left_nothing_of_is_hidden_too():
    live = state({"n": 3.0}, epsilon_promised=1.0, delta=1e-5)
    assert figures(live)[0] == "after round 2: hidden by noise"


def test_the_interval_of_patients_and_noise_is_told():
    ends = {"auc_low": 0.69, "auc_high": 0.73, "auc_ci_low": 0.66, "auc_ci_high": 0.76}
    told = figures(state({"auc": 0.71, **ends}))[0]
    assert told.endswith("ROC AUC 0.710 (95 %: 0.660 to 0.760; by its noise ±0.020)")


@pytest.mark.parametrize("kind", TARGETS)
def test_what_a_headline_could_tell_is_the_same_here_and_there(kind):
    headline = measures_of(omics_schema(kind).target)[0]
    if headline.key != "mae":
        assert _HEADLINES[headline.key][2] == headline.tells


@pytest.mark.parametrize("kind", TARGETS)
def test_every_kinds_headline_is_known(kind):
    headline = measures_of(omics_schema(kind).target)[0]
    said = figures(state({headline.key: 0.5}))[0]
    assert (
        said.partition(": ")[2].lower().startswith((headline.label.lower(), headline.name.lower()))
    )
