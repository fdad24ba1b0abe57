"""One code has one normal form; what is no diplotype and no whole number is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedrx_protocol.study.codes import code_key
from fedrx_protocol.study.schema import CategoryFeature, FlagFeature, NumberFeature

ALLELES = st.sampled_from(["*1", "*2", "*10", "*1x2", "*36+*10", "*57:01"])


@given(first=ALLELES, second=ALLELES, space=st.sampled_from(["", " "]))
def test_a_diplotype_has_no_order(first, second, space):
    key = code_key(f"{first}/{second}")
    assert code_key(f"{second}{space}/{space}{first}") == key
    assert code_key(key) == key


@given(text=st.text("*/ACGT0123456789.x ", max_size=8))
def test_the_normal_form_is_its_own(text):
    assert code_key(code_key(text)) == code_key(text)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("1.0", "1"),
        ("-9.00", "-9"),
        ("G/A", "A/G"),
        ("CYP2C9*2/*1", "*1/*2"),
        ("CYP2C9*1/CYP2C9*2", "*1/*2"),
        ("A\u0308", "Ä"),
    ],
)
def test_spellings_of_one_code(text, key):
    assert code_key(text, "cyp2c9_star") == key


@pytest.mark.parametrize(
    "text", ["*2", "2/1", "*2/*1/*3", "1.000", "10", "1.5", "mg/L", "*2|*1", "CYP2C19*1/*2", "A/B"]
)
def test_what_stays_as_it_is(text):
    assert code_key(text, "cyp2c9") == text


@pytest.mark.parametrize("values", [["*1/*2", "*2/*1"], ["1", "1.0"], ["A/G", "A / G"]])
def test_a_study_names_one_code_once(values):
    with pytest.raises(ValidationError, match="are one code"):
        CategoryFeature.model_validate({"name": "x", "kind": "category", "values": values})


@pytest.mark.parametrize(
    ("model", "content"),
    [
        (CategoryFeature, {"kind": "category", "values": ["a", "b"]}),
        (FlagFeature, {"kind": "flag"}),
        (
            NumberFeature,
            {"kind": "number", "unit": "kg", "minimum": 0, "maximum": 2, "mean": 1, "scale": 1},
        ),
    ],
)
def test_an_optional_feature_alone_changes_the_canonical_form(model, content):
    """A study that was approved before the key was there keeps its digest."""
    document = {"name": "x", **content}
    assert "optional" not in model.model_validate(document).model_dump(mode="json")
    assert model.model_validate({**document, "optional": True}).model_dump()["optional"]
