"""What a mapping can say of a table as it is: formulas, dates, limits, repeats, spellings."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrx_client.data.load import load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_common.errors import DataError, FedRxError
from fedrx_models.cohort.visits import FIRST_VALUE, TIME
from fedrx_protocol.study.schema import FeatureSchema

NUMBER = {"kind": "number", "mean": 25, "scale": 10, "minimum": 0, "maximum": 5000}
SCHEMA = FeatureSchema.model_validate(
    {
        "features": [
            {**NUMBER, "name": "bmi", "unit": "kg/m2"},
            {**NUMBER, "name": "age", "unit": "year"},
            {**NUMBER, "name": "crp", "unit": "mg/L"},
        ],
        "target": {**NUMBER, "kind": "continuous", "name": "stay", "unit": "day"},
    }
)
HEADER = "id,height,body weight,born,in,died,seen,crp"
ROWS = (
    "p1,180,81,17.05.1964,17.05.2024,,01.06.2024,<5",
    "p2,NA,70,01.01.2000,01.07.2024,02.07.2024,,7",
)
MAPPING = """
[table]
patient = "id"
date_format = "%d.%m.%Y"

[columns.bmi]
formula = "'body weight' / height_m^2"

[columns.height_m]
formula = "height / 100"

[columns.age]
formula = "years(born, in)"

[columns.days]
formula = "days(in, coalesce(died, seen))"

[target]
column = "days"
unit = "day"

[features.bmi]
kind = "number"
column = "bmi"
unit = "kg/m2"

[features.age]
kind = "number"
column = "age"
unit = "year"

[features.crp]
kind = "number"
column = "crp"
unit = "mg/L"
censored = "half"
"""


@pytest.fixture
def load(tmp_path):
    def read(*rows, mapping=MAPPING, header=HEADER, schema=SCHEMA):
        path = tmp_path / "t.csv"
        path.write_text("\n".join((header, *rows)) + "\n")
        return load_cohort(path, TableMapping.parse(mapping), schema, site="here")

    return read


def test_columns_are_made_of_columns(load):
    loaded = load(*ROWS)
    values = {name: column.tolist() for name, column in loaded.cohort.values.items()}
    assert values["bmi"][0] == pytest.approx(25)
    assert values["bmi"][1] != values["bmi"][1]  # no height
    assert values["age"] == pytest.approx([60, 24 + 182 / 366])
    assert loaded.cohort.target.tolist() == [15, 1]


@pytest.mark.parametrize(
    ("rule", "value"), [("limit", 5), ("half", 2.5), ("missing", None)], ids=str
)
def test_values_with_a_limit_count_by_the_declared_rule(load, rule, value):
    loaded = load(*ROWS, mapping=MAPPING.replace('"half"', f'"{rule}"'))
    found = loaded.cohort.values["crp"].tolist()
    assert found[1] == 7
    assert found[0] == value if value is not None else found[0] != found[0]
    assert "column 'crp': 1 value with '<' or '>' counted" in loaded.quality.text()


def test_a_limit_without_a_rule_is_refused_with_the_way_out(load):
    with pytest.raises(DataError, match=r"line 2, column 'crp': '<5' is not a number; .*censored"):
        load(*ROWS, mapping=MAPPING.replace('censored = "half"', ""))
    above = (ROWS[0].replace("<5", "> 5"), ROWS[1])
    assert load(*above).cohort.values["crp"].tolist() == [5, 7]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("17.05.1964", "1964-05-17", r"line 2, column 'born': '1964-05-17' is no date such as"),
        (
            "180,81",
            "180,heavy",
            r"column 'body weight': 'heavy' is no number, which \[columns.bmi\]",
        ),
        ("180,81", "0,81", r"line 2, column 'bmi': the formula has no value, as 81 / 0 is no num"),
    ],
)
def test_a_cell_that_a_formula_cannot_use_is_named(load, old, new, sentence):
    row = ROWS[0].replace(old, new)
    with pytest.raises(DataError, match=sentence):
        load(row, ROWS[1])
    lenient = MAPPING.replace('born, in)"', 'born, in)"\nunknown = "missing"')
    lenient = lenient.replace('height_m^2"', 'height_m^2"\nunknown = "missing"')
    assert len(load(row, ROWS[1], mapping=lenient).cohort) == 2


def test_a_made_column_has_a_name_of_its_own(load):
    with pytest.raises(DataError, match=r"column 'age' is there, but \[columns.age\] of the map"):
        load(*(f"{row},60" for row in ROWS), header=f"{HEADER},age")


def test_a_column_of_a_formula_that_is_not_there_is_named(load):
    with pytest.raises(DataError, match="column 'body weight', which the mapping names, is not"):
        load(*ROWS, header=HEADER.replace("body weight", "mass"))


COURSE = FeatureSchema.model_validate(
    {
        "visits": {"time_unit": "hour", "most": 8},
        "markers": [
            {"name": "crp", "unit": "mg/L", "minimum": 0, "maximum": 900, "mean": 5, "scale": 5},
            {"name": "wbc", "unit": "G/L", "minimum": 0, "maximum": 900, "mean": 5, "scale": 5},
        ],
        "target": {
            "name": "course",
            "kind": "forecast",
            "markers": ["crp"],
            "horizons": [{"at": 24, "window": [18, 30]}],
        },
    }
)
WIDE = """
[table]
patient = "id"

[long]
time = "hour"
columns = { crp = "crp_{time}", wbc = "wbc {time}h" }

[visits]
time = "hour"
unit = "hour"

[markers.crp]
column = "crp"
unit = "mg/L"

[markers.wbc]
column = "wbc"
unit = "G/L"
"""


def test_measurements_side_by_side_become_visits(load):
    header = "id,crp_24,crp_0,crp_100,wbc 0h,crp_note"
    cohort = load("p1,7,5,,9,x", "p2,8,6,9,NA,y", mapping=WIDE, header=header, schema=COURSE).cohort
    times = cohort.visits[:, :3, TIME].tolist()
    assert times[0][:2] == [0, 24]
    assert times[0][2] != times[0][2]
    assert times[1] == [0, 24, 100]
    assert cohort.visits[1, :3, FIRST_VALUE].tolist() == [6, 8, 9]
    assert cohort.visits[0, 0, FIRST_VALUE + 1] == 9


def test_times_may_be_words(load):
    words = WIDE.replace('h" }', '" }\ntimes = { base = "0", later = "24" }')
    header = "id,crp_later,crp_base,wbc base,crp_0"
    cohort = load("p1,7,5,1,9", mapping=words, header=header, schema=COURSE).cohort
    assert cohort.visits[0, :2, FIRST_VALUE].tolist() == [5, 7]


@pytest.mark.parametrize(
    ("header", "row", "sentence"),
    [
        (
            "id,crp_0,crp_24,wbc 0h",
            "p1,5,x,1",
            "line 2, at time 24, column 'crp': 'x' is not a num",
        ),
        ("id,crp_0,crp_24", "p1,5,6", r"no column fits 'wbc {time}h' of \[long\]"),
        ("id,crp_0,crp_00,wbc 0h", "p1,5,6,1", "columns 'crp_0' and 'crp_00' both hold 'crp' at"),
        ("id,crp_0,crp,wbc 0h", "p1,5,6,1", r"column 'crp' is there, but \[long\]"),
        ("id,crp_0,crp_24,wbc 0h", "p1,,NA,", "no row has a value in the columns of"),
    ],
)
def test_what_cannot_become_visits_is_named(load, header, row, sentence):
    with pytest.raises(DataError, match=sentence):
        load(row, mapping=WIDE, header=header, schema=COURSE)


SPELLED = FeatureSchema.model_validate(
    {
        "features": [
            {"name": "cyp2c9", "kind": "category", "values": ["*1/*1", "*1/*2", "*2/*3"]},
            {"name": "vkorc1", "kind": "category", "values": ["C/C", "C/T", "T/T"]},
        ],
        "target": {
            "name": "dose",
            "unit": "mg/week",
            "minimum": 0,
            "maximum": 400,
            "mean": 35,
            "scale": 15,
        },
    }
)
SPELLING = """
[table]
patient = "id"
[target]
column = "dose"
unit = "mg/week"
[features.cyp2c9]
kind = "category"
column = "cyp"
parse = "diplotype"
gene = "CYP2C9"
[features.vkorc1]
kind = "category"
column = "vkor"
parse = "genotype"
position = "rs9923231"
"""


def test_a_laboratorys_spellings_of_genotypes_are_read(load):
    rows = ("p1,CYP2C9*2|*1,TC,30", "p2,3/2,G/A,30", "p3,*1/*1,C>T,30", "p4,,,30")
    cohort = load(*rows, mapping=SPELLING, header="id,cyp,vkor,dose", schema=SPELLED).cohort
    assert cohort.values["cyp2c9"].tolist() == [1, 2, 0, -1]
    assert cohort.values["vkorc1"].tolist() == [1, 1, 1, -1]
    with pytest.raises(DataError, match=r"line 2, column 'cyp': .*\*99.* is no allele of CYP2C9"):
        load("p1,*1/*99,CC,3", mapping=SPELLING, header="id,cyp,vkor,dose", schema=SPELLED)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('gene = "CYP2C9"', "", "parse = 'diplotype' needs gene"),
        ('position = "rs9923231"', 'gene = "VKORC1"', "parse = 'genotype' needs position"),
        ('parse = "diplotype"', "", "gene is not for parse = 'code'"),
        ('column = "cyp"', 'colum = "cyp"', "'features.cyp2c9.colum', did you mean 'column'.; al"),
    ],
)
def test_a_spelling_says_of_what_it_is(old, new, sentence):
    with pytest.raises(DataError, match=sentence):
        TableMapping.parse(SPELLING.replace(old, new))


LINES = [line for line in (MAPPING + WIDE + SPELLING).splitlines() if line]
WORDS = ["'", '"', "[", "]", "=", "{time}", "1", "true", "formula", "\x00", "é", "nan", "-", "{}"]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lines=st.lists(st.sampled_from(LINES), max_size=25),
    cut=st.tuples(st.integers(0, 600), st.integers(0, 9), st.sampled_from(WORDS)),
)
def test_any_text_is_a_mapping_or_sentences(load, lines, cut):
    text, (start, size, word) = "\n".join(["[table]", 'patient = "id"', *lines]), cut
    try:
        load(*ROWS, mapping=text[:start] + word + text[start + size :])
    except FedRxError as error:
        sentences = [str(one) for one in error.args]
    else:
        sentences = ["read."]
    assert all(one.endswith(".") for one in sentences)
