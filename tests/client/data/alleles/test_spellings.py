"""What laboratories write: one normal form, or a sentence; never a guess."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrx_client.data.harmonise.alleles.spellings import normal_diplotype, normal_genotype
from fedrx_client.data.harmonise.alleles.tables import GENES, gene_table
from fedrx_protocol.study.codes import code_key


@pytest.mark.parametrize(
    ("gene", "text", "normal"),
    [
        ("CYP2C9", "*1/*2", "*1/*2"),
        ("CYP2C9", "*2/*1", "*1/*2"),
        ("CYP2C9", "CYP2C9*2|*3", "*2/*3"),
        ("CYP2C9", "CYP2C9*10/CYP2C9*2", "*2/*10"),
        ("CYP2C9", "1/2", "*1/*2"),
        ("CYP2C9", " * 1 / *2 ", "*1/*2"),
        ("CYP2C9", "*1*3", "*1/*3"),
        ("cyp2c9", "cyp2c9*1/*3", "*1/*3"),
        ("CYP2C9", "g.94942290C>T/*1", "*1/*2"),
        ("CYP2C9", "NC_000010.11:g.94942290C>T/*1", "*1/*2"),
        ("TPMT", "*3a/*1", "*1/*3A"),
        ("UGT1A1", "*80+*28/*1", "*1/*80+*28"),
        ("DPYD", "*2A/Reference", "Reference/c.1905+1G>A (*2A)"),
        ("DPYD", "c.1905+1G>A/c.1905+1G>A", "c.1905+1G>A (*2A)/c.1905+1G>A (*2A)"),
        ("DPYD", "Reference/HapB3", "Reference/c.1129-5923C>G, c.1236G>A (HapB3)"),
        ("VKORC1", "T/C", "rs9923231 reference (C)/rs9923231 variant (T)"),
        ("G6PD", "Mediterranean/B", None),
        ("G6PD", "B", "B (reference)"),
        ("G6PD", "A- 202A_376G/A", "A/A- 202A_376G"),
    ],
)
def test_one_diplotype_has_one_normal_form(gene, text, normal):
    if normal is None:
        name = next(name for name in gene_table(gene).names if name.startswith("Mediterranean"))
        assert name in normal_diplotype(f"{name}/B (reference)", gene)
    else:
        assert normal_diplotype(text, gene) == normal


@pytest.mark.parametrize(
    ("gene", "text", "said"),
    [
        ("CYP2C9", "*1/*999", "is no allele of CYP2C9"),
        ("CYP2C19", "*1/*4B", "is no allele of CYP2C19"),  # *4, but a person must say so
        ("CYP2C9", "*1", "does not name two alleles"),
        ("CYP2C9", "*1/*2/*3", "does not name two alleles"),
        ("CYP2C9", "", "is no allele"),
        ("CYP2C9", "TPMT*1/*2", "is no allele of CYP2C9"),
        ("CYP2C9", "TPMT*1*2", "is no allele of CYP2C9"),
        ("CYP2C9", "normal", "is no allele"),
        ("BRCA1", "*1/*1", "no table of the gene 'BRCA1'"),
    ],
)
def test_what_names_no_two_alleles_is_refused(gene, text, said):
    with pytest.raises(ValueError, match=said.replace("*", r"\*")):
        normal_diplotype(text, gene)


@given(st.data())
def test_every_pair_of_names_is_its_own_normal_form(data):
    table = gene_table(data.draw(st.sampled_from(GENES)))
    one, other = (data.draw(st.sampled_from(table.names)) for _ in range(2))
    written = data.draw(st.sampled_from(["{}/{}", "{}|{}", "{} / {}", table.gene + "{}/{}"]))
    normal = normal_diplotype(written.format(one, other), table.gene)
    assert normal == normal_diplotype(f"{other}/{one}", table.gene)
    assert sorted([one, other], key=table.names.index) == normal.split("/")
    # The study's own normal form keeps the two orders together, and the two forms agree.
    assert code_key(normal, table.gene) == code_key(code_key(normal, table.gene), table.gene)
    if one.startswith("*"):
        assert code_key(f"{one}/{other}", table.gene) == code_key(normal, table.gene)


@given(st.sampled_from(GENES), st.text(max_size=30))
def test_any_text_is_a_normal_form_or_a_sentence(gene, text):
    try:
        assert "/" in normal_diplotype(text, gene) or gene == "G6PD"
    except ValueError as refused:
        assert str(refused)  # noqa: PT017 - either outcome is right
    try:
        assert normal_genotype(text, "rs1799853") in {"C/C", "C/T", "T/T"}
    except ValueError as refused:
        assert "rs1799853" in str(refused)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    "text", ["CT", "TC", "C/T", "t/c", "C|T", "C>T", "GA", "G>A", "A/G", "C T"]
)
def test_a_genotype_on_either_strand_has_one_normal_form(text):
    assert normal_genotype(text, "rs1799853") == "C/T"


@pytest.mark.parametrize(
    ("rsid", "text", "strand", "normal"),
    [
        ("rs9923231", "A/A", None, "T/T"),
        ("rs9923231", "AG", "-", "C/T"),
        ("RS9923231", "TT", "+", "T/T"),
        ("rs28371686", "C/G", "+", "C/G"),  # C>G: its own complement
        ("rs28371686", "CC", "-", "G/G"),
        ("rs9332131", "A/-", None, "G/GA"),
        ("rs9332131", "del/del", None, "G/G"),
        ("rs9332131", "GA/G", None, "G/GA"),
        ("rs1142345", "AG", None, "C/T"),  # T>C,G: A is of the other strand alone
        ("rs7900194", "G/A", "+", "A/G"),
    ],
)
def test_a_strand_may_be_said(rsid, text, strand, normal):
    assert normal_genotype(text, rsid, strand) == normal


@pytest.mark.parametrize(
    ("rsid", "text", "strand", "said"),
    [
        ("rs28371686", "CG", None, "either strand"),
        ("rs28371686", "CC", None, "either strand"),
        ("rs67376798", "A/T", None, "either strand"),
        ("rs7900194", "A/T", None, "either strand"),
        ("rs9923231", "A/A", "+", "cannot be at rs9923231"),
        ("rs9923231", "A/C", None, "cannot be at rs9923231"),
        ("rs1799853", "C", None, "no genotype of two alleles"),
        ("rs1799853", "CTT", None, "no genotype of two alleles"),
        ("rs1799853", "0/1", None, "no genotype of two alleles"),
        ("rs1", "CT", None, "no position of the tables"),
    ],
)
def test_a_strand_is_never_guessed(rsid, text, strand, said):
    with pytest.raises(ValueError, match=said):
        normal_genotype(text, rsid, strand)
