"""docs/data_omop.md is worked through as it stands."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.read import read_source
from fedrx_client.data.readers.source import Source
from fedrx_client.data.readers.sql import only_reading

PAGE = (Path(__file__).parents[4] / "docs" / "data_omop.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_worked_example_gives_the_table_that_the_page_shows(kind, tmp_path, request):
    (statements,) = blocks("sql")
    if kind == "sqlite":
        address = str(tmp_path / "cdm.sqlite")
        with closing(sqlite3.connect(address)) as connection, connection:
            connection.executescript(statements)
    else:
        server = request.getfixturevalue("server")
        with psycopg.connect(server.create("page"), autocommit=True) as connection:
            connection.execute(statements)
        address = server.url("page")
    mapping = TableMapping.parse(blocks("toml")[0])
    table = read_source(Source.parse(address), mapping, set(mapping.columns))
    lines = PAGE[PAGE.index("| id | creatinine") :].split("\n\n")[0].splitlines()
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    header, rows = shown[0], shown[2:]
    assert [list(table.columns[name]) for name in header] == [
        list(column) for column in zip(*rows, strict=True)
    ]
    place = "measurement 21, column 'creatinine'"
    assert table.where(1, "creatinine").endswith(place)


def test_the_sections_that_the_page_shows_are_taken():
    schema, query = (
        TableMapping.parse(f'[table]\npatient = "id"\n{b}') for b in blocks("toml")[1:]
    )
    assert (schema.sql.tables, schema.sql.vocabulary) == ("cdm", "vocab")
    assert only_reading(query.sql.query, "mapping.toml").strip().startswith("SELECT")
