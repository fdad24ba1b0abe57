"""The same 200 synthetic patients as CSV, FHIR, OMOP in SQLite and in PostgreSQL, and in folders.

Every source gives the same cohort, to the last bit.
"""

import json
from functools import cache

import pytest
from cdm_files import write_folder, write_postgres, write_sqlite
from four_sources import (
    COURSE_SCHEMA,
    DOSE_SCHEMA,
    FHIR_CODES,
    OMOP_CODES,
    bundle,
    cdm,
    course_csv,
    course_mapping,
    dose_csv,
    dose_mapping,
    for_course,
    patients,
)

from fedrx_client.data.load import load_cohort
from fedrx_client.data.mapping import TableMapping

STUDIES = pytest.mark.parametrize("study", ["dose", "course"])


@cache
def drawn():
    return patients(200)


def load(source, study, codes=None, more=""):
    course = study == "course"
    text = (course_mapping if course else dose_mapping)(codes) + more
    schema = COURSE_SCHEMA if course else DOSE_SCHEMA
    return load_cohort(source, TableMapping.parse(text), schema, site="a").cohort


@pytest.fixture
def expected(tmp_path):
    """`expected(study)` is the fingerprint of the CSV file's cohort."""

    def of(study):
        path = tmp_path / "patients.csv"
        path.write_text((course_csv if study == "course" else dose_csv)(drawn()))
        cohort = load(path, study)
        assert len(cohort) == 200
        return cohort.fingerprint

    return of


@STUDIES
def test_fhir_gives_the_cohort_of_the_csv(tmp_path, study, expected):
    path = tmp_path / "bundle.json"
    path.write_text(json.dumps((for_course if study == "course" else bundle)(drawn())))
    assert load(path, study, FHIR_CODES).fingerprint == expected(study)


@STUDIES
def test_omop_in_sqlite_gives_the_cohort_of_the_csv(tmp_path, study, expected):
    path = write_sqlite(tmp_path / "cdm.sqlite", cdm(drawn(), course=study == "course"))
    assert load(path, study, OMOP_CODES).fingerprint == expected(study)
    assert load(f"sqlite:///{path}", study, OMOP_CODES).fingerprint == expected(study)


@STUDIES
def test_omop_in_postgresql_gives_the_cohort_of_the_csv(server, study, expected):
    vocabulary = {"concept", "concept_ancestor", "drug_strength"}
    tables = cdm(drawn(), course=study == "course")
    own = server.create("four_sources")
    write_postgres(own, tables, "cdm", [name for name in tables if name not in vocabulary])
    write_postgres(own, tables, "vocab", vocabulary)
    schemas = '\n[sql]\nschema = "cdm"\nvocabulary = "vocab"\n'
    cohort = load(server.url("four_sources"), study, OMOP_CODES, schemas)
    assert cohort.fingerprint == expected(study)


@pytest.mark.parametrize("form", [{}, {"upper": True}, {"parquet": True}])
@STUDIES
def test_a_folder_of_omop_gives_the_cohort_of_the_csv(tmp_path, study, form, expected):
    folder = write_folder(tmp_path / "cdm", cdm(drawn(), course=study == "course"), **form)
    assert load(folder, study, OMOP_CODES).fingerprint == expected(study)


def test_one_value_more_is_another_cohort(tmp_path, expected):
    """The fingerprints above could not be equal by chance of what they cover."""
    tables = cdm(drawn())
    number = next(one for one in tables["measurement"] if one["unit_concept_id"] == 9529)
    number["value_as_number"] = "61.25"
    path = write_sqlite(tmp_path / "cdm.sqlite", tables)
    assert load(path, "dose", OMOP_CODES).fingerprint != expected("dose")
