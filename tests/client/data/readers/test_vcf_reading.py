"""VCFs of every make: read as another reader reads them, or refused in one sentence."""

import gzip
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vcf_files import COLUMNS, bgzip, packed, record, reference, vcf

from fedrx_client.data.harmonise.alleles.tables import GENES, gene_table
from fedrx_client.data.readers.genotypes import call_genotypes
from fedrx_client.data.readers.vcf import VcfFile
from fedrx_common.errors import DataError

GOOD = vcf(reference("CYP2C9", {"rs1799853": "0/1"}))
PLACES = {
    gene_table(gene).chromosome: tuple(
        sorted(x.position for g in GENES for x in gene_table(g).loci)
    )
    for gene in GENES
}


@pytest.fixture
def write(tmp_path):
    """Writes a file and gives its path."""

    def to(data, name="patients.vcf"):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return to


@pytest.mark.parametrize("way", ["plain", "gzip", "bgzip"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_one_text_in_any_packing_gives_one_call(write, way, end):
    path = write(packed(GOOD.replace("\n", end), way), "patients.data")
    assert call_genotypes([path])["P1"]["CYP2C9"].diplotype == "*1/*2"


def test_the_last_line_needs_no_end(write):
    assert call_genotypes([write(GOOD.rstrip("\n"))])["P1"]["CYP2C9"].diplotype == "*1/*2"


@pytest.mark.parametrize("name", ["chr10", "10", "CHR10", "Chr10", "NC_000010.11"])
def test_a_chromosome_may_be_written_in_several_ways(write, name):
    path = write(GOOD.replace("chr10\t", f"{name}\t"))
    assert call_genotypes([path])["P1"]["CYP2C9"].diplotype == "*1/*2"


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new, 1)


LINE = next(line for line in GOOD.splitlines() if "\t94942290\t" in line)
BAD = {
    "empty": ("", "line of column names"),
    "not a VCF": ("patient,dose\n1,2\n", "not a VCF"),
    "BCF": (b"BCF\x02\x02" + bytes(40), "bcftools view"),
    "no fileformat": (GOOD.split("\n", 1)[1], "first line must be"),
    "no columns": ("##fileformat=VCFv4.2\n##x\n", "line of column names"),
    "spaces for tabs": (changed(COLUMNS, COLUMNS.replace("\t", " ")), "line 2"),
    "no samples": (vcf(samples=()), "no sample is named"),
    "one sample twice": (vcf(samples=("A", "A")), "two samples have the name 'A'"),
    "nameless sample": (vcf(samples=("",)), "0 characters"),
    "sample with control": (vcf(samples=("a\x1b[2J",)), "U+001B"),
    "sample not UTF-8": (GOOD.encode().replace(b"\tP1", b"\t\xff"), "not UTF-8"),
    "cut in a record": (GOOD[: GOOD.index(LINE) + 20], "has 5 fields"),
    "too many fields": (changed(LINE, LINE + "\t0/0"), "has 11 fields"),
    "no position": (changed("\t94942290\t", "\tx\t"), "POS"),
    "negative position": (changed("\t94942290\t", "\t-5\t"), "POS"),
    "strange REF": (changed("94942290\t.\tC\tT", "94942290\t.\t7\tT"), "REF"),
    "strange ALT": (changed("94942290\t.\tC\tT", "94942290\t.\tC\tT!"), "ALT"),
    "strange GT": (changed("0/1", "0-1"), "GT"),
    "index without allele": (changed("0/1", "0/7"), "1 alternative"),
    "wrong reference": (
        changed("94942290\t.\tC\tT", "94942290\t.\tA\tT"),
        "has A at chr10:94942290",
    ),
    "rs number elsewhere": (
        vcf(
            record("chr10:96702047", "0/1", ref="C", alt="T", rsid="rs1799853"), reference("CYP2C9")
        ),
        "another build",
    ),
    "gzip cut": (gzip.compress(GOOD.encode())[:-30], "cut or damaged"),
    "gzip damaged": (gzip.compress(GOOD.encode())[:-8] + bytes(8), "cut or damaged"),
    "bgzip without end": (bgzip(GOOD.encode(), end=False), "no end mark"),
    "bgzip cut between blocks": (bgzip(GOOD.encode())[:-400], "no end mark"),
}


@pytest.mark.parametrize(("data", "said"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_in_one_sentence(write, capfd, data, said):
    path = write(data)
    with pytest.raises(DataError) as refused:
        call_genotypes([path])
    told = str(refused.value)
    assert said in told
    assert told.startswith("patients.vcf")
    assert len(told.splitlines()) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("header", "build", "said"),
    [
        (["##reference=file:///data/human_g1k_v37.fasta"], None, "GRCh37"),
        (["##contig=<ID=chr1,length=249250621>"], None, "GRCh37"),
        (["##contig=<ID=10,assembly=b37,length=5>"], None, "GRCh37"),
        (["##reference=chm13v2.0.fa"], None, "T2T-CHM13"),
        (["##reference=hg38", "##contig=<ID=chr1,length=249250621>"], None, "two genome builds"),
        (["##reference=hg38"], "GRCh37", "its header says GRCh38"),
        ([], "GRCh37", "is of genome build GRCh37"),
        ([], "hg19", "is of genome build GRCh37"),
        ([], "mm10", "is of genome build mm10"),
    ],
)
def test_another_build_is_refused_by_name(write, header, build, said):
    path = write(vcf(reference("CYP2C9"), header=header))
    with pytest.raises(DataError, match=said):
        call_genotypes([path], build)


@pytest.mark.parametrize(
    "header",
    [
        ["##reference=hg38", "##contig=<ID=chr1,length=248956422,assembly=GRCh38.p13>"],
        ['##INFO=<ID=OLD,Number=1,Type=String,Description="position in hg19">'],
        ["##contig=<ID=chrUn_KI270302v1,length=2274>"],
    ],
)
@pytest.mark.parametrize("build", [None, "GRCh38", "hg38", "GRCh38.p14"])
def test_a_header_of_the_right_build_passes(write, header, build):
    path = write(vcf(reference("CYP2C9"), header=header))
    assert call_genotypes([path], build)["P1"]["CYP2C9"].diplotype == "*1/*1"


def test_two_files_with_a_sample_of_one_name_are_refused(write):
    one, two = write(GOOD, "one.vcf"), write(GOOD, "two.vcf")
    with pytest.raises(DataError, match=r"two\.vcf: sample 'P1' is also in one\.vcf"):
        call_genotypes([one, two])
    other = write(GOOD.replace("\tP1", "\tP2"), "three.vcf")
    assert list(call_genotypes([one, other])) == ["P1", "P2"]


@pytest.mark.real_data
def test_another_reader_reads_the_same_genotypes(real_data_root):
    cyvcf2 = pytest.importorskip("cyvcf2")
    path = real_data_root / "vcf_pgx" / "100samples.vcf.bgz"
    own = {}
    for one in VcfFile(path).records(PLACES):
        cells = [cell.split(b":")[0].decode() for cell in one.cells]
        own[one.chromosome, one.position, one.ref, one.alts] = cells
    found = {}
    for one in cyvcf2.VCF(str(path)):
        key = (one.CHROM.removeprefix("chr"), one.POS, one.REF.upper(), tuple(one.ALT))
        cells = one.genotypes
        found[key] = ["/".join("." if x < 0 else str(x) for x in cell[:-1]) for cell in cells]
    assert own.keys() <= found.keys()
    assert len(own) > 500
    assert {key: found[key] for key in own} == own


TOKENS = [
    "0/1",
    "1|0",
    ".",
    "./.",
    "0",
    "1/",
    "|",
    "2/2",
    "A",
    "ACGT",
    "<*>",
    "<DEL>",
    "*",
    "]1:2]A",
]
TOKENS += [
    "chr10",
    "94942290",
    "94981296",
    "-1",
    "9" * 30,
    "PASS",
    "END=94981300",
    "END=",
    "GT",
    "GT:PS",
]
TOKENS += ["\t", "\n", "#", "##", "", "\x00", "é", "\xff", "rs1799853", ","]
LINES = GOOD.encode().splitlines(keepends=True)


@st.composite
def damaged(draw):
    """A good file with some of its lines or fields changed, dropped, doubled, or cut."""
    lines = list(draw(st.sampled_from([LINES, LINES[:2] + LINES[20:40]])))
    for _ in range(draw(st.integers(1, 4))):
        i = draw(st.integers(0, len(lines) - 1))
        token = draw(st.sampled_from(TOKENS) | st.text(max_size=5)).encode("utf-8", "surrogatepass")
        what = draw(st.sampled_from(["field", "cut", "drop", "double", "insert"]))
        if what == "field":
            fields = lines[i].split(b"\t")
            fields[draw(st.integers(0, len(fields) - 1))] = token
            lines[i] = b"\t".join(fields)
        elif what == "cut":
            lines[i] = lines[i][: draw(st.integers(0, len(lines[i])))]
        else:
            lines[i : i + 1] = {"drop": [], "double": [lines[i]] * 2, "insert": [token, lines[i]]}[
                what
            ]
        lines = lines or [b""]
    data = b"".join(lines)
    way = draw(st.sampled_from(["plain", "plain", "gzip", "bgzip"]))
    if way != "plain":
        data = gzip.compress(data) if way == "gzip" else bgzip(data)
        data = data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data
    return data


@given(damaged())
@settings(max_examples=400)
def test_no_damage_gives_more_than_a_sentence(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.vcf"
    path.write_bytes(data)
    with suppress(DataError):
        calls = call_genotypes([path], genes=("CYP2C9", "VKORC1"))
        assert all(set(genes) == {"CYP2C9", "VKORC1"} for genes in calls.values())


def test_a_long_file_is_streamed_in_flat_memory(tmp_path):
    path = tmp_path / "long.vcf.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(vcf(samples=[f"s{i}" for i in range(20)]))
        cells = "\t".join(["0/1:30:99"] * 20)
        for i in range(20_000):
            file.write(
                f"chr10\t{93_000_000 + i * 90}\t.\tN\tT\t50\tPASS\tDP=9\tGT:DP:GQ\t{cells}\n"
            )
    call_genotypes([path])  # the tables are read once, and stay
    tracemalloc.start()
    call_genotypes([path])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000  # bytes, of 5 million
