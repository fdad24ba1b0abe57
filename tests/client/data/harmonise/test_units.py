"""Units of laboratories become a study's; what does not measure the same is refused."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_client.data.harmonise.codes.value_sets import analyte_of, molar_mass
from fedrx_client.data.harmonise.units import conversion, same_unit
from fedrx_client.data.load import load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_common.errors import DataError
from fedrx_protocol.study.schema import FeatureSchema


@pytest.mark.parametrize(
    ("source", "to", "factor"),
    [
        ("mg/dL", "g/L", 0.01),
        ("mg/dl", "mg/dL", 1.0),
        ("MG/DL", "mg/dL", 1.0),
        ("mcg/mL", "mg/L", 1.0),
        ("µg/L", "ng/mL", 1.0),
        ("K/uL", "10*9/L", 1.0),
        ("10^9/L", "10*3/uL", 1.0),
        ("×10³/µL", "10*9/L", 1.0),
        ("E9/L", "10*9/L", 1.0),
        ("/uL", "10*9/L", 0.001),
        ("U/L", "ukat/L", 1 / 60),
        ("mmHg", "mm[Hg]", 1.0),
        ("mm[Hg]", "kPa", 0.133322387415),
        ("mg/d", "mg/week", 7.0),
        ("[lb_av]", "kg", 0.45359237),
        ("inch", "cm", 2.54),
        ("wk", "day", 7.0),
        ("%", "1", 0.01),
        ("{INR}", "1", 1.0),
        ("mIU/L", "m[IU]/L", 1.0),
        ("mL/min/1.73m2", "mL/min/{1.73_m2}", 1.0),
    ],
)
def test_everyday_spellings_and_ucum(source, to, factor):
    there, back = conversion(source, to), conversion(to, source)
    assert there is not None
    assert back is not None
    assert there(1.0) == pytest.approx(factor, rel=1e-12)
    assert back(there(7.25)) == pytest.approx(7.25, rel=1e-11)


@pytest.mark.parametrize(
    ("value", "source", "to", "expected"),
    [(98.6, "[degF]", "Cel", 37.0), (37.0, "°C", "[degF]", 98.6), (37.0, "C", "K", 310.15)],
)
def test_degrees_have_an_offset(value, source, to, expected):
    convert = conversion(source, to)
    assert convert is not None
    assert convert(value) == pytest.approx(expected)


# Factors as clinical laboratories print them (mmol/L or umol/L to mg/dL, g/dL or ng/mL).
@pytest.mark.parametrize(
    ("analyte", "source", "to", "factor", "digits"),
    [
        ("creatinine", "mg/dL", "umol/L", 88.4, 1e-3),
        ("glucose", "mmol/L", "mg/dL", 18.016, 1e-3),
        ("bilirubin", "mg/dL", "umol/L", 17.1, 2e-3),
        ("cholesterol", "mmol/L", "mg/dL", 38.67, 1e-3),
        ("triglycerides", "mmol/L", "mg/dL", 88.57, 1e-3),
        ("bun", "mmol/L", "mg/dL", 2.8, 1e-3),
        ("urea", "mmol/L", "mg/dL", 6.006, 1e-3),
        ("urate", "mg/dL", "umol/L", 59.48, 1e-3),
        ("calcium", "mmol/L", "mg/dL", 4.008, 1e-3),
        ("magnesium", "mmol/L", "mg/dL", 2.43, 1e-3),
        ("phosphate", "mmol/L", "mg/dL", 3.097, 1e-3),
        ("lactate", "mmol/L", "mg/dL", 9.009, 1e-3),
        ("vitamin_d", "ng/mL", "nmol/L", 2.496, 1e-3),
        ("digoxin", "ng/mL", "nmol/L", 1.281, 1e-3),
        ("iron", "ug/dL", "umol/L", 0.179, 1e-3),
    ],
)
def test_moles_and_grams_of_an_analyte(analyte, source, to, factor, digits):
    convert = conversion(source, to, analyte)
    assert convert is not None
    assert convert(1.0) == pytest.approx(factor, rel=digits)
    assert conversion(source, to) is None


@pytest.mark.parametrize(
    ("source", "to"),
    [
        ("mg/dL", "mg"),
        ("mL/min", "mL/min/{1.73_m2}"),
        ("ng/mL{FEU}", "ng/mL{DDU}"),
        ("[IU]/L", "/L"),
        ("[IU]/L", "U/L"),
        ("meq/L", "mmol/L"),
        ("Mg", "mg/d"),
        ("furlong", "cm"),
        ("", "mg"),
        ("mg" * 40, "mg"),
        ("m99999", "m"),
        ("10*400000", "1"),
    ],
)
@pytest.mark.parametrize("analyte", [None, "creatinine"])
def test_what_does_not_measure_the_same_is_refused(source, to, analyte):
    assert conversion(source, to, analyte) is None
    assert conversion(to, source, analyte) is None


def test_a_megagram_is_not_a_milligram():
    assert conversion("Mg", "mg")(1.0) == pytest.approx(1e9)


def test_spellings_of_one_unit_are_the_same():
    assert same_unit("mcg/L", "ug/L")
    assert not same_unit("mg/L", "ug/L")
    assert not same_unit("", "1")


def test_the_analyte_of_a_column():
    assert analyte_of(("creatinine",)) == "creatinine"
    assert analyte_of(("loinc:2160-0", "creatinine")) == "creatinine"
    assert analyte_of(("loinc:2160-0", "loinc:2345-7")) is None
    assert analyte_of(("sodium",)) is None
    assert molar_mass("creatinine") == 113.12


@settings(max_examples=200)
@given(source=st.text(max_size=80), to=st.sampled_from(["mg/dL", "1", "Cel", "d"]))
def test_any_text_is_a_unit_or_not(source, to):
    convert = conversion(source, to)
    assert convert is None or math.isfinite(convert(1.0))


PIECES = st.sampled_from(
    ["m", "g", "L", "mol", "10*", "3", "/", ".", "[", "]", "{", "}", "(", ")", "-", "eq", "%", "^"]
)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_pieces_of_units_are_a_unit_or_not(source):
    convert = conversion(source, "mg/dL", "creatinine")
    assert convert is None or math.isfinite(convert(1.0))


MARKER = """
[table]
patient = "id"
[target]
column = "dose"
unit = "mg/week"
[features.creatinine]
kind = "number"
column = "crea"
unit = "umol/L"
"""


@pytest.fixture
def creatinine_schema():
    limits = {"minimum": 0, "maximum": 99, "mean": 1, "scale": 1}
    feature = {"name": "creatinine", "kind": "number", "unit": "mg/dL", **limits}
    target = {"name": "dose", "kind": "continuous", "unit": "mg/week", **limits}
    return FeatureSchema.model_validate({"features": [feature], "target": target})


def test_a_table_in_moles_names_its_analyte(creatinine_schema, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,crea,dose\np1,88.4,35\np2,176.8,30\n")
    text = f'{MARKER}analyte = "creatinine"\n'
    loaded = load_cohort(path, TableMapping.parse(text), creatinine_schema, site="a")
    assert loaded.cohort.values["creatinine"] == pytest.approx([1.0, 2.0], rel=1e-4)
    for analyte, sentence in [
        ("", r"'features.creatinine.analyte'; or else allowed: mg/dL\."),
        ('analyte = "creatinin"', "'creatinin', whose molar mass is not known; known: creatinine"),
    ]:
        with pytest.raises(DataError, match=sentence):
            TableMapping.parse(f"{MARKER}{analyte}\n").check_against(creatinine_schema)
