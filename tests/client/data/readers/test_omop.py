"""OMOP's tables as records: an SQLite file, a folder of CSV and one of Parquet give the same."""

import gzip
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cdm_files import write_folder, write_sqlite
from four_sources import CDM, TABLET, VOCABULARY, WARFARIN

from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.omop import read_omop
from fedrx_client.data.readers.omop_folder import FolderTables
from fedrx_client.data.readers.read import read_source
from fedrx_client.data.readers.records import Code, When
from fedrx_client.data.readers.source import Source
from fedrx_client.data.readers.sql import read_database
from fedrx_common.errors import DataError

CRP = 3020460


def tables(**rows):
    """Tables with one person and these rows; a table that is None is not there at all."""
    person = {"person_id": 7, "gender_concept_id": 8532, "year_of_birth": 1950}
    found = {name: [] for name in CDM} | {"person": [person]} | rows
    return {name: found[name] for name in found if found[name] is not None}


def measured(**cells):
    usual = {
        "measurement_id": 11,
        "person_id": 7,
        "measurement_concept_id": CRP,
        "measurement_date": "2024-03-01",
        "value_as_number": "2.5",
        "unit_concept_id": 8751,
    }
    return {**usual, **cells}  # fmt: skip


def mapping(columns, more=""):
    return TableMapping.parse(f'[table]\npatient = "id"\n{more}\n{columns}')


CRP_COLUMN = f'[columns.crp]\nmeasurement = ["omop:{CRP}"]\n'


@pytest.fixture(params=["sqlite", "csv", "parquet"])
def read(request, tmp_path):
    """`read(tables, columns)` writes tables in one of three ways and reads their records."""

    def of(content, columns=CRP_COLUMN, more=""):
        said = mapping(columns, more)
        if request.param == "sqlite":
            path = write_sqlite(tmp_path / "cdm.sqlite", content, only=content)
            return read_database(Source.parse(path), said, said.columns)
        folder = write_folder(
            tmp_path / "cdm", content, parquet=request.param == "parquet", only=content
        )
        return read_omop(FolderTables(folder), said, said.columns)

    return of


@pytest.mark.parametrize(
    ("cells", "moment", "precision"),
    [
        ({"year_of_birth": 1950}, datetime(1950, 1, 1, tzinfo=UTC), "year"),
        ({"year_of_birth": 1950, "month_of_birth": 4}, datetime(1950, 4, 1, tzinfo=UTC), "month"),
        (
            {"year_of_birth": 1950, "month_of_birth": 4, "day_of_birth": 30},
            datetime(1950, 4, 30, tzinfo=UTC),
            "day",
        ),
        (
            {"year_of_birth": None, "birth_datetime": "1950-04-30 06:00:00"},
            datetime(1950, 4, 30, 6, tzinfo=UTC),
            "time",
        ),
    ],
)
def test_a_birth_date_is_as_exact_as_it_is_known(read, cells, moment, precision):
    person = {"person_id": 7, "gender_concept_id": 8507, **cells}
    found = read(tables(person=[person])).persons["7"]
    assert found.birth == When(moment, precision)
    assert found.sex == "male"


@pytest.mark.parametrize(
    ("gender", "sex"), [(8507, "male"), (8532, "female"), (8521, "other"), (8551, ""), (0, "")]
)
def test_sex_is_a_standard_concept(read, gender, sex):
    person = {"person_id": 7, "gender_concept_id": gender, "year_of_birth": 1950}
    assert read(tables(person=[person])).persons["7"].sex == sex


def test_a_death_may_have_no_date(read):
    found = read(tables(death=[{"person_id": 7}])).persons["7"]
    assert (found.died, found.death) == (True, None)


def test_tables_that_are_not_needed_may_be_missing(read):
    only = {"person": tables()["person"], "measurement": [measured()]}
    assert len(read(only).events) == 1


@pytest.mark.parametrize(
    ("cells", "value", "unit"),
    [
        ({"unit_concept_id": 8840}, "2.5", "mg/dL"),
        ({"operator_concept_id": 4171756}, "<2.5", "omop:8751"),
        ({"operator_concept_id": 4171754}, "<=2.5", "omop:8751"),
        ({"operator_concept_id": 4172704}, ">2.5", "omop:8751"),
        ({"operator_concept_id": 4171755}, ">=2.5", "omop:8751"),
        ({"operator_concept_id": 4172703}, "2.5", "omop:8751"),
        ({"operator_concept_id": 0, "value_as_number": "3"}, "3", "omop:8751"),
        ({"unit_concept_id": 0, "unit_source_value": "mg/l"}, "2.5", "mg/l"),
        ({"unit_concept_id": None}, "2.5", ""),
        ({"unit_concept_id": 8751, "unit_source_value": "mg/l"}, "2.5", "mg/l"),
        ({"value_as_number": None, "value_as_concept_id": 4181412}, "4181412", ""),
        (
            {"value_as_number": None, "value_source_value": "*1/*3", "unit_concept_id": 0},
            "*1/*3",
            "",
        ),
        ({"value_as_number": None}, "", ""),
    ],
)  # fmt: skip
def test_a_value_is_a_number_with_its_unit_or_a_code(read, cells, value, unit):
    (event,) = read(tables(measurement=[measured(**cells)])).events
    assert (event.value, event.unit) == (value, unit)
    assert event.place == "measurement 11"


def test_the_vocabulary_names_units_that_do_not_ship(read):
    concept = [{"concept_id": 8751, "vocabulary_id": "UCUM", "concept_code": "mg/L"}]
    (event,) = read(tables(measurement=[measured()], concept=concept)).events
    assert event.unit == "mg/L"


def test_a_value_with_an_unknown_operator_is_counted_and_not_read(read):
    found = read(tables(measurement=[measured(operator_concept_id=4139823)]))
    assert found.events[0].value == ""
    assert sum(found.skipped.values()) == 1


def test_long_text_is_not_read(read):
    text = {"value_as_number": None, "value_source_value": "Mrs Miller " * 6}
    found = read(tables(measurement=[measured(**text)]))
    assert found.events[0].value == ""
    assert "Miller" not in str(found)


@pytest.mark.parametrize(
    ("cells", "start"),
    [
        ({}, When(datetime(2024, 3, 1, tzinfo=UTC), "day")),
        (
            {"measurement_datetime": "2024-03-01 08:15:00"},
            When(datetime(2024, 3, 1, 8, 15, tzinfo=UTC), "time"),
        ),
    ],
)
def test_a_moment_counts_before_the_day(read, cells, start):
    (event,) = read(tables(measurement=[measured(**cells)])).events
    assert event.start == event.end == start


@pytest.mark.parametrize("text", ["2024-03-01T08:15:00+01:00", "2024-03-01 08:15:00 +0100"])
def test_a_moment_keeps_its_time_zone(tmp_path, text):
    path = write_sqlite(
        tmp_path / "c.db", tables(measurement=[measured(measurement_datetime=text)])
    )
    said = mapping(CRP_COLUMN)
    (event,) = read_database(Source.parse(path), said, said.columns).events
    zone = timezone(timedelta(hours=1))
    assert event.start == When(datetime(2024, 3, 1, 8, 15, tzinfo=zone), "time")


def test_only_records_of_wanted_concepts_are_read(read):
    rows = [measured(), measured(measurement_id=12, measurement_concept_id=3016723)]
    assert [event.place for event in read(tables(measurement=rows)).events] == ["measurement 11"]


def test_a_concept_of_the_source_counts_too(read):
    row = measured(measurement_concept_id=0, measurement_source_concept_id=2_000_000_123)
    column = '[columns.crp]\nmeasurement = ["omop:2000000123"]\n'
    (event,) = read(tables(measurement=[row]), column).events
    assert Code("omop", "2000000123") in event.codes


def drug(concept, **cells):
    return {"drug_exposure_id": 3, "person_id": 7, "drug_concept_id": concept,
            "drug_exposure_start_date": "2024-01-01", "drug_exposure_end_date": "2024-01-28",
            **cells}  # fmt: skip


def test_a_product_counts_as_its_ingredient_where_the_vocabulary_says_so(read):
    column = '[columns.w]\ndrug = ["rxnorm:11289"]\n'
    (event,) = read(tables(drug_exposure=[drug(TABLET)], **VOCABULARY), column).events
    assert event.codes == (Code("rxnorm", "11289"), Code("omop", str(TABLET)))
    assert event.end == When(datetime(2024, 1, 28, tzinfo=UTC), "day")


def test_without_descendants_a_product_is_another_concept(read):
    column = '[columns.w]\ndrug = ["rxnorm:11289"]\ndescendants = false\n'
    rows = [drug(TABLET), drug(WARFARIN, drug_exposure_id=4)]
    (event,) = read(tables(drug_exposure=rows, **VOCABULARY), column).events
    assert event.place == "drug_exposure 4"


@pytest.mark.parametrize(
    ("cells", "dose"),
    [
        ({"quantity": "70", "days_supply": 28}, ("2.5", "mg/d")),
        ({"quantity": "70"}, ("70", "mg")),
        ({"quantity": "5", "dose_unit_source_value": "mg"}, ("5", "mg")),
        ({}, ("", "")),
    ],
)
def test_a_dose_is_the_strength_of_the_product_times_its_quantity(read, cells, dose):
    column = f'[columns.w]\ndrug = ["omop:{WARFARIN}"]\n'
    (event,) = read(tables(drug_exposure=[drug(TABLET, **cells)], **VOCABULARY), column).events
    assert (event.value, event.unit) == dose


def condition(concept, **cells):
    return {"condition_occurrence_id": 5, "person_id": 7, "condition_concept_id": concept,
            "condition_start_date": "2023-12-01", **cells}  # fmt: skip


@pytest.mark.parametrize(("below", "count"), [("true", 2), ("false", 1)])
def test_a_code_of_icd_10_counts_with_those_below_it(read, below, count):
    concepts = [
        {"concept_id": 35206882, "vocabulary_id": "ICD10CM", "concept_code": "E11"},
        {"concept_id": 35206883, "vocabulary_id": "ICD10CM", "concept_code": "E11.9"},
        {"concept_id": 35206884, "vocabulary_id": "ICD10CM", "concept_code": "E13.9"},
    ]
    rows = [
        condition(0, condition_occurrence_id=n, condition_source_concept_id=one["concept_id"])
        for n, one in enumerate(concepts)
    ]
    column = f'[columns.d]\ncondition = ["icd10:E11"]\ndescendants = {below}\n'
    found = read(tables(condition_occurrence=rows, concept=concepts), column).events
    assert len(found) == count
    assert all(Code("icd10", "E11") in event.codes for event in found)


def test_a_name_of_a_value_set_needs_no_vocabulary(read):
    column = '[columns.c]\nmeasurement = ["creatinine"]\n'
    content = {
        "person": tables()["person"],
        "measurement": [measured(measurement_concept_id=3016723)],
    }
    assert len(read(content, column).events) == 1


def test_an_observation_is_a_measurement_too(read):
    row = {"observation_id": 9, "person_id": 7, "observation_concept_id": 3042605,
           "observation_date": "2024-03-01", "value_as_string": "*1/*3"}  # fmt: skip
    column = '[columns.g]\nmeasurement = ["omop:3042605"]\n'
    (event,) = read(tables(observation=[row]), column).events
    assert (event.kind, event.value, event.place) == ("measurement", "*1/*3", "observation 9")


@pytest.mark.parametrize(
    ("content", "columns", "complaint"),
    [
        ({"measurement": []}, CRP_COLUMN, "there is no table 'person'"),
        (tables(person=[]), CRP_COLUMN, "table 'person' has no rows"),
        ({"person": tables()["person"]}, CRP_COLUMN, "there is no table 'measurement', which map"),
        (
            tables(concept=None),
            '[columns.c]\nmeasurement = ["loinc:1988-5"]\n',
            "of a measurement; it has no table 'concept'; name OMOP's concept id instead",
        ),
        (tables(), '[columns.c]\nmeasurement = ["loinc:1988-5"]\n', "no concept is loinc:1988-5"),
        (tables(), '[columns.c]\nmeasurement = ["omop:crp"]\n', "'crp' is no concept id"),
        (tables(), '[columns.c]\nmeasurement = ["omop:0"]\n', "'0' is no concept id"),
        (
            tables(),
            '[columns.a]\ndrug = ["omop:5"]\n[columns.b]\ndrug = ["omop:5"]\ndescendants = false\n',
            "names drug omop:5 both with and without descendants",
        ),
        (
            tables(person=[{"person_id": 7, "year_of_birth": 1950}] * 2),
            CRP_COLUMN,
            "person 7: the id is there twice; keep one row per person.",
        ),
        (
            tables(person=[{"gender_concept_id": 8507}]),
            CRP_COLUMN,
            "table 'person': a row has no person_id",
        ),
        (
            tables(person=[{"person_id": 7, "year_of_birth": 1950, "month_of_birth": 13}]),
            CRP_COLUMN,
            "person 7: the birth date 1950-13 does not exist; correct it.",
        ),
    ],
)
def test_what_cannot_be_read_is_one_sentence(read, content, columns, complaint):
    with pytest.raises(DataError) as caught:
        read(content, columns)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_date_names_table_row_and_field(tmp_path):
    rows = [measured(measurement_date="01.03.2024")]
    path = write_sqlite(tmp_path / "cdm.sqlite", tables(measurement=rows))
    said = mapping(CRP_COLUMN)
    with pytest.raises(
        DataError,
        match=r"^cdm.sqlite, measurement 11, field 'measurement_date': '01.03.2024' is not a date",
    ):
        read_database(Source.parse(path), said, said.columns)


def test_the_table_names_the_record_of_each_value(tmp_path):
    path = write_sqlite(tmp_path / "cdm.sqlite", tables(measurement=[measured()]))
    said = mapping(CRP_COLUMN + "\n[columns.female]\nperson = 'sex'\n")
    table = read_source(Source.parse(path), said, {"id", "crp", "female"})
    assert list(table.columns["id"]) == ["7"]
    assert list(table.columns["crp"]) == ["2.5"]
    assert table.where(0, "crp") == "cdm.sqlite, measurement 11, column 'crp'"
    assert table.where(0, "female") == "cdm.sqlite, person 7, column 'female'"


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("person.csv", b"", "cdm: there is no table 'person'"),
        ("person.csv", b"person_id,gender_concept_id\n1,8507\n", "has no column 'year_of_birth'"),
        (
            "person.csv",
            b"person_id,gender_concept_id,year_of_birth\n1,8507,1950\n2,8507\n",
            "cdm/person.csv: row 3 has not 3 values, as the header has; correct it.",
        ),
        (
            "person.csv",
            b"person_id,gender_concept_id,year_of_birth\n\xff1,8507,1950\n",
            "cdm/person.csv: is not UTF-8 text",
        ),
        (
            "person.csv",
            b"person_id,person_ID,gender_concept_id,year_of_birth\n1,1,8507,1950\n",
            "cdm/person.csv: column 'person_id' appears more than once.",
        ),
        ("person.parquet", b"PAR1 and no more", "cdm/person.parquet: cannot be read"),
        ("person.csv.gz", b"no gzip", "cdm/person.csv.gz: cannot be read"),
        (
            "person.csv.gz",
            gzip.compress(b"person_id,gender_concept_id,year_of_birth\n1,8507,50\n", mtime=0)[:-9],
            "cdm/person.csv.gz: cannot be read",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, text, complaint):
    folder = tmp_path / "cdm"
    folder.mkdir()
    (folder / name).write_bytes(text)
    (folder / "measurement.csv").write_text(",".join(CDM["measurement"]) + "\n")
    said = mapping(CRP_COLUMN)
    with pytest.raises(DataError) as caught:
        read_omop(FolderTables(folder), said, said.columns)
    assert complaint in str(caught.value)


def test_a_table_in_two_files_is_refused(tmp_path):
    (tmp_path / "person.csv").touch()
    (tmp_path / "PERSON.parquet").touch()
    with pytest.raises(DataError, match=r"table 'person' is there twice, as .* keep one"):
        FolderTables(tmp_path)


def test_a_compressed_file_and_what_exports_write_for_nothing(tmp_path):
    folder = tmp_path / "cdm"
    folder.mkdir()
    text = "\ufeffPERSON_ID,GENDER_CONCEPT_ID,YEAR_OF_BIRTH,MONTH_OF_BIRTH\n7.0,8532.0,1950,NULL\n"
    (folder / "person.csv.gz").write_bytes(gzip.compress(text.encode()))
    header = "measurement_id,person_id,measurement_concept_id,measurement_date,value_as_number"
    row = f"11,7.0,{CRP}.0,2024-03-01,2.5"
    (folder / "measurement.csv").write_text(f"{header}\n{row}\n")
    said = mapping(CRP_COLUMN)
    found = read_omop(FolderTables(folder), said, said.columns)
    assert found.persons["7"].birth == When(datetime(1950, 1, 1, tzinfo=UTC), "year")
    assert [(event.patient, event.value) for event in found.events] == [("7", "2.5")]
