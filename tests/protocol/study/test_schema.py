"""Features and target: what can be normalised at all, and what a mistake is called."""

import pytest
from pydantic import ValidationError

from fedrx_protocol.study.schema import (
    CategoryFeature,
    ContinuousTarget,
    FeatureSchema,
    FlagFeature,
    NumberFeature,
)

NUMBER = {
    "name": "age",
    "kind": "number",
    "unit": "years",
    "minimum": 0,
    "maximum": 110,
    "mean": 60,
    "scale": 15,
}
CATEGORY = {"name": "genotype", "kind": "category", "values": ["G/G", "A/G"]}
FLAG = {"name": "smoker", "kind": "flag"}
TARGET = {
    "name": "dose",
    "unit": "mg/week",
    "minimum": 1,
    "maximum": 400,
    "mean": 30,
    "scale": 10,
}


def schema(features=(NUMBER, CATEGORY, FLAG), target=TARGET) -> FeatureSchema:
    return FeatureSchema.model_validate({"features": list(features), "target": target})


def test_a_kind_decides_the_type():
    assert [type(f) for f in schema().features] == [NumberFeature, CategoryFeature, FlagFeature]


def test_order_is_kept():
    names = [feature.name for feature in schema((FLAG, NUMBER)).features]
    assert names == ["smoker", "age"]


def test_an_unrecorded_flag_is_no_unless_agreed_otherwise():
    assert not FlagFeature.model_validate(FLAG).missing_is
    assert FlagFeature.model_validate({**FLAG, "missing_is": True}).missing_is


@pytest.mark.parametrize("mean", [0, 110])
def test_a_mean_may_lie_at_an_end(mean):
    assert NumberFeature.model_validate({**NUMBER, "mean": mean}).mean == mean


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": 111}, "mean 111 must lie between minimum 0 and maximum 110"),
        ({"minimum": 200}, "must lie between"),
        ({"scale": 0}, "greater than 0"),
        ({"scale": float("inf")}, "finite"),
        ({"minimum": float("-inf")}, "finite"),
        ({"mean": "60"}, "valid number"),
        ({"mean": True}, "valid number"),
        ({"unit": ""}, "at least 1 character"),
        ({"name": "Age"}, "match pattern"),
        ({"name": "a" * 65}, "match pattern"),
        ({"name": ""}, "match pattern"),
        ({"units": "a"}, "not permitted"),
    ],
)
def test_a_number_that_cannot_be_normalised(changes, words):
    with pytest.raises(ValidationError, match=words):
        NumberFeature.model_validate({**NUMBER, **changes})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["a"], "at least 2"),
        ([], "at least 2"),
        (["a", "b", "a"], "values must be distinct"),
        (["a", 1], "valid string"),
        ("ab", "valid tuple"),
    ],
)
def test_a_category_without_a_choice(values, words):
    with pytest.raises(ValidationError, match=words):
        CategoryFeature.model_validate({**CATEGORY, "values": values})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"minimum": 400}, "minimum 400 must be below maximum 400"),
        ({"minimum": 0, "transform": "log"}, "needs a minimum above 0"),
        ({"minimum": -1, "transform": "sqrt"}, "needs a minimum of at least 0"),
        ({"mean": 30, "transform": "sqrt"}, "must lie between 1 and 20, as minimum and maximum do"),
        ({"mean": 30, "transform": "log"}, "must lie between 0 and 5.99146, as minimum and max"),
        ({"mean": -500}, "mean -500 must lie between 1 and 400"),
        ({"transform": "cube"}, "'identity', 'sqrt' or 'log'"),
        ({"scale": -1}, "greater than 0"),
    ],
)
def test_a_target_that_cannot_be_transformed(changes, words):
    with pytest.raises(ValidationError, match=words):
        ContinuousTarget.model_validate({**TARGET, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"minimum": 0, "mean": 0, "transform": "sqrt"},
        {"mean": 20, "transform": "sqrt"},
        {"mean": 0, "transform": "log"},
        {"mean": 5.99, "transform": "log"},
        {"mean": 400},
    ],
)
def test_a_target_at_the_edge_of_its_transform(changes):
    assert ContinuousTarget.model_validate({**TARGET, **changes})


@pytest.mark.parametrize(
    ("features", "repeated"),
    [((NUMBER, NUMBER), "age"), ((NUMBER, {**FLAG, "name": "dose"}), "dose")],
)
def test_names_are_unique_across_features_and_target(features, repeated):
    with pytest.raises(ValidationError, match=f"but {repeated} is repeated"):
        schema(features)


def test_a_schema_needs_a_feature():
    with pytest.raises(ValidationError, match="at least 1 item"):
        schema(())


def test_a_schema_survives_its_json():
    assert FeatureSchema.model_validate_json(schema().model_dump_json()) == schema()


def test_a_feature_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        schema().features[0].mean = 1.0
