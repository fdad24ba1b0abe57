"""Records become the table that a CSV file would give, whatever order their source had."""

import random
from datetime import UTC, datetime, timedelta, timezone

import pytest

from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.pivot import natural_key, pivot
from fedrx_client.data.readers.records import Code, Event, Person, Records, When
from fedrx_common.errors import DataError

CREATININE, GLUCOSE = Code("loinc", "2160-0"), Code("loinc", "2345-7")
WARFARIN, DIABETES = Code("rxnorm", "11289"), Code("icd10", "E11.9")


def at(text, precision="time"):
    moment = datetime.fromisoformat(text)
    return When(moment if moment.tzinfo else moment.replace(tzinfo=UTC), precision)


def day(text):
    return at(text, "day")


def measured(patient, value, start, unit="mg/dL", code=CREATININE, entry=1):
    place = f"entry {entry} (Observation)"
    return Event(patient, "measurement", (code,), place, value, unit, start, start)


def drug(patient, start, end=None, value="", unit="", entry=90):
    return Event(patient, "drug", (WARFARIN,), f"entry {entry}", value, unit, start, end)


def records(*events, persons=("p1",), **skipped):
    people = {
        one: Person(one, f"entry {n} (Patient)", "female", day("1950-06-15"))
        for n, one in enumerate(persons)
    }
    return Records("bundle.json", people, events, skipped)


def mapping(columns, options=""):
    return TableMapping.parse(f'[table]\npatient = "id"\n[records]\n{options}\n{columns}')


def table(found, columns, options=""):
    made = mapping(columns, options)
    return pivot(found, made, {"id", "time", *made.columns})


ONE = '[columns.crea]\nmeasurement = ["creatinine"]\nunit = "mg/dL"\n'


def test_a_value_in_the_columns_unit_keeps_its_text():
    found = table(records(measured("p1", "1.10", day("2020-01-05"))), ONE)
    assert found.columns == {"id": ("p1",), "crea": ("1.10",)}
    assert found.where(0, "crea") == "bundle.json, entry 1 (Observation), column 'crea'"
    assert found.where(0, "id") == "bundle.json, entry 0 (Patient), column 'id'"


@pytest.mark.parametrize(
    ("value", "unit", "cell"),
    [
        ("88.40169731258840", "umol/L", 1.0),
        ("<88.40169731258840", "µmol/L", 1.0),
        ("0.01", "g/L", 1.0),
        ("1", "MG/DL", 1.0),
        ("1", "[IU]/L", None),
    ],
)
def test_moles_become_grams_by_the_analyte(value, unit, cell):
    found = records(measured("p1", value, day("2020-01-05"), unit))
    if cell is None:
        with pytest.raises(DataError, match=r"entry 1 .*IU./L' cannot be converted to 'mg/dL'"):
            table(found, ONE)
        return
    (text,) = table(found, ONE).columns["crea"]
    assert text.startswith("<") == value.startswith("<")
    assert float(text.removeprefix("<")) == pytest.approx(cell)


@pytest.mark.parametrize(
    ("take", "cell"),
    [
        ("first", "3"),
        ("last", "<2"),
        ("lowest", "<2"),
        ("highest", "3"),
        ("count", "3"),
        ("any", "1"),
    ],
)
def test_which_record_counts(take, cell):
    events = [
        measured("p1", "2", day("2020-01-07")),
        measured("p1", "<2", day("2020-01-09")),
        measured("p1", "3", day("2020-01-05")),
    ]
    assert table(records(*events), f'{ONE}take = "{take}"').columns["crea"] == (cell,)


def test_a_mean_of_numbers_and_none_of_a_limit():
    events = [measured("p1", value, day("2020-01-07")) for value in ("1", "2", "4")]
    column = f'{ONE}take = "mean"\n'
    assert table(records(*events), column).columns["crea"] == (repr(7 / 3),)
    events.append(measured("p1", "<1", day("2020-01-07"), entry=9))
    with pytest.raises(DataError, match=r"entry 9 .*'<1' has no mean"):
        table(records(*events), column)
    missing = table(records(*events), f'{column}unknown = "missing"')
    assert missing.columns["crea"] == (repr(7 / 3),)


def test_the_middle_of_two_values_at_one_moment_counts_in_any_order():
    events = [measured("p1", v, day("2020-01-07"), entry=e) for e, v in enumerate("9125")]
    for turn in range(4):
        found = table(records(*events[turn:], *events[:turn]), ONE)
        assert found.columns["crea"] == ("2",)
        (note,) = found.notes
        assert "3 records of column 'crea' at the same moment as another" in note


def test_days_after_the_index_count_where_they_surely_are():
    events = [
        drug("p1", day("2020-01-10")),
        drug("p1", day("2020-03-10")),
        measured("p1", "1", day("2020-01-09")),
        measured("p1", "2", day("2020-01-11")),
        measured("p1", "3", at("2020-01-01", "month")),
        measured("p1", "4", day("2021-01-11")),
    ]
    options = "index = 'drug warfarin'"
    after = table(records(*events), f"{ONE}within = [0, 90]", options)
    assert after.columns["crea"] == ("2",)
    before = table(records(*events), f"{ONE}within = [-30, 0]", options)
    assert before.columns["crea"] == ("1",)
    around = table(records(*events), f"{ONE}within = [-30, 90]\ntake = 'count'", options)
    assert around.columns["crea"] == ("3",)


def test_patients_without_the_index_have_no_row():
    found = records(drug("p2", day("2020-01-10")), persons=("p1", "p2"))
    made = table(found, ONE, "index = 'drug warfarin'")
    assert made.columns["id"] == ("p2",)
    (note,) = made.notes
    assert note.startswith("bundle.json: 1 patient without a dated record of the index")


def test_persons_and_their_age_at_the_index():
    columns = "".join(
        f'[columns.{one}]\nperson = "{one}"\n' for one in ("sex", "age", "birth_year", "died")
    )
    events = [drug("p1", day("2020-06-14")), drug("p2", day("2020-06-15"))]
    found = table(records(*events, persons=("p1", "p2")), columns, "index = 'drug warfarin'")
    assert found.columns["age"] == ("69", "70")
    assert found.columns["sex"] == ("female", "female")
    assert found.columns["birth_year"] == ("1950", "1950")
    assert found.columns["died"] == ("0", "0")


def test_an_age_by_years_alone_where_no_more_is_known():
    person = Person("p1", "entry 1", birth=at("1950-01-01", "year"))
    found = Records("b", {"p1": person}, (measured("p1", "1", day("2020-01-01")),))
    assert table(found, f'{ONE}[columns.age]\nperson = "age"').columns["age"] == ("70",)


def test_a_birth_after_the_index_is_refused_without_its_date():
    person = Person("p1", "entry 7 (Patient)", birth=day("2031-03-04"))
    found = Records("b", {"p1": person}, (measured("p1", "1", day("2020-01-01")),))
    with pytest.raises(DataError, match=r"entry 7 \(Patient\), column 'age'") as caught:
        table(found, f'{ONE}[columns.age]\nperson = "age"')
    assert "2031" not in str(caught.value)


def test_drugs_and_conditions_are_there_or_not():
    sick = Event("p2", "condition", (DIABETES,), "entry 4", start=day("2011-02-03"))
    events = (drug("p1", day("2020-01-10"), value="5", unit="mg/d"), sick)
    columns = (
        '[columns.on]\ndrug = ["warfarin"]\n'
        '[columns.dose]\ndrug = ["rxnorm:11289"]\ntake = "dose"\nunit = "mg/week"\n'
        '[columns.sick]\ncondition = ["icd10:E11"]\n'
        '[columns.exact]\ncondition = ["icd10:E11"]\ndescendants = false\n'
    )
    found = table(records(*events, persons=("p1", "p2")), columns)
    assert found.columns["on"] == ("1", "0")
    assert found.columns["dose"] == ("35", "")
    assert found.columns["sick"] == ("0", "1")
    assert found.columns["exact"] == ("0", "0")


TIMES = 'rows = "times"\n'
TWO = f'{ONE}[columns.glu]\nmeasurement = ["glucose"]\n[columns.on]\ndrug = ["warfarin"]\n'


def test_a_row_for_each_time():
    events = (
        measured("p1", "1.1", day("2020-01-05")),
        measured("p1", "90", day("2020-01-05"), code=GLUCOSE),
        measured("p1", "1.3", day("2020-02-05")),
        drug("p1", day("2020-02-01"), day("2020-02-05")),
        measured("p2", "1.4", at("2020-02-05", "month")),
    )
    found = table(records(*events, persons=("p1", "p2")), TWO, TIMES)
    assert found.columns["time"] == ("0", "31")
    assert found.columns["crea"] == ("1.1", "1.3")
    assert found.columns["glu"] == ("90", "")
    assert found.columns["on"] == ("0", "1")
    assert len(found.notes) == 1


def test_measurements_within_one_step_share_a_row():
    start = datetime(2020, 1, 5, 8, tzinfo=timezone(timedelta(hours=2)))
    hours = [0, 0.5, 1.75, 4.25]
    events = [
        measured("p1", str(n), When(start + timedelta(hours=one))) for n, one in enumerate(hours)
    ]
    given = When(start + timedelta(hours=4.9))
    found = table(records(*events, drug("p1", given, given)), TWO, f'{TIMES}time_unit="h"\nevery=1')
    assert found.columns["time"] == ("0", "1", "4")
    assert found.columns["crea"] == ("1", "2", "3")
    assert found.columns["on"] == ("0", "0", "1")


def test_days_are_those_of_the_hospitals_own_calendar():
    events = (
        drug("p1", day("2020-01-05")),
        measured("p1", "1", at("2020-01-05T00:30:00+02:00")),
    )
    found = table(records(*events), f"{ONE}within = [0, 0]", "index = 'drug warfarin'")
    assert found.columns["crea"] == ("1",)


@pytest.mark.parametrize("options", ["", TIMES])
def test_the_order_of_the_source_changes_no_cell(options):
    draw, events = random.Random(5), []
    for n in range(200):
        patient = f"p{draw.randrange(12)}"
        when = day(f"2020-01-{1 + draw.randrange(9):02}")
        code, unit = draw.choice([(CREATININE, "mg/dL"), (GLUCOSE, "mg/dL")])
        events.append(measured(patient, str(draw.randrange(5)), when, unit, code, entry=n))
        events.append(drug(patient, when, when))
    people = [f"p{n}" for n in range(12)]
    first = table(records(*events, persons=people), TWO, options)
    draw.shuffle(events)
    draw.shuffle(people)
    again = table(records(*events, persons=people), TWO, options)
    assert first.columns == again.columns
    assert first.columns["id"] == tuple(sorted(first.columns["id"], key=natural_key))
    assert first.columns["id"][-1] == "p11"


@pytest.mark.parametrize(
    ("columns", "options", "complaint"),
    [
        (ONE.replace("creatinine", "creatinin"), "", "'creatinin', which is neither .*creatinine"),
        (f"{ONE}within = [0, 9]", "", "'columns.crea.within' counts days from the index"),
        (f"{ONE}within = [9, 0]", "index='drug warfarin'", "ends before it begins"),
        (f'{ONE}take = "dose"', "", "'columns.crea.take' is 'dose'"),
        ('[columns.x]\ncondition = ["I10"]', "", "'I10', which is neither a code such as"),
        ('[columns.x]\ncondition=["icd10:I10"]\ntake="last"', "", "allowed: any, count"),
        ('[columns.x]\nperson = "sex"\ntake = "last"', "", "about the person"),
        (ONE, "index = 'warfarin'", "'records.index' is 'warfarin'; write a kind and a code"),
        (ONE, "index = 'drug rxnorm:1'", "no patient has a record that makes a row"),
    ],
)
def test_what_a_mapping_cannot_say(columns, options, complaint):
    with pytest.raises(DataError, match=complaint):
        table(records(measured("p1", "1", day("2020-01-05"))), columns, options)


@pytest.mark.parametrize(
    ("value", "unit", "complaint"),
    [
        ("positive", "", "'positive' is not a number"),
        ("1", "", "the value has no unit"),
        ("1", "[IU]/L", "'.IU./L' cannot be converted to 'mg/dL'"),
        ("1e999", "mg/dL", "'1e999' is not a number"),
    ],
)
def test_a_value_that_is_not_in_the_unit_is_refused_or_missing(value, unit, complaint):
    found = records(measured("p1", value, day("2020-01-05"), unit))
    with pytest.raises(DataError, match=rf"entry 1 \(Observation\), column 'crea': {complaint}"):
        table(found, ONE)
    assert table(found, f'{ONE}unknown = "missing"').columns["crea"] == ("",)


def test_two_units_in_a_column_without_one_are_refused():
    column = '[columns.crea]\nmeasurement = ["creatinine"]\n'
    same = [measured("p1", "1", day("2020-01-05"), unit) for unit in ("mmHg", "mm[Hg]")]
    assert table(records(*same), column).columns["crea"] == ("1",)
    two = [measured("p1", "1", day("2020-01-05"), unit) for unit in ("mg/dL", "umol/L")]
    with pytest.raises(DataError, match="the unit is 'umol/L', but 'mg/dL' in entry 1"):
        table(records(*two), column)


def test_what_the_reader_skipped_is_told():
    found = records(measured("p1", "1", day("2020-01-05")), measured("p9", "1", None), cancelled=2)
    assert table(found, ONE).notes == (
        "bundle.json: 1 record of patients who are not in the source.",
        "bundle.json: 2 records not read: cancelled.",
    )
