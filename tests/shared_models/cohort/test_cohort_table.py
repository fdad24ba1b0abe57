"""A cohort refuses what the schema does not allow, and its split and fingerprint are stable."""

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_common.errors import DataError
from fedrx_models.cohort.cohort import Cohort, concatenate, require_variety
from fedrx_protocol.study.schema import FeatureSchema, PanelTarget


def _changed(cohort, **values):
    return {**cohort.values, **values}


def test_a_cohort_counts_and_selects_patients(make_cohort):
    cohort = make_cohort(10)
    some = cohort.select([7, 2])
    assert (len(cohort), len(some)) == (10, 2)
    assert some.patients == ("p7", "p2")
    assert some.target[1] == cohort.target[2]
    assert cohort.select(cohort.target > np.median(cohort.target)).patients != cohort.patients


def test_selecting_nobody_gives_an_empty_cohort(make_cohort):
    empty = make_cohort(3).select(np.zeros(3, bool))
    assert len(empty) == len(make_cohort(3).select([])) == 0
    assert empty.fingerprint != make_cohort(3).fingerprint


def test_columns_are_copied_and_cannot_be_changed(make_cohort):
    cohort = make_cohort(4)
    with pytest.raises(ValueError, match="read-only"):
        cohort.values["weight_kg"][0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        cohort.target[0] = 1.0


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"weight_kg": np.array([1000.0, 80.0])}, "'weight_kg' holds 1000, .* 20 to 300"),
        ({"weight_kg": np.array([np.inf, 80.0])}, "'weight_kg' holds inf"),
        ({"weight_kg": np.array(["a", "b"])}, "'weight_kg' must hold numbers"),
        ({"weight_kg": np.array([80.0])}, r"'weight_kg' has shape \(1,\), but there are 2"),
        ({"vkorc1": np.array([0, 3], np.int16)}, "'vkorc1' holds 3"),
        ({"vkorc1": np.array([0, -2], np.int16)}, "'vkorc1' holds -2"),
        ({"vkorc1": np.array([0.0, 1.0])}, "'vkorc1' must hold positions"),
        ({"smoker": np.array([0, 1])}, "flag 'smoker' must be boolean"),
        ({"height": np.array([1.0, 1.0])}, "'height' is not in the study"),
    ],
)
def test_a_column_that_does_not_fit_is_refused(make_cohort, values, sentence):
    cohort = make_cohort(2)
    with pytest.raises(DataError, match=sentence):
        dataclasses.replace(cohort, values=_changed(cohort, **values))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"target": np.array([30.0, np.nan])}, "target 'dose' is missing"),
        ({"target": np.array([30.0, 401.0])}, "'dose' holds 401"),
        ({"patients": ("p0", "p0")}, "appears more than once"),
        ({"patients": ("p0", "")}, "patient 2 has no id"),
        ({"patients": ("p0",)}, "has shape"),
        ({"site": ""}, "has no name"),
        ({"values": {}}, "feature 'smoker' of the study is missing"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(make_cohort, change, sentence):
    with pytest.raises(DataError, match=sentence):
        dataclasses.replace(make_cohort(2), **change)


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(range(8)))
def test_the_fingerprint_ignores_the_order_of_patients(make_cohort, order):
    cohort = make_cohort(8)
    assert cohort.select(order).fingerprint == cohort.fingerprint


@pytest.mark.parametrize("field", ["weight_kg", "vkorc1", "smoker", "target", "site", "patients"])
def test_the_fingerprint_sees_every_change(make_cohort, field):
    cohort = make_cohort(5)
    changes = {
        "weight_kg": {"values": _changed(cohort, weight_kg=np.full(5, 81.0))},
        "vkorc1": {"values": _changed(cohort, vkorc1=np.zeros(5, np.int16))},
        "smoker": {"values": _changed(cohort, smoker=~cohort.values["smoker"])},
        "target": {"target": cohort.target + 1e-9},
        "site": {"site": "b"},
        "patients": {"patients": ("p0", "p1", "p2", "p3", "p9")},
    }
    assert dataclasses.replace(cohort, **changes[field]).fingerprint != cohort.fingerprint


def test_a_missing_number_has_one_fingerprint(make_cohort):
    cohort = make_cohort(2)
    nans = [np.array([sign * np.nan, 70.0]) for sign in (1, -1)]
    first, second = (
        dataclasses.replace(cohort, values=_changed(cohort, weight_kg=nan)) for nan in nans
    )
    assert first.fingerprint == second.fingerprint


def test_a_split_is_complete_disjoint_and_of_the_wanted_size(make_cohort):
    train, test = make_cohort(4000).split(0.2, b"salt")
    assert set(train.patients) | set(test.patients) == set(make_cohort(4000).patients)
    assert not set(train.patients) & set(test.patients)
    assert abs(len(test) - 800) < 4 * np.sqrt(4000 * 0.2 * 0.8)


def test_one_patient_less_moves_nobody_else(make_cohort):
    cohort = make_cohort(200)
    _, test = cohort.split(0.3, b"salt")
    _, fewer = cohort.select(np.arange(1, 200)).split(0.3, b"salt")
    assert set(fewer.patients) == set(test.patients) - {"p0"}


def test_another_salt_gives_another_split(make_cohort):
    sides = [make_cohort(100).split(0.5, salt)[1].patients for salt in (b"a", b"b")]
    assert sides[0] != sides[1]


@pytest.mark.parametrize("held_out", [-0.1, 1.1, float("nan")])
def test_an_impossible_share_is_refused(make_cohort, held_out):
    with pytest.raises(DataError, match="between 0 and 1"):
        make_cohort(3).split(held_out, b"salt")


def test_pooling_keeps_equal_ids_of_two_sites_apart(make_cohort):
    pooled = concatenate([make_cohort(3, site="a"), make_cohort(2, seed=1, site="b")])
    assert pooled.patients == ("a/p0", "a/p1", "a/p2", "b/p0", "b/p1")
    assert pooled.site == "pooled"


def test_only_cohorts_of_one_schema_are_pooled(make_cohort, schema):
    cohort = make_cohort(2)
    document = schema.model_dump()
    document["target"]["maximum"] = 500
    other = dataclasses.replace(cohort, site="b", schema=FeatureSchema.model_validate(document))
    with pytest.raises(DataError, match="site 'b' has another schema than site 'a'"):
        concatenate([cohort, other])
    with pytest.raises(DataError, match="no cohort"):
        concatenate([])


def test_a_cohort_is_built_from_plain_lists_too(schema):
    cohort = Cohort(
        site="a",
        schema=schema,
        patients=("x",),
        values={"weight_kg": [70], "vkorc1": [0], "smoker": [True]},
        target=[21],
    )
    assert cohort.values["weight_kg"].dtype == np.float64
    assert cohort.values["vkorc1"].dtype == np.int16


def panel_of(*rows):
    drugs = [{"name": name, "mean": 0.0, "scale": 1.0} for name in "ab"]
    target = PanelTarget(kind="panel", name="response", unit="z", minimum=-9, maximum=9,
                         drugs=drugs)  # fmt: skip
    return target, np.array(rows, float)


@pytest.mark.parametrize(
    ("rows", "alike"),
    [
        ([(1, 2), (1, 2)], True),
        ([(1, 2), (1, np.nan), (np.nan, 2)], True),
        ([(1, 2), (1, 3)], False),
        ([(1, np.nan), (np.nan, 1)], False),  # no two of them were given the same drug
        ([(1, 1)], False),  # one patient is like nobody
    ],
)
def test_a_panel_in_which_no_drug_tells_patients_apart_is_refused(rows, alike):
    with pytest.raises(DataError, match="all have the same") if alike else nullcontext():
        require_variety(*panel_of(*rows), "of the patients held out")


def test_numbers_that_are_all_alike_are_refused(schema):
    require_variety(schema.target, np.array([35.0, 35.0, 28.0]), "of the patients held out")
    require_variety(schema.target, np.array([35.0]), "of the patients held out")
    with pytest.raises(DataError, match="of the patients held out, all have the same outcome"):
        require_variety(schema.target, np.full(3, 35.0), "of the patients held out")
