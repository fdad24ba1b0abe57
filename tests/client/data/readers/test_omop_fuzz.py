"""Malformed tables, hostile content and broken queries give a table or one sentence, never more."""

import sqlite3
import string
from contextlib import closing
from pathlib import Path

import pytest
from cdm_files import write_folder
from four_sources import CDM, OMOP_CODES, Cdm, cdm, dose_mapping, patients
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.read import read_source
from fedrx_client.data.readers.source import Source
from fedrx_client.data.readers.sql import only_reading
from fedrx_common.errors import DataError

FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
MAPPING = TableMapping.parse(dose_mapping(OMOP_CODES) + "\n[sql]\ntimeout_s = 20\n")
COLUMNS = {*MAPPING.columns}
VALID = cdm(patients(4))
SECRET = "Schmidt"

CELLS = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=8),
    st.sampled_from(
        ["", " ", "0", "-1", "1e400", "NaN", "inf", "2024-13-01", "9999-12-31T23:59:59-23:59",
         "0001-01-01 00:00:00+23:59", "2024-02-30", "12:00", "2024", "<5", "*1/*3", "mg/dL",
         "\x00", "a" * 5000, "1" * 400, "١٢٣", SECRET, "'; DROP TABLE person; --"]
    ),
)  # fmt: skip
CHANGES = st.lists(
    st.tuples(st.sampled_from([*CDM]), st.integers(0, 200), st.integers(0, 20), CELLS),
    max_size=6,
)
LOST = st.lists(
    st.tuples(st.sampled_from([*CDM]), st.one_of(st.none(), st.integers(0, 20))), max_size=2
)


def outcome(source: Source, mapping: TableMapping = MAPPING) -> str:
    """Read a source; return the sentence of its refusal, or nothing."""
    try:
        table = read_source(source, mapping, COLUMNS)
    except DataError as error:
        sentence = str(error)
        assert sentence.strip()
        assert "\n" not in sentence
        assert len(sentence) < 1500
        return sentence
    assert all(isinstance(cell, str) for cells in table.columns.values() for cell in cells)
    return ""


def changed(changes) -> Cdm:
    tables = {name: [dict(row) for row in rows] for name, rows in VALID.items()}
    for name, row, column, value in changes:
        if tables[name]:
            names = [*CDM[name]]
            tables[name][row % len(tables[name])][names[column % len(names)]] = value
    return tables


def without(lost) -> dict[str, list[str]]:
    """The columns of each table that is left."""
    columns = {name: [*types] for name, types in CDM.items()}
    for name, column in lost:
        if column is None:
            columns.pop(name, None)
        elif len(columns.get(name, ())) > 1:
            del columns[name][column % len(columns[name])]
    return columns


def write(path: Path, tables: Cdm, columns: dict[str, list[str]]) -> None:
    """Write an SQLite file, whose columns take any value."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        for name, there in columns.items():
            connection.execute(f"CREATE TABLE {name} ({', '.join(there)})")
            marks = ", ".join("?" * len(there))
            for row in tables[name]:
                cells = [row.get(column) for column in there]
                connection.execute(f"INSERT INTO {name} VALUES ({marks})", cells)


@pytest.fixture(scope="module")
def sqlite_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "cdm.db"
    write(path, VALID, without([]))
    return path.read_bytes()


@pytest.fixture(scope="module")
def parquet_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "cdm"
    write_folder(folder, VALID, parquet=True)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@FEW
@given(changes=CHANGES, lost=LOST)
def test_malformed_tables_of_a_database(tmp_path, changes, lost):
    path = tmp_path / "cdm.db"
    try:
        write(path, changed(changes), without(lost))
    except (UnicodeEncodeError, OverflowError):
        return  # what SQLite cannot hold
    outcome(Source.parse(path))


@FEW
@given(changes=CHANGES, cut=st.integers(0, 3000), noise=st.binary(max_size=12), tabs=st.booleans())
def test_malformed_files_of_a_folder(tmp_path_factory, changes, cut, noise, tabs):
    folder = tmp_path_factory.mktemp("fuzz") / "cdm"
    try:
        write_folder(folder, changed([c for c in changes if not isinstance(c[3], bytes)]))
    except UnicodeEncodeError:
        return
    name = "measurement.csv" if tabs else "concept.csv"
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:cut] + noise + content[cut:])
    outcome(Source.parse(folder))


@FEW
@given(at=st.integers(0, 20_000), noise=st.binary(min_size=1, max_size=40))
def test_a_damaged_parquet_file(parquet_files, tmp_path_factory, at, noise):
    folder = tmp_path_factory.mktemp("fuzz") / "cdm"
    folder.mkdir()
    for name, content in parquet_files.items():
        (folder / name).write_bytes(content)
    content = parquet_files["measurement.parquet"]
    start = at % len(content)
    damaged = content[:start] + noise + content[start + len(noise) :]
    (folder / "measurement.parquet").write_bytes(damaged)
    outcome(Source.parse(folder))


@FEW
@given(at=st.integers(0, 200_000), noise=st.binary(min_size=1, max_size=40))
def test_a_damaged_sqlite_file(sqlite_file, tmp_path, at, noise):
    path = tmp_path / "cdm.db"
    start = at % len(sqlite_file)
    path.write_bytes(sqlite_file[:start] + noise + sqlite_file[start + len(noise) :])
    outcome(Source.parse(path))


QUERY = (
    "WITH x AS (SELECT id, name, crp FROM patients) "
    "SELECT id AS age, crp AS weight FROM x WHERE name = 'Schmidt' AND \"id\" > 0 -- end"
)
PIECES = st.one_of(
    st.sampled_from(
        [";", "'", '"', "--", "/*", "*/", "$$", "(", ")", "SELECT", "DELETE FROM patients", "\x00",
         "ATTACH 'x.db' AS y", "PRAGMA query_only=OFF", "%s", ":a", "?", "\\", "E'", "`",
         "RECURSIVE",
         "1/0", "randomblob(1000000000)", "zeroblob(2000000000)", "json('{')",
         "load_extension('x')"]
    ),
    st.text(string.printable, max_size=5),
    st.text(max_size=3),
)  # fmt: skip


@FEW
@given(edits=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 12), PIECES), max_size=4))
@example(edits=[(0, 200, "")])
def test_a_broken_query(tmp_path, edits):
    query = QUERY
    for at, length, piece in edits:
        start = at % (len(query) + 1)
        query = query[:start] + piece + query[start + length :]
    path = tmp_path / "hospital.db"
    if not path.exists():
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE patients (id INTEGER, name TEXT, crp REAL)")
            connection.executemany("INSERT INTO patients VALUES (?, 'Schmidt', 2.5)", [(1,), (2,)])
    before = path.read_bytes()
    options = MAPPING.sql.model_copy(update={"query": query, "timeout_s": 5.0})
    sentence = outcome(Source.parse(path), MAPPING.model_copy(update={"sql": options}))
    assert SECRET not in sentence or SECRET in query
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["hospital.db"]


@FEW
@given(query=st.text(max_size=200))
def test_any_text_is_a_query_that_reads_or_is_refused(query):
    try:
        found = only_reading(query, "m.toml")
    except DataError:
        return
    assert query.startswith(found)


@pytest.mark.parametrize(
    "codes",
    [
        ["omop:"],
        [":1"],
        ["omop:99999999999999999999"],
        ["omop:-1"],
        ["loinc:' OR 1=1"],
        ["x:\u0661"],
    ],
)
def test_a_code_that_is_none(tmp_path, codes):
    text = f'[table]\npatient = "id"\n[columns.a]\nmeasurement = {codes!r}\n'
    path = tmp_path / "cdm.db"
    write(path, VALID, without([]))
    mapping = TableMapping.parse(text)
    with pytest.raises(DataError):
        read_source(Source.parse(path), mapping, {"a"})


@FEW
@given(
    address=st.text(max_size=40), scheme=st.sampled_from(["postgresql://", "sqlite://", "a+b://"])
)
def test_any_text_is_an_address_or_is_refused(address, scheme):
    if address.lstrip("/").startswith(("localhost", "127")):
        return
    location = scheme + address.replace("/", "\\")  # none that is a file or a host here
    assert outcome(Source.parse(location)) != ""
