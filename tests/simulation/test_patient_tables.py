"""Synthetic patients written as tables are read back as the very same patients."""

import pytest

from fedrx import front_door
from fedrx_client.data.load import load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_protocol.errors import MisuseError
from fedrx_simulation.cohorts.tables import write_tables


@pytest.fixture(scope="module")
def drawn():
    study, _ = front_door.default_study()
    source = front_door.SyntheticSites(sites=3, patients=(20, 30))
    return study, front_door.load_cohorts(source, study.feature_schema, seed=4)


def test_tables_and_mapping_give_back_the_same_cohorts(drawn, tmp_path):
    study, cohorts = drawn
    paths = write_tables(cohorts, tmp_path / "rehearsal")
    mapping = TableMapping.load(tmp_path / "rehearsal" / "mapping.toml")
    for path in paths:
        loaded = load_cohort(path, mapping, study.feature_schema, site=path.stem)
        assert loaded.cohort.fingerprint == cohorts[path.stem].fingerprint


def test_a_folder_with_something_in_it_is_left_alone(drawn, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(MisuseError, match="is not empty"):
        write_tables(drawn[1], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_no_site_is_refused(tmp_path):
    with pytest.raises(MisuseError, match="at least one site"):
        write_tables({}, tmp_path / "x")
