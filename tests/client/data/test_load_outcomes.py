"""Outcomes of every kind and omics blocks come from a hospital's files, or one sentence does."""

import gzip

import numpy as np
import pytest

from fedrx_client.data.load import load_cohort, load_split
from fedrx_client.data.mapping import TableMapping
from fedrx_common.errors import DataError
from fedrx_protocol.study.schema import FeatureSchema

SCHEMA = {
    "features": [{"name": "smoker", "kind": "flag"}],
    "blocks": [
        {
            "name": "expression",
            "kind": "expression",
            "unit": "log2(TPM+1)",
            "minimum": 0,
            "maximum": 20,
            "mean": [4.0, 5.0],
            "scale": 2.0,
            "genes": ["CYP2C9", "VKORC1"],
        }
    ],
}
TARGETS = {
    "binary": {"kind": "binary", "name": "toxic", "rate": 0.3},
    "survival": {"kind": "survival", "name": "death", "time_unit": "months", "edges": [6, 12]},
    "panel": {
        "kind": "panel",
        "name": "response",
        "unit": "ln uM",
        "minimum": -10,
        "maximum": 15,
        "drugs": [
            {"name": "erlotinib", "mean": 3.0, "scale": 1.5},
            {"name": "5-FU", "mean": 4.0, "scale": 2.0},
        ],
    },
}
SOURCES = {
    "binary": 'column = "tox"\nyes = ["y"]\nno = ["n"]',
    "survival": 'column = "months"\nunit = "months"\nevent = "died"',
    "panel": 'unit = "ln uM"\ncolumns = { erlotinib = "drug a" }',
}
HEADER = "id,site,smokes,tox,months,died,drug a,5-FU"
ROWS = (
    "p1,a,1,y,5,1,2.5,NA",
    "p2,a,0,n,30,0,NA,4.5",
    "p3,b,NA,NA,NA,1,NA,NA",
    "p4,b,1,y,7,1,1,2",
)
EXPRESSION = ("id,VKORC1,TP53,CYP2C9", "p4,5,1,6", "p9,1,1,1", "p1,9,x,NA")


def schema(kind, **changes):
    return FeatureSchema.model_validate({**SCHEMA, "target": TARGETS[kind], **changes})


def mapping(kind, extra="", change=("", "")):
    old, new = change
    text = f"""
        [table]
        patient = "id"
        [target]
        {SOURCES[kind]}
        {extra}
        [features.smoker]
        kind = "flag"
        any_of = ["smokes"]
        [blocks.expression]
        file = "expression.csv"
        patient = "id"
        unit = "log2(TPM+1)"
        """
    assert old in text
    return TableMapping.parse(text.replace(old, new, 1) if old else text)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "table.csv").write_text("\n".join([HEADER, *ROWS]))
    (tmp_path / "expression.csv").write_text("\n".join(EXPRESSION))
    return tmp_path


def load(folder, kind, **options):
    return load_cohort(folder / "table.csv", mapping(kind, **options), schema(kind), site="a")


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("binary", [1, 0, 1]),
        ("survival", [[5, 1], [30, 0], [7, 1]]),
        ("panel", [[2.5, np.nan], [np.nan, 4.5], [1, 2]]),
    ],
)
def test_outcomes_of_every_kind(folder, kind, target):
    result = load(folder, kind)
    assert result.cohort.patients == ("p1", "p2", "p4")
    assert result.cohort.target == pytest.approx(np.array(target, float), nan_ok=True)
    assert result.quality.dropped == {"no target recorded": 1}


def test_a_block_is_joined_by_patient_and_ordered_by_gene(folder):
    result = load(folder, "binary")
    expected = [[np.nan, 9], [np.nan, np.nan], [6, 5]]
    assert result.cohort.blocks["expression"] == pytest.approx(np.array(expected), nan_ok=True)
    assert result.quality.missing == {"smoker": 0, "block expression": 1}
    assert result.quality.strangers == {"expression.csv": 1}
    assert "not in table.csv: expression.csv 1." in result.quality.text()


def test_a_blocks_values_are_converted_to_the_studys_unit(folder):
    block = {**SCHEMA["blocks"][0], "unit": "kg", "mean": 0.0}
    other = mapping("binary", change=('unit = "log2(TPM+1)"', 'unit = "g"'))
    (folder / "expression.csv").write_text("id,VKORC1,CYP2C9\np1,5000,NA")
    wanted = schema("binary", blocks=[block])
    found = load_cohort(folder / "table.csv", other, wanted, site="a").cohort
    assert found.blocks["expression"][0, 1] == pytest.approx(5.0)


def test_a_block_of_nobody_here_is_no_block(folder):
    """Every id changed, as where a spreadsheet drops zeros, would silently mean "no block"."""
    strange = "\n".join([EXPRESSION[0], *(row[1:] for row in EXPRESSION[1:])])
    (folder / "expression.csv").write_text(strange)
    with pytest.raises(DataError, match=r"expression.csv: not one of its 3 patients is in table"):
        load(folder, "binary")


def test_a_block_of_a_dropped_patient_is_no_stranger(folder):
    (folder / "expression.csv").write_text("\n".join([EXPRESSION[0], "p3,1,1,1"]))
    result = load(folder, "binary")
    assert result.quality.strangers == {"expression.csv": 0}
    assert np.isnan(result.cohort.blocks["expression"]).all()


def test_a_packed_file_and_a_header_alone_will_do(folder):
    (folder / "expression.csv").write_text(EXPRESSION[0])
    assert np.isnan(load(folder, "binary").cohort.blocks["expression"]).all()
    packed = gzip.compress("\n".join([HEADER, *ROWS]).encode())
    (folder / "table.csv.gz").write_bytes(packed)
    path = folder / "table.csv.gz"
    assert len(load_cohort(path, mapping("binary"), schema("binary"), site="a").cohort) == 3
    path.write_bytes(packed[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        load_cohort(path, mapping("binary"), schema("binary"), site="a")


def test_a_panel_may_have_a_file_of_its_own(folder):
    (folder / "ic50.csv").write_text("line,drug a,5-FU\np4,1,2\np1,,\np3,0,3\n")
    own = load(folder, "panel", extra='file = "ic50.csv"\npatient = "line"')
    assert own.cohort.patients == ("p3", "p4")
    assert own.cohort.target.tolist() == [[0, 3], [1, 2]]
    assert own.quality.dropped == {"no target recorded": 2}


def test_sites_of_one_table_share_the_block_file(folder):
    result = load_split(folder / "table.csv", mapping("binary"), schema("binary"), split_by="site")
    assert result.cohorts["b"].blocks["expression"].tolist() == [[6.0, 5.0]]


def test_a_feature_outside_the_study_is_refused(folder):
    more = '[features.age]\nkind = "number"\ncolumn = "months"\nunit = "months"'
    with pytest.raises(DataError, match=r"'features.age' is not in the study; .* are: smoker"):
        load(folder, "binary", extra=more)


def test_ids_that_repeat_over_sites_cannot_be_joined(folder):
    rows = [ROWS[0], ROWS[0].replace(",a,", ",b,")]
    (folder / "table.csv").write_text("\n".join([HEADER, *rows]))
    with pytest.raises(DataError, match="two sites have the same id"):
        load_split(folder / "table.csv", mapping("binary"), schema("binary"), split_by="site")


def test_one_outcome_is_not_given_to_patients_of_two_sites(folder):
    (folder / "table.csv").write_text("id,site,smokes\np1,a,1\np1,b,0")
    (folder / "ic50.csv").write_text("id,drug a,5-FU\np1,1,2")
    text = f"""
        table = {{ patient = "id" }}
        features.smoker = {{ kind = "flag", any_of = ["smokes"] }}
        [target]
        {SOURCES["panel"]}
        file = "ic50.csv"
        patient = "id"
        """
    bare = schema("panel", blocks=[])
    with pytest.raises(DataError, match="two sites have the same id"):
        load_split(folder / "table.csv", TableMapping.parse(text), bare, split_by="site")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "p4,5,1,6",
            "p4,5,1,60",
            "line 2, column 'CYP2C9': '60' .* outside the study's range of 0 to 20 log2",
        ),
        ("p9,", "p4,", "line 3, column 'id': patient 'p4' is already on line 2"),
        ("VKORC1", "VKORC2", "column 'VKORC1', which the mapping names, is not there"),
        ("id,", "patient,", "column 'id', which the mapping names, is not there"),
    ],
)
def test_what_is_wrong_in_a_block_is_named(folder, old, new, words):
    text = (folder / "expression.csv").read_text().replace(old, new)
    (folder / "expression.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        load(folder, "binary")


@pytest.mark.parametrize(
    ("kind", "old", "new", "words"),
    [
        ("binary", "p1,a,1,y", "p1,a,1,maybe", "'maybe' is neither yes nor no; allowed: y, n"),
        ("survival", "n,30,0", "n,-3,0", "'-3' months is outside the study's range of 0 to inf"),
        ("survival", "n,30,0", "n,1e999,0", "'1e999' is not a number"),
        ("panel", "4.5", "99", "'99' ln uM is outside the study's range of -10 to 15"),
    ],
)
def test_what_is_wrong_in_an_outcome_is_named(folder, kind, old, new, words):
    text = (folder / "table.csv").read_text()
    assert old in text
    (folder / "table.csv").write_text(text.replace(old, new))
    with pytest.raises(DataError, match=words):
        load(folder, kind)


@pytest.mark.parametrize(
    ("kind", "old", "new", "words"),
    [
        ("binary", 'column = "tox"\n', "", "key 'target.column' is missing; a binary outcome"),
        ("survival", 'event = "died"', "", "key 'target.event' is missing; a survival outcome"),
        ("survival", 'unit = "months"', 'unit = "kg"', "'target.unit' is 'kg', which cannot"),
        ("panel", "erlotinib =", "aspirin =", "'target.columns' names 'aspirin', which is not a"),
        ("binary", '"log2(TPM+1)"', '"TPM"', "'blocks.expression.unit' is 'TPM', which cannot"),
        (
            "binary",
            'file = "expression.csv"',
            'file = "expression.csv"\ncolumns = { TP53 = "TP53" }',
            "names gene 'TP53', which is not in the study's block",
        ),
        ("panel", 'unit = "ln uM"', 'unit = "ln uM"\nfile = "x.csv"', "file and patient belong"),
        ("binary", 'no = ["n"]', 'no = ["y"]', "'y' cannot mean both yes and no"),
    ],
)
def test_a_mapping_that_does_not_fit_the_study(folder, kind, old, new, words):
    with pytest.raises(DataError, match=words):
        load(folder, kind, change=(old, new))


def test_a_block_without_a_source_is_named(folder):
    text = 'table = {patient = "id"}\ntarget = {column = "tox"}\n'
    other = schema("binary", features=[])
    with pytest.raises(DataError, match=r"'blocks\.expression' is missing; a site without it"):
        TableMapping.parse(text).check_against(other)
