"""`fedrx data genotypes`: called, ambiguous, missing; as text, JSON and a table; or refused."""

import gzip
import re
import shlex
from pathlib import Path

import pytest
from vcf_files import locus, record, reference, vcf

from fedrx_client.data.harmonise.alleles.tables import GENES
from fedrx_client.data.mapping import TableOptions
from fedrx_client.data.readers.tables import read_table

DOC = Path(__file__).parents[3] / "docs" / "data_genotypes.md"


@pytest.fixture
def patients(place):
    """Two samples: one with *2, one of whom that position is missing."""
    lines = reference("CYP2C9", {"rs1799853": ["0/1", "./."]}, samples=2)
    lines.append(record(locus("rs9923231"), ["0/1", "0/0"]))
    path = place / "patients.vcf"
    path.write_text(vcf(lines, samples=("anna", "ben")))
    return path.name


def test_json_has_every_gene_of_every_sample(fedrx, patients):
    ran = fedrx("data", "genotypes", patients, "--json")
    assert ran.code == 0, ran.err
    samples = ran.json["samples"]
    assert list(samples) == ["anna", "ben"]
    for genes in samples.values():
        assert list(genes) == list(GENES)
        for call in genes.values():
            assert set(call) == {
                *("diplotype", "phenotype", "activity", "alternatives", "missing", "note"),
            }
    assert samples["anna"]["CYP2C9"] == {
        "diplotype": "*1/*2",
        "phenotype": "Intermediate Metabolizer",
        "activity": 1.5,
        "alternatives": [],
        "missing": [],
        "note": "",
    }
    ben = samples["ben"]["CYP2C9"]
    assert (ben["diplotype"], ben["activity"]) == ("*1/*1", 2.0)
    assert ben["missing"] == [
        {"position": "chr10:94942290", "rsid": "rs1799853", "alleles": ["*2"]}
    ]
    assert samples["ben"]["TPMT"]["diplotype"] is None


def test_text_shows_what_is_called_and_what_is_not(fedrx, patients):
    ran = fedrx("data", "genotypes", patients)
    assert ran.code == 0, ran.err
    anna, ben = ran.out.split("\n\n")
    assert re.search(r"CYP2C9 +\*1/\*2 +Intermediate Metabolizer \(activity 1\.5\)", anna)
    assert "could show *2" in ben
    assert "no genotype in the file: ABCG2" in ben
    assert all(len(line) <= 100 for line in ran.out.splitlines())


def test_a_table_is_written_and_never_over_another(fedrx, refused, patients, place):
    ran = fedrx("data", "genotypes", patients, "--output", "calls.csv", "--json")
    assert ran.code == 0, ran.err
    table = read_table(place / "calls.csv", TableOptions(patient="sample"))
    assert table.columns["sample"] == ("anna", "ben")
    assert table.columns["CYP2C9"] == ("*1/*2", "*1/*1")
    assert table.columns["CYP2C9_phenotype"][0] == "Intermediate Metabolizer"
    told = refused("data", "genotypes", patients, "--output", "calls.csv")
    assert "calls.csv: exists already" in told


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("absent.vcf",), "absent.vcf: there is no such VCF file"),
        (("patients.csv",), "patients.csv: is not a VCF"),
        (("cut.vcf.gz",), "cut.vcf.gz: the compressed file is cut"),
        (("patients.vcf", "patients.vcf"), "sample 'anna' is also in patients.vcf"),
        (("patients.vcf", "--build", "GRCh37"), "genome build GRCh37"),
        (("patients.vcf", "--output", "absent/calls.csv"), "absent"),
        ((), "Missing argument"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(refused, patients, place, argv, said):
    packed = gzip.compress((place / patients).read_bytes())
    (place / "cut.vcf.gz").write_bytes(packed[:-20])
    assert said in refused("data", "genotypes", *argv)


def test_the_worked_example_of_the_documentation_works(fedrx, place):
    blocks = re.findall(r"<!-- (file: \S+|run|output) -->\n```\n(.*?)```", DOC.read_text(), re.S)
    named = {}
    for kind, text in blocks:
        named[kind.split(":")[0]] = text
        if kind.startswith("file: "):
            (place / kind.removeprefix("file: ")).write_text(text)
    assert set(named) == {"file", "run", "output"}
    ran = fedrx(*shlex.split(named["run"])[1:])
    assert ran.code == 0, ran.err
    assert ran.out == named["output"]


@pytest.mark.real_data
def test_every_public_file_is_called_or_refused_in_one_sentence(fedrx, real_data_root):
    folder = real_data_root / "vcf_pgx"
    paths = [*folder.rglob("*.vcf"), *folder.rglob("*.vcf.bgz")]
    assert len(paths) >= 15
    for path in paths:
        ran = fedrx("data", "genotypes", path, "--json")
        assert ran.code == 0, ran.err
        for genes in ran.json["samples"].values():
            assert all(call["diplotype"] or call["note"] for call in genes.values())
