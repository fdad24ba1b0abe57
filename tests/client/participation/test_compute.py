"""What a part of a round computes, as functions: no store, no party, no clock."""

from dataclasses import replace

import numpy as np
import pytest
from small_consortium import RUN, Stage, small_study

from fedrx_client.participation.compute import SitePatients, compute, on_grid, release_of
from fedrx_client.training.randomness import SeededRandomness
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import get_vector
from fedrx_protocol.fixed_point import ValueOutOfRange

COINS = SeededRandomness(7)
TIME = "2026-11-21T10:00:00+00:00"


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def patients_of(stage):
    training, held_out = stage.cohorts["site0"].split(0.2, b"salt")
    schema = stage.study.feature_schema
    return SitePatients(
        "site0", encode(training, schema), encode(held_out, schema), held_out.target, rows=8
    )


def computed(stage, part, round_):
    return compute(
        stage.plan,
        round_,
        part,
        model=stage.consortium.model(),
        patients=patients_of(stage),
        randomness=COINS,
    )


def test_equal_arguments_give_equal_values_and_leave_the_model_alone(tmp_path):
    for mode in ("distributed", "local", "none"):
        (tmp_path / mode).mkdir()
        stage = Stage(tmp_path / mode, small_study(privacy={"mode": mode}))
        round_, model = stage.plan.round(1, 0), stage.consortium.model()
        before, part = get_vector(model), round_.by_name["training"]
        given = {"model": model, "patients": patients_of(stage), "randomness": COINS}
        first, second = (compute(stage.plan, round_, part, **given) for _ in range(2))
        assert set(first.grids) == {one.name for one in round_.parts}
        for name, grid in first.grids.items():
            np.testing.assert_array_equal(grid, second.grids[name])
        np.testing.assert_array_equal(get_vector(model), before)


def test_a_line_names_the_part_and_its_bound(stage):
    round_ = stage.plan.round(2, 1)
    names = {"study": stage.study.digest, "run": RUN, "cohort": "ab" * 32, "time": TIME}
    lines = {
        part.name: release_of(computed(stage, part, round_), stage.plan, round_, part, **names)
        for part in round_.parts
    }
    assert set(lines) == {"training", "metrics"}
    assert {(one.round, one.attempt, one.cohort) for one in lines.values()} == {(2, 1, "ab" * 32)}
    assert lines["training"].clipping_norm == stage.study.training.clipping_norm
    assert lines["metrics"].clipping_norm == round_.by_name["metrics"].sensitivity
    assert lines["metrics"].noise_multiplier == round_.by_name["metrics"].noise_multiplier


def test_noise_that_could_wrap_the_ring_is_refused(stage):
    round_ = stage.plan.round(1, 0)
    part = round_.by_name["training"]
    values = np.zeros(part.length)
    on_grid(part, values, round_, "site0", COINS)
    loud = replace(part, site_noise_sd=float(round_.site_limit))
    with pytest.raises(ValueOutOfRange, match="does not fit its share of 32 bits"):
        on_grid(loud, values, round_, "site0", COINS)
