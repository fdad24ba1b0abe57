"""One normal form for what laboratories write: diplotypes, and genotypes at an rs number.

Nothing is rounded: an allele that the tables do not have, an older sub-allele, a base that does not
belong there, or a strand that cannot be known is a `ValueError` in one sentence. The normal form is
one spelling of the code that `fedrx_protocol.study.codes.code_key` gives, so both agree.
"""

import re
from functools import cache
from typing import Literal

from fedrx_client.data.harmonise.alleles.tables import GENES, GeneTable, Locus, gene_table

Strand = Literal["+", "-"]

_BETWEEN = re.compile(r"\s*[/|]\s*")
_STARS = re.compile(r"\*[^\s*/|]+(?:\+\*[^\s*/|]+)?")
_OF_GENE = re.compile(r"(?P<name>[^()]*\S)\s*\((?P<also>[^()]+)\)")
_COMPLEMENT = str.maketrans("ACGT", "TGCA")
_GENOTYPE = re.compile(r"(?P<first>[ACGT]+|-|DEL)\s*[/|>;:, ]\s*(?P<second>[ACGT]+|-|DEL)")


def normal_diplotype(text: str, gene: str) -> str:
    """Bring a diplotype to its normal form: "*2|*1", "CYP2C9*1/*2" and "1/2" are "*1/*2".

    An allele may be written with or without its star and its gene, by its HGVS name where one
    variant alone defines it (of DPYD also "*2A", "HapB3"), in capitals or not.

    Args:
        text: as a laboratory wrote it.
        gene: name of the gene, for instance "CYP2C9".

    Returns:
        The two names as in the tables, the lower first; one name where the gene is on the X
        chromosome and one is given.

    Raises:
        ValueError: the gene has no table, or the text names no two alleles of it.
    """
    if gene.upper() not in GENES:
        raise ValueError(f"there is no table of the gene {gene!r}; there is: {', '.join(GENES)}")
    table = gene_table(gene.upper())
    names = _spellings(table.gene)
    parts = _split(text.strip(), table)
    found: list[str] = []
    for part in parts:
        plain = _plain(part, table)
        if plain not in names:
            raise ValueError(
                f"{part.strip()!r} is no allele of {table.gene} in the tables ({table.version}): "
                "write it as they do, or leave the value out"
            )
        found.append(names[plain])
    if len(found) != 2 and not (len(found) == 1 and table.chromosome == "X"):
        raise ValueError(f"{text!r} does not name two alleles of {table.gene}, as *1/*2 does")
    return "/".join(sorted(found, key=table.names.index))


def _split(text: str, table: GeneTable) -> list[str]:
    """Separate the alleles of a diplotype; the names of some hold a slash or nothing between."""
    parts = _BETWEEN.split(text)
    if len(parts) == 1 and text.count("*") == 2 and "+" not in text:
        stars = _STARS.findall(text)
        head = text[: text.index("*")].strip().upper()
        if len(stars) == 2 and head in ("", table.gene):
            return stars
    return parts


def _plain(part: str, table: GeneTable) -> str:
    """Leave out of an allele's name what does not distinguish it: gene, spaces, capitals."""
    short = re.sub(r"\s+", "", part).upper()
    short = short.removeprefix(table.gene).removeprefix(":")
    return short.removeprefix(f"{table.accession}:")


@cache
def _spellings(gene: str) -> dict[str, str]:
    """Every way in which an allele of a gene may be written, without spaces, in capitals."""
    table = gene_table(gene)
    found: dict[str, str] = {}
    for name in table.names:
        ways = {name, name.removeprefix("*")}
        if match := _OF_GENE.fullmatch(name):  # "c.1905+1G>A (*2A)", "rs9923231 variant (T)"
            ways |= {match["name"], match["also"]}
        for way in ways:
            found[_plain(way, table)] = name
    single = [one for one in table.alleles if one.defined.bit_count() == 1]
    for locus_number, locus in enumerate(table.loci):
        own = [one for one in single if one.defined >> locus_number & 1]
        if len(locus.choices) == 2 and len(own) == 1 and ";" not in locus.hgvs:
            found.setdefault(_plain(locus.hgvs, table), own[0].name)
    return found


def normal_genotype(text: str, rsid: str, strand: Strand | None = None) -> str:
    """Bring a genotype at an rs number to its normal form, on the plus strand of GRCh38.

    "CT", "TC", "C/T", "C|T", "C>T" and, from the other strand, "GA" are "C/T" at a C>T position.

    Args:
        text: two bases as a laboratory wrote them; "-" or "del" where some are deleted.
        rsid: the rs number.
        strand: of the text; None where it is not said, and then bases must show it.

    Returns:
        Two alleles in the order of the alphabet with a slash between.

    Raises:
        ValueError: the rs number is in no table, the bases do not belong there, or they could be of
            either strand and `strand` does not say which.
    """
    locus = _positions().get(rsid.strip().lower())
    if locus is None:
        raise ValueError(f"{rsid!r} is no position of the tables of {', '.join(GENES)}")
    written = text.strip().upper()
    match = _GENOTYPE.fullmatch(written)
    pair = [match["first"], match["second"]] if match else []
    if not match and not locus.is_indel and re.fullmatch("[ACGT]{2}", written):
        pair = list(written)
    if not pair:
        raise ValueError(f"{text!r} is no genotype of two alleles at {rsid}, as C/T is")
    here = _alleles(locus, pair)
    there = _alleles(locus, [one.translate(_COMPLEMENT)[::-1] for one in pair])
    if strand is None and here and there:  # the bases are palindromes, A/T or C/G
        raise ValueError(
            f"{text!r} at {rsid} ({'/'.join(locus.choices)}) could be of either strand: say in the "
            "mapping which strand the laboratory reports"
        )
    chosen = {"+": here, "-": there, None: here or there}[strand]
    if chosen is None:
        raise ValueError(
            f"{text!r} cannot be at {rsid}: its alleles are {', '.join(locus.choices)} on the plus "
            "strand of GRCh38"
        )
    return "/".join(sorted(chosen))


def _alleles(locus: Locus, pair: list[str]) -> list[str] | None:
    """Match two written alleles with what a locus may hold; None if one is not among it."""
    ways = {choice: choice for choice in locus.choices}
    if locus.is_indel and len(locus.choices) == 2:
        short, long = sorted(locus.choices, key=len)
        ways |= {"-": short, "DEL": short, long[len(short) :]: long}
    return [ways[one] for one in pair] if all(one in ways for one in pair) else None


@cache
def _positions() -> dict[str, Locus]:
    loci = (locus for gene in GENES for locus in gene_table(gene).loci)
    return {locus.rsid.lower(): locus for locus in loci if locus.rsid}
