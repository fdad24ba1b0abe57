"""The truth of synthetic courses: what a forecaster who knew how they are drawn would say."""

import numpy as np
import pytest
from flux_cohorts import flux_document
from flux_planted import warfarin_schema

from fedrx_common.errors import MisuseError
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_simulation.cohorts.flux import FluxCohorts
from fedrx_simulation.cohorts.flux_truth import leader_effect, therapy_effect, untreated_visit


def schema_of(**changes):
    return FeatureSchema.model_validate({**flux_document(most=16), **changes})


def test_without_coupling_nothing_follows():
    assert leader_effect(FluxCohorts(schema_of(), coupling=0.0)) == pytest.approx(0, abs=1e-12)


def test_a_measurement_without_noise_of_a_long_course_tells_nearly_the_whole_coupling():
    """What is left out is the patient's own level, which a long course makes known."""
    schema = schema_of(visits={"time_unit": "hour", "most": 200})
    sharp, noisy = (
        leader_effect(FluxCohorts(schema, missingness=0.0, noise_sd=noise)) for noise in (0.01, 0.5)
    )
    assert 0.9 * 1.2 < sharp[1] <= 1.2
    assert noisy[1] < 0.75 * sharp[1]


def test_a_leader_says_most_of_the_time_at_which_it_leads():
    near, at_lag = leader_effect(FluxCohorts(schema_of()))
    assert abs(near) < 0.1 * at_lag


def test_a_therapy_that_does_nothing_has_no_effect():
    assert therapy_effect(FluxCohorts(schema_of(), therapy=0.0)) == pytest.approx(0)


def test_a_therapy_lowers_its_marker_but_warfarin_raises_the_inr():
    weak, strong = (
        therapy_effect(FluxCohorts(schema_of(), therapy=strength)) for strength in (0.5, 2.0)
    )
    assert (strong < weak).all()
    assert (weak < 0).all()
    assert (therapy_effect(FluxCohorts(warfarin_schema())) > 0.3).all()


def test_the_origin_of_a_comparison_is_before_any_therapy():
    rng = np.random.default_rng(0)
    start, count = np.array([0, 1, 5, 99]), np.array([4, 4, 4, 2])
    for _ in range(20):
        origin = untreated_visit(rng, start, count)
        assert origin[0] == -1
        assert (origin[1:] >= 0).all()
        assert (origin < np.minimum(start, count)).all()


@pytest.mark.parametrize(
    ("ask", "lacks", "words"),
    [
        (therapy_effect, {"treatments": []}, "names no treatment"),
        (
            leader_effect,
            {
                "graph": None,
                "target": {**flux_document()["target"], "markers": ["bilirubin", "albumin"]},
            },
            "no graph",
        ),
    ],
)
def test_what_is_not_planted_has_no_truth(ask, lacks, words):
    with pytest.raises(MisuseError, match=words):
        ask(FluxCohorts(schema_of(**lacks)))
