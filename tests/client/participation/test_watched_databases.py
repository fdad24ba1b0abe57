"""A database has no file that tells of a change: it is read again at every key epoch.

Each file of a folder tells of a change, so one look at them is enough before every answer.
"""

import json
import sqlite3

import pytest

from fedrx_client.approvals.approval import CohortChanged
from fedrx_client.approvals.study_files import StudyFiles
from fedrx_client.participation.patients import Patients
from fedrx_protocol.study.study import Study

MAPPING = """
[table]
patient = "id"
[sql]
query = "select id, age, dose from patients"
[target]
column = "dose"
unit = "mg/week"
[features.age]
kind = "number"
column = "age"
unit = "year"
"""
STUDY = {
    "name": "small",
    "features": [
        {
            "name": "age",
            "kind": "number",
            "unit": "year",
            "minimum": 0,
            "maximum": 120,
            "mean": 60,
            "scale": 10,
        }
    ],
    "target": {
        "name": "dose",
        "unit": "mg/week",
        "minimum": 0,
        "maximum": 400,
        "mean": 35,
        "scale": 15,
    },
    "cohort": {"patients": 100, "largest_site": 60},
    "model": {"name": "linear"},
}


@pytest.fixture
def database(tmp_path):
    connection = sqlite3.connect(tmp_path / "lab.sqlite")
    connection.execute("create table patients (id text, age real, dose real)")
    connection.executemany(
        "insert into patients values (?, ?, ?)", [(f"p{i}", 40 + i, 30 + i) for i in range(9)]
    )
    connection.commit()
    yield connection
    connection.close()


@pytest.mark.parametrize("address", [False, True])
def test_a_database_is_read_again_at_a_key_epoch(tmp_path, database, address):
    place = tmp_path / "lab.sqlite"
    study = Study.from_document(STUDY, source="s")
    files = StudyFiles(tmp_path / "site")
    files.keep(study, MAPPING, f"sqlite:///{place}" if address else place)
    kept = files.load(study.digest)
    patients = Patients(kept, "a")
    assert len(patients.cohort) == 9
    patients.require_unchanged(thorough=True)
    database.execute("update patients set dose = 99 where id = 'p3'")
    database.commit()
    if address:
        patients.require_unchanged(thorough=False)
    with pytest.raises(
        CohortChanged, match=r"lab\.sqlite: holds other patients than study 'small'"
    ):
        patients.require_unchanged(thorough=True)
    database.execute("drop table patients")
    database.commit()
    with pytest.raises(CohortChanged, match="cannot be read as it was approved"):
        patients.require_unchanged(thorough=True)


FHIR = """
[table]
patient = "id"
[columns.age]
person = "age"
[columns.dose]
measurement = ["loinc:1-1"]
[target]
column = "dose"
unit = "mg/week"
[features.age]
kind = "number"
column = "age"
unit = "year"
"""
OMOP = FHIR.replace("loinc:1-1", "omop:11")


def _fhir(folder, dose):
    for n in range(3):
        person = {"resourceType": "Patient", "id": f"p{n}", "birthDate": "1950-01-01"}
        seen = {
            "resourceType": "Observation",
            "id": f"o{n}",
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "1-1"}]},
            "subject": {"reference": f"Patient/p{n}"},
            "effectiveDateTime": "2020-02-01",
            "valueQuantity": {"value": dose + n, "unit": "mg/week"},
        }
        resources = [{"resource": one} for one in (person, seen)]
        bundle = {"resourceType": "Bundle", "type": "collection", "entry": resources}
        (folder / f"p{n}.json").write_text(json.dumps(bundle))


def _omop(folder, dose):
    (folder / "person.csv").write_text(
        "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth\n"
        + "".join(f"{n},8532,1950,1,1\n" for n in range(1, 4))
    )
    (folder / "measurement.csv").write_text(
        "measurement_id,person_id,measurement_concept_id,measurement_date,value_as_number\n"
        + "".join(f"{n},{n},11,2020-02-01,{dose + n}\n" for n in range(1, 4))
    )


@pytest.mark.parametrize(
    ("write", "mapping", "one"),
    [(_fhir, FHIR, "p2.json"), (_omop, OMOP, "measurement.csv")],
    ids=["fhir", "omop"],
)
def test_every_file_of_a_folder_is_watched(tmp_path, write, mapping, one):
    folder = tmp_path / "export"
    folder.mkdir()
    write(folder, 30)
    study = Study.from_document(STUDY, source="s")
    files = StudyFiles(tmp_path / "site")
    files.keep(study, mapping, folder)
    patients = Patients(files.load(study.digest), "a")
    assert len(patients.cohort) == 3
    patients.require_unchanged(thorough=True)
    before = (folder / one).read_text()
    write(folder, 45)
    with pytest.raises(CohortChanged, match="holds other patients than study 'small'"):
        patients.require_unchanged(thorough=False)
    write(folder, 30)
    assert (folder / one).read_text() == before
    patients.require_unchanged(thorough=False)
    (folder / one).unlink()
    with pytest.raises(CohortChanged, match=r"other patients|cannot be read as it was approved"):
        patients.require_unchanged(thorough=False)
