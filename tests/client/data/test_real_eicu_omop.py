"""The intensive care example, whose hours come out of OMOP's tables by one query, is the same."""

from pathlib import Path

import eicu_cdm
import pytest
from real_postgres import postgres

from fedrx_client.data.load import load_split
from fedrx_client.data.mapping import TableMapping
from fedrx_protocol.study.study import Study

pytestmark = [pytest.mark.real_data, pytest.mark.slow]
EXAMPLE = Path(__file__).parents[3] / "examples" / "intensive_care"


@pytest.fixture(scope="module")
def folder(real_data_root):
    found = real_data_root / "eicu_demo"
    if not (found / "hourly.csv.gz").is_file():
        pytest.skip(f"REAL DATA MISSING: {found} is not here, so nothing real was tested")
    return found


def load(source, mapping):
    schema = Study.load(EXAMPLE / "study.toml").feature_schema
    return load_split(source, TableMapping.parse(mapping), schema, split_by="region")


@pytest.fixture(scope="module")
def expected(folder):
    return load(folder / "hourly.csv.gz", (EXAMPLE / "eicu.toml").read_text())


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_the_cohorts_are_those_of_the_csv(dialect, folder, expected, tmp_path):
    tables = eicu_cdm.frames(folder)
    mapping = eicu_cdm.mapping(EXAMPLE / "eicu.toml", dialect)
    if dialect == "sqlite":
        path = tmp_path / "eicu.sqlite"
        eicu_cdm.write_sqlite(path, tables)
        found = load(path, mapping)
    else:
        with postgres() as server:
            eicu_cdm.write_postgres(server.create("eicu"), tables)
            found = load(server.url("eicu"), mapping)
    assert {site: len(cohort) for site, cohort in found.cohorts.items()} == {
        "Midwest": 587, "Northeast": 118, "South": 498, "West": 368
    }  # fmt: skip
    for site, cohort in expected.cohorts.items():
        assert found.cohorts[site].fingerprint == cohort.fingerprint
    assert found.quality.rows_read == expected.quality.rows_read == 124_094
    assert found.quality.missing == expected.quality.missing
    assert found.quality.unknown == expected.quality.unknown
