"""What a live run says of its model, whatever kind of outcome the study has."""

import pytest
from omics_cohorts import TARGETS, omics_schema

from fedrx.run_page import figures
from fedrx_models.measures import measures_of
from fedrx_server.live_state import LiveState


def state(metrics, unit=""):
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


@pytest.mark.parametrize("kind", TARGETS)
def test_every_kinds_headline_is_known(kind):
    headline = measures_of(omics_schema(kind).target)[0]
    said = figures(state({headline.key: 0.5}))[0]
    assert (
        said.partition(": ")[2].lower().startswith((headline.label.lower(), headline.name.lower()))
    )
