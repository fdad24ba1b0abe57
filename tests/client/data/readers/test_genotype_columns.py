"""Called genotypes as columns of a cohort: a VCF beside a table, or a VCF alone."""

import pytest
from vcf_files import locus, record, reference, vcf

from fedrx_client.data.load import load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.read import read_source
from fedrx_client.data.readers.source import Source
from fedrx_common.errors import DataError
from fedrx_protocol.study.schema import FeatureSchema

MAPPING = """
[table]
patient = "id"

[genotypes]
file = "patients.vcf"

[columns.cyp2c9_called]
gene = "CYP2C9"

[columns.clears]
gene = "CYP2C9"
give = "activity"

[columns.vkorc1_bases]
position = "rs9923231"

[columns.slow]
formula = "2 - clears"

[target]
column = "dose"
unit = "mg/day"

[features.cyp2c9]
kind = "category"
column = "cyp2c9_called"

[features.vkorc1]
kind = "category"
column = "vkorc1_bases"
values = { "C/C" = "G/G", "C/T" = "A/G", "T/T" = "A/A" }
"""
WANTED = ("id", "dose", "cyp2c9_called", "clears", "vkorc1_bases", "slow")


@pytest.fixture
def folder(tmp_path):
    """A table of three patients, of whom two have a sample."""
    (tmp_path / "doses.csv").write_text("id,dose\np1,4\np2,5\np3,6\n")
    lines = reference("CYP2C9", {"rs1799853": ["0/0", "1/0"]}, samples=2)
    lines.append(record(locus("rs9923231"), ["1/1", "0/1"]))
    (tmp_path / "patients.vcf").write_text(vcf(lines, samples=("p2", "p1")))
    return tmp_path


def read(folder, mapping=MAPPING, source="doses.csv", wanted=WANTED):
    parsed = TableMapping.parse(mapping)
    return read_source(Source.parse(folder / source), parsed, wanted)


def test_patients_get_the_genotypes_of_their_samples(folder):
    table = read(folder)
    assert table.columns["id"] == ("p1", "p2", "p3")
    assert table.columns["cyp2c9_called"] == ("*1/*2", "*1/*1", "")
    assert table.columns["vkorc1_bases"] == ("C/T", "T/T", "")
    assert table.columns["clears"] == ("1.5", "2.0", "")
    assert table.columns["slow"][:2] == ("0.5", "0")
    assert table.where(0, "clears") == ("doses.csv, sample 2 of patients.vcf, column 'clears'")


def test_a_vcf_alone_is_a_table_of_its_samples(folder):
    mapping = MAPPING.replace('file = "patients.vcf"', "")
    table = read(folder, mapping, "patients.vcf", ("id", "cyp2c9_called", "vkorc1_bases"))
    assert table.header == ("id", "cyp2c9_called", "vkorc1_bases")
    assert table.columns["id"] == ("p2", "p1")
    assert table.columns["cyp2c9_called"] == ("*1/*1", "*1/*2")


def test_samples_may_have_names_of_their_own(folder):
    (folder / "whose.csv").write_text("sample,patient\np1,p3\np2,p2\n")
    mapping = MAPPING.replace("[genotypes]", '[genotypes]\nsamples = "whose.csv"')
    assert read(folder, mapping).columns["cyp2c9_called"] == ("", "*1/*1", "*1/*2")
    (folder / "whose.csv").write_text("sample,patient\np1,p3\n")
    with pytest.raises(DataError, match=r"whose\.csv: sample 'p2' of patients\.vcf has no row"):
        read(folder, mapping)


def test_a_cohort_of_genotypes_loads(folder):
    schema = FeatureSchema.model_validate(
        {
            "features": [
                {"name": "cyp2c9", "kind": "category", "values": ["*1/*1", "*1/*2"]},
                {"name": "vkorc1", "kind": "category", "values": ["G/G", "A/G", "A/A"]},
            ],
            "target": {
                "kind": "continuous",
                "name": "dose",
                "unit": "mg/day",
                "mean": 5,
                "scale": 2,
                "minimum": 1,
                "maximum": 20,
            },
        }
    )
    mapping = TableMapping.parse(MAPPING.replace('[columns.slow]\nformula = "2 - clears"\n', ""))
    loaded = load_cohort(folder / "doses.csv", mapping, schema, site="a")
    assert loaded.quality.rows_kept == 3
    assert loaded.cohort.values["cyp2c9"].tolist() == [1, 0, -1]
    assert loaded.cohort.values["vkorc1"].tolist() == [1, 2, -1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('file = "patients.vcf"', ""), "no VCF is named"),
        (('file = "patients.vcf"', 'file = "absent.vcf"'), "there is no such VCF file"),
        (('file = "patients.vcf"', 'file = "patients.vcf"\nbuild = "GRCh37"'), "GRCh37"),
        (("[columns.cyp2c9_called]", "[columns.dose]"), "column 'dose' is there"),
        (('gene = "CYP2C9"', 'gene = "CYP9"'), "the gene 'CYP9'"),
    ],
)
def test_what_cannot_be_joined_is_refused(folder, change, said):
    with pytest.raises(DataError, match=said):
        read(folder, MAPPING.replace(*change, 1))


def test_a_vcf_of_other_patients_is_refused(folder):
    (folder / "doses.csv").write_text("id,dose\nx1,4\n")
    with pytest.raises(DataError, match="no sample has the name of a patient"):
        read(folder)
