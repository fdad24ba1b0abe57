"""A block's file beside the patients' table: the ids of both, and a site without the block."""

import numpy as np
import pytest

from fedrx_client.data.load import load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_common.errors import DataError
from fedrx_models.cohort.encoding import encode
from fedrx_protocol.study.schema import FeatureSchema

RANGE = {"unit": "z", "minimum": -10.0, "maximum": 15.0, "mean": 0.0, "scale": 1.0}
SCHEMA = FeatureSchema.model_validate(
    {
        "features": [{"name": "smoker", "kind": "flag"}],
        "blocks": [
            {"name": name, "kind": "expression", "genes": ["TP53", "KRAS"], **RANGE}
            for name in ("tumour", "blood")
        ],
        "target": {"kind": "binary", "name": "tox", "rate": 0.4},
    }
)
TABLE = '[table]\npatient = "id"\n'
REST = (
    '[target]\ncolumn = "tox"\n[features.smoker]\nkind = "flag"\nany_of = ["smoker"]\n'
    '[blocks.tumour]\nfile = "tumour.csv"\npatient = "id"\nunit = "z"\n'
)
ABSENT = "[blocks.blood]\nmeasured = false\n"


@pytest.fixture
def load(tmp_path):
    """`load(patients, ids of the block's file, mapping)` reads a site's table and that file."""

    def read(patients, beside, mapping=TABLE + REST + ABSENT):
        rows = [f"{one},{i % 2},{i % 2}" for i, one in enumerate(patients)]
        (tmp_path / "t.csv").write_text("\n".join(["id,smoker,tox", *rows]) + "\n")
        genes = [f"{one},{i}.5,-1" for i, one in enumerate(beside)]
        (tmp_path / "tumour.csv").write_text("\n".join(["id,TP53,KRAS", *genes]) + "\n")
        return load_cohort(tmp_path / "t.csv", TableMapping.parse(mapping), SCHEMA, site="here")

    return read


@pytest.mark.parametrize(
    ("one", "other"),
    [("p1", "P1"), ("7", "007"), ("7", "7.0"), ("Ä1", "A\u03081"), ("ＡＢ1", "AB1")],
)
def test_an_id_near_that_of_a_patient_is_refused_until_the_mapping_decides(load, one, other):
    told = rf"tumour\.csv, line 2, column 'id': patient .* may be '{one}' of t\.csv.*similar_ids"
    with pytest.raises(DataError, match=told):
        load((one, "q2"), (other, "q2"))
    same = load((one, "q2"), (other, "q2"), f'{TABLE}similar_ids = "same"\n{REST}{ABSENT}')
    assert same.cohort.blocks["tumour"].tolist() == [[0.5, -1.0], [1.5, -1.0]]
    mapping = f'{TABLE}similar_ids = "different"\n{REST}{ABSENT}'
    different = load((one, "q2"), (other, "q2"), mapping)
    assert np.isnan(different.cohort.blocks["tumour"][0]).all()
    assert different.cohort.blocks["tumour"][1].tolist() == [1.5, -1.0]
    assert list(different.quality.strangers.values()) == [1]


def test_two_spellings_of_the_block_file_are_one_patient_where_the_mapping_says_so(load):
    with pytest.raises(DataError, match=r"tumour\.csv, line 3.*is already on line 2"):
        load(("p1", "q2"), ("p1", "P1"), f'{TABLE}similar_ids = "same"\n{REST}{ABSENT}')


def test_a_site_without_a_block_says_so_and_every_patient_lacks_it(load):
    loaded = load(("p1", "p2"), ("p1",))
    assert np.isnan(loaded.cohort.blocks["blood"]).all()
    batch = encode(loaded.cohort, SCHEMA)
    assert batch.omics_observed.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert not batch.omics[:, 2:].any()
    # That the site has no such block is no news; that a patient lacks one that it has, is.
    assert loaded.quality.missing == {"smoker": 0, "block tumour": 1}
    assert "Not at this site, as the mapping says: blood." in loaded.quality.text()


def test_what_is_not_there_has_no_file(load):
    with pytest.raises(DataError, match=r"unknown key 'blocks\.blood\.file'"):
        load(("p1",), ("p1",), TABLE + REST + ABSENT + 'file = "blood.csv"\n')


def test_a_block_of_which_the_mapping_says_nothing_is_refused(load):
    told = r"'blocks\.blood' is missing; a site without it says measured = false"
    with pytest.raises(DataError, match=told):
        load(("p1",), ("p1",), TABLE + REST)
