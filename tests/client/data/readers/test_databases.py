"""Databases are read only, in time, and say in one sentence what is wrong, without the password."""

import sqlite3
from contextlib import closing

import psycopg
import pytest
from cdm_files import write_postgres, write_sqlite
from four_sources import CDM, Cdm
from real_postgres import OWNER, PASSWORD

from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.database import open_database
from fedrx_client.data.readers.read import read_source
from fedrx_client.data.readers.source import Source
from fedrx_client.data.readers.sql import only_reading
from fedrx_common.errors import DataError

SECRETS = (PASSWORD, "geheim", "Schmidt")
COLUMNS = '[columns.female]\nperson = "sex"\n[columns.crp]\nmeasurement = ["omop:3020460"]\n'
ROWS: Cdm = {name: [] for name in CDM} | {
    "person": [{"person_id": 7, "gender_concept_id": 8532, "year_of_birth": 1950}],
    "measurement": [
        {"measurement_id": 1, "person_id": 7, "measurement_concept_id": 3020460,
         "measurement_date": "2024-03-01", "value_as_number": "2.5", "unit_concept_id": 8840}
    ],
}  # fmt: skip


def queried(query, more=""):
    text = f'[table]\npatient = "id"\n[sql]\nquery = """{query}"""\n{more}'
    return TableMapping.parse(text, source="m.toml")


@pytest.fixture
def sqlite(tmp_path):
    """An SQLite file with a table of patients, whose address it returns."""
    path = tmp_path / "hospital.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE patients (id INTEGER, name TEXT, crp REAL, seen TEXT)")
        rows = [(n, "Schmidt", n / 2, f"2024-01-{n:02}") for n in range(1, 21)]
        connection.executemany("INSERT INTO patients VALUES (?, ?, ?, ?)", rows)
    return str(path)


@pytest.fixture(scope="module")
def postgresql(server):
    """The same table in PostgreSQL, and OMOP's in a schema."""
    own = server.create("hospital")
    with psycopg.connect(own, autocommit=True) as connection:
        connection.execute("CREATE TABLE patients (id integer, name text, crp numeric, seen date)")
        connection.execute(
            "INSERT INTO patients SELECT n, 'Schmidt', n / 2.0, date '2023-12-31' + n "
            "FROM generate_series(1, 20) n"
        )
    write_postgres(own, ROWS, "cdm")
    return server.url("hospital")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request):
    return request.getfixturevalue(request.param)


def read(address, mapping, wanted=("id", "crp", "seen")):
    return read_source(Source.parse(address), mapping, set(wanted))


def refused(address, mapping, wanted=("id", "crp")):
    """The one sentence of a refusal, which holds no secret."""
    with pytest.raises(DataError) as caught:
        read(address, mapping, wanted)
    sentence = str(caught.value)
    assert not [secret for secret in SECRETS if secret in sentence]
    assert "\n" not in sentence
    assert caught.value.__cause__ is None
    return sentence


def test_a_query_gives_the_table_with_typed_values_as_text(database):
    table = read(database, queried("SELECT id, crp, seen FROM patients ORDER BY id;"))
    assert list(table.columns["id"][:2]) == ["1", "2"]
    assert [float(cell) for cell in table.columns["crp"][:3]] == [0.5, 1.0, 1.5]
    assert table.columns["seen"][0] == "2024-01-01"
    assert table.typed == {"id", "crp"}
    assert len(table) == 20


def test_only_wanted_columns_are_kept_and_all_are_known(database):
    table = read(database, queried("SELECT id, name, crp, seen FROM patients"), ["id"])
    assert [*table.columns] == ["id"]
    assert table.header == ("id", "name", "crp", "seen")


def test_percent_and_colon_of_a_query_are_its_own(database):
    query = "SELECT id, crp FROM patients WHERE seen LIKE '2024%' OR ' :x %s' = 'never'"
    if database.startswith("postgresql"):
        query = query.replace("seen LIKE", "seen::text LIKE")
    assert len(read(database, queried(query))) == 20


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("DELETE FROM patients", "must begin with SELECT or WITH"),
        ("  -- read\n DROP TABLE patients", "must begin with SELECT or WITH"),
        ("PRAGMA query_only = OFF", "must begin with SELECT or WITH"),
        ("", "sql.query"),
        (";", "must begin with SELECT or WITH"),
        ("SELECT 1; DELETE FROM patients", "several statements"),
        ("SELECT ';' AS id; /* ; */ SELECT 2", "several statements"),
        ("SELECT 1 AS id /* not closed", "not closed"),
        ("SELECT 'not closed AS id", "not closed"),
        ("WITH x AS (DELETE FROM patients RETURNING id) SELECT id FROM x", "the word DELETE"),
        ("SELECT id INTO stolen FROM patients", "the word INTO"),
        ("SELECT id FROM patients FOR UPDATE", "the word UPDATE"),
    ],
)
def test_what_does_not_only_read_is_refused_before_it_is_asked(query, complaint):
    with pytest.raises(DataError, match=complaint):
        only_reading(queried(query).sql.query, "m.toml")


@pytest.mark.parametrize(
    "query",
    [
        "select 1 as id",
        "(SELECT 1 AS id) UNION (SELECT 2)",
        "WITH x AS (SELECT 1 AS id) SELECT * FROM x ; -- end\n",
        "/* ; */ SELECT ';' AS id, \"delete\" FROM t -- ; drop",
        "SELECT $$;$$, E'\\';' AS id",
    ],
)
def test_what_only_reads_is_taken(query):
    assert only_reading(query, "m.toml") == query.rpartition(" ;")[0] or query


def test_the_database_itself_refuses_to_write(database):
    """Were a way past the check of the query found, nothing could be changed all the same."""
    writes = ["DELETE FROM patients", "CREATE TABLE stolen (id integer)"]
    if database.startswith("postgresql"):
        writes += ["SELECT 1; COMMIT; DELETE FROM patients", "SELECT nextval('s')"]
        writes += ["WITH x AS (DELETE FROM patients RETURNING id) SELECT id FROM x"]
    for statement in writes:
        with (
            pytest.raises(DataError, match=r"^hospital.db|^postgresql://127.0.0.1"),
            open_database(Source.parse(database), 60) as opened,
        ):
            list(opened.stream(statement)[1])
    assert len(read(database, queried("SELECT id, crp FROM patients"))) == 20


def test_postgresql_reads_one_moment_in_a_read_only_transaction(postgresql):
    with open_database(Source.parse(postgresql), 60) as opened:
        ((isolation, reading),) = opened.stream(
            "SELECT current_setting('transaction_isolation'), "
            "current_setting('transaction_read_only')"
        )[1]
    assert (isolation, reading) == ("repeatable read", "on")


def test_rows_arrive_in_pieces(postgresql):
    with open_database(Source.parse(postgresql), 60) as opened:
        _, rows = opened.stream("SELECT generate_series(1, 1000000) AS id")
        assert next(rows)[0] == 1
        ((cursors,),) = opened.connection.exec_driver_sql("SELECT count(*) FROM pg_cursors")
        assert cursors == 1


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("SELECT id, crp FROM nowhere", "nowhere"),
        ("SELECT identity FROM patients", "identity"),
        ("SELECT id crp FROM FROM patients", "the database answers"),
        ("SELECT id, id FROM patients", "gives column 'id' more than once"),
        ("SELECT id, crp FROM patients WHERE 1 = 0", "the query gives no rows"),
    ],
)
def test_a_query_that_fails_is_one_sentence(database, query, complaint):
    assert complaint in refused(database, queried(query))


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("SELECT id, name::integer AS crp FROM patients", "SQLSTATE 22P02"),
        ("SELECT id, 1 / (id - id) AS crp FROM patients", "SQLSTATE 22012"),
        ("SELECT id, 'infinity'::date AS crp FROM patients", "infinity"),
        ("SELECT id, ARRAY[1, 2] AS crp FROM patients", "row 1, column 'crp': is not one value"),
        ("SELECT id, 'x'::bytea AS crp FROM patients", "is not one value but bytes"),
        ("SELECT pg_read_file('/nowhere') AS id", "cannot answer"),
    ],
)
def test_a_value_of_postgresql_that_cannot_be_read_is_not_shown(postgresql, query, complaint):
    if complaint == "infinity":
        refused(postgresql, queried(query))
    else:
        assert complaint in refused(postgresql, queried(query))


def test_text_of_sqlite_that_is_not_utf_8_is_not_shown(tmp_path):
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (id TEXT)")
        connection.execute("INSERT INTO t VALUES (CAST(x'5363686D696474FF' AS TEXT))")
    sentence = refused(str(path), queried("SELECT id FROM t"))
    assert sentence == "old.db: holds text that is not UTF-8; correct it in the database."


@pytest.mark.parametrize("rows", ["n", "1"])
def test_what_never_ends_is_given_up(database, rows):
    """Neither an endless stream of rows nor an endless search for the first one is waited for."""
    endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 2000000000)"
    query = f"{endless} SELECT {'n' if rows == 'n' else 'count(*)'} AS id FROM r"
    sentence = refused(database, queried(query, "timeout_s = 0.5"))
    assert sentence.endswith("set a longer timeout_s in [sql] of the mapping.")
    assert "does not answer within 0.5 s" in sentence


def test_a_table_that_is_an_endless_view_is_given_up(tmp_path):
    path = tmp_path / "hostile.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE VIEW person AS WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) "
            "SELECT n AS person_id, 8507 AS gender_concept_id, 1950 AS year_of_birth FROM r"
        )
    mapping = TableMapping.parse(f'[table]\npatient = "id"\n[sql]\ntimeout_s = 0.5\n{COLUMNS}')
    assert "does not answer within 0.5 s" in refused(str(path), mapping)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        (f"postgresql://{OWNER}:geheim@127.0.0.1:{{port}}/hospital", "the name or the password"),
        (f"postgresql://{OWNER}:{PASSWORD}@127.0.0.1:{{port}}/nowhere", "no database of this name"),
        (f"postgresql://nobody:{PASSWORD}@127.0.0.1:{{port}}/hospital", "the name or the password"),
        (f"postgresql://{OWNER}:{PASSWORD}@127.0.0.1:1/hospital", "cannot be reached"),
        (f"postgresql://{OWNER}:{PASSWORD}@127.0.0.1:99999999/hospital", ""),
        (f"postgresql://{OWNER}:{PASSWORD}@127.0.0.1:port/hospital", "is no address"),
        (f"postgresql://{OWNER}:{PASSWORD}@127.0.0.1:{{port}}/hospital?nonsense=1", ""),
        (f"postgresql://{OWNER}:{PASSWORD}@[::/hospital", ""),
        (f"postgresql://{OWNER}:{PASSWORD}", ""),
        (f"nosuchsql://{OWNER}:{PASSWORD}@127.0.0.1/hospital", "no driver for this kind"),
        (f"mysql://{OWNER}:{PASSWORD}@127.0.0.1/hospital", "no driver for this kind"),
        (f"postgresql+asyncpg://{OWNER}:{PASSWORD}@127.0.0.1/hospital", "no driver for this kind"),
        ("sqlite:///nowhere.db", "there is no such database file"),
        ("sqlite://", "there is no such database file"),
        (f"postgresql:/{OWNER}:{PASSWORD}@127.0.0.1/hospital", "there is no such data file"),
    ],
)
def test_an_address_that_leads_nowhere_is_one_sentence(server, postgresql, address, complaint):
    assert complaint in refused(address.format(port=server.port), queried("SELECT 1 AS id"))


@pytest.mark.parametrize("variable", ["FEDRX_DB_PASSWORD", "PGPASSWORD"])
def test_the_password_may_come_from_the_environment(server, postgresql, monkeypatch, variable):
    monkeypatch.setenv(variable, PASSWORD)
    address = server.url("hospital", password=None)
    assert len(read(address, queried("SELECT id, crp FROM patients"))) == 20


def test_a_schema_is_named_in_the_mapping(postgresql):
    text = f'[table]\npatient = "id"\n{COLUMNS}'
    assert "if the tables are in another schema" in refused(postgresql, TableMapping.parse(text))
    table = read(postgresql, TableMapping.parse(text + '[sql]\nschema = "cdm"\n'))
    assert list(table.columns["crp"]) == ["2.5"]
    assert table.source.startswith("postgresql://127.0.0.1")


def test_a_role_without_rights_is_told_which_table(server, postgresql):
    with psycopg.connect(server.own("hospital"), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS looker")
        connection.execute("CREATE ROLE looker LOGIN PASSWORD 'geheim'")
    address = f"postgresql://looker:geheim@127.0.0.1:{server.port}/hospital"
    sentence = refused(address, queried("SELECT id, crp FROM patients"))
    assert sentence.endswith("the database answers: permission denied for table patients.")


def test_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("Schmidt, 3 March\n" * 100)
    assert (
        refused(str(path), queried("SELECT 1 AS id FROM t")) == "notes.db: is not an SQLite file."
    )


def test_a_damaged_file(tmp_path):
    path = write_sqlite(tmp_path / "cdm.db", ROWS)
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    mapping = TableMapping.parse(f'[table]\npatient = "id"\n{COLUMNS}')
    assert refused(str(path), mapping).startswith("cdm.db: ")


def test_nothing_is_left_beside_an_sqlite_file(tmp_path):
    path = write_sqlite(tmp_path / "cdm.db", ROWS)
    before = path.read_bytes()
    read(str(path), TableMapping.parse(f'[table]\npatient = "id"\n{COLUMNS}'))
    assert [one.name for one in tmp_path.iterdir()] == ["cdm.db"]
    assert path.read_bytes() == before


def test_query_and_schema_do_not_go_together():
    with pytest.raises(DataError, match="give either query, or schema and vocabulary"):
        queried("SELECT 1 AS id", 'schema = "cdm"')


def test_a_name_shows_neither_password_nor_folder():
    assert Source.parse("sqlite:////home/site/cdm.db").name == "sqlite://cdm.db"
    shown = Source.parse(f"postgresql://u:{PASSWORD}@db:5432/cdm?sslmode=require").name
    assert shown == "postgresql://db:5432/cdm"


def test_an_unknown_key_is_told_with_the_keys_as_a_mapping_writes_them():
    with pytest.raises(DataError, match=r"'sql.shema', did you mean 'schema'\?; allowed: query, "):
        queried("SELECT 1 AS id", 'shema = "cdm"')
