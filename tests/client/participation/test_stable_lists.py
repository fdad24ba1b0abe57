"""A lying coordinator repeats a round with a model 1e-30 away and one hospital fewer.

The sites are real, and remember in their SQLite files; whoever asks them is the attacker.
"""

import numpy as np
import pytest
from small_consortium import Stage, small_study

from fedrx_client.training.clipping import gradient_sum
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import set_vector
from fedrx_protocol.secagg.errors import ListChanged, ModelAlreadyReleased

VICTIM = "site2"
ALWAYS = {"secure_aggregation": {"stable_lists": True}}


def stage_of(folder, *, live, **sections):
    stage = Stage(folder, small_study(**{"privacy": {"mode": "none"}, **sections}), live=live)
    stage.new_epoch()
    return stage


def flat(stage):
    return np.zeros(len(stage.start), dtype=np.float32)


def a_hair_away(stage):
    weights = flat(stage)
    weights[0] = 1e-30
    return weights


def without_the_victim(stage):
    return [name for name in stage.names if name != VICTIM]


def attack(stage):
    """What the sums of two rounds give away together, by part of the vector."""
    parts = []
    for number, weights, names in (
        (3, flat(stage), None),
        (4, a_hair_away(stage), without_the_victim(stage)),
    ):
        opened = stage.opened(number, weights=weights, names=names)
        parts.append(stage.plan.round(number, 0).layout.decode(opened.vector))
    return {name: parts[0][name] - parts[1][name] for name in parts[0]}


def training_patients(stage):
    return stage.cohorts[VICTIM].split(stage.study.cohort.held_out, b"salt " + VICTIM.encode())[0]


def test_without_one_list_it_gets_a_hospitals_exact_count_and_gradient(tmp_path):
    stage = stage_of(tmp_path, live=False)
    stolen, own = attack(stage), training_patients(stage)
    assert round(stolen["weight"][0]) == len(own)
    model = stage.consortium.model()
    set_vector(model, flat(stage))
    exact = gradient_sum(model, encode(own, stage.study.feature_schema))
    assert np.abs(exact).max() > 1
    np.testing.assert_allclose(stolen["training"], exact, atol=1e-2)


def test_with_one_list_every_hospital_refuses_and_nothing_is_charged(tmp_path):
    stage = stage_of(tmp_path, live=True)
    stage.opened(3, weights=flat(stage))
    lines = {name: len(stage.releases(name)) for name in stage.names}
    names = without_the_victim(stage)
    request = stage.request(4, weights=a_hair_away(stage), participants=names)
    for name in names:
        with pytest.raises(ListChanged, match=f"differs in '{VICTIM}'"):
            stage.site(name).train(request, a_hair_away(stage))
    assert {name: len(stage.releases(name)) for name in stage.names} == lines


def test_a_restart_between_two_runs_forgets_no_list(tmp_path):
    stage = stage_of(tmp_path, live=True)
    stage.opened(3, weights=flat(stage))
    for name in stage.names:
        stage.site(name).close()
    later = Stage(tmp_path, stage.study, live=True, run="run-2")
    later.new_epoch()
    with pytest.raises(ListChanged):
        later.opened(1, weights=a_hair_away(stage), names=without_the_victim(stage))
    later.opened(2, weights=a_hair_away(stage))


def test_the_same_list_goes_on_round_after_round(tmp_path):
    stage = stage_of(tmp_path, live=True)
    for number in range(1, 6):
        weights = stage.start + np.float32(number)
        assert stage.opened(number, weights=weights).survivors == stage.names
    with pytest.raises(ModelAlreadyReleased):
        stage.opened(5, attempt=1, weights=weights)


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_a_study_may_ask_for_one_list_where_there_is_noise(tmp_path, mode):
    stage = stage_of(tmp_path, live=False, privacy={"mode": mode}, **ALWAYS)
    stage.opened(1)
    with pytest.raises(ListChanged):
        stage.opened(2, names=without_the_victim(stage))
