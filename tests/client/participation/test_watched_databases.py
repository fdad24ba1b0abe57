"""A database has no file that tells of a change: it is read again at every key epoch."""

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
