"""A small study, its mapping, and a table that loads; tests change one thing."""

import pytest

from fedrx_client.data.load import load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_protocol.study.schema import FeatureSchema

MAPPING = """
[table]
patient = "id"
missing = ["", "NA"]

[[filters]]
reason = "not stable"
column = "stable"
keep = ["yes"]

[target]
column = "dose"
unit = "mg/day"

[features.weight_kg]
kind = "number"
column = "weight"
unit = "lb"

[features.age_decade]
kind = "number"
column = "age"
parse = "decade_bin"
unit = "decade"

[features.vkorc1]
kind = "category"
column = "snp"
values = { CC = "G/G", CT = "A/G", TT = "A/A" }

[[features.vkorc1.impute]]
name = "neighbour"
column = "neighbour"
values = { "1" = "G/G", "2" = "A/A" }
only_if = { race = ["White"] }

[[features.vkorc1.impute]]
name = "laboratory"
column = "neighbour"
values = { "2" = "A/G" }
only_if_column = { lab = ["L1", "L2"] }

[features.race]
kind = "category"
column = "race"

[features.smoker]
kind = "flag"
any_of = ["cigarettes", "cigars"]
yes = ["y"]
no = ["n"]
"""

HEADER = "id,site,stable,dose,weight,age,snp,neighbour,lab,race,cigarettes,cigars"
ROWS = (
    "p1,10,yes,5,200,60 - 69,CC,1,L1,White,y,n",
    "p2,2,yes,3,150,90+,TT,2,L1,Asian,n,NA",
    "p3,2,yes,4,NA,NA,NA,1,L9,White,NA,NA",
    "p4,b,yes,6,180,40-49,,2,L2,Asian,n,y",
    "p5,b,no,6,180,40-49,CT,2,L2,Asian,n,y",
    "p6,10,yes,NA,180,40-49,CT,2,L2,Asian,n,y",
    "p7,2,yes,2.5,180.5,20 - 29,NA,2,L7,Asian,n,n",
)


@pytest.fixture(scope="session")
def small_schema():
    number = {"kind": "number", "scale": 10}
    return FeatureSchema.model_validate(
        {
            "features": [
                {
                    **number,
                    "name": "weight_kg",
                    "unit": "kg",
                    "minimum": 20,
                    "maximum": 250,
                    "mean": 80,
                },
                {
                    **number,
                    "name": "age_decade",
                    "unit": "decade",
                    "minimum": 0,
                    "maximum": 9,
                    "mean": 6,
                },
                {"name": "vkorc1", "kind": "category", "values": ["G/G", "A/G", "A/A"]},
                {"name": "race", "kind": "category", "values": ["White", "Asian"]},
                {"name": "smoker", "kind": "flag", "missing_is": True},
            ],
            "target": {
                "name": "dose",
                "unit": "mg/week",
                "minimum": 1,
                "maximum": 400,
                "mean": 30,
                "scale": 10,
            },
        }
    )


@pytest.fixture
def mapping():
    return TableMapping.parse(MAPPING)


@pytest.fixture
def write(tmp_path):
    """`write(*rows, header=..., name=..., encoding=...)` writes a table and returns its path."""

    def write_table(*rows, header=HEADER, name="table.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes("\n".join((header, *rows, "")).encode(encoding))
        return path

    return write_table


@pytest.fixture
def load(write, small_schema):
    """`load(*rows, mapping=text)` loads one site, after replacements in the mapping."""

    def load_rows(*rows, replace=(), **options):
        text = MAPPING
        for old, new in replace:
            assert old in text, old
            text = text.replace(old, new)
        path = write(*(rows or ROWS), **options)
        return load_cohort(path, TableMapping.parse(text), small_schema, site="a")

    return load_rows
