"""DPYD, whose alleles are single variants that one chromosome may hold several of.

CPIC's rule (fluoropyrimidines and DPYD, PMID 29152729): the two variants of lowest activity decide,
and where the phase is unknown they are presumed to be on different copies. HapB3 is a haplotype of
two variants; the intronic one acts, the exonic one only marks it (PharmCAT, `DpydHapB3Matcher`).
"""

from dataclasses import dataclass, replace

from fedrx_client.data.harmonise.alleles.matching import Genotypes, matches, strand_names
from fedrx_client.data.harmonise.alleles.tables import GeneTable

_ACTS = "rs75017182"  # c.1129-5923C>G, intronic
_MARKS = "rs56038477"  # c.1236G>A, exonic
_UNKNOWN = 1.0  # activity of what no table speaks of; none is in the shipped table


@dataclass(frozen=True)
class DpydCall:
    """What DPYD's own rules give.

    Attributes:
        diplotype: what is on the two copies, or the two variants that decide.
        deciding: the two alleles that the phenotype follows from.
        notes: what a person must know about it.
    """

    diplotype: str
    deciding: tuple[str, str]
    notes: tuple[str, ...]


def call_dpyd(table: GeneTable, person: Genotypes) -> DpydCall:
    """Call DPYD from genotypes of which no allele is unknown.

    Args:
        table: the table of DPYD.
        person: two copies, some locus known.
    """
    person, notes = _without_markers(table, person)
    ordered = len(person.orders) <= 1
    found = matches(table, person)
    if found:
        first, second = found[0].alleles
        if not ordered and table.reference not in (first, second):
            notes.append("the phase is not known: the variants are presumed on different copies")
        return DpydCall(str(found[0]), (first, second), tuple(notes))
    if ordered:
        strands = list(strand_names(table, person))
        lowest = [min(parts, key=lambda name: _activity(table, name)) for parts in strands]
        written = ["[" + " + ".join(x) + "]" if len(x) > 1 else x[0] for x in strands]
        written.sort(key=lambda text: (text.startswith("["), text != table.reference))
        notes.append("of several variants on one copy the one of lowest activity decides")
        return DpydCall("/".join(written), _in_order(table, lowest), tuple(notes))
    carried = _variants(table, person)
    every = ", ".join(
        f"{name} on {'both copies' if carried.count(name) > 1 else 'one copy'}"
        for name in dict.fromkeys(carried)
    )
    carried.sort(key=lambda name: _activity(table, name))
    pair = _in_order(table, carried[:2])
    notes.append(
        f"the phase is not known, and there are {len(set(carried))} variants ({every}): the two of "
        "lowest activity decide, presumed on different copies"
    )
    return DpydCall("/".join(pair), pair, tuple(notes))


def _activity(table: GeneTable, name: str) -> float:
    return table.activity.get(name, _UNKNOWN)


def _in_order(table: GeneTable, names: list[str]) -> tuple[str, str]:
    first, second = sorted(names, key=table.names.index)
    return first, second


def _without_markers(table: GeneTable, person: Genotypes) -> tuple[Genotypes, list[str]]:
    """Let the intronic variant of HapB3 decide where the exonic one says otherwise."""
    at = {locus.rsid: i for i, locus in enumerate(table.loci)}
    acts, marks = person.choices[at[_ACTS]], person.choices[at[_MARKS]]
    if marks is None or not any(marks):
        return person, []
    if acts is None:
        return person, ["HapB3 is inferred from c.1236G>A alone: c.1129-5923C>G is missing"]
    ordered = person.blocks[at[_ACTS]] is not None and (
        person.blocks[at[_ACTS]] == person.blocks[at[_MARKS]]
    )
    kept = (
        tuple(map(min, acts, marks))
        if ordered
        else tuple(sorted(map(min, sorted(acts), sorted(marks))))
    )
    if sorted(kept) == sorted(marks):
        return person, []
    choices, blocks = list(person.choices), list(person.blocks)
    choices[at[_MARKS]] = kept
    note = "c.1236G>A is there without c.1129-5923C>G, which acts: it is not called HapB3"
    return replace(person, choices=tuple(choices), blocks=tuple(blocks)), [note]


def _variants(table: GeneTable, person: Genotypes) -> list[str]:
    """Name each variant that the person carries, once per copy."""
    left: dict[tuple[int, int], int] = {}
    for i, choice in enumerate(person.choices):
        for x in choice or ():
            if x > 0:
                left[i, x] = left.get((i, x), 0) + 1
    named: list[str] = []
    known = {i for i, choice in enumerate(person.choices) if choice is not None}
    for one in sorted(table.alleles, key=lambda one: -len(one.variants)):
        own = [variant for variant in one.variants if variant[0] in known]
        copies = min((left.get(variant, 0) for variant in own), default=0)
        for variant in own:
            left[variant] = left.get(variant, 0) - copies
        named += [one.name] * copies
    return named
