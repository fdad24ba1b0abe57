"""A block's file beside the table is watched like the table itself."""

import pytest
from omics_cohorts import omics_cohort, omics_schema

from fedrx_client.approvals.approval import CohortChanged
from fedrx_client.approvals.study_files import KeptStudy
from fedrx_client.data.mapping import TableMapping
from fedrx_client.participation.patients import Patients
from fedrx_protocol.study.study import Study
from fedrx_simulation.cohorts.tables import write_tables


@pytest.fixture
def kept(tmp_path):
    schema = omics_schema("panel")
    study = Study.from_document(
        {
            **schema.model_dump(mode="json"),
            "name": "omics",
            "cohort": {"patients": 100, "largest_site": 60},
            "model": {"name": "linear"},
        },
        source="s",
    )
    (table,) = write_tables({"a": omics_cohort(schema, 30, site="a")}, tmp_path / "p")
    mapping = TableMapping.load(tmp_path / "p" / "mapping.toml")
    return KeptStudy(study, mapping, table)


@pytest.mark.parametrize(
    "file", ["patients.csv", "block-expression.csv", "block-mutation.csv", "outcome-response.csv"]
)
def test_every_file_is_watched(kept, file):
    patients, path = Patients(kept, "a"), kept.table.parent / file
    patients.require_unchanged(thorough=True)
    before = path.read_text()
    start, last = before[:-2], before[-2]
    path.write_text(start + ("1" if last == "0" else "0") + "\n")
    with pytest.raises(CohortChanged, match=rf"{file}: holds other patients than study 'omics'"):
        patients.require_unchanged(thorough=False)
    path.write_text(before)
    patients.require_unchanged(thorough=False)


def test_a_block_that_is_gone_is_a_refusal_that_quotes_nobody(kept):
    patients, path = Patients(kept, "a"), kept.table.parent / "block-expression.csv"
    path.unlink()
    with pytest.raises(CohortChanged, match=r"block-expression\.csv: the patients' table cannot"):
        patients.require_unchanged(thorough=False)
