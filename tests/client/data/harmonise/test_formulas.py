"""The arithmetic of columns: what it computes, what it refuses, and that it stays arithmetic."""

import math
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_client.data.harmonise.dates import check_date_format, read_date, years_between
from fedrx_client.data.harmonise.formulas import (
    FUNCTIONS,
    LONGEST,
    Formula,
    FormulaHasNoValue,
    FormulaInvalid,
)

moment = datetime.fromisoformat
NUMBERS = {"a": [4.0, np.nan, 9.0], "b": [2.0, 2.0, -1.0], "the weight": [80.0, 70.0, 60.0]}
DATES = {"d": ["2000-02-29", "NaT", "2024-03-01"], "e": ["2024-02-28", "2024-01-01", "2024-03-02"]}


def compute(text, **options):
    return (
        Formula.parse(text)
        .values(
            3,
            lambda name: np.array(NUMBERS[name]),
            lambda name: np.array(DATES[name], dtype="datetime64[us]"),
            lambda name: ~np.isnan(NUMBERS[name]) if name in NUMBERS else np.array([1, 0, 1]) > 0,
            **options,
        )
        .tolist()
    )


@pytest.mark.parametrize(
    ("formula", "values"),
    [
        ("a + b * 2", [8, None, 7]),
        ("-b^2", [-4, -4, -1]),
        ("2^3^2", [512] * 3),
        ("2^-1", [0.5] * 3),
        ("(a + b) / 2", [3, None, 4]),
        ("a - b - 1", [1, None, 9]),
        ("'the weight' / (b)^2", [20, 17.5, 60]),
        ('"the weight" * 1e-1', [8, 7, 6]),
        ("log10(100) + log(exp(1)) + sqrt(a)", [5, None, 6]),
        ("coalesce(a, b)", [4, 2, 9]),
        ("known(a) + known(d)", [2, 0, 2]),
        ("min(a, b) + max(a, b, 5)", [7, None, 8]),
        ("abs(b) + floor(2.7) + round(2.5) + round(1.245, 2)", [8.25, 8.25, 7.25]),
        ("days(d, e)", [8765, None, 1]),
        ("hours(e, d)", [-8765 * 24, None, -24]),
        ("days(d, coalesce(d, e))", [0, None, 0]),
        ("days(min(d, e), max(d, e))", [8765, None, 1]),
        ("year(coalesce(d, e))", [2000, 2024, 2024]),
        ("floor(years(d, e))", [23, None, 0]),
    ],
)
def test_what_a_formula_gives(formula, values):
    expected = [math.nan if value is None else value for value in values]
    assert compute(formula) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("formula", "sentence"),
    [
        ("a +", "at character 4: the formula ends too early"),
        ("a b", "at character 3: 'b' does not belong here"),
        ("pow(a, 2)", r"'pow' is not a function; allowed: abs\(x\), coalesce"),
        ("__import__('os')", "'__import__' is not a function"),
        ("a.b", "'.' has no meaning here"),
        ("a ** 2", "for a power write"),
        ("a == b", "'=' has no meaning here"),
        ("(a", r"'\)' is missing"),
        ("log(a, b)", r"log takes other arguments: log\(x\)"),
        ("years(1, d)", "a date is needed here"),
        ("days(a + b, d)", "a date is needed here"),
        ("days(years(d, e), e)", "a date is needed here"),
        ("known(1)", "known takes one column"),
        ("''", "a column's name is empty"),
        ("1e999", "1e999 is too large"),
        ("(" * 60 + "a" + ")" * 60, "nested more than 40 levels"),
        ("-" * 200 + "a", "nested more than 40 levels"),
        ("1+" * LONGEST, "500 characters at most"),
    ],
)
def test_what_a_formula_may_not_hold(formula, sentence):
    with pytest.raises(FormulaInvalid, match=sentence):
        Formula.parse(formula)


@pytest.mark.parametrize(
    ("formula", "row", "why"),
    [
        ("1 / (a - 4)", 0, "1 / 0"),
        ("log(b)", 2, r"log\(-1\)"),
        ("sqrt(b)", 2, r"sqrt\(-1\)"),
        ("b ^ 0.5", 2, r"-1 \^ 0.5"),
        ("exp(a * 1000)", 0, r"exp\(4000\)"),
    ],
)
def test_what_has_no_answer_is_refused_or_missing(formula, row, why):
    with pytest.raises(FormulaHasNoValue, match=why) as error:
        compute(formula)
    assert error.value.row == row
    assert math.isnan(compute(formula, strict=False)[row])


def test_a_formula_names_its_columns_and_how_they_are_read():
    found = Formula.parse("days(d, coalesce('last seen', e)) + a * known(death)").columns
    assert found == {
        "d": {"date"},
        "last seen": {"date"},
        "e": {"date"},
        "a": {"number"},
        "death": {"any"},
    }


ALPHABET = [*"+-*/^(),'\" .19", "a", "d", "\u0661", "é", *FUNCTIONS]


@settings(max_examples=500, deadline=None)
@given(pieces=st.lists(st.sampled_from(ALPHABET), max_size=40))
def test_any_text_is_a_formula_or_one_sentence(pieces):
    try:
        formula = Formula.parse("".join(pieces))
    except FormulaInvalid as error:
        formula = str(error)
    if isinstance(formula, str):
        assert formula.startswith("at character ")
        return
    nothing = {name: np.full(2, np.nan) for name in formula.columns}
    found = formula.values(
        2,
        nothing.__getitem__,
        lambda _: np.array(["NaT", "2024-01-01"], dtype="datetime64[us]"),
        lambda _: np.array([True, False]),
        strict=False,
    )
    assert found.shape == (2,)


@pytest.mark.parametrize(
    ("text", "date_format", "expected"),
    [
        ("2024-01-31", "iso", moment("2024-01-31")),
        ("2024-01-31T08:30", "iso", moment("2024-01-31T08:30:00")),
        ("2024-01-31 08:30:05.25", "iso", moment("2024-01-31T08:30:05.250000")),
        ("2024-01-31T08:30:00+02:00", "iso", moment("2024-01-31T06:30:00")),
        ("2024-01-31T08:30Z", "iso", moment("2024-01-31T08:30:00")),
        ("31.01.2024", "%d.%m.%Y", moment("2024-01-31")),
        ("01/31/24", "%m/%d/%y", moment("2024-01-31")),
        ("31.01.2024", "iso", None),
        ("2024", "iso", None),
        ("2024-02-30", "iso", None),
        ("0001-01-01T00:00+14:00", "iso", None),
        ("31.13.2024", "%d.%m.%Y", None),
    ],
)
def test_dates_are_read_by_their_format(text, date_format, expected):
    assert read_date(text, date_format) == expected


@pytest.mark.parametrize(
    ("date_format", "sentence"),
    [("%d.%Q.%Y", "'%Q' is not known"), ("%d.%m.", "needs its year"), ("%Y %Y", "twice")],
)
def test_a_format_that_reads_no_dates_is_refused(date_format, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_date_format(date_format)


@pytest.mark.parametrize(
    ("start", "end", "years"),
    [
        ("1964-05-17", "2024-05-17", 60),
        ("1964-05-17", "2024-05-16", 59 + 365 / 366),
        ("2000-02-29", "2023-03-01", 23),
        ("2000-02-29", "2023-02-28", 22 + 364 / 365),
        ("2024-01-01", "2023-01-01", -1),
        ("9998-06-01", "9999-06-01", 1),
    ],
)
def test_years_are_whole_at_anniversaries(start, end, years):
    assert years_between(moment(start), moment(end)) == pytest.approx(years)
