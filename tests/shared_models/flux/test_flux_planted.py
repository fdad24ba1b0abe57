"""What is planted in synthetic courses is found by the models that are meant for it.

The truth is the simulator's: what a forecaster who knew how courses are drawn would say.
"""

import numpy as np
import pytest
from flux_planted import (
    SMALL,
    drawn,
    knobs_of,
    network_schema,
    therapy_found,
    trained,
    warfarin_schema,
)

from fedrx_models.cohort.encoding import encode
from fedrx_models.flux.ripple import Ripple, ripple
from fedrx_simulation.cohorts.flux_course import planted_course
from fedrx_simulation.cohorts.flux_truth import leader_effect, therapy_effect

pytestmark = pytest.mark.slow

TOLERANCE = 0.25
"""Of the truth, where something is planted."""
SMALL_EFFECT = 0.2
"""Scales of a marker: what may be found where little or nothing is planted."""
SCHEMA = network_schema()
LAG, OTHER = 1, 0  # horizons: four hours, at which albumin leads, and one hour
SCALE = 10.0  # of albumin and platelets
FINDERS_OF_WARFARIN = ("tcn", "lstm", "transformer", "pathway_gnn")


@pytest.fixture(scope="module")
def fresh():
    """Patients that no model has seen."""
    return drawn(SCHEMA, 300, seed=9)


@pytest.fixture(scope="module", params=[None, 8.0], ids=["no-privacy", "epsilon-8"])
def epsilon(request):
    return request.param


@pytest.fixture(scope="module", params=SMALL)
def model(request, epsilon):
    return trained(request.param, SCHEMA, epsilon)


def moved(model, fresh, leader) -> Ripple:
    return ripple(model, encode(fresh, SCHEMA), leader, SCALE)


def test_the_lagged_effect_is_found_when_it_comes(model, fresh):
    expected = leader_effect(knobs_of(SCHEMA))
    assert planted_course(SCHEMA).lag == SCHEMA.target.horizons[LAG].at
    found = moved(model, fresh, "albumin")
    follows = found.mean[:, found.markers.index("platelets")] / SCALE
    assert follows[LAG] == pytest.approx(expected[LAG], rel=TOLERANCE)
    assert follows[OTHER] == pytest.approx(expected[OTHER], abs=SMALL_EFFECT)
    assert found.agreement[LAG, 2] > 0.9


def test_the_network_is_found_from_leader_to_follower_only(model, fresh):
    """The edge can be travelled both ways, but nothing does; bilirubin is joined to nobody."""
    back = moved(model, fresh, "platelets")
    assert (np.abs(back.mean[:, back.markers.index("albumin")]) < SMALL_EFFECT * SCALE).all()
    lonely = moved(model, fresh, "albumin").mean[:, 0] / SCHEMA.markers[0].unit_scale
    most = 1e-6 if model.name == "pathway_gnn" else SMALL_EFFECT
    assert (np.abs(lonely) < most).all()


def test_the_treatments_effect_is_that_of_the_simulator(model, fresh):
    expected = therapy_effect(knobs_of(SCHEMA))
    found = therapy_found(model, fresh)
    assert found[LAG] == pytest.approx(expected[LAG], rel=TOLERANCE)
    assert found[OTHER] == pytest.approx(expected[OTHER], abs=SMALL_EFFECT)


@pytest.mark.parametrize("name", FINDERS_OF_WARFARIN)
def test_warfarin_raises_the_inr(name, epsilon):
    schema = warfarin_schema()
    expected = therapy_effect(knobs_of(schema))
    found = therapy_found(trained(name, schema, epsilon), drawn(schema, 300, seed=9))
    assert (expected > 0.3).all()
    assert found == pytest.approx(expected, rel=0.35)
    assert found[1] == pytest.approx(expected[1], rel=TOLERANCE)


def test_the_last_value_finds_nothing(epsilon, fresh):
    model = trained("last_value", SCHEMA, epsilon)
    assert np.abs(therapy_found(model, fresh)).max() < 1e-6
    assert np.abs(moved(model, fresh, "albumin").mean[:, 2]).max() < 1e-6
