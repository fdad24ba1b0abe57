"""A proposed mapping: what it finds in real and made-up tables, and what it must not show."""

import gzip
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedrx_client.data.load import load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.proposal.names import ColumnName
from fedrx_client.data.proposal.peek import peek
from fedrx_client.data.proposal.propose import propose
from fedrx_common.errors import DataError, FedRxError
from fedrx_protocol.study.study import Study

REPOSITORY = Path(__file__).resolve().parents[4]
SHARED = REPOSITORY / "../shared/data"
if not SHARED.is_dir():
    SHARED = REPOSITORY / "../../shared/data"

STUDY = Study.parse(
    """
name = "small"
[cohort]
patients = 60
largest_site = 40
[model]
name = "linear"
[target]
name = "dose_mg_per_week"
unit = "mg/week"
minimum = 1
maximum = 200
mean = 35
scale = 15
[[features]]
name = "age"
kind = "number"
unit = "year"
minimum = 0
maximum = 110
mean = 60
scale = 15
[[features]]
name = "height_cm"
kind = "number"
unit = "cm"
minimum = 100
maximum = 230
mean = 168
scale = 10
[[features]]
name = "sex"
kind = "category"
values = ["male", "female"]
[[features]]
name = "vkorc1"
kind = "category"
values = ["G/G", "A/G", "A/A"]
[[features]]
name = "smoker"
kind = "flag"
[[features]]
name = "creatinine"
kind = "number"
unit = "mg/dL"
minimum = 0.1
maximum = 20
mean = 1.0
scale = 0.4
optional = true
"""
)
ENGLISH = "Patient ID,Name,Age (years),Height (cm),Sex,VKORC1 -1639,Current Smoker,Dose (mg/week)"
GERMAN = "Patienten-ID;Nachname;Alter;Größe (m);Geschlecht;VKORC1;Raucher;Kreatinin (mg/dl);Dosis"


def english(i):
    sex, snp = ("male", "female")[i % 2], ("G/G", "A/G", "G/A", "A/A")[i % 4]
    cells = (f"P-{i:03}", f"Doe{i}", 40 + i, 160 + i % 9, sex, snp, i % 2, 20 + i)
    return ",".join(map(str, cells))


def german(i):
    size, dose = f"1,{60 + i % 30}", f"{20 + i},5"
    creatinine = "k.A." if i % 7 == 0 else f"0,{7 + i % 3}"
    sex, smokes = ("m", "w")[i % 2], ("ja", "nein")[i % 2]
    snp = ("GG", "AG", "AA")[i % 3]
    return f"P{i};Müller{i};{40 + i};{size};{sex};{snp};{smokes};{creatinine};{dose}"


@pytest.fixture
def table(tmp_path):
    def write(header, row, count=30, encoding="utf-8", name="table.csv"):
        path = tmp_path / name
        text = "\n".join([header, *(row(i) for i in range(count))]) + "\n"
        data = text.encode(encoding)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


def marks(text):
    return [line for line in text.splitlines() if "# ?" in line]


def test_an_english_table_needs_no_decision_and_loads(table):
    path = table(ENGLISH, english)
    found = propose(path, STUDY)
    assert marks(found.text) == ["measured = false  # ? no column looks like it"]
    mapping = TableMapping.parse(found.text)
    cohort = load_cohort(path, mapping, STUDY.feature_schema, site="a").cohort
    assert len(cohort) == 30
    assert cohort.values["smoker"].sum() == 15  # noqa: PD011 - no pandas object
    assert cohort.values["vkorc1"].tolist()[:4] == [0, 1, 1, 2]  # noqa: PD011 - no pandas object


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_german_table_with_commas_and_metres(table, encoding, name):
    path = table(GERMAN, german, encoding=encoding, name=name)
    found = propose(path, STUDY)
    mapping = TableMapping.parse(found.text)
    assert (mapping.table.patient, mapping.table.delimiter) == ("Patienten-ID", ";")
    assert mapping.table.decimal == ","
    assert "k.A." in mapping.table.missing
    assert mapping.features["height_cm"].unit == "m"
    assert mapping.features["sex"].values == {"m": "male", "w": "female"}  # noqa: PD011 - no pandas object
    assert mapping.features["smoker"].yes == ("ja",)
    assert mapping.target.column == "Dosis"
    cohort = load_cohort(path, mapping, STUDY.feature_schema, site="a").cohort
    assert cohort.values["height_cm"][0] == pytest.approx(160)  # noqa: PD011 - no pandas object


def test_no_id_and_no_name_is_shown(table):
    for header, row in ((ENGLISH, english), (GERMAN, german)):
        text = propose(table(header, row), STUDY).text
        for i in range(30):
            for hidden in row(i).replace(";", ",").split(",")[:2]:
                assert hidden not in text
        assert re.search("# Not looked at, .*: (Name|Nachname)", text)


def test_rows_beyond_those_it_names_play_no_part(table):
    path = table(ENGLISH, english, 20)
    short = propose(path, STUDY, rows=20).text
    path.write_text(path.read_text() + "\n".join("rubbish" for _ in range(50)) + "\n")
    assert propose(path, STUDY, rows=20).text == short
    assert "# 20 rows; it read no other row." in short


def test_what_a_person_must_decide_is_marked(table):
    def row(i):
        return f"{i},{40 + i},{160 + i},{1 + i % 2},{i % 3},{i % 2},{30 + i},{-9 if i % 5 else 1}"

    header = "id,age,height,sex,vkorc1,smoker,dose,creatinine"
    text = "\n".join(marks(propose(table(header, row), STUDY).text))
    assert "what do these codes mean: '1', '2'?" in text
    assert "what do these codes mean: '0', '1', '2'?" in text
    assert "are these codes for 'not recorded'?" in text


def test_a_molar_unit_is_proposed_with_its_analyte_for_a_person_to_confirm(table):
    def row(i):
        return f"{english(i)},{70 + i}"

    path = table(f"{ENGLISH},Creatinine (umol/L)", row)
    found = propose(path, STUDY)
    (mark,) = marks(found.text)
    assert "molar mass of creatinine" in mark
    assert 'unit = "umol/L"\nanalyte = "creatinine"' in found.text
    mapping = TableMapping.parse(found.text)
    cohort = load_cohort(path, mapping, STUDY.feature_schema, site="a").cohort
    first = cohort.values["creatinine"][0]  # noqa: PD011 - no pandas object
    assert first == pytest.approx(70 * 113.12e-6 * 100)


@pytest.mark.parametrize("suffix", ["parquet", "xlsx"])
def test_typed_tables_are_read_too(tmp_path, table, suffix):
    frame = pd.read_csv(table(ENGLISH, english))
    path = tmp_path / f"t.{suffix}"
    getattr(frame, {"parquet": "to_parquet", "xlsx": "to_excel"}[suffix])(path, index=False)
    mapping = TableMapping.parse(propose(path, STUDY).text)
    cohort = load_cohort(path, mapping, STUDY.feature_schema, site="a").cohort
    assert len(cohort) == 30


@pytest.mark.parametrize(
    ("name", "words", "unit"),
    [
        ("Creatinine (mg/dL)", ("creatinine",), "mg/dL"),
        ("crea_umol_l", ("creatinine",), "umol/L"),
        ("Alter", ("age",), ""),
        ("sex/gender", ("sex",), ""),
        ("Größe [cm]", ("height",), "cm"),
        ("alk.phos", ("alkaline_phosphatase",), ""),
        ("weight_kg", ("weight",), "kg"),
    ],
)
def test_names_are_taken_apart(name, words, unit):
    found = ColumnName.of(name)
    assert (found.words, found.unit) == (words, unit)


REAL = {
    "warfarin/iwpc": ("iwpc/iwpc_subject_data.csv", 11),
    "cirrhosis/pbcseq": ("pbcseq/pbcseq.csv", 15),
    "hiv/aids": ("aids/aids_ddI_ddC.csv", 5),
    "intensive_care/eicu": ("eicu_demo/hourly.csv.gz", 17),
}


@pytest.mark.real_data
@pytest.mark.parametrize("which", REAL)
def test_most_of_a_real_table_is_found_and_no_guess_is_wrong_without_a_mark(which):
    data, expected = REAL[which]
    if not (SHARED / data).is_file():
        pytest.skip(f"{SHARED / data} is not there")
    truth = TableMapping.load(REPOSITORY / "examples" / f"{which}.toml")
    study = Study.load(REPOSITORY / "examples" / which.split("/")[0] / "study.toml")
    found = propose(SHARED / data, study)
    mapping, right, wrong = TableMapping.parse(found.text), 0, []
    pairs = [
        (name, section[name], other[name])
        for section, other in (
            (truth.features, mapping.features),
            (truth.markers, mapping.markers),
            (truth.treatments, mapping.treatments),
        )
        for name in section
    ]
    for name, meant, guessed in pairs:
        if columns_of(meant) == columns_of(guessed):
            right += 1
        else:
            section = found.text.partition(f".{name}]")[2].partition("\n[")[0]
            wrong += [] if "# ?" in section else [name]
    right += truth.target.column is not None and truth.target.column == mapping.target.column
    assert wrong == []
    assert right >= expected


def columns_of(source):
    return set(getattr(source, "any_of", ())) or {source.column}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"a,b,a\n1,2,3\n", "column 'a' appears more than once"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_in_one_sentence(tmp_path, content, says):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        propose(path, STUDY)


def test_files_of_other_kinds_are_refused(tmp_path):
    for name in ("t.docx", "t.parquet", "t.xlsx", "t.csv.gz"):
        (tmp_path / name).write_bytes(b"rubbish")
        with pytest.raises(DataError):
            propose(tmp_path / name, STUDY)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode()))
@example(b'"id","age"\n"1","\x00"\n')
@example(b'id,a\x7fge,\xc3\xa4,x"y\n1,2,3,4\n')
@example("id,\ufeffage,Größe [mm]\n1,2,3\n".encode("utf-16"))
def test_any_bytes_give_a_mapping_that_parses_or_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "t.csv"
    path.write_bytes(content)
    try:
        text = propose(path, STUDY).text
    except FedRxError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - either outcome is right
    else:
        TableMapping.parse(text)


CELL = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(CELL, min_size=4, max_size=4), min_size=1, max_size=5))
def test_any_cells_give_a_mapping_that_parses(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("any") / "t.csv"
    pd.DataFrame([["id", "age", "sex", "smoker"], *rows]).to_csv(path, index=False, header=False)
    TableMapping.parse(propose(path, STUDY).text)


def test_a_peek_reads_no_further(table):
    head = peek(table(ENGLISH, english, 30), 7)
    assert head.rows == 7
    assert {len(cells) for name, cells in head.columns.items() if name != "Name"} == {7}
    assert head.columns["Name"] == ()
