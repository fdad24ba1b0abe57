"""`fedrx data cohort`: the example of the documentation, from every kind of table, and refusals."""

import csv
import re
import sqlite3
from pathlib import Path

import openpyxl
import pytest

import fedrx as front

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "data_tables.md").read_text()
MAPPED = ["study.toml", "--mapping", "mapping.toml"]


@pytest.fixture
def example(place):
    for name, content in re.findall(r"```\w+ (\S+)\n(.*?)```", PAGE, re.DOTALL):
        (place / name).write_text(content)
    return place


def test_the_example_of_the_documentation_is_what_it_prints(example, fedrx):
    ran = fedrx("data", "cohort", *MAPPED, "--source", "ward.csv")
    (shown,) = re.findall(r"\$ fedrx data cohort .*?\n(.*?)```", PAGE, re.DOTALL)
    assert ran.code == 0
    assert "1 value with '<' or '>'" not in shown
    for line in shown.splitlines():
        assert line in ran.out.splitlines()
    assert re.search(r"Fingerprint: [0-9a-f]{64}\nPipeline: [0-9a-f]{64}\n\Z", ran.out)


def test_the_same_patients_from_other_files_have_one_fingerprint(example, fedrx):
    with (example / "ward.csv").open() as file:
        rows = list(csv.reader(file, delimiter=";"))
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(example / "ward.xlsx")
    database = sqlite3.connect(example / "ward.sqlite")
    columns = ", ".join(f'"{name}" text' for name in rows[0])
    database.execute(f"create table ward ({columns})")
    database.executemany(f"insert into ward values ({', '.join('?' * len(rows[0]))})", rows[1:])
    database.commit()
    database.close()
    mapping = (example / "mapping.toml").read_text()
    (example / "sql.toml").write_text(f'{mapping}\n[sql]\nquery = "select * from ward"\n')
    found = set()
    for source, file in (
        ("ward.csv", "mapping.toml"),
        ("ward.xlsx", "mapping.toml"),
        ("ward.sqlite", "sql.toml"),
        ("sqlite:///ward.sqlite", "sql.toml"),
    ):
        read = ("data", "cohort", "study.toml", "--data", source, "--mapping", file, "--json")
        document = fedrx(*read).json
        assert document["rows_read"] == document["rows_kept"] == document["patients"] == 3
        assert document["dropped"] == {"no target recorded": 0}
        assert document["columns"][0] == {
            "name": "bmi",
            "kind": "number",
            "unit": "kg/m2",
            "recorded": 2,
        }
        found.add(document["fingerprint"])
    assert len(found) == 1


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("81,0", "81,0kg", "ward.csv, line 2, column 'Gewicht': '81,0kg' is no number, which"),
        ("*1/*3", "*1/*99", "ward.csv, line 4, column 'CYP2C9': "),
        (
            "02.07.2024;;09",
            "2.7.24;;09",
            "ward.csv, line 4, column 'Aufnahme': '2.7.24' is no date",
        ),
    ],
)
def test_a_bad_cell_is_one_sentence_and_code_2(example, fedrx, old, new, sentence):
    path = example / "ward.csv"
    path.write_text(path.read_text().replace(old, new))
    ran = fedrx("data", "cohort", *MAPPED, "--source", "ward.csv", "--json")
    assert ran.code == 2
    assert ran.out == ""
    assert sentence in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_notebook_gets_frames(example):
    loaded = front.read_cohort(
        example / "ward.csv", example / "mapping.toml", example / "study.toml"
    )
    frame = front.cohort_frame(loaded.cohort)
    assert list(frame.columns) == ["bmi", "age", "log_crp", "cyp2c9", "stay"]
    assert frame.loc["17", "bmi"] == pytest.approx(25)
    assert frame.loc["17", "cyp2c9"] == "*1/*2"
    assert frame["bmi"].isna().tolist() == [False, True, False]
    assert frame["stay"].tolist() == [15, 1, 7]
    assert len(front.visits_frame(loaded.cohort)) == 0
