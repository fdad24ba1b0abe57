"""The shipped definitions: which bases make which named allele, and what a pair of them does."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

GENES = (
    "ABCG2",
    "CYP2B6",
    "CYP2C19",
    "CYP2C9",
    "CYP2D6",
    "CYP3A5",
    "CYP4F2",
    "DPYD",
    "G6PD",
    "IFNL3",
    "NUDT15",
    "SLCO1B1",
    "TPMT",
    "UGT1A1",
    "VKORC1",
)

_TABLES = Path(__file__).with_name("tables")
# IUPAC codes of a definition that fits several bases (Cornish-Bowden 1985).
_IUPAC = {
    **{base: base for base in "ACGT"},
    "R": "AG",
    "Y": "CT",
    "S": "CG",
    "W": "AT",
    "K": "GT",
    "M": "AC",
    "B": "CGT",
    "D": "AGT",
    "H": "ACT",
    "V": "ACG",
    "N": "ACGT",
}
_STAR = re.compile(r"\*(\d+)(.*)")


@dataclass(frozen=True)
class Locus:
    """A position that some allele of a gene is defined by.

    Attributes:
        chromosome: without "chr": "1" to "22", "X".
        position: on GRCh38, from 1; of an indel the base before it, leftmost.
        rsid: its rs number, or "".
        choices: what a chromosome can hold there, as in a VCF; the reference is first.
        run: bases of the reference from the position on, to the end of an indel's repeat.
        hgvs: its change in HGVS; several are separated by "; ".
    """

    chromosome: str
    position: int
    rsid: str
    choices: tuple[str, ...]
    run: str
    hgvs: str

    @property
    def name(self) -> str:
        """The place in words: "chr10:94942290"."""
        return f"chr{self.chromosome}:{self.position}"

    @property
    def is_indel(self) -> bool:
        """Whether a choice has another length than the reference."""
        return any(len(choice) != len(self.choices[0]) for choice in self.choices)


@dataclass(frozen=True)
class NamedAllele:
    """What one chromosome holds where it is of an allele.

    Attributes:
        name: as people write it; a sub-allele has the name of its allele.
        fits: one set of bits per locus of the gene: bit i is set where the allele may hold choice
            i. Where its definition is silent, that is the reference allele's base alone.
        defined: bit i is set where the definition is not silent about locus i.
        order: where it comes among the gene's alleles.
        variants: loci at which it must differ from the genome's reference, and its choice there.
    """

    name: str
    fits: tuple[int, ...]
    defined: int
    order: tuple[int, str, int]
    variants: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class GeneTable:
    """One gene: its loci, its alleles, and what pairs of them do.

    Attributes:
        gene: its name.
        chromosome: without "chr".
        accession: the chromosome's RefSeq accession on GRCh38.
        version: of the public tables.
        reference: name of the allele that is defined everywhere.
        loci: by position.
        alleles: the reference first.
        names: of the alleles, each once, in the order in which people write them.
        functions: by allele name; empty where no table has them.
        activity: by allele name; only of genes whose phenotype is a sum of activities.
        phenotypes: by the sorted functions of two alleles.
        fitting: by locus and choice, which alleles fit: bit i is allele i.
    """

    gene: str
    chromosome: str
    accession: str
    version: str
    reference: str
    loci: tuple[Locus, ...]
    alleles: tuple[NamedAllele, ...]
    names: tuple[str, ...]
    functions: Mapping[str, str]
    activity: Mapping[str, float]
    phenotypes: Mapping[tuple[str, str], str]
    fitting: tuple[tuple[int, ...], ...]


@cache
def gene_table(gene: str) -> GeneTable:
    """Load the shipped table of one gene of `GENES`."""
    source = json.loads((_TABLES / f"{gene}.json").read_text("utf-8"))
    chromosome = source["chromosome"].removeprefix("chr")
    loci = tuple(
        Locus(
            chromosome,
            one["pos"],
            one["rsid"],
            (one["ref"], *one["alts"]),
            one.get("run", one["ref"]),
            one["hgvs"],
        )
        for one in source["positions"]
    )
    base = {int(i): bases for i, bases in source["alleles"][source["reference"]].items()}
    alleles = []
    for index, (full_name, written) in enumerate(source["alleles"].items()):
        name = source["sub_alleles"].get(full_name, full_name)
        holds = {int(i): bases for i, bases in written.items()}
        fits = tuple(
            _bits(locus, holds[i]) if i in holds else _bits(locus, base[i], silent=True)
            for i, locus in enumerate(loci)
        )
        order = _order(name, index)
        differs = tuple(
            (i, bits.bit_length() - 1) for i, bits in enumerate(fits) if bits and not bits & 1
        )
        alleles.append(NamedAllele(name, fits, sum(1 << i for i in holds), order, differs))
    return GeneTable(
        gene=gene,
        chromosome=chromosome,
        accession=source["accession"],
        version=source["version"],
        reference=source["reference"],
        loci=loci,
        alleles=tuple(alleles),
        names=tuple(dict.fromkeys(one.name for one in sorted(alleles, key=lambda x: x.order))),
        functions=source.get("functions", {}),
        activity=source.get("activity", {}),
        phenotypes={(a, b): name for a, b, name in source.get("phenotypes", ())},
        fitting=tuple(
            tuple(
                sum(1 << a for a, one in enumerate(alleles) if one.fits[i] >> choice & 1)
                for choice in range(len(locus.choices))
            )
            for i, locus in enumerate(loci)
        ),
    )


def _bits(locus: Locus, bases: str, *, silent: bool = False) -> int:
    """Say which choices of a locus a definition allows, as bits."""
    if bases in locus.choices:
        return 1 << locus.choices.index(bases)
    if silent:  # an ambiguous base of the reference allele is no variant of another allele
        return 1
    return sum(1 << i for i, choice in enumerate(locus.choices) if choice in _IUPAC[bases])


def _order(name: str, index: int) -> tuple[int, str, int]:
    """Order stars by number, *2 before *10; other names as in the table, the reference first."""
    found = _STAR.fullmatch(name)
    return (int(found[1]), found[2], index) if found else (0, "", index)
