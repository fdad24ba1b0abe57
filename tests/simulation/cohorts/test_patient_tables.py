"""Synthetic patients written as tables are read back as the very same patients."""

import pytest
from omics_cohorts import TARGETS, omics_cohort, omics_schema

from fedrx import api
from fedrx.study_templates import TASKS, new_study
from fedrx_client.data.load import load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_common.errors import MisuseError
from fedrx_protocol.study.study import Study
from fedrx_simulation.cohorts.tables import write_tables


def draw(study):
    source = api.SyntheticSites(sites=3, patients=(20, 30))
    return api.load_cohorts(source, study.feature_schema, seed=4)


def require_same(cohorts, folder):
    """Write, read back, and compare to the last bit."""
    paths = write_tables(cohorts, folder)
    mapping = TableMapping.load(folder / "mapping.toml")
    assert len(paths) == len(cohorts)
    for path, (site, cohort) in zip(paths, sorted(cohorts.items()), strict=True):
        loaded = load_cohort(path, mapping, cohort.schema, site=site).cohort
        assert loaded.fingerprint == cohort.fingerprint
    return paths


@pytest.fixture(scope="module")
def drawn():
    return draw(api.default_study()[0])


@pytest.mark.parametrize("task", TASKS)
def test_tables_and_mapping_of_every_task_give_back_the_same_cohorts(task, tmp_path):
    study = Study.parse(new_study(None, task))
    paths = require_same(draw(study), tmp_path / "rehearsal")
    several = bool(study.blocks or study.visits)
    assert [path.name for path in paths] == (
        ["patients.csv"] * 3 if several else ["site-1.csv", "site-2.csv", "site-3.csv"]
    )


@pytest.mark.parametrize("kind", TARGETS)
def test_missing_blocks_and_every_kind_of_outcome_are_read_back(kind, tmp_path):
    cohorts = {"a": omics_cohort(omics_schema(kind), 40, site="a")}
    (path,) = require_same(cohorts, tmp_path / "rehearsal")
    rows = (path.parent / "block-expression.csv").read_text().splitlines()
    assert 25 < len(rows) < 41  # a fifth of the patients lacks the block, and so the row


def test_a_folder_with_something_in_it_is_left_alone(drawn, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(MisuseError, match="is not empty"):
        write_tables(drawn, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_no_site_is_refused(tmp_path):
    with pytest.raises(MisuseError, match="at least one site"):
        write_tables({}, tmp_path / "x")
