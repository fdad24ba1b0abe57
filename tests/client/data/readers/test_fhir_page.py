"""docs/data_fhir.md is worked through as it stands."""

import json
import re
from pathlib import Path

from fedrx_client.data.harmonise.codes.value_sets import value_sets
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.read import read_source
from fedrx_client.data.readers.source import Source

PAGE = (Path(__file__).parents[4] / "docs" / "data_fhir.md").read_text(encoding="utf-8")


def block(language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def test_the_worked_example_gives_the_table_that_the_page_shows(tmp_path):
    path = tmp_path / "patients.json"
    path.write_text(block("json"), encoding="utf-8")
    mapping = TableMapping.parse(block("toml"))
    table = read_source(Source.parse(path), mapping, set(mapping.columns))
    lines = PAGE[PAGE.index("| id | creatinine") :].split("\n\n")[0].splitlines()
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    header, rows = shown[0], shown[2:]
    assert [list(table.columns[name]) for name in header] == [
        list(c) for c in zip(*rows, strict=True)
    ]
    assert table.notes == (
        "patients.json: 1 record not read: the Observation is entered-in-error.",
    )
    assert table.where(1, "creatinine") == (
        "patients.json, entry 6 (Observation), column 'creatinine'"
    )
    assert json.loads(block("json"))["type"] == "collection"


def test_value_sets_that_the_page_names_exist():
    assert "creatinine" in value_sets("measurement")
    assert "warfarin" in value_sets("drug")
